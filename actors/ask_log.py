"""A log of asks for each engine, beside the journal, for `tierce replay`: who, when, how long. No texts."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from placement.config.engines import base_of_engine
from placement.replay.trace import BUS, DISK, LOG, Ask, Cargo, Header, ask_line, head_line, item_line
from placement.speed import seconds
from placement.state import Item, Place
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from actors.answer import Activation
    from actors.uses import Use
    from placement.state import State

#: A log that has grown to this becomes `….1.jsonl`, in place of the one before.
LOG_NBYTES = 16 * 2**20
#: the header's speeds are those of a copy of this size, which took this long at least
PROBE_NBYTES, LEAST_S = 2**20, 1e-6

_UNFIT = re.compile(r"[^\w.-]+")


class AskLog:
    """Writes `asks-BASE.jsonl` in a folder. One owner; not safe for several threads."""

    def __init__(self, folder: Path, log_nbytes: int = LOG_NBYTES) -> None:
        self._folder = folder
        self._log_nbytes = log_nbytes
        #: of each base, what its file says already: the item of each role
        self._said: dict[str, dict[str, Item]] = {}
        #: of each base, the process that told, and the number of its last use that was written
        self._heard: dict[str, tuple[int, int]] = {}

    def path(self, base: str) -> Path:
        """Return the file of a base's engine; that of `small#2` is `asks-small+2.jsonl`.

        No base has a file with a `+`, so an engine never shares that of a base `small_2`.
        """
        fit = "+".join(_UNFIT.sub("_", part) for part in base.split("#"))
        return self._folder / f"asks-{fit}.jsonl"

    def heard(self, base: str) -> tuple[int, int]:
        """Return the process of a base's engine, and the number of its last use that needs no telling."""
        return self._heard.get(base, (0, 0))

    def hear(
        self,
        base: str,
        pid: int,
        uses: tuple[Use, ...],
        place: Place,
        state: State,
        costs: Mapping[Item, Activation],
    ) -> None:
        """Write the uses that are new; `costs` are the last activations, for where an item came from.

        Uses of what is no longer registered are left out: their bytes are unknown. What an engine tells first
        of all was perhaps written before a restart of ours, and is left out too. Raises OSError for what
        cannot be written; the file is then as it was, and the uses are new still.
        """
        path = self.path(base)
        if base not in self._heard:
            _cut(path)
        told = max((use.number for use in uses), default=0)
        process, last = self._heard.get(base, (pid, told))
        last = last if process == pid else 0
        new = [use for use in uses if use.number > last and use.item in state.items]
        if new:
            self._write(path, base, new, place, state, costs)
        self._heard[base] = (pid, max(last, told))

    def _write(
        self,
        path: Path,
        base: str,
        new: list[Use],
        place: Place,
        state: State,
        costs: Mapping[Item, Activation],
    ) -> None:
        nbytes = _nbytes(path)
        if nbytes >= self._log_nbytes:
            path.replace(path.with_suffix(".1.jsonl"))
            nbytes = 0
        said, lines = dict(self._said.get(base, {})), []
        if not nbytes:
            header = _header(base_of_engine(base), place, state)
            said = {cargo.role: item for item, cargo in header.items.items()}
            lines.append(head_line(header))
        for use in sorted(new, key=lambda use: use.t):
            item = Item(use.item)
            spec = state.items[item]
            if said.get(spec.name) != item:
                said[spec.name] = item
                lines.append(item_line(item, Cargo(spec.nbytes, spec.name)))
            lines.append(_line(spec.name, use, costs.get(item)))
        _append(path, nbytes, "".join(lines).encode())
        self._said[base] = said


def _nbytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path) -> None:
    """Take away half a line at the end, of a process that was killed while it wrote."""
    text = path.read_bytes() if path.exists() else b""
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(path, whole)


def _append(path: Path, nbytes: int, lines: bytes) -> None:
    """Add whole lines to a file of `nbytes`. Raises OSError, and the file is as it was then."""
    try:
        with path.open("ab") as file:
            file.write(lines)
    except OSError:
        if _nbytes(path) > nbytes:
            os.truncate(path, nbytes)
        raise


def _header(base: str, place: Place, state: State) -> Header:
    """Return the head of a log: the adapters of a base, of each role the newest, and the engine's room."""
    newest = {
        spec.name: item
        for item, spec in state.items.items()
        if spec.kind == "adapter" and spec.base == base and item not in state.retired
    }
    disk, memory = Place(place.node, Tier.SSD), Place(place.node, Tier.RAM)
    hops = {DISK: (disk, memory), BUS: (memory, place)}
    latencies = {hop: seconds(state, *ends, 0) for hop, ends in hops.items()}
    took_s = {hop: seconds(state, *ends, PROBE_NBYTES) - latencies[hop] for hop, ends in hops.items()}
    room, ram = state.rooms[place], state.rooms.get(memory)
    return Header(
        workload=LOG,
        seed=None,
        items={item: Cargo(state.items[item].nbytes, role) for role, item in newest.items()},
        slots=room.seats.get(base, 1),
        ram=ram.capacity if ram is not None else 0,
        speeds={hop: PROBE_NBYTES / max(took_s[hop], LEAST_S) for hop in hops},
        latencies=latencies,
        fixed=room.fixed,
    )


def _line(role: str, use: Use, cost: Activation | None) -> str:
    """Return an ask as a line; `tier` is where it found the adapter, by the last activation if it waited."""
    source = cost.source if cost is not None else str(Tier.SSD)
    ask = Ask(round(use.t, 3), role, round(use.busy_s, 3))
    return ask_line(ask, tier=source if use.waited_s else str(Tier.VRAM), waited_s=round(use.waited_s, 3))
