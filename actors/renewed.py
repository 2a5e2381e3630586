"""What `lab.update` answers: which version of a role's adapter serves now, and which one did before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.listing import Thing


@dataclass(frozen=True, slots=True)
class Renewed:
    """What reading an adapter's source again came to; `thing` is the role's row after it.

    `before` and `after` are versions (12 hex digits of a digest), "" where the role had none: the same if
    nothing is new. `source` is what was read, without credentials.
    """

    thing: Thing
    before: str
    after: str
    source: str

    @property
    def is_new(self) -> bool:
        """Tell whether another version serves now."""
        return self.before != self.after

    def __str__(self) -> str:
        name = self.thing.name
        if not self.after:
            return f"{name} was never fetched: its next ask reads {self.source}"
        if not self.is_new:
            return f"{name}: nothing new, {self.source} still holds version {self.after}"
        if not self.before:
            return f"{name}: version {self.after} serves"
        replaced = f"{self.before}, which goes when its last answer has ended"
        return f"{name}: version {self.after} serves in place of {replaced}"
