"""What a decoder tells of itself. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from placement.units import format_bytes, format_seconds

#: A decoder that has work and has not moved for so long is called stalled; a long step is shorter.
STALLED_S = 10.0


@dataclass(frozen=True, slots=True)
class Stats:
    """A decoder at a moment; `kv_rows` are tokens of room, counts are over its life, times in seconds."""

    #: answers that have their rows, and of them those whose prompt is still read
    running: int
    reading: int
    #: answers that wait for rows, by item; "" is the base
    waiting: Mapping[str, int]
    steps: int
    tokens: int
    #: over the last ten seconds
    tokens_per_s: float
    #: the last forward, and the median and the slowest hundredth of the last decode steps
    step_s: float
    decode_p50_s: float
    decode_p99_s: float
    #: for how long there has been work and no move
    stalled_s: float
    kv_rows: int
    kv_rows_used: int
    #: of those used, what no running answer holds: prefixes of answers that have ended
    kv_rows_kept: int
    #: prompts that began with a known prefix, and the tokens that they did not read
    prefix_hits: int
    prefix_tokens: int
    slots: int
    #: state of each seat by item: filling, open or closed
    seats: Mapping[str, str]
    #: what the shadows among them take beside their slots
    shadow_nbytes: int
    #: the kernel that was chosen for each Linear of the base
    kernels: Mapping[str, str]
    #: by rows of distinct slots, how they are multiplied: each alone (mm) or as a batch (bmm)
    row_kernels: Mapping[int, str]
    #: whether these choices were measured at this start or remembered from an earlier one
    measured: str
    #: how decode steps are run on a device that may record them; "" elsewhere
    decoding: str = ""

    @property
    def stalled(self) -> bool:
        return self.stalled_s >= STALLED_S

    def __str__(self) -> str:
        """Say in a line what the decoder does, a stall before all else."""
        kernels, ways = _counted(self.kernels.values()), _counted(self.row_kernels.values())
        waiting = sum(self.waiting.values())
        parts = [
            f"has work and has not moved for {format_seconds(self.stalled_s)}" if self.stalled else "",
            f"{self.running - self.reading} answer, {self.reading} read, {waiting} wait",
            f"{self.tokens_per_s:.1f} tokens/s",
            f"step {1e3 * self.decode_p50_s:.0f} ms" if self.decode_p50_s else "",
            f"KV {self.kv_rows_used} + {self.kv_rows_kept} kept of {self.kv_rows} tokens",
            f"slots {len(self.seats)}/{self.slots}",
            f"{format_bytes(self.shadow_nbytes)} beside them" if self.shadow_nbytes else "",
            f"kernels {kernels}" if kernels else "",
            f"of slots {ways}" if ways else "",
            f"they were {self.measured}" if kernels else "",
            f"decode steps are {self.decoding}" if self.decoding else "",
        ]
        return "; ".join(part for part in parts if part)


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in Counter(names).most_common())
