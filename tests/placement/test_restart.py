"""A coordinator that ends in any state of a move, drain or removal: the next one resumes, or rolls back."""

from dataclasses import replace
from random import Random

import pytest

from placement.faults import CALM
from placement.machine import Machine
from placement.messages import MoveOrdered, Registered, Removed
from placement.scenery import Scene
from placement.simulate import Play
from placement.state import Item, Room
from tests.placement.brain_lab import ATTIC, ATTIC_RAM, ATTIC_SSD, BRISK, DESK, MIB, RAM, SSD, VRAM, role

A = role("a", home=RAM, idle_s=3.0)
#: between two restarts that are tried
STEP_S = 0.1
#: messages take up to this long, so that each state lasts
SLOW = replace(CALM, delay_s=0.5)


class Lab(Play):
    """A pretended lab in which nothing goes wrong but the coordinator."""

    def __init__(self, *specs, seed=0, rooms=None):
        scene = Scene(rooms or {"desk": DESK, "attic": ATTIC}, specs)
        super().__init__(lambda epoch: Machine(BRISK, epoch), scene, Random(seed), SLOW)
        self.start()
        self.wait(6.0)

    def order(self, event):
        """Tell the brain of an order."""
        return self._tell(event)

    def cut_off(self, event):
        """Tell the brain of an order in the middle of which its process ends."""
        self.world.faults = replace(SLOW, halt=1.0)
        self.order(event)
        self.world.faults = SLOW

    def is_held(self, item, place):
        return item in self.world.store(place).held

    def state_of(self, item):
        """Say how far what is under way with an item has come, as the world knows it."""
        replicas = dict(self.machine.state.at(item)) if item in self.machine.state.items else {}
        if any(item in {spec.item for spec in store.coming.values()} for store in self.stores()):
            return "copying"
        if any(store.held[item].closed_s is not None for store in self.stores() if item in store.held):
            return "draining"
        for place, replica in replicas.items():
            if replica.phase == "loading":
                return "landed but not told" if self.is_held(item, place) else "asked"
            if replica.phase == "leaving":
                return "dropping" if self.is_held(item, place) else "dropped but not told"
        return "at rest"

    def stores(self):
        return [store for node in self.world.nodes.values() for store in node.stores.values()]

    def sound(self):
        """Say what is wrong after a restart, once there was time for everything; nothing should be."""
        self.calm_down()
        told = self.outcome()
        return (*told.violations, *told.stuck)


def restarts(begin, seconds):
    """Yield a lab for each moment after `begin`, and in which state its coordinator is ended there."""
    for step in range(int(seconds / STEP_S)):
        lab, item = begin()
        lab.wait(step * STEP_S)
        state = lab.state_of(item)
        lab.restart()
        yield lab, state


def moving():
    """Return a lab in which an item was just sent to another machine, and the item."""
    lab = Lab(A)
    lab.order(MoveOrdered(A.item, ATTIC_RAM, "user"))
    return lab, A.item


def test_a_move_goes_on_whenever_its_coordinator_ends():
    """Asked, copying, landed but not told, dropping: the order is done in the end, and once."""
    seen = set()
    for lab, state in restarts(moving, 5.0):
        seen.add(state)
        assert lab.sound() == (), state
        assert lab.machine.state.home(A.item) == ATTIC_RAM, state
        assert lab.world.places_of(A.item) == {ATTIC_RAM, ATTIC_SSD}, state
    assert seen >= {"asked", "copying", "landed but not told", "dropping", "dropped but not told"}


@pytest.mark.parametrize("seed", range(5))
def test_a_move_that_was_not_written_down_is_as_if_it_had_not_been_ordered(seed):
    """The coordinator ends between the order and its journal; some of its commands are on their way."""
    lab = Lab(A, seed=seed)
    lab.cut_off(MoveOrdered(A.item, ATTIC_RAM, "user"))
    lab.restart()
    assert lab.sound() == ()
    assert lab.machine.state.home(A.item) == RAM
    assert lab.world.places_of(A.item) == {RAM, SSD}


#: one seat, so that whoever comes next has another one drained
ONE_SEAT = {"desk": {**DESK, VRAM: Room(200 * MIB, 100 * MIB, {"small": 1})}, "attic": ATTIC}
B = role("b", home=SSD, idle_s=3.0)


def draining():
    """Return a lab in which who has the only seat is in use, and another one waits for it."""
    lab = Lab(A, B, rooms=ONE_SEAT)
    lab.want(A.item, 9.0)
    for _ in range(6):
        lab.wait(0.5)
        lab.ask(A.item, 9.0)
    lab.want(B.item, 9.0)
    return lab, A.item


def test_a_drain_that_is_cut_off_leaves_nobody_shut_out():
    """Who was closed to new requests is open again or gone, and can be asked of the next coordinator."""
    seen = set()
    for lab, state in restarts(draining, 6.0):
        seen.add(state)
        lab.wait(4.0)
        want = lab.want(A.item, 20.0)
        lab.wait(20.0)
        assert lab.world.ended[want] == "granted", state
        assert lab.sound() == (), state
    assert "draining" in seen


NEW = replace(A, item=Item("a@2"))


def replacing():
    """Return a lab in which a new version was just registered and the old one removed, and the old one."""
    lab = Lab(A)
    lab.world.add(NEW)
    lab.order(Registered(NEW, (SSD,)))
    lab.world.removed.add(A.item)
    lab.order(Removed(A.item))
    return lab, A.item


def test_a_version_that_was_replaced_goes_whenever_the_coordinator_ends():
    """The new one is at home, and of the old one nothing is left in memory."""
    seen = set()
    for lab, state in restarts(replacing, 3.0):
        seen.add(state)
        assert lab.sound() == (), state
        assert RAM in lab.world.places_of(NEW.item), state
        assert lab.world.places_of(A.item) <= {SSD}, state
    assert "dropping" in seen
