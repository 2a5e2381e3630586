"""What goes wrong in a pretended lab: machines and actors that die, links that are cut, disks that fail."""

from placement.messages import NodeLost
from placement.pretended import FakeNode
from placement.state import NETWORK, Item, Place
from placement.tiers import Tier
from placement.world import World

#: longest silence of an actor that was born again, and of a node that is cut off
BIRTH_S = 4.0
CUT_S = 8.0
#: a clock that jumps does so by up to this much
JUMP_S = 60.0


def strike(world: World) -> None:
    """Let go wrong, in this step, what the faults and the dice say."""
    faults = world.faults
    if world.happens("node dies", faults.node_dies):
        _kill_one(world)
    if world.happens("actor dies", faults.actor_dies):
        kill_actor(world, _pick(world, [place for place in _places(world) if world.reaches(place)]))
    if world.happens("partition", faults.partition):
        _node(world).cut_s = world.now_s + CUT_S * world.dice.random()
    if world.happens("cut off", faults.cut_off):
        world.send(NodeLost(_node(world).name, "cut off"), sure=True)
    if world.happens("file vanishes", faults.file_vanishes):
        lose_file(world, _adapter(world))
    if world.happens("rots", faults.rots):
        rot(world, _adapter(world))
    if world.happens("disk fills", faults.disk_fills):
        disks = [place for place in _places(world) if place.tier is not Tier.VRAM]
        store = world.store(_pick(world, disks) or NETWORK)
        store.full = not store.full and store.room is not None
    if world.happens("clock jumps", faults.clock_jumps):
        world.skew_s += JUMP_S * world.dice.random() ** 3
    if world.memory and world.chance(0.2):
        places = sorted(world.memory)
        place = places[world.dice.randrange(len(places))]
        world.others[place] = int(world.dice.random() * world.memory[place])


def cease(world: World) -> None:
    """All that is wrong ends, and what was damaged is found."""
    world.others.clear()
    for node in world.nodes.values():
        node.cut_s = min(node.cut_s, world.now_s)
        for store in node.stores.values():
            store.full = False
            store.silent_s = min(store.silent_s, world.now_s)


def kill(world: World, name: str) -> None:
    """A node dies: RAM and VRAM are lost, files are not, and nothing that was sent to it will be done."""
    node = world.nodes[name]
    node.alive, node.life, node.epoch = False, node.life + 1, 0
    for place, store in node.stores.items():
        store.coming.clear()
        for held in store.held.values():
            held.leases, held.closed_s = 0, None
        if place.tier is not Tier.SSD:
            store.held.clear()


def kill_actor(world: World, place: Place | None) -> None:
    """The actor behind a place dies: an engine with its slots and matrices, or a Store with its images.

    Files stay, and so does a shard's index, which is not the Store's; all requests in flight are lost.
    """
    if place is None or place == NETWORK:
        return
    stores = world.nodes[place.node].stores
    engine = place.tier is Tier.VRAM
    for other, store in stores.items():
        if (other != place) if engine else (other.tier is Tier.VRAM or other.device):
            continue
        store.life, store.silent_s = store.life + 1, world.now_s + BIRTH_S * world.dice.random()
        store.coming.clear()
        for item, held in list(store.held.items()):
            held.leases, held.closed_s = 0, None
            if other.tier is Tier.VRAM or (other.tier is Tier.RAM and world.specs[item].kind == "adapter"):
                del store.held[item]


def lose_file(world: World, item: Item | None) -> None:
    """A fault destroys the durable file of an adapter; what lies at an address is out of its reach."""
    if item is None or (place := world.specs[item].durable) == NETWORK:
        return
    if world.store(place).held.pop(item, None) is not None:
        _damage(world, item)


def rot(world: World, item: Item | None) -> None:
    """A file of an adapter is no longer what it was, and nobody knows before it is read or scrubbed."""
    disks = [place for place in world.places_of(item) if place.tier is Tier.SSD] if item is not None else []
    place = _pick(world, sorted(disks))
    if item is not None and place is not None:
        world.store(place).held[item].rotten = True
        _damage(world, item)


def scrub(world: World, probability: float) -> None:
    """Set aside each rotten file of the living that is looked at now."""
    for node in world.nodes.values():
        for store in node.stores.values() if node.alive else ():
            rotten = [item for item, held in store.held.items() if held.rotten]
            for item in rotten:
                if world.chance(probability):
                    del store.held[item]
                    world.counts["found by scrub"] += 1


def mend(world: World, item: Item) -> bool:
    """Build the durable file of an adapter again from its source, if that can be had; tell whether it is."""
    place = world.specs[item].durable
    if item in world.sourceless or place == NETWORK or not world.reaches(place):
        return False
    store = world.store(place)
    held = store.held.get(item)
    if held is None or held.rotten:
        store.held.pop(item, None)
        world.add(world.specs[item])
        world.counts["mended"] += 1
    return True


def _damage(world: World, item: Item) -> None:
    world.damaged.add(item)
    if world.chance(0.3):
        world.sourceless.add(item)


def _kill_one(world: World) -> None:
    node = _node(world)
    if node.alive:
        kill(world, node.name)
        if world.chance(0.5):
            world.send(NodeLost(node.name, "its actor died"), sure=True)


def _node(world: World) -> FakeNode:
    names = list(world.nodes)
    return world.nodes[names[world.dice.randrange(len(names))]]


def _places(world: World) -> list[Place]:
    """Return the places that nodes offer, in a fixed order."""
    return [
        place
        for node in world.nodes.values()
        for place, store in node.stores.items()
        if store.room is not None
    ]


def _pick(world: World, places: list[Place]) -> Place | None:
    return places[world.dice.randrange(len(places))] if places else None


def _adapter(world: World) -> Item | None:
    items = [
        item for item, spec in world.specs.items() if spec.kind == "adapter" and item not in world.removed
    ]
    return items[world.dice.randrange(len(items))] if items else None
