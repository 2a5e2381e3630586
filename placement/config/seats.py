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
        slots = base.slots * max(base.replicas.min, 1)
        if len(pinned) > slots and not unsure:
            needed = -(-len(pinned) // max(base.replicas.min, 1))
            message = (
                f"{len(pinned)} pinned roles are at home in VRAM, and the base {base.name!r} has "
                f"{_slots(base)}; give it {needed} slots, or pin fewer"
            )
            yield Finding("CFG032", ("roles", pinned[slots].name, "pin"), message)


def crowded(lab: Lab) -> Iterator[Finding]:
    """Yield L5 for each base with more roles at home in VRAM than slots, at the first one too many."""
    for base, roles in _at_home(lab):
        slots = base.slots * max(base.replicas.min, 1)
        if len(roles) > slots:
            message = (
                f"{len(roles)} roles are at home in VRAM, and the base {base.name!r} has "
                f"{_slots(base)}: they take turns"
            )
            yield Finding("L5", ("roles", roles[slots].name, "location"), message, warning=True)


def _slots(base: Base) -> str:
    each = f" in each of {base.replicas.min} engines" if base.replicas.min > 1 else ""
    return f"{base.slots} slots{each}"


def _at_home(lab: Lab) -> Iterator[tuple[Base, list[Role]]]:
    """Yield each base with its roles that are at home in VRAM."""
    for name, base in lab.bases.items():
        yield base, [role for role in lab.roles.values() if role.base == name and role.location is Tier.VRAM]
