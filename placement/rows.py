"""What `ps` shows: one row per item, read from the state."""

import math
from dataclasses import dataclass

from placement.plan import no_room
from placement.pressure import crowded
from placement.routes import setback
from placement.state import Item, Kind, Limits, Phase, Place, State
from placement.warmth import failed_for_good

STANDARD = Limits()


@dataclass(frozen=True, slots=True)
class Spot:
    """One replica in a row; `reachable` is False on a lost node."""

    place: Place
    phase: Phase
    reachable: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One item now, its places from the highest tier down.

    `idle_until_s` is when idling takes it from somewhere; None if it stays where it is.
    """

    item: Item
    name: str
    kind: Kind
    places: tuple[Spot, ...]
    home: Place
    nbytes: int
    leases: int
    used_s: float
    idle_until_s: float | None
    hits: int
    pinned: bool
    phase: str
    why: str


def rows(state: State, now_s: float, limits: Limits = STANDARD) -> list[Row]:
    """Return one row per item, in the order of registration, those that are being removed last.

    `phase` is `ready` (served now), `warming` (on its way there), `cold` (a want brings it), `migrating` (an
    ordered move is open), `removing`, `failed` (it cannot be brought where it serves; `why` says why) or
    `lost` (no copy can be reached). Of an item that is not where it should rest, `why` says what failed there
    or who takes the room, or how full the memory is.
    """
    called = {want.item for want in state.wants.values()} | set(state.warms)
    items = sorted(state.items, key=lambda item: item in state.retired)
    return [_row(state, item, now_s, limits, called=item in called) for item in items]


def _row(state: State, item: Item, now_s: float, limits: Limits, *, called: bool) -> Row:
    spec = state.items[item]
    replicas = sorted(state.at(item), key=lambda at: (-at[0].tier.height, at[0]))
    phase, why = _phase(state, item, now_s, limits, called=called)
    return Row(
        item=item,
        name=spec.name,
        kind=spec.kind,
        places=tuple(Spot(place, replica.phase, state.alive(place.node)) for place, replica in replicas),
        home=state.home(item),
        nbytes=spec.nbytes,
        leases=sum(replica.leases for place, replica in replicas if state.serves(item, place)),
        used_s=state.uses[item],
        idle_until_s=_idle_until(state, item, now_s),
        hits=sum(replica.hits for place, replica in replicas if state.serves(item, place)),
        pinned=state.pinned(item),
        phase=phase,
        why=why,
    )


def _idle_until(state: State, item: Item, now_s: float) -> float | None:
    """Return when idling will take the item away from somewhere, or None if nothing would leave."""
    spec, stays = state.items[item], state.keeps(item, state.idle_home(item))
    if not any(replica.phase == "ready" and place not in stays for place, replica in state.at(item)):
        return None
    if item in state.unloads:
        return now_s
    return max(state.uses[item] + state.idle_s(item), now_s) if spec.idle_s < math.inf else None


def _phase(state: State, item: Item, now_s: float, limits: Limits, *, called: bool) -> tuple[str, str]:
    goal = state.goal(item)
    if item in state.retired:
        return "removing", ""
    if item in state.moves:
        return "migrating", f"to {state.moves[item].to}, ordered by {state.moves[item].cause}"
    if state.served_at(item) is not None:
        return "ready", away(state, item, now_s, limits)
    permanent = failed_for_good(state, item)
    if permanent is not None:
        return "failed", str(permanent)
    if called or (item, goal) in state.replicas:
        failed = setback(state, item, goal)
        return "warming", str(failed) if failed else away(state, item, now_s, limits)
    if not any(state.ready(item, place) for place, _ in state.at(item)):
        return "lost", f"no copy can be read; its durable copy is at {state.items[item].durable}"
    return "cold", away(state, item, now_s, limits)


def away(state: State, item: Item, now_s: float, limits: Limits) -> str:
    """Return why an item is not where it should rest now, "" if it is or nothing is in its way."""
    rest = state.rest(item, now_s)
    if (item, rest) in state.replicas:
        return ""
    failed = setback(state, item, rest)
    if failed is not None:
        return str(failed)
    return no_room(state, item, rest) or crowded(state, rest, state.items[item].nbytes, limits)
