"""Items that come back soon after they were unloaded stay longer the next time, so that nothing flaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.change import without

if TYPE_CHECKING:
    from placement.state import Item, State

#: whoever is back within so many idle times was unloaded too soon
SOON = 2.0
#: the idle time doubles each time, up to so many times itself
MOST = 4.0
#: and halves again after so many idle times of the file
FADES = 8.0


@dataclass(frozen=True, slots=True)
class Patience:
    """An item is idle only after `times` the idle time of the file; half of that counts from `until_s` on."""

    times: float
    until_s: float


def be_patient(draft: State, item: Item, now_s: float) -> None:
    """Have an item that is wanted stay longer the next time, if it was unloaded a moment ago."""
    idle_s, gap_s = draft.items[item].idle_s, now_s - draft.uses[item]
    times = draft.patience[item].times if item in draft.patience else 1.0
    if draft.served_at(item) is None and idle_s * times <= gap_s < SOON * idle_s * times:
        told = Patience(min(2 * times, MOST), now_s + FADES * idle_s)
        draft.patience = {**draft.patience, item: told}


def be_hasty(draft: State, now_s: float) -> None:
    """Let go of patience whose time is over, one step at a time."""
    for item, told in draft.patience.items():
        if now_s < told.until_s:
            continue
        draft.changed[item] = None
        left = told.times / 2
        if left <= 1:
            draft.patience = without(draft.patience, item)
        else:
            later = Patience(left, now_s + FADES * draft.items[item].idle_s)
            draft.patience = {**draft.patience, item: later}
