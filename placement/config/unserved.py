"""What the schema already takes and no lab does yet: said before and at `up`, so that nobody waits for it."""

from collections.abc import Iterator

from placement.config.problems import Finding, Path, dotted
from placement.config.schema import Base, Lab, Policy, Role, Serve, Shard
from placement.tiers import Tier

_LATER: dict[type, tuple[str, ...]] = {
    Role: ("consults", "warm"),
    Shard: ("warm", "unload", "tenant_key", "device"),
    Base: ("replicas",),
}


def unserved(lab: Lab) -> Iterator[str]:
    """Yield the path of each setting that differs from its default and has no effect so far."""
    for path, what in _unserved(lab):
        yield f"{dotted(path)}{what}"


def without_effect(lab: Lab) -> Iterator[Finding]:
    """Yield L6 for each setting that has no effect so far."""
    for path, what in _unserved(lab):
        told = f" ({what.lstrip(':, ')})" if what else ""
        yield Finding("L6", path, f"taken, and without effect in this version{told}", warning=True)


def _unserved(lab: Lab) -> Iterator[tuple[Path, str]]:
    for section in ("roles", "rag", "bases"):
        for name, entry in getattr(lab, section).items():
            for field in _LATER[type(entry)]:
                if getattr(entry, field) != type(entry).model_fields[field].default:
                    yield (section, name, field), ""
    for name, role in lab.roles.items():
        if role.location is Tier.NETWORK:
            yield ("roles", name, "location"), ": network"
        if role.unload.to is Tier.NETWORK:
            yield ("roles", name, "unload", "to"), ": network"
    for name, shard in lab.rag.items():
        if shard.location in {Tier.NETWORK, Tier.VRAM}:
            yield ("rag", name, "location"), f": {shard.location}"
        if shard.path is not None and shard.source is None:
            yield ("rag", name, "path"), " without source"
    if lab.policy != Policy().model_copy(update={"want_deadline_s": lab.policy.want_deadline_s}):
        yield ("policy",), ", want_deadline excepted"
    if lab.serve != Serve():
        yield ("serve",), ""
