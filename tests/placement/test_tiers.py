import pytest

from placement.tiers import Tier


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("VRAM", Tier.VRAM),
        ("vram", Tier.VRAM),
        ("Ram", Tier.RAM),
        ("ssd", Tier.SSD),
        ("Disk", Tier.SSD),
        ("NETWORK", Tier.NETWORK),
    ],
)
def test_a_tier_is_read_in_any_letter_case(text, tier):
    """People write tiers as they like, and disk means SSD."""
    assert Tier.parse(text) is tier


@pytest.mark.parametrize("text", ["", "vrm", "VRAM ", "peer"])
def test_an_unknown_tier_is_refused(text):
    """What is no tier is a ValueError that lists them."""
    with pytest.raises(ValueError, match="one of VRAM, RAM, SSD"):
        Tier.parse(text)


def test_tiers_are_ordered_from_the_network_up():
    """Each tier is one above the next: network, SSD, RAM, VRAM."""
    assert sorted(Tier, key=lambda tier: tier.height) == [Tier.NETWORK, Tier.SSD, Tier.RAM, Tier.VRAM]
    assert [tier.height for tier in sorted(Tier, key=lambda tier: tier.height)] == [0, 1, 2, 3]


def test_a_tier_prints_as_its_name():
    """In messages a tier is its word, without the class."""
    assert f"{Tier.VRAM} {Tier.NETWORK}" == "VRAM network"
