"""One step of bringing a lab up, as it is told to the person who waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """A step: what, how many bytes it moved, how long it took, and what went wrong ("" if nothing).

    One that is `going_on` says how far it is.
    """

    what: str
    nbytes: int = 0
    took_s: float = 0.0
    problem: str = ""
    going_on: bool = False
