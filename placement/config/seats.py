"""The slots of an engine against the roles that are at home in VRAM."""

from collections.abc import Iterator

from placement.config.draft import Refused
from placement.config.problems import Finding
from placement.config.schema import Base, Lab, Role
from placement.tiers import Tier


def overbooked(lab: Lab, refused: Refused | None = None) -> Iterator[Finding]:
    """Yield CFG032 for each base with more pinned roles in VRAM than slots, at the first one too many."""
    for base, roles in _at_home(lab):
        pinned = [role for role in roles if role.pin]
        unsure = refused is not None and refused.touches(("bases", base.name, "slots"))
        if len(pinned) > base.slots and not unsure:
            message = (
                f"{len(pinned)} pinned roles are at home in VRAM, and the base {base.name!r} has "
                f"{base.slots} slots; give it {len(pinned)} slots, or pin fewer"
            )
            yield Finding("CFG032", ("roles", pinned[base.slots].name, "pin"), message)


def crowded(lab: Lab) -> Iterator[Finding]:
    """Yield L5 for each base with more roles at home in VRAM than slots, at the first one too many."""
    for base, roles in _at_home(lab):
        if len(roles) > base.slots:
            message = (
                f"{len(roles)} roles are at home in VRAM, and the base {base.name!r} has "
                f"{base.slots} slots: they take turns"
            )
            yield Finding("L5", ("roles", roles[base.slots].name, "location"), message, warning=True)


def _at_home(lab: Lab) -> Iterator[tuple[Base, list[Role]]]:
    """Yield each base with its roles that are at home in VRAM."""
    for name, base in lab.bases.items():
        yield base, [role for role in lab.roles.values() if role.base == name and role.location is Tier.VRAM]
