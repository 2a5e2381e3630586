"""Devices: what rests in VRAM lies in an engine, and an engine is one base on one device of one node."""

from collections.abc import Iterator

from placement.config.draft import Draft
from placement.config.engines import Engine, engines
from placement.config.problems import Finding, Path
from placement.config.schema import Base, Node, Role, Shard
from placement.tiers import Tier


def device_faults(draft: Draft) -> Iterator[Finding]:
    """Yield the homes in VRAM, of roles and shards, that no engine of the file can give."""
    for role in draft.lab.roles.values():
        path = ("roles", role.name)
        yield from _only_in_vram(draft, role, path)
        if role.location is Tier.VRAM and role.node is not None:
            yield from _role(draft, role, path)
    for shard in draft.lab.rag.values():
        path = ("rag", shard.name)
        yield from _only_in_vram(draft, shard, path)
        node = draft.lab.nodes.get(shard.node or "")
        if shard.location is Tier.VRAM and node is not None:
            yield from _shard(draft, shard, node, path)


def room(node: Node, device: str, path: Path, what: str) -> Iterator[Finding]:
    """Yield what is wrong with the VRAM of `device` on a node; one that lists nothing is discovered later."""
    if node.vram is None and (node.ram is not None or node.ssd is not None):
        message = (
            f"the node {node.name!r} {what} and has no vram; give it one (without a GPU it is the CPU's)"
        )
        yield Finding("CFG031", path, message)
    elif isinstance(node.vram, dict) and (device == "cpu" or ":" in device) and device not in node.vram:
        known = ", ".join(node.vram)
        yield Finding("CFG037", path, f"the node {node.name!r} has no vram of {device}; one of {known}")


def _only_in_vram(draft: Draft, entry: Role | Shard, path: Path) -> Iterator[Finding]:
    unsure = draft.refused.touches((*path, "location"))
    if entry.device is not None and entry.location is not Tier.VRAM and not unsure:
        yield Finding("CFG031", (*path, "device"), f"a device is for VRAM; the location is {entry.location}")


def _role(draft: Draft, role: Role, path: Path) -> Iterator[Finding]:
    base, node = draft.lab.bases.get(role.base or ""), draft.lab.nodes.get(role.node or "")
    seats = [engine for engine in engines(draft.lab).values() if engine.base is base]
    on = list(dict.fromkeys(engine.node for engine in seats if engine.node is not None))
    if base is not None and on and role.node not in on:
        running = " and ".join(map(repr, on))
        message = f"a home in VRAM is on the node of the engine: {base.name!r} runs on {running}"
        yield Finding("CFG031", (*path, "node"), message)
        return
    if node is None or draft.refused.touches(("nodes", node.name, "vram")):
        return
    at = (*path, "device" if role.device else "location")
    lacking = list(room(node, role.device or "auto", at, "is a home in VRAM"))
    yield from lacking
    if role.device is None or lacking or draft.refused.touches(("bases", role.base or "", "device")):
        return
    if base is None and not draft.has_bases:
        if not _agree("auto", role.device, node):
            message = (
                f"its base is not listed, so its device is not known; list it with device: {role.device}"
            )
            yield Finding("CFG031", at, message)
    elif base is not None and not any(
        _agree(seat.device, role.device, node) for seat in seats if seat.node in {None, role.node}
    ):
        message = f"an adapter rests on the device of its base, and {base.name!r} is on {base.device}"
        yield Finding("CFG031", at, f"{message}; {_repair([base], role.device)}")


def _shard(draft: Draft, shard: Shard, node: Node, path: Path) -> Iterator[Finding]:
    if draft.refused.touches(("nodes", node.name, "vram"), (*path, "location"), (*path, "node")):
        return
    at = (*path, "device" if shard.device else "location")
    lacking = list(room(node, shard.device or "auto", at, "is a home in VRAM"))
    yield from lacking
    if lacking or draft.refused.touches((*path, "device"), ("bases",), ("roles",)):
        return
    running = _engines(draft)
    here = [engine for engine in running if engine.node == node.name]
    devices = list(dict.fromkeys(engine.device for engine in here))
    if not here and all(engine.node is not None for engine in running):
        elsewhere = ", ".join(dict.fromkeys(str(engine.node) for engine in running))
        known = f"engines run on: {elsewhere}" if elsewhere else "the file lists no bases"
        message = f"an index in VRAM lies in an engine, and none runs on {node.name!r}; {known}"
        yield Finding("CFG031", (*path, "location"), message)
    elif here and shard.device is None and len(devices) > 1:
        yield Finding("CFG025", path, f"which device? device: one of {', '.join(devices)}", on_key=True)
    elif here and not any(_agree(device, shard.device, node) for device in devices):
        message = (
            f"an index in VRAM lies in an engine, and on {node.name!r} these are on {', '.join(devices)}"
        )
        yield Finding(
            "CFG031", at, f"{message}; {_repair([each.base for each in here], shard.device or 'auto')}"
        )


def _repair(engines: list[Base], device: str) -> str:
    """Return what brings an engine to `device`."""
    unsaid = next((engine.name for engine in engines if engine.device == "auto"), None)
    instead = f", or write device: {device} at {unsaid!r}" if unsaid else ""
    return f"add a base with the same model on {device}{instead}"


def _engines(draft: Draft) -> list[Engine]:
    """Return the engines of the file; without bases, one for each role, as its adapter will name it."""
    if draft.has_bases:
        return list(engines(draft.lab).values())
    bases = [Base(name=role.name, model="?", node=role.node) for role in draft.lab.roles.values()]
    return [Engine(base.name, base, next(iter(base.on), None), base.device) for base in bases]


def _agree(engine: str, asked: str | None, node: Node) -> bool:
    """Say whether an engine on the device `engine` of a node can be on `asked`.

    `auto` is any device that the node can have: of several listed ones nobody knows which.
    """
    if asked in {None, "auto", engine}:
        return True
    if engine == "auto":
        return not (isinstance(node.vram, dict) and len(node.vram) > 1)
    return {engine, asked} == {"cuda", "cuda:0"}
