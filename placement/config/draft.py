"""A lab as far as its file could be read, and what of it cannot be judged."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from placement.config.names import LOCAL, Declared
from placement.config.problems import Path
from placement.config.schema import Lab


class Refused:
    """The paths whose values were refused or are missing."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._paths = frozenset(paths)
        self._above = frozenset(path[:depth] for path in self._paths for depth in range(1, len(path)))

    def touches(self, *paths: Path) -> bool:
        """Say whether a value was refused at one of `paths`, above it or below it."""
        return any(
            path in self._above or any(path[:depth] in self._paths for depth in range(1, len(path) + 1))
            for path in paths
        )


@dataclass(frozen=True)
class Draft:
    """A lab whose refused values are left out; `declared` has all its names, also of entries without any."""

    lab: Lab
    declared: Declared
    refused: Refused

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the machines; without a section nodes there is one, with a wrong one none is known."""
        wrong = self.refused.touches(("nodes",))
        return self.declared["nodes"] or (() if wrong else (LOCAL,))

    @cached_property
    def devices_known(self) -> bool:
        """Whether all machines say rightly what VRAM they have."""
        return bool(self.nodes) and not self.refused.touches(*(("nodes", n, "vram") for n in self.nodes))

    @property
    def has_bases(self) -> bool:
        """Whether the file has bases, right or wrong."""
        return bool(self.declared["bases"]) or self.refused.touches(("bases",))
