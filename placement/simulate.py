"""A seeded storm around one brain (delay, loss, repetition, dying nodes), then calm, and what is left."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from placement.errors import TierceError
from placement.invariants import InvariantBroken, check
from placement.machine import Machine
from placement.messages import (
    Command,
    Event,
    MoveOrdered,
    NodeJoined,
    NodeLost,
    PinSet,
    Registered,
    Removed,
    Tick,
    UnloadOrdered,
    Wanted,
    WantEnded,
    WarmOrdered,
)
from placement.patience import MOST
from placement.routes import on_the_way
from placement.state import NETWORK, Item, Place, Room, Spec
from placement.tiers import Tier
from placement.world import CALM, STORM, Dice, Faults, World


@dataclass(frozen=True, slots=True)
class Scene:
    """The lab to play: what each node offers and which items it has."""

    rooms: Mapping[str, Mapping[Place, Room]]
    specs: tuple[Spec, ...]
    #: bytes of the memory behind the places that are measured; others come and go in it
    memory: Mapping[Place, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened. `violations` and `stuck` must be empty always, `misses` in a calm world."""

    events: tuple[tuple[float, Event], ...]
    commands: tuple[tuple[float, Command], ...]
    violations: tuple[str, ...]
    misses: tuple[str, ...]
    stuck: tuple[str, ...]
    ended: Mapping[str, str]


def simulate(
    machine_factory: Callable[[], Machine], lab: Scene, dice: Dice, steps: int, faults: Faults = STORM
) -> Outcome:
    """Play `steps` random orders, wants and faults against a Machine, then calm, and look at what is left.

    Equal dice give equal outcomes. Raises InvariantBroken as soon as the brain's own state contradicts a
    rule.
    """
    play = Play(machine_factory(), lab, dice, faults)
    play.start()
    for _ in range(steps):
        play.step()
    play.calm_down()
    return play.outcome()


class Play:
    """One run: the brain, the world and the people who use them."""

    def __init__(self, machine: Machine, lab: Scene, dice: Dice, faults: Faults) -> None:
        self.machine = machine
        self.lab = lab
        self.dice = dice
        self.world = World(lab.rooms, dice, replace(CALM, delay_s=faults.delay_s))
        self.world.memory = dict(lab.memory)
        self._faults = faults
        self._events: list[tuple[float, Event]] = []
        self._commands: list[tuple[float, Command]] = []
        self._asked = 0
        self._pulse_s = 0.0

    def start(self) -> None:
        for name, rooms in self.lab.rooms.items():
            self._tell(NodeJoined(name, rooms))
        for spec in self.lab.specs:
            self.world.add(spec)
            self._tell(Registered(spec, (spec.durable,)))
        self.wait(1.0)
        self.world.faults = self._faults

    def step(self) -> None:
        """Something goes wrong, somebody orders something, and up to a second goes by."""
        self._go_wrong()
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
            self.ask(self._item(), 5.0)
        self.wait(self.dice.random())

    def want(self, item: Item, within_s: float) -> str:
        """Somebody needs an item where it serves; return the want, which `world.ended` tells the end of."""
        self._asked += 1
        want = f"w{self._asked}"
        self.world.wants[want] = item
        self._tell(Wanted(want, item, self.world.now_s + within_s))
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
                self._tell(Tick())
                for name in self.world.nodes:
                    self.world.beat(name)

    def _go_wrong(self) -> None:
        faults = self.world.faults
        if self.world.chance(faults.node_dies):
            self._kill()
        if self.world.chance(0.1):
            self._revive()
        if self.world.chance(faults.cut_off):
            self._tell(NodeLost(self._node(), "cut off"))
        if self.world.chance(faults.file_vanishes):
            item = self._item()
            if self.world.specs[item].kind == "adapter":
                self.world.lose_file(item)
        if self.world.memory and self.world.chance(0.2):
            places = sorted(self.world.memory)
            place = places[self.dice.randrange(len(places))]
            self.world.others[place] = int(self.dice.random() * self.world.memory[place])

    def _order(self, item: Item) -> Event:
        """Return what a person may order of an item, sense or nonsense."""
        places = [*sorted(place for rooms in self.lab.rooms.values() for place in rooms), NETWORK]
        orders: list[Event] = [
            MoveOrdered(item, places[self.dice.randrange(len(places))], "user"),
            PinSet(item, self.world.chance(0.4), "user"),
            WarmOrdered(item, "user", 1 + 5 * self.dice.random()),
            UnloadOrdered(item, "user"),
        ]
        return orders[self.dice.randrange(len(orders))]

    def calm_down(self) -> None:
        """Faults stop, everybody comes back, and nobody asks until all is done or its time is over."""
        self.world.faults = CALM
        self.world.others.clear()
        for name in self.world.nodes:
            self._revive(name)
        limits = self.machine.limits
        idle_s = MOST * max((spec.idle_s for spec in self.lab.specs), default=0.0)
        self.wait(max(idle_s, limits.calm_s))
        patience_s = limits.beat_timeout_s + limits.op_s + limits.backoff_max_s + limits.move_s
        give_up_s = self.world.now_s + patience_s
        while self._stuck() and self.world.now_s < give_up_s:
            self.wait(1.0)

    def outcome(self) -> Outcome:
        return Outcome(
            tuple(self._events),
            tuple(self._commands),
            tuple(self.world.violations),
            tuple(self.world.misses),
            tuple(self._stuck()),
            dict(self.world.ended),
        )

    def _tell(self, event: Event) -> None:
        self._events.append((self.world.now_s, event))
        try:
            commands = self.machine.handle(event, self.world.now_s)
        except InvariantBroken:
            raise
        except TierceError:  # an event that cannot be is refused whole: the state is what it was
            return
        check(self.machine.state, self.machine.limits)
        for item, spec in self.machine.state.items.items():
            if spec != self.world.specs[item]:
                self.world.believe(spec)
        for command in commands:
            self._commands.append((self.world.now_s, command))
            self.world.take(command)

    def _node(self) -> str:
        names = list(self.world.nodes)
        return names[self.dice.randrange(len(names))]

    def _item(self) -> Item:
        items = [item for item in self.world.specs if item not in self.world.removed]
        return items[self.dice.randrange(len(items))]

    def _replace(self, item: Item) -> None:
        """A new version of an item: it is registered under a new name, and the old one is removed."""
        old = self.world.specs[item]
        new = replace(old, item=Item(f"{old.name}@{len(self.world.specs)}"))
        if not self.world.reaches(old.durable):
            return
        self.world.add(new)
        self._tell(Registered(new, (new.durable,)))
        self.world.removed.add(item)
        self._tell(Removed(item))

    def _kill(self) -> None:
        name = self._node()
        if self.world.nodes[name].alive:
            self.world.kill(name)
            if self.world.chance(0.5):
                self.world.send(NodeLost(name, "its actor died"), sure=True)

    def _revive(self, name: str = "") -> None:
        node = self.world.nodes[name or self._node()]
        if not node.alive:
            node.alive = True
            if self.world.chance(0.5):
                self.world.send(NodeJoined(node.name, self.lab.rooms[node.name]), sure=True)

    def _stuck(self) -> list[str]:
        """Return what should have ended or come home by now, told from the world's truth."""
        state = self.machine.state
        stuck = [f"want {want} for {item} is open" for want, item in self.world.wants.items()]
        stuck += [f"op {op} is open: {running.command}" for op, running in state.ops.items()]
        stuck += [f"{item} still moves to {ordered.to}" for item, ordered in state.moves.items()]
        stuck += [f"{item} is not removed" for item in state.retired]
        stuck += [f"{item} is still to be warm: {order.cause}" for item, order in state.warms.items()]
        stuck += [f"{item} is not unloaded" for item, order in state.unloads.items() if not order.done]
        for item, spec in self.world.specs.items():
            held = self.world.places_of(item)
            if item in self.world.removed:
                caches = sorted(place for place in held if place.tier in {Tier.RAM, Tier.VRAM})
                stuck += [
                    f"{item} was removed, and {place} holds it" for place in caches if spec.kind == "adapter"
                ]
                continue
            believed = {place for place, replica in state.at(item) if replica.phase == "ready"}
            if believed != held:
                stuck.append(f"{item} is at {sorted(held)}, and the brain believes {sorted(believed)}")
            stuck += self._homeless(spec, held)
        return stuck

    def _homeless(self, spec: Spec, held: set[Place]) -> list[str]:
        state = self.machine.state
        rest = state.rest(spec.item, self.world.now_s)
        readable = any(place.tier is not Tier.VRAM for place in held)
        stages = on_the_way(state, spec.item, rest)
        failed = any(state.blocked(spec.item, stage, self.world.now_s) for stage in stages)
        if rest in held:
            others = held - set(state.keeps(spec.item, rest))
            return [f"{spec.item} is at {rest} and still at {sorted(others)}"] if others else []
        if not readable or failed or not self.world.store(rest).has_room(spec, self.world.specs):
            return []
        if spec.nbytes > self.world.calm_room(rest, self.machine.limits.high[rest.tier]):
            return []
        return [f"{spec.item} is at {sorted(held)} and not at {rest}, which has room"]
