"""A seeded storm around one brain, its coordinator's deaths included, then calm, and what is left."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from placement import mishaps
from placement.calm import stuck
from placement.errors import TierceError
from placement.faults import CALM, STORM, Dice, Faults
from placement.invariants import InvariantBroken, check
from placement.machine import Machine
from placement.messages import (
    Command,
    Copy,
    Drop,
    Event,
    Grant,
    MoveOrdered,
    NodeJoined,
    PinSet,
    Refuse,
    Registered,
    Removed,
    Tick,
    UnloadOrdered,
    Wanted,
    WantEnded,
    WarmOrdered,
)
from placement.oracle import Oracle
from placement.patience import MOST
from placement.rebirth import Ledger, recalled
from placement.resume import unmet
from placement.scenery import Scene
from placement.state import NETWORK, Item, Place
from placement.tiers import Tier
from placement.world import World

#: makes the brain of an epoch
Brain = Callable[[int], Machine]
#: a coordinator that ended is there again after at most this
REBIRTH_S = 3.0
#: after its start, and while nodes come back, a coordinator sweeps up what nobody owns
SWEEP_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened. `violations` and `stuck` must be empty always, `misses` in a calm world."""

    log: tuple[tuple[float, Event | Command], ...]
    violations: tuple[str, ...]
    misses: tuple[str, ...]
    stuck: tuple[str, ...]
    ended: Mapping[str, str]
    #: how often what went wrong, and was noticed
    counts: Mapping[str, int]

    @property
    def commands(self) -> list[Command]:
        """Return what the brain commanded, in order."""
        return [told for _, told in self.log if isinstance(told, Copy | Drop | Grant | Refuse)]


def simulate(brain: Brain, lab: Scene, dice: Dice, events: int, faults: Faults = STORM) -> Outcome:
    """Play random orders, wants and faults until the brain took in `events`, then calm; say what is left.

    Equal dice give equal outcomes. Raises InvariantBroken as soon as the brain's own state contradicts a
    rule.
    """
    play = Play(brain, lab, dice, faults)
    play.run(events)
    return play.outcome()


class Play:
    """One run: the brain, the world and the people who use them. `log` is what was heard and commanded."""

    def __init__(self, brain: Brain, lab: Scene, dice: Dice, faults: Faults) -> None:
        self.machine = brain(1)
        self.lab = lab
        self.dice = dice
        self.world = World(lab.rooms, dice, replace(CALM, delay_s=faults.delay_s))
        self.world.memory = dict(lab.memory)
        self.world.counted = self._counted
        self.oracle = Oracle(self.machine.limits)
        self.log: list[tuple[float, Event | Command]] = []
        self.heard = 0
        self._brain = brain
        self.faults = faults
        self._ledger = Ledger()
        #: nodes that this coordinator has met, and until when it sweeps
        self._here: dict[str, None] = {}
        self._sweeps_s = 0.0
        self._halted = False
        self._asked = 0
        self._pulse_s = 0.0

    def run(self, events: int) -> None:
        """Play until the brain took in `events`, and then until all is calm."""
        self.start()
        while self.heard < events:
            self.step()
        self.calm_down()

    def start(self) -> None:
        for spec in self.lab.specs:
            self.world.add(spec)
        for name in self.lab.rooms:
            self._meet(name)
        for spec in self.lab.specs:
            self._tell(Registered(spec, (spec.durable,)))
        self.wait(1.0)
        self.world.faults = self.faults

    def step(self) -> None:
        """Something goes wrong, somebody orders something, and up to a second goes by."""
        mishaps.strike(self.world)
        if self.world.chance(0.1):
            self._revive()
        if self._halted or self.world.happens("restart", self.world.faults.restart):
            self.restart()
        kind = self.dice.random()
        if kind < 0.5:
            item = self._item()
            for _ in range(1 + self.dice.randrange(3)):
                self.want(item, 1 + 9 * self.dice.random())
        elif kind < 0.54 and self.world.wants:
            want = list(self.world.wants)[self.dice.randrange(len(self.world.wants))]
            self.world.wants.pop(want)
            self._tell(WantEnded(want))
        elif kind < 0.56:
            self._replace(self._item())
        elif kind < 0.82:
            self._tell(self._order(self._item()))
        elif kind < 0.92:
            item = self._item()
            for _ in range(1 + self.dice.randrange(4)):
                self.ask(item, 5.0)
        self.wait(self.dice.random())

    def want(self, item: Item, within_s: float) -> str:
        """Somebody needs an item where it serves; return the want, which `world.ended` tells the end of."""
        self._asked += 1
        want, deadline_s = f"w{self._asked}", self.world.clock_s + within_s
        self.world.wants[want] = item
        self.oracle.asked(want, deadline_s)
        if not self._tell(Wanted(want, item, deadline_s)) and want in self.world.wants:
            self.world.end(want, item, "not taken")
        return want

    def ask(self, item: Item, within_s: float) -> str:
        """Somebody asks a role, and wants it if no engine takes the request; return the want, or ""."""
        return "" if self.world.ask(item) else self.want(item, within_s)

    def wait(self, seconds: float) -> None:
        """Let time pass with all that happens meanwhile."""
        until_s = self.world.now_s + seconds
        while self.world.now_s < until_s:
            for event in self.world.events_until(min(until_s, self._pulse_s)):
                self._tell(event)
            if self.world.now_s >= self._pulse_s:
                self._pulse_s += 1.0
                self._pulse()

    def restart(self) -> None:
        """The coordinator ends, and some time later the next one starts from what outlives it."""
        self._halted = False
        epoch = self.world.epoch + 1
        self.world.hang_up()
        for _ in self.world.events_until(self.world.now_s + REBIRTH_S * self.dice.random()):
            self.world.counts["told to nobody"] += 1
        self.machine, self.world.epoch = self._brain(epoch), epoch
        self.oracle.reborn()
        self._here.clear()
        for name, node in self.world.nodes.items():
            if self.world.answers(node):
                self._meet(name)
        self._recall()
        for name in self.world.nodes:
            self.world.beat(name)
        for order in unmet(self.machine.state, self._ledger.homes):
            self._tell(order)

    def calm_down(self) -> None:
        """Faults stop, everybody comes back, and nobody asks until all is done or its time is over."""
        self.world.faults = CALM
        mishaps.cease(self.world)
        if self._halted:
            self.restart()
        for name in self.world.nodes:
            self._revive(name)
        limits = self.machine.limits
        idle_s = MOST * max((spec.idle_s for spec in self.lab.specs), default=0.0)
        self.wait(max(idle_s, limits.calm_s))
        patience_s = limits.beat_timeout_s + limits.op_s + limits.backoff_max_s + limits.move_s
        give_up_s = self.world.now_s + patience_s
        while self.world.now_s < give_up_s and stuck(self.machine, self.world):
            self.wait(1.0)

    def outcome(self) -> Outcome:
        return Outcome(
            tuple(self.log),
            (*self.world.violations, *self.oracle.faults),
            tuple(self.world.misses),
            tuple(stuck(self.machine, self.world)),
            dict(self.world.ended),
            dict(self.world.counts),
        )

    def _pulse(self) -> None:
        """Once a second: time is told, nodes are asked and met, files are hashed, mended and swept up."""
        self._tell(Tick())
        calm = self.world.faults is CALM
        late = [
            name
            for name, node in self.world.nodes.items()
            if name not in self._here and self.world.answers(node) and (calm or self.world.chance(0.5))
        ]
        for name in late:
            self._meet(name)
        if late:
            self._recall()
        for name in self._here:
            self.world.beat(name)
        mishaps.scrub(self.world, 1.0 if calm else 0.1)
        state = self.machine.state
        for item in list(state.gone):
            lost = item not in state.retired and state.items[item].kind == "adapter"
            if lost and (calm or self.world.chance(0.3)):
                mishaps.mend(self.world, item)
        if self.world.clock_s < self._sweeps_s:
            for place, items in state.strangers.items():
                for item in items:
                    if item in self.world.removed and self.world.reaches(place):
                        self.world.clear(item, place)

    def _meet(self, name: str) -> None:
        """The coordinator and a node meet: it offers its rooms, and follows nobody older from now on."""
        self.world.nodes[name].epoch = self.world.epoch
        self._here[name] = None
        self._sweeps_s = self.world.clock_s + SWEEP_S
        self._tell(NodeJoined(name, self.lab.rooms[name]))

    def _recall(self) -> None:
        """Register what this coordinator does not know yet and can know now."""
        for item in list(self._ledger.specs):
            if item not in self.machine.state.items:
                registered = recalled(self._ledger, self.world, item, self._here)
                if registered is not None:
                    self._tell(registered)

    def _tell(self, event: Event) -> bool:
        """Let the brain take an event in; tell whether it did, and was not refused or cut off."""
        if self._halted:
            return False
        self.heard += 1
        self.log.append((self.world.now_s, event))
        now_s = self.world.clock_s
        try:
            commands = self.machine.handle(event, now_s)
        except InvariantBroken:
            raise
        except TierceError:  # an event that cannot be is refused whole: the state is what it was
            return False
        state = self.machine.state
        check(state, self.machine.limits)
        self.oracle.heard(event, state, now_s)
        for item, spec in state.items.items():
            if spec is not self.world.specs[item]:
                self.world.believe(spec)
        self._halted = self.world.happens("halt", self.world.faults.halt)
        if self._halted:
            commands = commands[: self.dice.randrange(len(commands) + 1)]
        # who belongs to the lab is written down before the brain is told
        if not self._halted or isinstance(event, Registered | Removed):
            self._ledger.note(event, state)
            self._ledger.settle(state, self.dice)
        for command in commands:
            self.log.append((self.world.now_s, command))
            self.oracle.judge(command, state, now_s)
            self.world.take(command)
        return not self._halted

    def _counted(self, item: Item, place: Place) -> bool:
        """Tell whether the brain counts an item at a place; whose seat a stranger has, nobody can tell it."""
        state = self.machine.state
        strange = place.tier is not Tier.VRAM and item in state.strangers.get(place, {})
        return ((item, place) in state.replicas or strange) and place not in state.over

    def _order(self, item: Item) -> Event:
        """Return what a person may order of an item, sense or nonsense."""
        places = [*sorted(place for rooms in self.lab.rooms.values() for place in rooms), NETWORK]
        if self.world.chance(0.7):
            engines = self.world.specs[item].serves_at
            places = [place for place in places if place.tier is not Tier.VRAM or place in engines]
        orders: list[Event] = [
            MoveOrdered(item, places[self.dice.randrange(len(places))], "user"),
            PinSet(item, self.world.chance(0.4), "user"),
            WarmOrdered(item, "user", 1 + 5 * self.dice.random()),
            UnloadOrdered(item, "user"),
        ]
        return orders[self.dice.randrange(len(orders))]

    def _item(self) -> Item:
        items = [item for item in self.world.specs if item not in self.world.removed]
        return items[self.dice.randrange(len(items))]

    def _replace(self, item: Item) -> None:
        """A new version of an item: it is registered under a new name, and the old one is removed."""
        old = self.world.specs[item]
        known = item in self.machine.state.items and not self._halted
        if not known or not self.world.reaches(old.durable):
            return
        new = replace(old, item=Item(f"{old.name}@{len(self.world.specs)}"))
        self.world.add(new)
        self.world.removed.add(item)
        self._tell(Registered(new, (new.durable,)))
        self._tell(Removed(item))

    def _revive(self, name: str = "") -> None:
        names = list(self.world.nodes)
        node = self.world.nodes[name or names[self.dice.randrange(len(names))]]
        if not node.alive:
            node.alive = True
            if self.world.chance(0.5):  # else a beat brings it back
                self._here.pop(node.name, None)
