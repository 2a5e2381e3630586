"""Steps of a device that are recorded once and then replayed: their kernels without their Python."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

Step: TypeAlias = "Callable[[], Tensor]"
Capture: TypeAlias = "Callable[[Step], Step]"

#: A step is recorded when its key comes for this time: recording takes as long as some steps do.
AFTER = 3
#: Recordings that are kept, and keys whose coming is counted.
KEPT = 32
COUNTED = 256
#: Held while a CUDA graph is captured: torch's allocator, one for the process, gives nothing back meanwhile.
CAPTURING = threading.Lock()


class Recordings:
    """Runs steps by key: as they are until a key has come AFTER times, then recorded, then as replays.

    Steps of one key do the same work on what stands in the same memory, and return the same memory each time.
    `capture(step)` returns a call that does that work again. One thread.
    """

    def __init__(self, capture: Capture) -> None:
        #: why nothing is recorded any more; "" while it is
        self.why = ""
        self._capture = capture
        #: both with the most recent last
        self._kept: OrderedDict[Hashable, Step] = OrderedDict()
        self._came: OrderedDict[Hashable, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, key: Hashable, step: Step) -> Tensor:
        """Do the work of `step`, which is that of every step of this `key`; return what it returns."""
        replay = self._kept.get(key)
        if replay is not None:
            self._kept.move_to_end(key)
            return replay()
        out = step()
        if not self.why and self._is_due(key) and bool(torch.isfinite(out).all()):
            self._record(key, step, out)
        return out

    def give_up(self, why: str) -> None:
        """Run every step as it is from now on, because of `why`."""
        self.why = why
        self._kept.clear()
        self._came.clear()

    def _is_due(self, key: Hashable) -> bool:
        self._came[key] = self._came.pop(key, 0) + 1
        if len(self._came) > COUNTED:
            self._came.popitem(last=False)
        return self._came[key] >= AFTER

    def _record(self, key: Hashable, step: Step, out: Tensor) -> None:
        """Keep a recording of `step`, which has just given `out`, if a replay gives it again to the bit."""
        told = out.clone()
        try:
            replay = self._capture(step)
        except RuntimeError as error:
            out.copy_(told)
            self.give_up(f"a step cannot be recorded: {error}")
            return
        out.fill_(torch.nan)
        replay()
        if not torch.equal(out, told):
            out.copy_(told)
            self.give_up("a replay gave other bits than the step")
            return
        del self._came[key]
        self._kept[key] = replay
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)


def cuda_graphs(device: torch.device) -> Capture:
    """Return what records a step as a CUDA graph; all of them share the memory of what they compute between.

    So only one may run at a time, and nothing of it outlives it but what it wrote into memory of others.
    """
    pool = torch.cuda.graph_pool_handle()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        # When a capture fails, only the outer context gives the thread its stream back. Other threads go on
        # meanwhile: one may be filling a slot.
        with (
            CAPTURING,
            torch.cuda.stream(stream),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            out = step()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    return capture
