"""Why an item is where it is: for each copy the rule, the score, what would evict it and what unloads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.place import listed
from placement.score import worth
from placement.state import NETWORK
from placement.stay import evicted, unloads
from placement.tale import ago, brief, brought, ordered
from placement.under_way import absent, asked, moves, retries
from placement.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from placement.limits import Limits
    from placement.state import Item, Place, Replica, State
    from placement.tale import Deed, Told

#: what `home_by` says of a home that a person ordered
ORDERED = "an order"


@dataclass(frozen=True, slots=True)
class Here:
    """One copy of an item; times are seconds, the words are whole facts.

    `rule` holds it there, `came` is how it got there as the story has it ("" if it has not). `worth` is its
    score there, `score` the number that the order of leaving goes by. `evicted` says what would take its
    place and after whom it goes, `unloads` when it leaves by itself, in `unloads_in_s` (None: never, or not
    by time).
    """

    place: str
    phase: str
    for_s: float
    rule: str
    came: str
    leases: int
    score: float
    worth: tuple[str, ...]
    evicted: tuple[str, ...]
    unloads: tuple[str, ...]
    unloads_in_s: float | None


@dataclass(frozen=True, slots=True)
class Why:
    """Why an item is where it is: its copies from the highest tier down, and what goes on about it.

    `absent` are places that it has left, or should be at, with the cause; `moves` is what is under way, with
    times; `retries` are failures that are remembered, and what is tried again when; `asked` is what an ask
    would come to now.
    """

    item: str
    home: str
    home_by: str
    serves_at: str
    here: tuple[Here, ...]
    absent: tuple[str, ...]
    moves: tuple[str, ...]
    retries: tuple[str, ...]
    asked: str

    def __str__(self) -> str:
        return "\n".join(lines(self))


def why(
    state: State,
    item: Item,
    now_s: float,
    limits: Limits,
    story: Sequence[Told] = (),
    home_by: str = "the file",
) -> Why:
    """Return why a known item is where it is.

    `story` is what its journal tells, oldest first. `home_by` says who chose its home: ORDERED for a person,
    whom the story then names.
    """
    spec = state.items[item]
    if home_by == ORDERED:
        order = ordered(story, str(state.home(item)))
        home_by = f"`move`, ordered by {order.cause}" if order is not None else "`move`"
    replicas = sorted(state.at(item), key=lambda at: (-at[0].tier.height, at[0]))
    return Why(
        item=item,
        home=str(state.home(item)),
        home_by=home_by,
        serves_at=listed(spec.serves_at) if spec.kind == "adapter" else str(state.goal(item)),
        here=tuple(
            _here(state, item, place, brought(story, str(place)), home_by, now_s, limits)
            for place, _ in replicas
        ),
        absent=tuple(absent(state, item, story, now_s, limits)),
        moves=tuple(moves(state, item, now_s)),
        retries=tuple(retries(state, item, now_s)),
        asked=asked(state, item, now_s, limits),
    )


def lines(told: Why) -> list[str]:
    """Return one line for each fact, copy by copy."""
    made = []
    for here in told.here:
        made.append(f"{here.place}  {here.phase} for {format_seconds(here.for_s)}")
        facts: dict[str, str | tuple[str, ...]] = {"rule": here.rule, "came": here.came, "worth": here.worth}
        facts |= {"evicted": here.evicted, "unloads": here.unloads, "leases": str(here.leases or "none")}
        made += [line for label, fact in facts.items() for line in _facts(f"  {label:<8} ", fact)]
    made += _facts("not at     ", told.absent)
    made += _facts("moves      ", told.moves or "nothing moves now")
    made += _facts("retries    ", told.retries or "no failure is remembered")
    return made + _facts("asked now  ", told.asked)


def _facts(label: str, fact: str | tuple[str, ...]) -> list[str]:
    """Return a line for each fact, the first of them under its label; none for an empty one."""
    facts = (fact,) if isinstance(fact, str) else fact
    return [f"{' ' * len(label) if n else label}{each}" for n, each in enumerate(facts) if each]


def _here(
    state: State, item: Item, place: Place, came: Deed | None, home_by: str, now_s: float, limits: Limits
) -> Here:
    replica = state.replicas[item, place]
    valued = worth(state, item, place, now_s, limits)
    leaves, leaves_in_s = unloads(state, item, place, now_s)
    return Here(
        place=str(place),
        phase=replica.phase if state.alive(place.node) else f"out of reach ({place.node} is lost)",
        for_s=max(now_s - replica.since_s, 0.0),
        rule=_rule(state, item, place, replica, came, home_by),
        came=_arrival(came),
        leases=replica.leases,
        score=valued.total,
        worth=() if place == state.items[item].durable else valued.facts(),
        evicted=tuple(evicted(state, item, place, now_s, limits)),
        unloads=leaves,
        unloads_in_s=leaves_in_s,
    )


def _arrival(came: Deed | None) -> str:
    if came is None:
        return ""
    return f"{ago(came.ago_s)} from {came.source} in {came.took}: {brief(came.cause)}"


def _rule(state: State, item: Item, place: Place, replica: Replica, came: Deed | None, home_by: str) -> str:
    """Return the rule that holds a copy where it is: the strongest of those that do."""
    spec, op = state.items[item], state.ops.get(replica.op)
    if op is not None:
        return f"on its way {'here' if replica.phase == 'loading' else 'out'}: {brief(op.command.reason)}"
    if item in state.retired:
        newer = state.versions.get(spec.name, item)
        return "left over: " + ("it was removed from the lab" if newer == item else f"{newer} replaced it")
    home = f"its home by {home_by}{', pinned' if state.pinned(item) else ''}"
    if place == spec.durable:
        durable = "its log, of which every index is made" if spec.kind == "shard" else "its durable copy"
        durable = "its address" if place == NETWORK else durable
        return f"{durable}, and {home}" if place == state.home(item) else durable
    return home if place == state.home(item) else _passing_rule(state, item, place, came)


def _passing_rule(state: State, item: Item, place: Place, came: Deed | None) -> str:
    """Return what holds a copy at a place that is not the item's home."""
    spec, ordered_move = state.items[item], state.moves.get(item)
    serves = place == state.goal(item) or state.serves(item, place)
    if ordered_move is not None and place == ordered_move.landing:
        return f"a stage on its way to {ordered_move.to}, ordered by {ordered_move.cause}"
    if place in state.leaves.get(item, ()):
        return f"left behind by a move to {state.home(item)}"
    if place == state.idle_home(item):
        return "where it goes when it is idle (`unload.to`)"
    if serves and item in state.queue:
        return f"wanted: asked for by {state.queue[item][0].cause or 'a request'}"
    if serves and item in state.warms:
        return f"to be warm: {state.warms[item].cause}"
    if serves and item in state.expected:
        return f"hinted: it is sure to be asked for soon{f' ({came.cause})' if came else ''}"
    if place == spec.landing:
        return "where its bytes landed from its address"
    return brief(came.cause) if came is not None else "found here; its story does not tell who brought it"
