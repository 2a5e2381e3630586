"""Values that are each well formed and cannot all be meant."""

from collections.abc import Iterator
from posixpath import normpath

from placement.config.devices import device_faults, room
from placement.config.draft import Draft, Refused
from placement.config.engines import devices_for
from placement.config.problems import Finding, Path, quoted
from placement.config.schema import Base, Node, Policy, Role, Serve, Shard
from placement.config.seats import overbooked
from placement.tiers import Tier
from placement.units import format_bytes

_NETWORK_ONLY = ("url", "collection", "api_key", "map")
#: The fields of a map that only one kind of server has a use for.
_MAP_OF_API = {"http": ("query", "top_k", "results", "score"), "qdrant": ("vector",)}


def contradictions(draft: Draft) -> Iterator[Finding]:
    """Yield what cannot all be meant in a settled draft.

    A refused value has its default here, or a stand-in: what uses one is not judged.
    """
    lab, refused = draft.lab, draft.refused
    for base in lab.bases.values():
        yield from _base(draft, base)
    if draft.devices_known:
        yield from _engines(draft)
    for role in lab.roles.values():
        yield from _role(draft, role)
    for shard in lab.rag.values():
        yield from _shard(draft, shard)
    yield from device_faults(draft)
    yield from _shared_indexes(draft)
    yield from overbooked(lab, refused)
    yield from _policy(lab.policy, refused)
    yield from _serve(lab.serve, refused)


def _base(draft: Draft, base: Base) -> Iterator[Finding]:
    path, refused = ("bases", base.name), draft.refused
    one = base.replicas.min <= 1
    if one and base.node is None and draft.devices_known and not refused.touches((*path, "node")):
        message = f"which node does its engine run on? node: one of {', '.join(draft.nodes)}"
        yield Finding("CFG025", path, message, on_key=True)
    if base.replicas.min < 1:
        yield Finding("CFG035", (*path, "replicas", "min"), "a base has at least 1 engine")
    elif base.replicas.min > base.replicas.max and not refused.touches((*path, "replicas")):
        message = f"min {base.replicas.min} is more than max {base.replicas.max}"
        yield Finding("CFG034", (*path, "replicas"), message)
    if one and len(base.on) > 1:
        more = f"replicas: {{min: {len(base.on)}, max: {len(base.on)}}}"
        yield Finding("CFG034", (*path, "node"), f"{len(base.on)} nodes for one engine; write {more}")
    for node in [draft.lab.nodes[name] for name in base.on if name in draft.lab.nodes]:
        yield from _on(base, node, path, refused)


def _on(base: Base, node: Node, path: Path, refused: Refused) -> Iterator[Finding]:
    if not refused.touches(("nodes", node.name, "vram")):
        yield from room(node, base.device, (*path, "device"), "runs an engine")
        listed = node.vram if isinstance(node.vram, dict) else {}
        whole = sum(listed.values()) if isinstance(node.vram, dict) else node.vram
        vram = listed.get(base.device, whole)
        if vram is not None and base.kv_cache >= vram and not refused.touches((*path, "kv_cache")):
            where = f"{node.name!r}, {base.device}" if base.device in listed else repr(node.name)
            message = f"{format_bytes(base.kv_cache)} do not fit into the {format_bytes(vram)} of {where}"
            yield Finding("CFG032", (*path, "kv_cache"), message)


def _engines(draft: Draft) -> Iterator[Finding]:
    for name, base in draft.lab.bases.items():
        path = ("bases", name, "replicas", "max")
        devices = len(devices_for(draft.lab, base))
        if base.replicas.max > max(devices, 1) and not draft.refused.touches(("bases", name, "node")):
            message = f"{base.replicas.max} engines on {devices} device{'s' if devices > 1 else ''}"
            where = f" of {', '.join(base.on)}" if base.on else ""
            yield Finding("CFG035", path, f"{message}{where}; each needs one of its own")


def _role(draft: Draft, role: Role) -> Iterator[Finding]:
    path, lab, refused = ("roles", role.name), draft.lab, draft.refused
    if role.persona and role.persona_file is not None:
        yield Finding("CFG070", (*path, "persona_file"), "persona is given too; take one of them out")
    bases = draft.declared["bases"]
    if role.base is None and len(bases) > 1 and not refused.touches((*path, "base")):
        yield Finding("CFG025", path, f"which base? base: one of {', '.join(bases)}", on_key=True)
    if role.node is None and not draft.has_bases and draft.devices_known:
        known = not refused.touches((*path, "node"), (*path, "location"))
        if role.location is not Tier.NETWORK and known:
            yield Finding("CFG025", path, f"which node? node: one of {', '.join(draft.nodes)}", on_key=True)
    for index, name in enumerate(role.consults):
        other = lab.roles.get(name)
        unsure = refused.touches(("roles", name, "activated_by"))
        if other is not None and role.name not in other.activated_by and not unsure:
            repair = ", ".join([*other.activated_by, role.name])
            message = f"{name} would refuse it; write activated_by: [{repair}] at {name}"
            yield Finding("CFG039", (*path, "consults", index), message)
    if not refused.touches((*path, "location")):
        yield from _home(role, path)
        yield from _address(role, path, refused)


def _address(role: Role, path: Path, refused: Refused) -> Iterator[Finding]:
    if not role.lora_path.startswith((".", "/", "~")) or refused.touches((*path, "lora_path")):
        return
    message = "what rests on the network is at a hub id or an address, and lora_path is a folder; choose SSD"
    if role.location is Tier.NETWORK:
        yield Finding("CFG031", (*path, "location"), message)
    elif role.unload.to is Tier.NETWORK:
        yield Finding("CFG031", (*path, "unload", "to"), message)


def _home(entry: Role | Shard, path: Path) -> Iterator[Finding]:
    if entry.location is Tier.NETWORK and entry.node is not None:
        message = "what rests on the network has no node; take the line out, or choose VRAM, RAM or SSD"
        yield Finding("CFG031", (*path, "node"), message)
    to = entry.unload.to
    if to is None:
        return
    if to.height > entry.location.height:
        message = f"{to} is above its home {entry.location}; unloading goes to its home or below"
        yield Finding("CFG034", (*path, "unload", "to"), message)
    elif entry.pin and to is not entry.location:
        yield Finding("CFG034", (*path, "unload", "to"), f"pin: true keeps it at its home {entry.location}")


def _shard(draft: Draft, shard: Shard) -> Iterator[Finding]:
    path, refused = ("rag", shard.name), draft.refused
    if refused.touches((*path, "location")):
        return
    yield from _home(shard, path)
    if shard.unload.to is Tier.NETWORK and shard.location is not Tier.NETWORK:
        message = "an index is not sent to a server; choose SSD"
        yield Finding("CFG031", (*path, "unload", "to"), message)
    if shard.location is Tier.NETWORK:
        yield from _network_shard(shard, path, refused)
        return
    for field in _NETWORK_ONLY:
        if getattr(shard, field) is not None:
            message = f"{field} is for location: network; the location is {shard.location}"
            yield Finding("CFG031", (*path, field), message)
    if shard.api != "qdrant":
        yield Finding(
            "CFG031", (*path, "api"), f"api is for location: network; the location is {shard.location}"
        )
    origins = [(*path, field) for field in ("source", "path", "url")]
    if shard.source is None and shard.path is None and shard.url is None and not refused.touches(*origins):
        message = "source (documents to build it from) or path (an index that exists) is missing"
        yield Finding("CFG025", path, message, on_key=True)
    if shard.node is None and len(draft.nodes) > 1 and not refused.touches((*path, "node")):
        yield Finding("CFG025", path, f"which node? node: one of {', '.join(draft.nodes)}", on_key=True)


def _network_shard(shard: Shard, path: Path, refused: Refused) -> Iterator[Finding]:
    if shard.url is None and not refused.touches((*path, "url")):
        yield Finding(
            "CFG025", path, "the field url is missing: a shard on the network needs its address", on_key=True
        )
    qdrant = shard.api == "qdrant" and not refused.touches((*path, "api"))
    if qdrant and shard.collection is None and not refused.touches((*path, "collection")):
        yield Finding(
            "CFG025", path, "the field collection is missing: which one of the Qdrant server?", on_key=True
        )
    if shard.api == "http" and shard.collection is not None:
        yield Finding("CFG031", (*path, "collection"), "a collection is for api: qdrant")
    if shard.map is not None and not refused.touches((*path, "api")):
        (other,) = _MAP_OF_API.keys() - {shard.api}
        for field in _MAP_OF_API[other]:
            if field in shard.map.model_fields_set:
                yield Finding("CFG031", (*path, "map", field), f"{field} is for api: {other}")
    if shard.path is not None:
        yield Finding("CFG031", (*path, "path"), "a shard on the network has no directory here")


def _shared_indexes(draft: Draft) -> Iterator[Finding]:
    first: dict[tuple[str, ...], str] = {}
    for name, shard in draft.lab.rag.items():
        if shard.path is not None and not draft.refused.touches(("rag", name, "node")):
            key, field = ("path", shard.node or "", normpath(shard.path)), "path"
        elif shard.url is not None and shard.collection is not None:
            key, field = ("url", shard.url.rstrip("/"), shard.collection), "collection"
        else:
            continue
        other = first.setdefault(key, name)
        if other != name:
            message = f"the shard {other!r} has the same {field}; each shard needs its own"
            yield Finding("CFG064", ("rag", name, field), message)


def _policy(policy: Policy, refused: Refused) -> Iterator[Finding]:
    for tier in ("vram", "ram", "ssd"):
        low, high = getattr(policy, f"{tier}_low"), getattr(policy, f"{tier}_high")
        at = ("policy", f"{tier}_low"), ("policy", f"{tier}_high")
        if low >= high and not refused.touches(*at):
            message = f"{tier}_low {low:.0%} is not below {tier}_high {high:.0%}"
            yield Finding("CFG034", at[0], message)
    if policy.score.frequency + policy.score.recency + policy.score.cost <= 0:
        yield Finding("CFG034", ("policy", "score"), "all weights are 0; one must be more")


def _serve(serve: Serve, refused: Refused) -> Iterator[Finding]:
    inside = serve.host in {"localhost", "::1"} or serve.host.startswith("127.")
    if not inside and not serve.api_keys and not refused.touches(("serve", "api_keys")):
        message = (
            f"the host {quoted(serve.host)} can be reached by others; add api_keys, or listen on 127.0.0.1"
        )
        yield Finding("CFG050", ("serve", "host"), message)
    names = [key.name for key in serve.api_keys]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Finding("CFG027", ("serve", "api_keys", index, "name"), "another key has this name")
