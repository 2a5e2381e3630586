# ruff: noqa: E501  (messages stand here as they are printed)
"""Slots of an engine and roles at home in VRAM."""

import pytest

from placement.config import ConfigError, load

BASE = "bases: {m: {model: ./m, slots: 2}}\nroles:\n"


def roles(*pins: bool) -> str:
    """A file whose roles are at home in VRAM, each pinned or not, on a base of two slots."""
    lines = [
        f"  r{n}: {{lora_path: x, location: VRAM, pin: {str(pin).lower()}}}\n" for n, pin in enumerate(pins)
    ]
    return BASE + "".join(lines)


def test_more_pinned_roles_than_slots_are_an_error():
    """What can never all be at home is CFG032 at the first role too many, with both numbers (row 25)."""
    with pytest.raises(ConfigError) as caught:
        load(roles(True, False, True, True), {})
    assert str(caught.value) == (
        "cluster.yaml:6:43 roles.r3.pin: 3 pinned roles are at home in VRAM, and the base 'm' has 2 slots; "
        "give it 3 slots, or pin fewer [CFG032]"
    )


def test_as_many_pinned_roles_as_slots_are_right():
    """Slots that are all taken for good are no error."""
    assert load(roles(True, True), {}).warnings == ()


def test_more_roles_at_home_than_slots_are_a_warning():
    """Roles that are not pinned can take turns, which L5 says."""
    assert [str(warning) for warning in load(roles(True, False, False), {}).warnings] == [
        "cluster.yaml:5:32 roles.r2.location: 3 roles are at home in VRAM, and the base 'm' has 2 slots: they take turns [L5]"
    ]
