"""How the machines of a pretended lab carry out what travelled to them: copies, drops, leases and beats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from placement.messages import Copied, Copy, CopyFailed, Drop, Dropped, DropRefused
from placement.pretended import Held, Work
from placement.state import NETWORK, Item, Place, Spec
from placement.tiers import Tier

if TYPE_CHECKING:
    from placement.pretended import FakeStore
    from placement.world import World

#: how long an item that is drained is waited for, and how often it is looked at
DRAIN_S = 4.0
POLL_S = 0.1
#: a request takes at most this long
ANSWER_S = 3.0
COPY_S = 1.0


def perform(world: World, work: Work) -> None:
    """Do a piece of work whose time has come, if its node and its actor are still those it was sent to."""
    node, store = world.nodes[work.place.node], world.store(work.place)
    born_again = world.life(work.place) != work.life
    if isinstance(work.task, Held):
        if not born_again:
            work.task.leases, work.task.used_s = work.task.leases - 1, world.now_s
        return
    if isinstance(work.task, float):
        if node.alive and work.epoch == world.epoch:
            world.send(world.inventory(node, work.task), node=node.name)
        return
    if born_again or not node.alive or (work.arrives and world.now_s < store.silent_s):
        _lost(world, work.task, node.name)
        return
    if work.epoch < node.epoch and (work.arrives or isinstance(work.task, Drop)):
        world.counts["fenced"] += 1
        if isinstance(work.task, Drop) and not work.arrives and work.task.item in store.held:
            store.held[work.task.item].closed_s = None
        return
    node.epoch = max(node.epoch, work.epoch)
    if isinstance(work.task, Drop):
        drop(world, work.task, work)
    elif work.arrives:
        _begin_copy(world, work.task, work)
    else:
        _end_copy(world, work.task, work)


def _lost(world: World, task: Copy | Drop, node: str) -> None:
    """Answer for a machine or an actor that died under a piece of work, half of the time."""
    if not world.chance(0.5):
        return
    if isinstance(task, Copy):
        world.send(CopyFailed(task.op, "TRC013", f"{node} died"))
    else:
        world.send(DropRefused(task.op, 0))


def lease(world: World, item: Item, place: Place) -> bool:
    """Begin a request, if the item is there and open; tell whether it is."""
    node, store = world.nodes[place.node], world.store(place)
    held = store.held.get(item)
    if held is None or held.closed_s is not None or not node.alive or world.now_s < store.silent_s:
        return False
    held.leases, held.hits, held.used_s = held.leases + 1, held.hits + 1, world.now_s
    ends_s = world.now_s + ANSWER_S * world.dice.random()
    world.schedule(ends_s, Work(held, place, world.life(place), arrives=False))
    return True


def _begin_copy(world: World, copy: Copy, work: Work) -> None:
    target, spec = world.store(copy.target), world.specs[copy.item]
    node = copy.target.node
    if copy.op in target.coming:
        return
    if copy.source == NETWORK and copy.target.tier is not Tier.SSD:
        world.violations.append(f"{copy.op} fetches {copy.item} to {copy.target}, past the SSD")
    if copy.source.tier is Tier.VRAM:
        world.violations.append(f"{copy.op} reads {copy.item} in VRAM")
    why = _unreadable(world, copy)
    if copy.item in target.held and not target.held[copy.item].rotten:
        target.held[copy.item].closed_s = None
        world.send(Copied(copy.op, copy.nbytes, 0.0), node=node)
    elif why:
        world.misses.append(f"{copy.op} reads {copy.item} at {copy.source}: {why}")
        world.send(CopyFailed(copy.op, "STO001", why), node=node)
    elif target.full:
        world.send(CopyFailed(copy.op, "STO003", "no space left on device"), node=node)
    elif not target.has_room(spec, world.specs):
        _blame_crowd(world, copy, target)
        world.send(CopyFailed(copy.op, "STO003", f"{copy.target} is full"), node=node)
    elif work.fate in {"fails", "for good"}:
        world.send(CopyFailed(copy.op, "STO009", "bad luck", permanent=work.fate == "for good"), node=node)
    else:
        target.coming[copy.op] = spec
        done_s = world.now_s + COPY_S * world.dice.random()
        again = Work(copy, copy.target, work.life, arrives=False, epoch=work.epoch, fate=work.fate)
        world.schedule(done_s, again)


def _unreadable(world: World, copy: Copy) -> str:
    """Return why the source of a copy cannot be read, "" if it can."""
    if not world.reaches(copy.source):
        return f"{copy.source.node} is dead"
    source = world.store(copy.source)
    if copy.item not in source.held:
        return f"{copy.source} lacks it"
    return f"{copy.source} does not answer" if world.now_s < source.silent_s else ""


def _blame_crowd(world: World, copy: Copy, target: FakeStore) -> None:
    """A copy found no room: the brain's fault, unless there is what it could not know of."""
    foreign = any(op.partition(".")[0] != copy.op.partition(".")[0] for op in target.coming)
    there = (*target.held, *(spec.item for spec in target.coming.values()))
    unknown = foreign or not all(world.counted(item, copy.target) for item in there)
    told = f"{copy.op} brings {copy.item} to {copy.target}, which is full"
    (world.misses if unknown else world.violations).append(told)


def _end_copy(world: World, copy: Copy, work: Work) -> None:
    """Bytes have come: they are kept if their digest is right, and the source lasted so long."""
    target, node = world.store(copy.target), copy.target.node
    del target.coming[copy.op]
    source = None if copy.source.tier is Tier.NETWORK else world.store(copy.source).held.get(copy.item)
    if not world.reaches(copy.source):
        world.send(CopyFailed(copy.op, "TRC013", f"{copy.source.node} died"), node=node)
    elif work.fate == "corrupt" or (source is not None and source.rotten):
        world.counts["refused by digest"] += 1
        world.send(CopyFailed(copy.op, "STO002", f"{copy.item} arrived with another digest"), node=node)
    else:
        if copy.item not in target.held or target.held[copy.item].rotten:
            target.held[copy.item] = Held(copy.nbytes, world.now_s)
        world.send(Copied(copy.op, copy.nbytes, 0.5), node=node)


def drop(world: World, command: Drop, work: Work) -> None:
    """Let go of an item unless it is in use; one that `drains` is closed, and looked at again."""
    store, spec, node = world.store(command.place), world.specs[command.item], command.place.node
    held = store.held.get(command.item)
    if held is None:
        world.send(Dropped(command.op), node=node)
    elif held.leases and command.drains and _drains(world, held, work):
        again = Work(command, command.place, work.life, arrives=False, epoch=work.epoch)
        world.schedule(world.now_s + POLL_S, again)
    elif held.leases:
        held.closed_s = None
        world.send(DropRefused(command.op, held.leases), node=node)
    else:
        if command.item not in world.removed:
            _blame(world, command, spec)
        del store.held[command.item]
        world.send(Dropped(command.op), node=node)


def _drains(world: World, held: Held, work: Work) -> bool:
    """Close an item to new requests; tell whether those in flight are still to be waited for."""
    if work.arrives and held.closed_s is None:
        held.closed_s = world.now_s
    return held.closed_s is not None and world.now_s < held.closed_s + DRAIN_S


def _blame(world: World, command: Drop, spec: Spec) -> None:
    """Record what a drop of an item of the lab destroys for good."""
    if command.place == spec.durable:
        world.violations.append(f"{command.op} drops the durable copy of {command.item}")
    others = world.places_of(command.item) - {command.place}
    files = [place for place in others if place.tier in {Tier.SSD, Tier.NETWORK}]
    if command.place.tier is Tier.SSD and not files:
        told = f"{command.op} drops the last file of {command.item}"
        (world.misses if command.item in world.damaged else world.violations).append(told)
    if spec.kind == "shard" and not others - {spec.durable}:
        world.misses.append(f"{command.op} drops the only index of {command.item}")
