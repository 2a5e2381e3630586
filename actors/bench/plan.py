"""What a bench is asked to do: its shape, rounds and threads, and where what is made lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from actors.bench.rig import Setting
from actors.bench.shapes import Made, Shape, make

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that speaks OpenAI's protocol for the same checkpoint; `adapters` are its models with LoRA."""

    url: str
    model: str
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of a bench. `tell` hears, in a line each, what goes on; `parts` empty means all of them."""

    shape: Shape
    repeats: int
    threads: int
    cache: Path
    quick: bool
    parts: tuple[str, ...]
    tell: Callable[[str], None]
    peer: Peer | None = None

    def does(self, part: str) -> bool:
        return not self.parts or part in self.parts

    def made(self, adapters: int = 8, shape: Shape | None = None) -> Made:
        """Return a shape's checkpoint and adapters, and say so: making them takes a while the first time."""
        wanted = shape or self.shape
        self.tell(f"shape {wanted.name}: checkpoint and {adapters} adapters in {self.cache}")
        return make(wanted, self.cache, adapters)

    def setting(self, slots: int, shape: Shape | None = None, **more: object) -> Setting:
        """Return how an engine for the shape is built; `more` are fields of Setting."""
        of = shape or self.shape
        known: dict[str, object] = {
            "slots": slots, "max_rank": of.rank, "kv_nbytes": of.kv_nbytes, "threads": self.threads,
        }  # fmt: skip
        return Setting(**(known | more))  # type: ignore[arg-type]


def sizes(plan: Plan, full: Sequence[T], quick: Sequence[T]) -> Sequence[T]:
    """Return what a full run goes through, or a quick one."""
    return quick if plan.quick else full
