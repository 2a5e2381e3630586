"""The decoder of one base on one device: all roles in one batch, on one thread of its own."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import torch

from actors.lm.base import base_shape
from actors.lm.chat import eos_ids, load_tokenizer
from actors.lm.delivery import Delivery
from actors.lm.header import AdapterError
from actors.lm.image import FORMAT, Image, ShadowImage, read_image
from actors.lm.loader import Loader, Pace
from actors.lm.loop import Loop
from actors.lm.model import Model, prove
from actors.lm.prefix import Prefixes
from actors.lm.request import Attached, Delta, Request, Sampling, SlotUse
from actors.lm.sample import Drawing
from actors.lm.schedule import GRID, Schedule
from actors.lm.seats import Lease, Seats
from actors.lm.sequence import Caller, Sequence
from actors.lm.shadow import Shadow
from actors.lm.slices import sliced
from actors.lm.stats import Stats
from actors.lm.steps import Steps
from actors.lm.text import Text
from placement.errors import TierceError, UserError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from actors.lm.base import BaseShape

__all__ = ["Attached", "Decoder", "Delta", "Request", "Sampling", "SlotUse", "Stats"]


class Decoder:
    """Decodes every request for one base, adapters in slots; `load` makes a running one.

    Any thread may call any method. `attach`, `detach` and `stop` may block and belong in a thread of their
    own; `generate` runs on the caller's event loop. If the decode thread dies, every request and every later
    call gets its error.
    """

    def __init__(
        self, model: Model, shape: BaseShape, tokenizer: Tokenizer, eos: frozenset[int], threads: int
    ) -> None:
        self.device = model.device
        self.base_nbytes = model.nbytes
        self.kv_nbytes = model.rows.nbytes
        self.slot_nbytes = model.slots.nbytes
        self.context = shape.context
        self.eos = eos
        self._model = model
        self._shape = shape
        self._tokenizer = tokenizer
        self._threads = threads
        self._seats = Seats(model.slots.arena.shape[0], time.monotonic)
        self._delivery = Delivery()
        self._prefixes: Prefixes
        self._steps: Steps
        self._loop: Loop
        self._loader = Loader(self._busy)
        #: what was attached and proven before, item and content: it is not probed again
        self._proven: set[tuple[str, str]] = set()
        self._base_probe: torch.Tensor
        #: by slot, those that no slot can hold
        self._shadows: dict[int, Shadow] = {}

    @classmethod
    def load(  # noqa: PLR0913 -- the options of a base, each by its name
        cls,
        path: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        slots: int = 8,
        max_rank: int = 64,
        kv_nbytes: int = 256 << 20,
        threads: int = 1,
        deterministic: bool = False,
        kernels: str = "auto",
        slot_dtype: str = "float32",
        kept: str = "",
    ) -> Decoder:
        """Load the checkpoint in `path`, reserve slots and KV cache, start the decode thread. Takes seconds.

        `device`, `dtype`, `kernels`, `kept`: see `Model.load`. `kv_nbytes` bounds the tokens of all requests
        in flight, answers included. `threads` are torch's for one operation, in the whole process.
        `deterministic`: the logits of a request do not depend, to the bit, on what else is in the batch.
        Raises UserError LM009, LM010 or LM011 for what cannot be served.
        """
        shape = base_shape(path)
        torch.set_num_threads(threads)  # kernels are measured with the threads that will run them
        model = Model.load(
            path,
            device=device,
            dtype=dtype,
            slots=slots,
            max_rank=max_rank,
            kv_nbytes=kv_nbytes,
            deterministic=deterministic,
            kernels=kernels,
            slot_dtype=slot_dtype,
            kept=kept,
        )
        tokenizer = load_tokenizer(path)
        decoder = cls(model, shape, tokenizer, eos_ids(path, tokenizer), threads)
        decoder._start(deterministic=deterministic)
        return decoder

    def _start(self, *, deterministic: bool) -> None:
        model, grid = self._model, GRID if deterministic else 1
        self._prefixes = Prefixes(model.rows.spans, model.rows.copy, grid, time.monotonic)
        schedule = Schedule(self._prefixes, deterministic=deterministic)
        self._steps = Steps(model, schedule, self._delivery, self._ended)
        self._loop = Loop(self._steps, self._delivery, self._shape.name, self._threads)
        self._loop.start()
        self._base_probe = self._loop.call(lambda: model.probe(0))

    def attach(self, item: str, image: NDArray[np.uint8], *, proven: bool = False) -> Attached:
        """Bring `image` into a free slot and let requests in; an attached item is only opened again.

        The copy runs beside decoding. The proof that the adapter has an effect runs between two steps, once
        per content, and not at all if the caller knows it to be `proven` for this `key`. Raises WorldError
        LM001 without a free slot and LM004 for a damaged image; AdapterError for one of another base (ADP017,
        ADP020, ADP024, ADP032), with NaN (ADP013) or without effect (ADP037). Nothing stays attached then.
        """
        began_s = time.perf_counter()
        self._loop.check()
        with self._seats.change(item):
            there = self._seats.reopen(item)
            if there is not None:
                return Attached(there[0], 0, time.perf_counter() - began_s, kind=there[1])
            content = read_image(image)
            if content.base != self._shape.fingerprint:
                raise AdapterError("ADP024", f"{item} was prepared for another base than {self._shape.name}")
            if isinstance(content, Image):
                self._model.slots.check(content)
            slot = self._seats.reserve(item)
            try:
                copy_s, nbytes = self._loader.load(lambda pace: self._bring(slot, content, pace)).result()
                known = proven or (item, content.digest) in self._proven
                if not known or isinstance(content, ShadowImage):  # only a forward shows what a shadow lacks
                    prove(self._base_probe, self._loop.call(lambda: self._model.probe(slot)), item)
                self._loop.check()
            except BaseException:
                self._clear(slot)
                self._seats.leave(item)
                self._loop.check()
                raise
            self._proven.add((item, content.digest))
            kind = self._model.slots.kind(slot) or "slot"
            self._seats.open(item, content.digest, kind, self._beside(slot))
            return Attached(slot, nbytes, time.perf_counter() - began_s, copy_s, kind)

    def _busy(self) -> bool:
        return self._delivery.waiting > 0

    def _bring(self, slot: int, content: Image | ShadowImage, pace: Pace) -> tuple[float, int]:
        """Bring an image into a slot that no request names; return the seconds and bytes that it took."""
        began_s = time.perf_counter()
        if isinstance(content, Image):
            self._model.slots.fill(slot, content, pace)
            return time.perf_counter() - began_s, content.slot.nbytes
        with sliced(self._busy, self._loader.rest):
            shadow = self._shadows[slot] = Shadow.load(content, self._model)
        self._model.seat(slot, shadow.net)
        return time.perf_counter() - began_s, shadow.nbytes

    def _beside(self, slot: int) -> int:
        """Return the bytes that what is in a slot takes beside the slot's own: a shadow's tensors."""
        shadow = self._shadows.get(slot)
        return shadow.nbytes if shadow is not None else 0

    def _clear(self, slot: int) -> None:
        """Forget what is in a slot that no request names any more."""
        self._model.slots.empty(slot)
        shadow = self._shadows.pop(slot, None)
        if shadow is not None:
            shadow.release()

    @property
    def key(self) -> str:
        """What a proof of effect holds for: under the same key it need not be made again."""
        arena = str(self._model.slots.dtype).removeprefix("torch.")
        dtype = str(self._model.dtype).removeprefix("torch.")
        kernels = ",".join(sorted(set(self._model.kernels.values())))
        return f"{FORMAT} {self.device.type} {dtype} {arena} {kernels} {self._shape.fingerprint}"

    @property
    def alive(self) -> bool:
        """Whether requests are still taken: False for good once the decode thread has died or was stopped."""
        return self._loop.alive

    @property
    def stuck(self) -> bool:
        """Whether the decode thread hangs: all have been told, and only the end of this process helps."""
        return self._loop.stuck

    @property
    def stalled_s(self) -> float:
        """For how long there has been work and no move, in seconds."""
        return self._loop.stalled_s

    @property
    def room(self) -> int:
        """The most tokens that prompt and answer of one request may have."""
        return min(self.context, self._model.rows.spans.capacity)

    def close(self, item: str) -> None:
        """Take no new request for `item`; those in flight go on. Raises Cold if it is not attached."""
        self._seats.admit(item, new_requests=False)

    def reopen(self, item: str) -> None:
        """Take requests for `item` again. Raises Cold if it is not attached."""
        self._seats.admit(item, new_requests=True)

    def detach(self, item: str) -> None:
        """Free the slot of `item`. Raises Busy while requests are in flight, Cold if it is not attached."""
        self._loop.check()
        with self._seats.change(item):
            self._clear(self._seats.vacate(item))
            self._seats.leave(item)

    def attached(self) -> dict[str, SlotUse]:
        """Return every attached item, open or closed, with its use up to now. Never blocks for a step."""
        return self._seats.uses()

    def stats(self) -> Stats:
        """Return the decoder's counts. Never blocks for a step."""
        steps, prefixes = self._steps, self._prefixes
        median_s, slow_s = steps.pulse.decode_s(0.5, 0.99)
        running = [*steps.schedule.running]
        return Stats(
            running=len(running),
            reading=sum(not sequence.out for sequence in running),
            waiting=steps.schedule.waiting(),
            steps=steps.steps,
            tokens=steps.tokens,
            tokens_per_s=steps.pulse.tokens_per_s(),
            step_s=steps.pulse.last_s,
            decode_p50_s=median_s,
            decode_p99_s=slow_s,
            stalled_s=self._loop.stalled_s,
            kv_rows=self._model.rows.spans.capacity,
            kv_rows_used=prefixes.used,
            kv_rows_kept=prefixes.kept_rows,
            prefix_hits=prefixes.hits,
            prefix_tokens=prefixes.hit_tokens,
            slots=self._seats.slots,
            seats=self._seats.states(),
            shadow_nbytes=sum(use.nbytes for use in self._seats.uses().values()),
            kernels=dict(self._model.kernels),
            row_kernels=dict(self._model.slots.chosen),
            measured=self._model.measured,
            decoding=self._model.decoding,
        )

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the answers: pieces, of which the last of each `index` has a `finish`; or one typed error.

        Raises before the first piece: Cold if the item is not attached or closed, UserError LM002 if prompt
        and answer do not fit, LM005 for a bad prompt, WorldError LM020 if too many of its item wait. Later:
        WorldError LM003 at the deadline, LM008 or LM022 if the adapter breaks, LM007 or LM021 if the decoder
        does. Closing the iterator ends the request within one step.
        """
        caller = self._accept(request)
        unfinished = len(caller.answers)
        try:
            while unfinished:
                event = await caller.queue.get()
                if isinstance(event, TierceError):
                    raise event
                unfinished -= event.finish is not None
                yield event
        finally:
            caller.cancelled = True

    def stop(self) -> None:
        """End the decode thread after its step. Requests in flight and later calls get WorldError LM007."""
        self._loader.close()
        self._loop.stop()

    def _accept(self, request: Request) -> Caller:
        self._check(request)
        lease = Lease(0, "") if request.item is None else self._seats.lease(request.item)
        try:
            caller = Caller(
                request=request,
                slot=lease.slot,
                content=lease.content,
                began_s=time.monotonic(),
                loop=asyncio.get_running_loop(),
                queue=asyncio.Queue(),
            )
            caller.answers = [self._answer(caller, index) for index in range(request.sampling.n)]
            self._loop.take(caller)
        except BaseException:
            if request.item is not None:
                self._seats.release(request.item)
            raise
        return caller

    def _answer(self, caller: Caller, index: int) -> Sequence:
        sampling, tokens = caller.request.sampling, caller.request.tokens
        text = Text(self._tokenizer, sampling.stop, sampling.ends(self.eos))
        return Sequence(caller, index, text, Drawing.of(sampling, tokens, index))

    def _check(self, request: Request) -> None:
        self._loop.check()
        prompt, answer = len(request.tokens), request.sampling.max_tokens
        if not prompt:
            raise UserError("LM005", f"request {request.id} has no prompt")
        if not 0 <= min(request.tokens) <= max(request.tokens) < self._model.vocab:
            raise UserError("LM005", f"request {request.id} has tokens outside 0 to {self._model.vocab - 1}")
        if prompt + answer > self.room:
            limit = f"{self.room} of the {'context' if self.room == self.context else 'kv_cache'}"
            told = f"{prompt} tokens of prompt and {answer} of answer are more than the {limit}"
            raise UserError("LM002", f"request {request.id}: {told}", "ask less, or lower max_tokens")

    def _ended(self, caller: Caller) -> None:
        if caller.request.item is not None:
            self._seats.release(caller.request.item)
