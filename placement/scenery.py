"""The lab that a simulated run plays in: given by a test, or drawn by the dice."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.faults import Dice
from placement.state import NETWORK, Item, Place, Room, Spec
from placement.tiers import Tier

MIB = 2**20
#: nodes and items of a lab that is drawn, at most; small labs are crowded ones and more frequent
NODES = 20
ITEMS = 40
DEVICES = ("cpu", "cuda:0", "cuda:1")


@dataclass(frozen=True, slots=True)
class Scene:
    """The lab to play: what each node offers and which items it has."""

    rooms: Mapping[str, Mapping[Place, Room]]
    specs: tuple[Spec, ...]
    #: bytes of the memory behind the places that are measured; others come and go in it
    memory: Mapping[Place, int] = field(default_factory=dict)


def draw(dice: Dice) -> Scene:
    """Return a lab of up to NODES nodes whose rooms are too small for all that its items want."""
    count = 1 + int(NODES * dice.random() ** 2)
    nodes = [f"n{number:02}" for number in range(count)]
    engines = _engines(dice, nodes)
    items = 3 + dice.randrange(min(ITEMS, 6 + 3 * count) - 2)
    specs = tuple(_spec(dice, number, nodes, engines) for number in range(items))
    rooms: dict[str, dict[Place, Room]] = {}
    for node in nodes:
        disk = Place(node, Tier.SSD)
        kept = sum(spec.nbytes for spec in specs if (spec.landing or spec.durable) == disk)
        rooms[node] = {
            Place(node, Tier.RAM): Room((20 + dice.randrange(60)) * MIB),
            disk: Room(int(kept * (1.5 + dice.random())) + (40 + dice.randrange(200)) * MIB),
        }
    for place, bases in engines.items():
        seats = {base: 1 + dice.randrange(3) for base in bases}
        rooms[place.node][place] = Room((116 + dice.randrange(50)) * MIB, 100 * MIB, seats)
    memory = {
        place: int(room.budget * (1.05 + 0.6 * dice.random()))
        for offered in rooms.values()
        for place, room in offered.items()
        if dice.random() < 0.25
    }
    return Scene(rooms, specs, memory)


def _engines(dice: Dice, nodes: list[str]) -> dict[Place, list[str]]:
    """Return the VRAM places of about every second node, one at least, and the bases of each.

    Now and then one has a second engine of a base that is elsewhere too.
    """
    hosts = [node for node in nodes if dice.random() < 0.5] or nodes[:1]
    engines = {
        Place(node, Tier.VRAM, DEVICES[dice.randrange(len(DEVICES))]): [
            f"{node}-base{number}" for number in range(1 + dice.randrange(2))
        ]
        for node in hosts
    }
    first, *others = engines
    for place in others:
        if dice.random() < 0.4:
            engines[place].append(engines[first][dice.randrange(len(engines[first]))])
    return engines


def _spec(dice: Dice, number: int, nodes: list[str], engines: Mapping[Place, list[str]]) -> Spec:
    kind = dice.random()
    places = list(engines)
    if kind < 0.2:
        return _shard(dice, number, nodes, places)
    seat = places[dice.randrange(len(places))]
    base = engines[seat][dice.randrange(len(engines[seat]))]
    node = nodes[dice.randrange(len(nodes))]
    disk, memory = Place(node, Tier.SSD), Place(node, Tier.RAM)
    remote = kind > 0.85
    homes = [seat, seat, memory, NETWORK if remote else disk]
    downs = [None, None, memory, NETWORK if remote else disk]
    return Spec(
        Item(f"role{number}@1"),
        f"role{number}",
        "adapter",
        (3 + dice.randrange(13)) * MIB,
        homes[dice.randrange(len(homes))],
        tuple(place for place in places if base in engines[place]),
        base,
        f"digest{number}",
        NETWORK if remote else disk,
        idle_s=2 + 6 * dice.random(),
        unload_to=downs[dice.randrange(len(downs))],
        pinned=dice.random() < 0.1,
        landing=disk if remote else None,
        after=(f"role{dice.randrange(number)}",) if number and dice.random() < 0.2 else (),
        at_start=dice.random() < 0.1,
    )


def _shard(dice: Dice, number: int, nodes: list[str], engines: list[Place]) -> Spec:
    node = nodes[dice.randrange(len(nodes))]
    disk, memory = Place(node, Tier.SSD), Place(node, Tier.RAM)
    seats = tuple(place for place in engines if place.node == node)[:1]
    homes = [disk, memory, *(seats or (memory,))]
    return Spec(
        Item(f"shard{number}#shard"),
        f"shard{number}",
        "shard",
        (2 + dice.randrange(6)) * MIB,
        homes[dice.randrange(len(homes))],
        seats,
        "",
        "",
        Place(node, Tier.SSD, "log"),
        idle_s=3 + 4 * dice.random(),
        unload_to=disk if dice.random() < 0.5 else None,
        pinned=dice.random() < 0.1,
    )
