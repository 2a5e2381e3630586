"""The decoder of one base on one device: all roles in one batch, on one thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import torch

from actors.lm.base import base_shape
from actors.lm.chat import eos_ids, load_tokenizer
from actors.lm.header import AdapterError
from actors.lm.image import read_image
from actors.lm.model import Model, prove
from actors.lm.request import Attached, Delta, Request, Sampling, SlotUse, Stats
from actors.lm.sample import Drawing
from actors.lm.seats import Seats
from actors.lm.sequence import Sequence
from actors.lm.steps import Event, Steps
from actors.lm.text import Text
from placement.errors import TierceError, UserError, WorldError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from actors.lm.base import BaseShape

__all__ = ["Attached", "Decoder", "Delta", "Request", "Sampling", "SlotUse", "Stats"]

T = TypeVar("T")


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
        self._steps: Steps
        self._attaching = threading.Lock()
        #: what was attached and proven before: it is not probed again
        self._proven: set[tuple[str, str]] = set()
        self._base_probe: torch.Tensor
        #: guards the three below; signalled when there is something to do
        self._inbox = threading.Condition()
        self._arrivals: deque[Sequence] = deque()
        self._calls: deque[Callable[[TierceError | None], None]] = deque()
        #: why nothing is taken any more; None while the thread runs
        self._over: TierceError | None = None
        self._step_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"decoder {shape.name}", daemon=True)

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
    ) -> Decoder:
        """Load the checkpoint in `path`, reserve slots and KV cache, start the decode thread. Takes seconds.

        `device`, `dtype`, `kernels`: see `Model.load`. `kv_nbytes` bounds the tokens of all requests in
        flight, answers included. `threads` are torch's for one operation, in the whole process.
        `deterministic`: see `Steps`. Raises UserError LM009, LM010 or LM011 for what cannot be served.
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
        )
        tokenizer = load_tokenizer(path)
        decoder = cls(model, shape, tokenizer, eos_ids(path, tokenizer), threads)
        decoder._steps = Steps(model, decoder.eos, decoder._ended, deterministic=deterministic)
        decoder._thread.start()
        decoder._base_probe = decoder._between_steps(lambda: model.probe(0))
        return decoder

    def attach(self, item: str, image: NDArray[np.uint8]) -> Attached:
        """Bring `image` into a free slot and let requests in; an attached item is only opened again.

        The copy runs beside decoding, the proof that the adapter has an effect (once per item) between two
        steps. Raises WorldError LM001 without a free slot and LM004 for a damaged image; AdapterError for one
        of another base (ADP017, ADP020, ADP024, ADP032), with NaN (ADP013) or without effect (ADP037).
        Nothing stays attached then.
        """
        began_s = time.perf_counter()
        with self._attaching:
            self._check_alive()
            slot = self._seats.slot(item)
            if slot is not None:
                self._seats.admit(item, new_requests=True)
                return Attached(slot, 0, time.perf_counter() - began_s)
            content = read_image(image)
            if content.base != self._shape.fingerprint:
                raise AdapterError("ADP024", f"{item} was prepared for another base than {self._shape.name}")
            self._model.slots.check(content)
            slot = self._seats.reserve(item)
            try:
                self._model.slots.fill(slot, content)
                if (item, content.digest) not in self._proven:
                    through = self._between_steps(lambda: self._model.probe(slot))
                    prove(self._base_probe, through, item)
                    self._proven.add((item, content.digest))
            except BaseException:
                self._model.slots.empty(slot)
                self._seats.leave(item)
                raise
            self._seats.open(item)
            return Attached(slot, content.slot.nbytes, time.perf_counter() - began_s)

    @property
    def alive(self) -> bool:
        """Whether requests are still taken: False for good once the decode thread has died or was stopped."""
        with self._inbox:
            return self._over is None

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
        with self._attaching:
            self._check_alive()
            self._model.slots.empty(self._seats.leave(item))

    def attached(self) -> dict[str, SlotUse]:
        """Return every attached item, open or closed, with its use up to now. Never blocks for a step."""
        return self._seats.uses()

    def stats(self) -> Stats:
        """Return the decoder's counts. Never blocks for a step."""
        spans = self._model.rows.spans
        return Stats(
            running=len(self._steps.running),
            waiting=len(self._steps.waiting),
            steps=self._steps.steps,
            tokens=self._steps.tokens,
            kv_rows_used=spans.used,
            kv_rows=spans.capacity,
            slots_used=len(self._seats.uses()),
            slots=self._seats.slots,
            step_s=self._step_s,
        )

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the answer: pieces, of which the last has a `finish`; or one typed error.

        Raises before the first piece: Cold if the item is not attached or closed, UserError LM002 if prompt
        and answer do not fit, LM005 for a bad prompt. Later: WorldError LM003 at the deadline, LM008 if the
        adapter breaks, LM007 if the decoder does. Closing the iterator ends the request within one step.
        """
        sequence = self._accept(request)
        try:
            while True:
                event = await sequence.queue.get()
                if isinstance(event, TierceError):
                    raise event
                yield event
                if event.finish is not None:
                    return
        finally:
            sequence.cancelled = True

    def stop(self) -> None:
        """End the decode thread after its step. Requests in flight and later calls get WorldError LM007."""
        with self._inbox:
            if self._over is None:
                self._over = WorldError("LM007", f"the decoder of {self._shape.name} was stopped")
            self._inbox.notify()
        self._thread.join()

    def _accept(self, request: Request) -> Sequence:
        self._check(request)
        text = Text(self._tokenizer, request.sampling.stop, request.sampling.ends(self.eos))
        drawing = Drawing.of(request.sampling, request.tokens)
        slot = 0 if request.item is None else self._seats.lease(request.item)
        sequence = Sequence(
            request=request,
            slot=slot,
            text=text,
            drawing=drawing,
            began_s=time.monotonic(),
            loop=asyncio.get_running_loop(),
            queue=asyncio.Queue(),
        )
        with self._inbox:
            over = self._over
            if over is None:
                self._arrivals.append(sequence)
                self._inbox.notify()
        if over is not None:
            self._ended(sequence)
            raise _fresh(over)
        return sequence

    def _check(self, request: Request) -> None:
        self._check_alive()
        prompt, answer = len(request.tokens), request.sampling.max_tokens
        if not prompt:
            raise UserError("LM005", f"request {request.id} has no prompt")
        if not 0 <= min(request.tokens) <= max(request.tokens) < self._model.vocab:
            raise UserError("LM005", f"request {request.id} has tokens outside 0 to {self._model.vocab - 1}")
        if prompt + answer > self.room:
            limit = f"{self.room} of the {'context' if self.room == self.context else 'kv_cache'}"
            told = f"{prompt} tokens of prompt and {answer} of answer are more than the {limit}"
            raise UserError("LM002", f"request {request.id}: {told}", "ask less, or lower max_tokens")

    def _check_alive(self) -> None:
        with self._inbox:
            if self._over is not None:
                raise _fresh(self._over)

    def _ended(self, sequence: Sequence) -> None:
        if sequence.request.item is not None:
            self._seats.release(sequence.request.item)

    def _between_steps(self, call: Callable[[], T]) -> T:
        """Run `call` on the decode thread between two steps and return what it returns."""
        answer: Future[T] = Future()

        def run(over: TierceError | None) -> None:
            try:
                if over is not None:
                    raise _fresh(over)
                answer.set_result(call())
            except BaseException as error:  # noqa: BLE001 -- it is raised in the thread that asked
                answer.set_exception(error)

        with self._inbox:
            if self._over is not None:
                raise _fresh(self._over)
            self._calls.append(run)
            self._inbox.notify()
        return answer.result()

    @torch.inference_mode()
    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        try:
            while self._turn():
                pass
        except BaseException as error:  # noqa: BLE001 -- everybody who waits is told, and so is everybody later
            over = WorldError(
                "LM007", f"the decoder of {self._shape.name} died: {error!r}", "start its engine again"
            )
            over.__cause__ = error
            self._end(over)

    def _turn(self) -> bool:
        """Do one round: take what came in, then one step. Return False once the decoder is over."""
        with self._inbox:
            while self._steps.idle and not self._arrivals and not self._calls and self._over is None:
                self._inbox.wait()
            over = self._over
            self._steps.waiting.extend(self._arrivals)
            self._arrivals.clear()
            calls = [*self._calls]
            self._calls.clear()
        for call in calls:
            call(over)
        if over is not None:
            self._end(over)
            return False
        self._steps.sweep(time.monotonic())
        self._deliver(self._steps.take_events())
        self._steps.admit()
        if self._steps.running:
            began_s = time.perf_counter()
            self._steps.step()
            self._step_s = time.perf_counter() - began_s
        self._deliver(self._steps.take_events())
        return True

    def _end(self, over: TierceError) -> None:
        with self._inbox:
            self._over = over
            self._steps.waiting.extend(self._arrivals)
            self._arrivals.clear()
            calls = [*self._calls]
            self._calls.clear()
        for call in calls:
            call(over)
        self._steps.fail(lambda: _fresh(over))
        self._deliver(self._steps.take_events())

    def _deliver(self, events: list[Event]) -> None:
        """Hand each event loop all of its events in one call."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Event]] = {}
        for sequence, event in events:
            by_loop.setdefault(sequence.loop, []).append((sequence, event))
        for loop, told in by_loop.items():
            try:
                loop.call_soon_threadsafe(_hand_out, told)
            except RuntimeError:  # the loop is closed: nobody waits for these
                for sequence, _ in told:
                    sequence.cancelled = True


def _hand_out(events: list[Event]) -> None:
    for sequence, event in events:
        sequence.queue.put_nowait(event)


def _fresh(error: TierceError) -> TierceError:
    """Copy an error for one more receiver: a shared one would collect everybody's traceback."""
    copy = type(error)(error.code, error.message, error.hint)
    copy.__cause__ = error.__cause__
    return copy
