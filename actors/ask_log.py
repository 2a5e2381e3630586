"""A log of asks for each engine, beside the journal, for `tierce replay`: who, when, how long. No texts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from placement.replay.trace import LATENCIES, SPEEDS, VERSION
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
        """Return the file of a base's engine."""
        return self._folder / f"asks-{_UNFIT.sub('_', base)}.jsonl"

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
        of all was perhaps written before a restart of ours, and is left out too.
        """
        told = max((use.number for use in uses), default=0)
        process, last = self._heard.get(base, (pid, told))
        last = last if process == pid else 0
        new = [use for use in uses if use.number > last and use.item in state.items]
        self._heard[base] = (pid, max(last, told))
        if not new:
            return
        path = self.path(base)
        if path.exists() and path.stat().st_size >= self._log_nbytes:
            path.replace(path.with_suffix(".1.jsonl"))
        if not path.exists():
            self._said[base] = {}
        said = self._said.setdefault(base, {})
        lines = [] if path.exists() else [_header(base, place, state, said)]
        for use in sorted(new, key=lambda use: use.t):
            item = Item(use.item)
            spec = state.items[item]
            if said.get(spec.name) != item:
                said[spec.name] = item
                lines.append({"item": item, "nbytes": spec.nbytes, "role": spec.name})
            lines.append(_line(spec.name, use, costs.get(item)))
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def _header(base: str, place: Place, state: State, said: dict[str, Item]) -> dict[str, object]:
    """Return the first line of a log, with the engine's room; `said` learns of the items that it names."""
    items = {
        item: {"nbytes": spec.nbytes, "role": spec.name}
        for item, spec in state.items.items()
        if spec.kind == "adapter" and spec.base == base and item not in state.retired
    }
    said.update({state.items[item].name: item for item in items})
    room, ram = state.rooms[place], state.rooms.get(Place(place.node, Tier.RAM))
    return {
        "tierce_trace": VERSION,
        "workload": "log",
        "seed": None,
        "items": items,
        "speeds": dict(SPEEDS),
        "latencies": dict(LATENCIES),
        "slots": room.seats.get(base, 1),
        "ram": ram.capacity if ram is not None else 0,
        "fixed": room.fixed,
    }


def _line(role: str, use: Use, cost: Activation | None) -> dict[str, object]:
    """Return an ask as a line; `tier` is where it found the adapter, by the last activation if it waited."""
    source = cost.source if cost is not None else str(Tier.SSD)
    return {
        "t": round(use.t, 3),
        "role": role,
        "busy_s": round(use.busy_s, 3),
        "after": None,
        "tier": source if use.waited_s else str(Tier.VRAM),
        "waited_s": round(use.waited_s, 3),
    }
