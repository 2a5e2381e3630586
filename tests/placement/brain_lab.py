"""A small lab for the brain's tests: two nodes, one engine, and a Machine that is checked at each event."""

from dataclasses import dataclass, field, replace

from placement.due import schedule
from placement.invariants import check
from placement.machine import Machine
from placement.messages import (
    Beat,
    Command,
    Copied,
    Copy,
    Drop,
    Dropped,
    Event,
    NodeJoined,
    Registered,
    Seen,
    Tick,
    Wanted,
)
from placement.plan import admit
from placement.policies import DEFAULT
from placement.scenery import Scene
from placement.state import NETWORK, Item, Limits, Place, Room, Spec, State
from placement.tiers import Tier

MIB = 2**20
VRAM = Place("desk", Tier.VRAM, "cpu")
RAM = Place("desk", Tier.RAM)
SSD = Place("desk", Tier.SSD)
LOG = Place("desk", Tier.SSD, "log")
ATTIC_RAM = Place("attic", Tier.RAM)
ATTIC_SSD = Place("attic", Tier.SSD)
DESK = {
    VRAM: Room(200 * MIB, 100 * MIB, {"small": 2, "big": 1}),
    RAM: Room(100 * MIB),
    SSD: Room(1000 * MIB),
}
ATTIC = {ATTIC_RAM: Room(50 * MIB), ATTIC_SSD: Room(1000 * MIB)}
LIMITS = Limits()
#: short times, so that a simulated run ends soon
BRISK = Limits(
    op_s=5.0,
    slowest_nbytes_s=100 * MIB,
    backoff_max_s=4.0,
    beat_timeout_s=4.0,
    move_s=6.0,
    copies_per_place=3,
    calm_s=3.0,
    warm_s=3.0,
    further_s=3.0,
)


def role(name, home=SSD, **changes):
    """Return an adapter of 10 MiB whose durable copy is on the desk and whose engine is the desk's."""
    spec = Spec(Item(f"{name}@1"), name, "adapter", 10 * MIB, home, (VRAM,), "small", "d", SSD, 600.0)
    return replace(spec, **changes)


def shard(name, home=RAM, **changes):
    """Return a shard of 5 MiB with its log on the desk."""
    return replace(
        Spec(Item(f"{name}#shard"), name, "shard", 5 * MIB, home, (), "", "", LOG, 600.0), **changes
    )


@dataclass(frozen=True)
class Plan:
    """The commands that were admitted, with op ids, and the state in which they were given."""

    state: State
    commands: tuple[Command, ...]


def plan(state, suggestions, now_s, limits) -> Plan:
    """Admit suggestions as the Machine does, into a state of their own."""
    draft = state.draft()
    commands = admit(draft, suggestions, now_s, limits)
    schedule(draft, draft.changed, now_s)
    return Plan(draft, tuple(commands))


@dataclass
class Lab:
    """A Machine, a clock that the test turns, and a check of the invariants after every event."""

    limits: Limits = LIMITS
    policies: tuple = DEFAULT
    epoch: int = 1
    now_s: float = 0.0
    told: int = 0
    news: list = field(default_factory=list)
    machine: Machine = field(init=False)

    def __post_init__(self):
        self.machine = Machine(self.limits, self.epoch, self.policies)

    @property
    def state(self) -> State:
        return self.machine.state

    def tell(self, event: Event) -> list[Command]:
        commands = self.machine.handle(event, self.now_s)
        self.news += self.machine.news
        check(self.state, self.limits)
        return commands

    def join(self, desk=DESK, attic=ATTIC):
        """Both nodes join and report their places empty."""
        for name, rooms in (("desk", desk), ("attic", attic)):
            self.tell(NodeJoined(name, rooms))
            self.tell(Beat(name, self.now_s, {place: {} for place in rooms}))
        return self

    def register(self, *specs, at=()):
        """Register each item with its durable copy and whatever else `at` says; return all commands."""
        return [command for spec in specs for command in self.tell(Registered(spec, (spec.durable, *at)))]

    def want(self, spec, within_s=30.0):
        self.told += 1
        return self.tell(Wanted(f"w{self.told}", spec.item, self.now_s + within_s))

    def do(self, commands):
        """Perform copies and drops at once, and what they lead to; return the commands of all answers."""
        seen, todo = [], list(commands)
        while todo:
            command = todo.pop(0)
            match command:
                case Copy(op, nbytes=nbytes):
                    new = self.tell(Copied(op, nbytes, 0.1))
                case Drop(op):
                    new = self.tell(Dropped(op))
                case _:
                    new = []
            seen += new
            todo += new
        return seen

    def wait(self, seconds):
        """Let time pass with empty beats, so that no node is lost, until something is commanded."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(self.now_s + self.limits.beat_timeout_s / 4, until_s)
            commands = self.tell(Tick())
            for node in self.state.nodes:
                self.tell(Beat(node, self.now_s, {}))
            if commands:
                return commands
        return []

    def see(self, place, *items, asked_s=None, seen=None):
        """Tell a beat that shows exactly these items at one place."""
        shown = {spec.item: seen or Seen(idle_s=self.now_s) for spec in items}
        return self.tell(Beat(place.node, self.now_s if asked_s is None else asked_s, {place: shown}))

    def phase(self, spec, place):
        replica = self.state.replicas.get((spec.item, place))
        return replica.phase if replica else None


def remote(name, home=NETWORK, **changes):
    """Return an adapter of 10 MiB that lies at an address and lands on the desk's SSD."""
    return role(name, home, **{"durable": NETWORK, "landing": SSD, **changes})


def scene() -> Scene:
    """Return a crowded lab: nine adapters of three sizes for three seats, two shards, two small RAMs."""
    vram_room = Room(130 * MIB, 100 * MIB, {"small": 2, "big": 1})
    rooms = {
        "desk": {RAM: Room(60 * MIB), SSD: Room(900 * MIB), VRAM: vram_room},
        "attic": {ATTIC_RAM: Room(40 * MIB), ATTIC_SSD: Room(900 * MIB)},
    }
    specs = []
    for i in range(9):
        durable, cache = (SSD, RAM) if i % 2 == 0 else (ATTIC_SSD, ATTIC_RAM)
        specs.append(
            role(
                f"role{i}",
                home=(VRAM, RAM, durable, ATTIC_RAM)[i % 4],
                nbytes=(6 + i) * MIB,
                base="big" if i % 3 == 2 else "small",
                durable=durable,
                idle_s=4.0,
                unload_to=cache if i % 2 else None,
                pinned=i == 0,
            )
        )
    specs += [shard(f"shard{j}", idle_s=5.0, unload_to=SSD if j else None) for j in range(2)]
    return Scene(rooms, tuple(specs))


def whole_scene() -> Scene:
    """Return a crowded lab with everything: addresses, an index in VRAM, warm orders, measured memory."""
    plain = scene()
    others = (
        remote("far0", idle_s=4.0, nbytes=7 * MIB, at_start=True),
        remote("far1", home=RAM, idle_s=4.0, nbytes=8 * MIB, unload_to=NETWORK, after=("role1", "shard0")),
        remote("far2", landing=ATTIC_SSD, idle_s=3.0, base="big", after=("far0",)),
        shard("shard2", VRAM, serves_at=(VRAM,), nbytes=4 * MIB, idle_s=6.0, unload_to=SSD),
    )
    memory = {RAM: 64 * MIB, VRAM: 150 * MIB, ATTIC_SSD: 200 * MIB}
    return Scene(plain.rooms, (*plain.specs, *others), memory)
