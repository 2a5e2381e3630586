"""Decode steps in few shapes: padded to a bucket of rows, what they read always in the same memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from actors.lm.attention import Packed, Span, reading
from actors.lm.recordings import AFTER, Recordings
from actors.lm.rows import SCRATCH
from actors.lm.schedule import MAX_RUNNING
from actors.lm.slots import Head
from actors.lm.varlen import Flash

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from torch import Tensor, nn

    from actors.lm.model import Part
    from actors.lm.recordings import Capture, Step
    from actors.lm.rows import Rows
    from actors.lm.slots import Slots

#: From here on a bucket is a multiple of it.
STRIDE = 8
#: Where in the scratch rows those of padding begin; before them is room for a trial.
CELLS = SCRATCH // 2


def bucket(rows: int, grain: int = 1) -> int:
    """Return to how many rows a step of `rows` is padded: 1, 2, 4, 8, 16, 24, 32 …, in whole grains."""
    padded = 1 << (rows - 1).bit_length() if rows <= STRIDE else -(-rows // STRIDE) * STRIDE
    return -(-padded // grain) * grain


class Mould:
    """What a step of `count` rows reads; `fill` writes it in place.

    A padding row is token 0 of the base at position 0. It sees its own key and nothing else, in a scratch row
    that is no request's; where the grain asks for more of them than there are, some share one, and write the
    same into it.
    """

    def __init__(self, count: int, store: Rows, device: torch.device) -> None:
        self.count = count
        #: of each row: its token, its position, the KV row it is written to, and the first it sees and how
        #: many; and of each answer the row that it comes from
        self.inputs = torch.zeros((6, count), dtype=torch.long, device=device)
        self.tokens, self.positions, self.written, _, _, self.sources = self.inputs.unbind()
        self.packed: Packed
        self._store = store
        self._seen = torch.zeros((2, count + 1), dtype=torch.int32, device=device)
        first_queries = torch.arange(count + 1, dtype=torch.int32, device=device)
        self._flash = Flash(0, count, first_queries, self._seen[0], self._seen[1, :count], 1)

    def fill(self, parts: Sequence[Part], order: Sequence[int]) -> None:
        """Lay out `parts`, of one token each, in this order of theirs, and padding behind them."""
        padding = self.count - len(parts)
        cells = [self._store.scratch + CELLS + at % (SCRATCH - CELLS) for at in range(padding)]
        rows = [parts[index] for index in order]
        firsts = [part.row for part in rows] + cells
        counts = [part.first + 1 for part in rows] + [1] * padding
        sources = sorted(range(len(rows)), key=order.__getitem__)
        laid = [
            [part.tokens[0] for part in rows] + [0] * padding,
            [part.first for part in rows] + [0] * padding,
            [first + count - 1 for first, count in zip(firsts, counts, strict=True)],
            firsts,
            counts,
            [*sources, *range(len(rows), self.count)],
        ]
        self.inputs.copy_(torch.tensor(laid))
        spans = tuple(
            Span(at, at + 1, first, count)
            for at, (first, count) in enumerate(zip(firsts, counts, strict=True))
        )
        self.packed = Packed(self.written, spans, self._store, flashes=[self._flash])

    def narrow(self) -> None:
        """Give the attention kernel its numbers in the width that it takes; on the device, in each step."""
        self._seen[:, : self.count].copy_(self.inputs[3:5])


class Moulds:
    """Runs the decode steps of `net` in moulds, one for each bucket of up to `most` rows. One thread.

    What a recording holds for is its bucket and the runs of its slots (`Plan.groups`), whose addresses,
    layouts and scales are in it: another adapter of the same layout in the same slot is served by it too.
    """

    def __init__(
        self,
        net: nn.Module,
        slots: Slots,
        store: Rows,
        device: torch.device,
        grain: int,
        capture: Capture,
        *,
        most: int = MAX_RUNNING,
    ) -> None:
        self.recordings = Recordings(capture)
        self._net = net
        self._slots = slots
        self._store = store
        self._device = device
        self._grain = grain
        self._most = most
        self._moulds: dict[int, Mould] = {}
        #: what every step writes, [rows, vocab]; made by the first one
        self._logits: Tensor | None = None

    @property
    def told(self) -> str:
        """Say how decode steps are run."""
        why = self.recordings.why
        return f"run as they are ({why})" if why else f"replayed by {len(self.recordings)} recordings"

    def fit(self, parts: Sequence[Part]) -> bool:
        """Tell whether `parts` are a decode step, and gain by being one."""
        return (
            not self.recordings.why
            and len(parts) <= self._most
            and all(part.wanted and len(part.tokens) == 1 for part in parts)
        )

    def run(self, parts: Sequence[Part]) -> Tensor:
        """Return the logits after each of `parts`, of one token each, [len(parts), vocab].

        They stand until the next run.
        """
        key, _, step = self._lay(parts)
        return self.recordings.run(key, step)[: len(parts)]

    def trial(self, parts: Sequence[Part], others: Sequence[Part]) -> None:
        """Record a step of `parts` and replay it with as many `others`.

        Gives up recording unless that gives what running it gives, to the bit.
        """
        key, mould, step = self._lay(parts)
        step()
        if mould.packed.on_host:
            self.recordings.give_up("attention takes lengths from the host here")
            return
        for _ in range(AFTER):
            self.recordings.run(key, step)
        key, _, step = self._lay(others)
        replayed = self.recordings.run(key, step).clone()
        if not self.recordings.why and not torch.equal(replayed, step()):
            self.recordings.give_up("a replay gave other bits than the step for other tokens")

    def _lay(self, parts: Sequence[Part]) -> tuple[Hashable, Mould, Step]:
        """Fill the mould of `parts`; return the key of the step, the mould and the step."""
        plan = self._slots.plan([part.slot for part in parts])
        count = bucket(len(parts), self._grain)
        mould = self._moulds.get(count)
        if mould is None:
            mould = self._moulds[count] = Mould(count, self._store, self._device)
        mould.fill(parts, plan.order)
        slots = [parts[index].slot for index in plan.order]
        return (count, plan.groups), mould, partial(self._step, mould, slots)

    def _step(self, mould: Mould, slots: Sequence[int]) -> Tensor:
        heads = [Head(slot, sliced=False) for slot in slots]
        mould.narrow()
        with self._slots.serving(slots, [], heads), reading(mould.packed):
            out = self._net(input_ids=mould.tokens[None], position_ids=mould.positions[None], use_cache=False)
        logits: Tensor = out.logits[0]
        if self._logits is None:
            self._logits = logits.new_empty((bucket(self._most, self._grain), logits.shape[1]))
        return torch.index_select(logits, 0, mould.sources, out=self._logits[: mould.count])
