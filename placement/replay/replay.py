"""`play`: one trace under one policy, the lab's own or a well-known one, and what it cost."""

from collections.abc import Callable, Mapping

from placement import policies
from placement.errors import UserError
from placement.machine import Machine
from placement.replay.brain import Brain
from placement.replay.clairvoyant import Clairvoyant, uses_of
from placement.replay.demand import Demand
from placement.replay.links import Links
from placement.replay.rivals import Gdsf, Lfu, Lru, Order
from placement.replay.stage import Stage
from placement.replay.tally import Score
from placement.replay.trace import Trace
from placement.state import Item
from placement.tiers import Tier

OURS, LRU, CLAIRVOYANT = "tierce", "lru", "clairvoyant"
_RIVALS: Mapping[str, Callable[[], Order]] = {LRU: Lru, "lfu": Lfu, "gdsf": Gdsf}
#: in the order of a table
POLICIES = (OURS, *_RIVALS, CLAIRVOYANT)


def play(
    trace: Trace,
    policy: str,
    stage: Stage,
    *,
    rules: tuple[policies.Policy, ...] = policies.DEFAULT,
    hints: bool = True,
) -> Score:
    """Return how a policy does on a trace and a stage; equal arguments give equal scores.

    `tierce` is the Machine with the stage's limits and `rules`, told of announced speakers if there are to be
    `hints`. Raises UserError TRC083 for an unknown policy.
    """
    if policy == OURS:
        return Brain(trace, stage, Machine(stage.limits, 1, rules), hints=hints).play(policy)
    if policy == CLAIRVOYANT:
        return _foreseeing(trace, stage).play(policy)
    if policy not in _RIVALS:
        raise UserError("TRC083", f"unknown policy {policy!r}", f"policies: {', '.join(POLICIES)}")
    return Demand(trace, stage, _RIVALS[policy](), _RIVALS[policy]()).play(policy)


def _foreseeing(trace: Trace, stage: Stage) -> Demand:
    """Return the cache that knows the trace: a seat is worth the seconds of its copy, RAM those per byte."""
    items, links = trace.header.items, Links(trace.header)
    uses = uses_of(trace.asks, {cargo.role: item for item, cargo in items.items()})
    disk_s = {item: links.seconds(cargo.nbytes, Tier.SSD, Tier.RAM) for item, cargo in items.items()}
    bus_s = {item: links.seconds(cargo.nbytes, Tier.RAM, Tier.VRAM) for item, cargo in items.items()}

    def seat(item: Item) -> float:
        return bus_s[item] if item in desk.ram else disk_s[item] + bus_s[item]

    def ram(item: Item) -> float:
        return disk_s[item] / items[item].nbytes

    desk = Demand(trace, stage, Clairvoyant(uses, seat), Clairvoyant(uses, ram))
    return desk
