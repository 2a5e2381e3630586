"""What the schema already takes and no lab does yet: said before and at `up`, so that nobody waits for it."""

from collections.abc import Iterator

from pydantic import BaseModel

from placement.config.problems import Finding, Path, dotted
from placement.config.schema import Lab, Policy, Serve
from placement.tiers import Tier

_LATER: dict[str, tuple[str, ...]] = {"rag": ("tenant_key",)}
_LATER_OF_POLICY = ("lease_s",)
#: What a shard at an address has no use for: its index is not ours to move.
_OF_WHAT_MOVES = ("pin", "warm", "unload")


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
    yield from _engines(lab)
    for section, fields in _LATER.items():
        for name, entry in getattr(lab, section).items():
            for field in fields:
                if _differs(entry, field):
                    yield (section, name, field), ""
    for name, shard in lab.rag.items():
        if shard.location is Tier.NETWORK:
            for field in _OF_WHAT_MOVES:
                if _differs(shard, field):
                    yield ("rag", name, field), ": what rests on a server stays there"
    for field in _LATER_OF_POLICY:
        if _differs(lab.policy, field):
            yield ("policy", Policy.model_fields[field].alias or field), ""
    if lab.serve != Serve():
        yield ("serve",), ""


def _engines(lab: Lab) -> Iterator[tuple[Path, str]]:
    for name, base in lab.bases.items():
        told = f": {base.replicas.min} of {base.replicas.max} engines are started"
        if base.replicas.max > base.replicas.min:
            yield ("bases", name, "replicas", "max"), told


def _differs(entry: BaseModel, field: str) -> bool:
    """Say whether a field has another value than where nothing is said."""
    return bool(getattr(entry, field) != type(entry).model_fields[field].default)
