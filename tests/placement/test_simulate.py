import random
from dataclasses import replace

import pytest

from placement.calm import stuck
from placement.faults import CALM
from placement.machine import Machine
from placement.messages import Copy, Drop, Grant, Refuse
from placement.policies import DEFAULT
from placement.simulate import simulate
from placement.state import NETWORK, Item, Place
from placement.tiers import Tier
from placement.world import World
from tests.placement.brain_lab import BRISK, LIMITS, scene, whole_scene


def brain(epoch):
    """Return a Machine of short times."""
    return Machine(BRISK, epoch)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("lab", [scene, whole_scene], ids=["plain", "whole"])
def test_a_storm_breaks_nothing_and_calm_brings_everything_home(seed, lab):
    """Loss, repetition, reordering and dying nodes lose nothing, fill nothing, and leave nothing undone."""
    outcome = simulate(brain, lab(), random.Random(seed), events=200)
    assert outcome.violations == ()
    assert outcome.stuck == ()
    assert outcome.ended


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("lab", [scene, whole_scene], ids=["plain", "whole"])
def test_in_a_calm_world_belief_and_truth_never_differ(seed, lab):
    """Without faults no command is refused by the world and no grant finds the item gone."""
    outcome = simulate(brain, lab(), random.Random(seed), events=250, faults=CALM)
    assert outcome.misses == outcome.violations == outcome.stuck == ()
    assert {"granted"} <= set(outcome.ended.values())


@pytest.mark.parametrize("seed", [3, 11])
def test_the_same_seed_gives_the_same_commands(seed):
    """A run is repeated by its seed, to the last op id and reason."""
    first, second = (simulate(brain, whole_scene(), random.Random(seed), events=200) for _ in range(2))
    assert first == second
    assert first != simulate(brain, whole_scene(), random.Random(seed + 1), events=200)


def driven_by(policies):
    """Return what makes a Machine of these policies."""
    return lambda epoch: Machine(BRISK, epoch, policies)


def broken(outcome):
    """Return which rules the guard let be broken; that wants end is the business of policies."""
    return [told for told in outcome.violations if not told.startswith("9: want")]


def mad(dice):
    """Return a policy of pure nonsense: copies from anywhere to anywhere, any drop, any answer."""

    def policy(state, _items, _now_s, _limits):
        places = [*sorted(state.rooms), Place("nowhere", Tier.RAM), Place("desk", Tier.NETWORK), NETWORK]
        places += sorted({spec.durable for spec in state.items.values()})
        known = [*state.items, "nobody@0"]
        for _ in range(6):
            item, place, other = dice.choice(known), dice.choice(places), dice.choice(places)
            nbytes = state.items[item].nbytes if item in state.items else 1
            want = dice.choice([*state.wants, "w0"])
            yield Copy("9.9", item, place, other, dice.choice([nbytes, nbytes, 0]), "mad")
            yield Drop("9.9", item, place, "mad", drains=dice.random() < 0.5)
            yield Grant(want, item, place)
            if dice.random() < 0.02:
                yield Refuse(want, item, "MAD001", "mad")

    return policy


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "first"])
def test_no_policy_can_break_the_lab(seed, alone):
    """A policy that suggests nonsense loses no item, fills no place and ends no want twice."""
    policies = (mad(random.Random(seed)),) if alone else (mad(random.Random(seed)), *DEFAULT)
    outcome = simulate(driven_by(policies), whole_scene(), random.Random(seed), events=100)
    assert broken(outcome) == []
    assert alone or outcome.violations == ()
    assert any(command.reason == "mad" for command in outcome.commands if isinstance(command, Copy))


def test_a_calm_mad_world_misses_nothing():
    """Nonsense that passes the guard is carried out: the world never finds a command impossible."""
    for seed in range(5):
        policies = (mad(random.Random(seed)),)
        outcome = simulate(driven_by(policies), whole_scene(), random.Random(seed), 100, CALM)
        assert broken(outcome) == list(outcome.misses) == []


def test_what_is_stuck_is_told_in_one_order():
    """Whatever order a set has in this process: equal dice give equal outcomes."""
    told = [f"role{number:02}@1 is not removed" for number in range(12)]
    machine = Machine(LIMITS, 1)
    machine.state = replace(machine.state, retired=frozenset(Item(line.split()[0]) for line in told))
    assert stuck(machine, World({}, random.Random(0), CALM)) == told
