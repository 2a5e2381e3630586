"""The four tiers in which an item can rest, from the fastest to the farthest."""

from enum import StrEnum


class Tier(StrEnum):
    """A kind of memory; `Tier.VRAM.height > Tier.RAM.height` and so on down to the network."""

    VRAM = "VRAM"
    RAM = "RAM"
    SSD = "SSD"
    NETWORK = "network"

    #: that of Enum is written in Python, and a tier is a part of every place that is looked up
    __hash__ = str.__hash__

    @property
    def height(self) -> int:
        """Return the rank of the tier: 3 for VRAM, 2 for RAM, 1 for SSD, 0 for the network."""
        return _HEIGHTS[self]

    @classmethod
    def parse(cls, text: str) -> "Tier":
        """Return the tier called `text` in any letter case; `disk` is SSD. Raises ValueError if unknown."""
        tier = _NAMES.get(text.lower())
        if tier is None:
            msg = f"unknown tier {text!r}: one of VRAM, RAM, SSD (or disk), network"
            raise ValueError(msg)
        return tier


_HEIGHTS = {Tier.VRAM: 3, Tier.RAM: 2, Tier.SSD: 1, Tier.NETWORK: 0}
_NAMES = {tier.value.lower(): tier for tier in Tier} | {"disk": Tier.SSD}
