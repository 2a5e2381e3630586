"""Bytes from memory of any sort into a device's, beside whatever the device computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class Upload:
    """Copies pieces through two pinned buffers on a stream of its own; one thread at a time.

    A mapped file or another process's memory is not pinned, and a copy from there would stop the device.
    """

    def __init__(self, device: torch.device, piece_nbytes: int) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers = [
            (torch.empty(piece_nbytes, dtype=torch.uint8, pin_memory=True), torch.cuda.Event())  # type: ignore[no-untyped-call]
            for _ in range(2)
        ]

    def copy(self, target: Tensor, piece: NDArray[np.uint8]) -> None:
        """Begin to copy `piece` into `target`, both flat bytes; `piece` may be changed on return."""
        self._buffers.reverse()
        buffer, copied = self._buffers[0]
        copied.synchronize()
        np.copyto(buffer.numpy()[: piece.size], piece)
        with torch.cuda.stream(self._stream):
            target.copy_(buffer[: piece.size], non_blocking=True)
            copied.record(self._stream)

    def wait(self) -> None:
        """Return when everything is on the device."""
        self._stream.synchronize()
