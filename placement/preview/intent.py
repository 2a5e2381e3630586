"""From what a file wants to the events that tell a Machine so; a preview and an apply tell the same ones."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from placement.messages import Event, MoveOrdered, NodeJoined, PinSet, Registered, Removed
from placement.state import Place, Room, Spec, State
from placement.tiers import Tier

#: who orders what a file says
CAUSE = "the file"


def intent(
    state: State, desired: Iterable[Spec], rooms: Mapping[str, Mapping[Place, Room]]
) -> Iterator[Event]:
    """Yield what turns the lab of `state` into that of `desired`: items that leave, rooms, items that come.

    `rooms` are those of the nodes that are there. A version that another one replaces leaves once that one
    is known. Where nothing differs, nothing is yielded.
    """
    wanted = {spec.item: spec for spec in desired}
    names = {(spec.kind, spec.name) for spec in wanted.values()}
    left = [item for item in state.items if item not in wanted and item not in state.retired]
    replaced = [item for item in left if (state.items[item].kind, state.items[item].name) in names]
    yield from (Removed(item) for item in left if item not in replaced)
    for node, offered in rooms.items():
        known = {place: room for place, room in state.rooms.items() if place.node == node}
        if known != dict(offered) or not state.alive(node):
            yield NodeJoined(node, offered)
    for spec in wanted.values():
        yield from news_of(state, spec)
    yield from (Removed(item) for item in replaced)


def news_of(state: State, spec: Spec) -> Iterator[Event]:
    """Yield what has to be told of one item: that it is there, a new home as an order, what else is new.

    Where its durable copy is, the lab knows better than its file, and of a shard how large it is.
    """
    known = state.items.get(spec.item)
    if known is None or spec.item in state.retired:
        yield Registered(spec, first_places(spec))
        return
    if state.home(spec.item) != spec.home:
        yield MoveOrdered(spec.item, spec.home, CAUSE)
    told = replace(
        spec,
        home=known.home,
        durable=known.durable,
        landing=known.landing,
        unload_to=_unload_to(spec, known),
        nbytes=known.nbytes if spec.kind == "shard" else spec.nbytes,
        digest=known.digest if spec.kind == "shard" else spec.digest,
    )
    if told != known:
        yield Registered(told, (known.durable,))
    if known.pinned == spec.pinned != state.pinned(spec.item):
        yield PinSet(spec.item, spec.pinned, CAUSE)


def first_places(spec: Spec) -> tuple[Place, ...]:
    """Return where a new item is ready when it is registered: its durable copy, and the index of a shard.

    An index in VRAM is filled from one on the SSD.
    """
    if spec.kind == "adapter":
        return (spec.durable,)
    tier = Tier.SSD if spec.home.tier is Tier.VRAM else spec.home.tier
    return spec.durable, Place(spec.durable.node, tier)


def _unload_to(spec: Spec, known: Spec) -> Place | None:
    """Return where an idle item goes; one that was moved to another node unloads there."""
    to, anchor = spec.unload_to, known.landing or known.durable
    moved = to is not None and known.unload_to == Place(anchor.node, to.tier)
    return known.unload_to if moved else to
