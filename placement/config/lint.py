"""Warnings: what works and is probably not meant."""

import re
from collections.abc import Iterator

from placement.config.problems import Finding, Path
from placement.config.schema import Lab
from placement.config.seats import crowded
from placement.config.tree import Mapping, Node, Scalar
from placement.units import format_bytes, parse_bytes

_DECIMAL = re.compile(r"(?i)[0-9]{1,6}(?:\.[0-9]{1,9})?\s*([kmgt])b")
_SIZES = frozenset({"vram", "ram", "budget", "kv_cache"})
_PASSWORD = re.compile(r"://[^/\s:@$]*:[^/\s@$]+@")


def unwise_text(tree: Mapping) -> Iterator[Finding]:
    """Yield L1 for sizes in decimal units and L2 for secrets that are written into the file."""
    for path, scalar in _scalars(tree, ()):
        found = _DECIMAL.fullmatch(scalar.text)
        if found is not None and not _SIZES.isdisjoint(path):
            nbytes = parse_bytes(scalar.text)
            message = (
                f"{scalar.text} is {nbytes:,} bytes ({format_bytes(nbytes)}); is {found[1].upper()}iB meant?"
            )
            yield Finding("L1", path, message, warning=True)
        if path[-1] == "api_key" and "${" not in scalar.text:
            message = 'a secret is written into the file; write "${NAME}" and set it in the environment'
            yield Finding("L2", path, message, warning=True)
        elif path[-1] == "url" and _PASSWORD.search(scalar.text):
            message = "a password is written into the address; write ${NAME} and set it in the environment"
            yield Finding("L2", path, message, warning=True)


def unused(lab: Lab) -> Iterator[Finding]:
    """Yield L3 for shards and bases that no role uses, L7 for roles that refuse their schedule, and L5."""
    shards = {use.shard for role in lab.roles.values() for use in role.rag}
    for name in lab.rag:
        if name not in shards:
            yield Finding("L3", ("rag", name), "no role reads this shard", on_key=True, warning=True)
    bases = {role.base for role in lab.roles.values()}
    for name in lab.bases:
        if lab.roles and name not in bases:
            yield Finding("L3", ("bases", name), "no role uses this base", on_key=True, warning=True)
    for name, role in lab.roles.items():
        if role.warm.at is not None and "schedule" not in role.activated_by:
            message = "the schedule will be refused: activated_by does not list schedule"
            yield Finding("L7", ("roles", name, "warm", "at"), message, warning=True)
    yield from crowded(lab)


def _scalars(node: Node, path: Path) -> Iterator[tuple[Path, Scalar]]:
    if isinstance(node, Scalar):
        yield path, node
    elif isinstance(node, Mapping):
        for key, child in node.entries:
            yield from _scalars(child, (*path, key.text))
