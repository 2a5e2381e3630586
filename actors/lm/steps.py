"""Continuous batching: who enters, what one step computes, and what each request hears of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from actors.lm.request import Delta
from actors.lm.sample import Choice, choose
from actors.lm.sequence import Sequence
from placement.errors import TierceError, WorldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from actors.lm.model import Model, Part

#: Prompt tokens that one step takes beside the answers: they bound how long an answer waits for a token.
PREFILL_TOKENS = 256

Event: TypeAlias = tuple[Sequence, "Delta | TierceError"]


class Steps:
    """The requests of a decoder. One thread.

    `ended` is called once for each request that leaves, however it ends. What requests have to hear is kept
    until `take_events`: a step that raises loses nothing of what came before. With `deterministic`, the
    logits of a request do not depend, to the bit, on what else is in the batch: answers are computed in
    batches of fixed size and each prompt alone.
    """

    def __init__(
        self, model: Model, eos: frozenset[int], ended: Callable[[Sequence], None], *, deterministic: bool
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.steps = 0
        self.tokens = 0
        self._model = model
        self._eos = eos
        self._ended = ended
        self._deterministic = deterministic
        self._events: list[Event] = []

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def take_events(self) -> list[Event]:
        """Return what has happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def sweep(self, now_s: float) -> None:
        """Drop whoever was cancelled and end whoever is overdue; free their rows."""
        for sequence in [*self.running, *self.waiting]:
            late = sequence.overdue(now_s)
            if sequence.cancelled or late is not None:
                self._leave(sequence)
            if late is not None and not sequence.cancelled:
                self._events.append((sequence, late))

    def admit(self) -> None:
        """Give KV rows to those who wait, in the order they came: nobody overtakes, so nobody starves."""
        while self.waiting:
            row = self._model.rows.spans.take(self.waiting[0].rows)
            if row is None:
                return
            sequence = self.waiting.popleft()
            sequence.row = row
            self.running.append(sequence)

    def step(self) -> None:
        """Compute one step for all who run: one token each, and a piece of the prompts not read yet."""
        self.steps += 1
        for batch in self._batches():
            logits = self._model.forward([part for _, part in batch])
            for sequence, part in batch:
                sequence.written += len(part.tokens)
            wanted = [sequence for sequence, part in batch if part.wanted]
            chosen = choose(logits, [sequence.drawing for sequence in wanted])
            for sequence, choice in zip(wanted, chosen, strict=True):
                self._events.append((sequence, self._hear(sequence, choice)))

    def fail(self, error: Callable[[], TierceError]) -> None:
        """End everybody, each with an `error` of its own."""
        for sequence in [*self.running, *self.waiting]:
            self._leave(sequence)
            self._events.append((sequence, error()))

    def _batches(self) -> Iterable[list[tuple[Sequence, Part]]]:
        answers = [(sequence, sequence.part(1)) for sequence in self.running if sequence.decoding]
        prompts: list[tuple[Sequence, Part]] = []
        room = PREFILL_TOKENS
        for sequence in self.running:
            # Deterministic prompts are cut at fixed places, whatever room others have left.
            if not sequence.decoding and room > 0:
                prompts.append((sequence, sequence.part(PREFILL_TOKENS if self._deterministic else room)))
                room -= len(prompts[-1][1].tokens)
        return [batch for batch in (answers, prompts) if batch]

    def _hear(self, sequence: Sequence, choice: Choice | None) -> Delta | TierceError:
        if choice is None:
            self._leave(sequence)
            told = f"{sequence.request.item} gave NaN or Inf after {len(sequence.out)} tokens"
            return WorldError("LM008", told, "the adapter is broken for this prompt")
        self.tokens += 1
        token = choice.token
        sequence.out.append(token)
        sequence.drawing.seen.append(token)
        text = sequence.text.push(token)
        finish = None
        if sequence.text.stopped:
            finish = "stop"
        elif len(sequence.out) == sequence.request.sampling.max_tokens:
            finish = "length"
        if finish is not None:
            text += sequence.text.end()
            finish = "stop" if sequence.text.stopped else finish
            self._leave(sequence)
        logprobs = () if choice.logprob is None else (choice.logprob,)
        return Delta(text, (token,), finish, logprobs=logprobs)

    def _leave(self, sequence: Sequence) -> None:
        if sequence.row is None:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._model.rows.spans.free(sequence.row, sequence.rows)
        self._ended(sequence)
