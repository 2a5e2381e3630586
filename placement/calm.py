"""What should be true of a pretended lab once faults have stopped and time was given: nothing is stuck."""

from placement.machine import Machine
from placement.routes import on_the_way
from placement.state import Place, Spec
from placement.tiers import Tier
from placement.world import World


def stuck(machine: Machine, world: World) -> list[str]:
    """Return what should have ended or come home by now, told from the world's truth."""
    state = machine.state
    left = [f"want {want} for {item} is open" for want, item in world.wants.items()]
    left += [f"op {op} is open: {running.command}" for op, running in state.ops.items()]
    left += [f"{item} still moves to {ordered.to}" for item, ordered in state.moves.items()]
    left += [f"{item} is not removed" for item in sorted(state.retired)]
    left += [f"{item} is still to be warm: {order.cause}" for item, order in state.warms.items()]
    left += [f"{item} is not unloaded" for item, order in state.unloads.items() if not order.done]
    for item, spec in world.specs.items():
        held = world.places_of(item)
        if item in world.removed:
            caches = sorted(place for place in held if place.tier in {Tier.RAM, Tier.VRAM})
            left += [
                f"{item} was removed, and {place} holds it" for place in caches if spec.kind == "adapter"
            ]
            continue
        if item not in state.items:
            files = [place for place in held if place.tier in {Tier.SSD, Tier.NETWORK}]
            if item in world.sourceless and not files:
                continue  # nobody can say any more what it was
            left.append(f"{item} is not registered with the coordinator of epoch {state.epoch}")
            continue
        believed = {place for place, replica in state.at(item) if replica.phase == "ready"}
        if believed != held:
            left.append(f"{item} is at {sorted(held)}, and the brain believes {sorted(believed)}")
        left += _homeless(machine, world, spec, held)
    return left


def _homeless(machine: Machine, world: World, spec: Spec, held: set[Place]) -> list[str]:
    state, now_s = machine.state, world.clock_s
    rest = state.rest(spec.item, now_s)
    readable = any(place.tier is not Tier.VRAM for place in held)
    failed = any(state.blocked(spec.item, stage, now_s) for stage in on_the_way(state, spec.item, rest))
    if rest in held:
        failed_there = state.blocked(spec.item, spec.durable, now_s)
        if spec.durable not in held and failed_there is not None and failed_there.permanent:
            return []  # nothing leaves while the durable copy is missing, and nobody can make it
        others = held - set(state.keeps(spec.item, rest))
        return [f"{spec.item} is at {rest} and still at {sorted(others)}"] if others else []
    if not readable or failed or not world.store(rest).has_room(spec, world.specs):
        return []
    if spec.nbytes > world.calm_room(rest, machine.limits.high[rest.tier]):
        return []
    return [f"{spec.item} is at {sorted(held)} and not at {rest}, which has room"]
