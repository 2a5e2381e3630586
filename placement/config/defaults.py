"""What a file leaves unsaid because it can mean only one thing."""

from collections.abc import Mapping

from placement.config.draft import Draft
from placement.config.schema import Base, Lab, Node, Role, Shard
from placement.tiers import Tier


def settle(draft: Draft) -> Lab:
    """Return the lab with the node and base of each entry filled in wherever there is only one answer.

    Without nodes there is one machine, `local`. A base runs on the only node, or the only one with VRAM;
    a role rests on the node of its base; a shard on the only node. What has two answers stays None, and so
    does what the file says wrongly. A role with a schedule lets it in, unless the file says whom it lets in.
    """
    lab = draft.lab
    nodes = lab.nodes if draft.declared["nodes"] else {name: Node(name=name) for name in draft.nodes}
    engine_node = _engine_node(draft, nodes)
    bases = {name: _base(draft, base, engine_node) for name, base in lab.bases.items()}
    roles = {name: _role(draft, role, bases, engine_node) for name, role in lab.roles.items()}
    only = draft.nodes[0] if len(draft.nodes) == 1 else None
    rag = {name: _shard(draft, shard, only) for name, shard in lab.rag.items()}
    return lab.model_copy(update={"nodes": nodes, "bases": bases, "roles": roles, "rag": rag})


def _engine_node(draft: Draft, nodes: Mapping[str, Node]) -> str | None:
    if len(draft.nodes) == 1:
        return draft.nodes[0]
    with_vram = [name for name, node in nodes.items() if node.vram is not None]
    return with_vram[0] if len(with_vram) == 1 and draft.devices_known else None


def _base(draft: Draft, base: Base, node: str | None) -> Base:
    if base.node is not None or draft.refused.touches(("bases", base.name, "node")):
        return base
    return base.model_copy(update={"node": node})


def _role(draft: Draft, role: Role, bases: Mapping[str, Base], engine_node: str | None) -> Role:
    name, node = role.base, role.node
    declared = draft.declared["bases"]
    if name is None and len(declared) == 1 and not draft.refused.touches(("roles", role.name, "base")):
        name = declared[0]
    if (
        node is None
        and role.location is not Tier.NETWORK
        and not draft.refused.touches(("roles", role.name, "node"))
    ):
        base = bases.get(name or "")
        node = engine_node if base is None else _beside(base, role)
    by = role.activated_by
    if role.warm.at is not None and "activated_by" not in role.model_fields_set:
        by = (*by, "schedule")
    return role.model_copy(update={"base": name, "node": node, "activated_by": by})


def _beside(base: Base, role: Role) -> str | None:
    """Return the node of a role's engine; which of several it is at home in is for the lab to say."""
    dealt = role.location is Tier.VRAM and base.replicas.min > 1
    return None if dealt else next(iter(base.on), None)


def _shard(draft: Draft, shard: Shard, node: str | None) -> Shard:
    if (
        shard.node is not None
        or shard.location is Tier.NETWORK
        or draft.refused.touches(("rag", shard.name, "node"))
    ):
        return shard
    return shard.model_copy(update={"node": node})
