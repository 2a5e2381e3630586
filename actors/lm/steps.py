"""The steps of a decoder: what the model computes, what each request hears, whose fault a fault is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from actors.lm.delivery import Event
from actors.lm.model import Part
from actors.lm.pulse import Pulse
from actors.lm.request import Delta
from actors.lm.sample import choose
from actors.lm.schedule import BESIDE_TOKENS, GRID, Piece
from placement.errors import TierceError, WorldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from actors.lm.delivery import Delivery
    from actors.lm.model import Model
    from actors.lm.sample import Choice
    from actors.lm.schedule import Schedule
    from actors.lm.sequence import Caller, Sequence

#: Prompts are read for this share of a decode step, for each that is being read, until the next one is due.
SLICE = 0.4


class Abandoned(Exception):
    """Ends a prompt forward between two layers."""


class Steps:
    """The requests of a decoder. One thread.

    A decode step gives one token to everybody who answers. A prompt forward reads pieces of prompts; between
    its layers decode steps are run when they are due, so that a prompt of any length delays the others by
    SLICE of a step at a time. `ended` is called once for each request that leaves, however it ends; its slot
    and its rows are no longer read nor written then.
    """

    def __init__(
        self,
        model: Model,
        schedule: Schedule,
        delivery: Delivery,
        ended: Callable[[Caller], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.schedule = schedule
        self.pulse = Pulse(clock)
        self.steps = 0
        self.tokens = 0
        self._model = model
        self._delivery = delivery
        self._ended = ended
        self._clock = clock
        #: everybody who has not ended
        self._callers: dict[Caller, None] = {}
        self._events: list[Event] = []
        #: those in the prompt forward that is under way: their rows stay until it has returned
        self._being_read: list[Sequence] = []
        #: when the next decode step is due while prompts are read, and how long they may be read until then
        self._due_s = 0.0
        self._slice_s = 0.0
        #: when the running layer of a prompt began, and what a layer took per token of the forward
        self._layer_at_s: float | None = None
        self._layer_s_per_token = 0.0
        #: whether a layer of a prompt has been run since the last decode step
        self._has_read = False
        self._in_interlude = False
        #: what ended the decoder in an interlude: no adapter of the forward around it is to blame
        self._fatal: BaseException | None = None

    @property
    def idle(self) -> bool:
        return not self._callers

    def enter(self, caller: Caller) -> None:
        """Take a request with its answers; the first reads the prompt, the others enter when it has."""
        self._callers[caller] = None
        caller.held = len(caller.answers)
        self.schedule.add(caller.answers[0])

    def sweep(self, now_s: float) -> None:
        """Drop whoever was cancelled and end whoever is overdue; free their rows."""
        for caller in [*self._callers]:
            if caller.cancelled:
                self._end(caller, None)
            elif (late := caller.overdue(now_s)) is not None:
                self._end(caller, late)

    def step(self, serve: Callable[[], bool]) -> None:
        """Compute the next step of all who run: a decode step if one is due, and a prompt forward.

        `serve` is called between two layers of a prompt forward, to do what cannot wait for its end; when it
        returns False the forward is abandoned.
        """
        reading = self.schedule.reading()
        if self.schedule.answering() and (not reading or self._clock() >= self._due_s):
            self._decode()
        fits = self._layer_s_per_token * BESIDE_TOKENS <= self._slice_s
        pieces = self.schedule.pieces(BESIDE_TOKENS if fits else GRID)
        if pieces:
            self._read(pieces, serve)

    def flush(self) -> None:
        """Tell what has happened since the last call."""
        if self._events:
            events, self._events = self._events, []
            self._delivery.send(events)

    def fail(self, error: Callable[[], TierceError]) -> None:
        """End everybody, each with an `error` of its own."""
        for caller in [*self._callers]:
            self._end(caller, error())

    def _decode(self) -> None:
        pieces = [Piece(sequence, sequence.written, 1) for sequence in self.schedule.answering()]
        began_s = self._clock()
        before = self.tokens
        self._compute(pieces, None)
        took_s = self._clock() - began_s
        self.pulse.add(took_s, self.tokens - before, decode=True)
        self.flush()
        self._slice_s = SLICE * took_s * max(1, len(self.schedule.reading()))
        self._due_s = self._clock() + self._slice_s
        self._has_read = False

    def _read(self, pieces: list[Piece], serve: Callable[[], bool]) -> None:
        self._being_read = [*dict.fromkeys(piece.sequence for piece in pieces)]
        began_s = self._clock()
        before = self.tokens
        try:
            tokens = sum(piece.count for piece in pieces)
            self._compute(pieces, lambda: self._interlude(serve, tokens))
        finally:
            self._layer_at_s, self._has_read = None, True
            read, self._being_read = self._being_read, []
            for sequence in read:
                if sequence.over:
                    self._free(sequence)
        self.pulse.add(self._clock() - began_s, self.tokens - before, decode=False)

    def _interlude(self, serve: Callable[[], bool], tokens: int) -> None:
        """Do between two layers of a prompt forward of so many tokens what cannot wait for its end.

        A decode step is run when the next layer would end after it is due, but not before one layer has.
        """
        if self._in_interlude:
            return  # a forward that is itself part of an interlude
        self._in_interlude = True
        self.pulse.moves += 1
        try:
            if self._layer_at_s is not None:
                self._layer_s_per_token = (self._clock() - self._layer_at_s) / tokens
                self._has_read = True
            if not serve():
                raise Abandoned
            now_s = self._clock()
            self.sweep(now_s)
            self.flush()
            if all(sequence.over for sequence in self._being_read):
                raise Abandoned
            next_s = tokens * self._layer_s_per_token if self._has_read else 0.0
            if now_s + next_s > self._due_s and self.schedule.answering():
                self._decode()
            self._layer_at_s = self._clock()
        except Exception as error:
            self._fatal = error
            raise
        finally:
            self._in_interlude = False

    def _compute(self, pieces: list[Piece], interlude: Callable[[], None] | None) -> None:
        """Run one forward; what it raises ends those whose adapter is to blame, and nobody else if it can."""
        self.steps += 1
        parts = [_part(piece) for piece in pieces]
        try:
            logits = self._model.forward(parts, interlude=interlude)
        except Abandoned:
            return
        except Exception as error:
            if error is self._fatal:
                raise
            self._blame(pieces, error, interlude)
            return
        for piece in pieces:
            if not piece.sequence.over:
                self._wrote(piece)
        self._choose(
            [piece.sequence for piece, part in zip(pieces, parts, strict=True) if part.wanted], logits
        )

    def _blame(self, pieces: list[Piece], error: Exception, interlude: Callable[[], None] | None) -> None:
        """Compute each slot alone after a forward that raised `error`; end those whose own forward raises.

        Raises `error` if the base alone cannot be computed any more: then no adapter is to blame.
        """
        try:
            self._model.probe(0)
        except Exception:  # noqa: BLE001 -- the first error says more, and is raised
            raise error from None
        by_slot: dict[int, list[Piece]] = {}
        for piece in pieces:
            by_slot.setdefault(piece.sequence.caller.slot, []).append(piece)
        if len(by_slot) == 1:
            for caller in {piece.sequence.caller: None for piece in pieces}:
                self._broke(caller, error)
            return
        for alone in by_slot.values():
            self._compute(alone, interlude)

    def _broke(self, caller: Caller, error: Exception) -> None:
        if caller in self._callers:
            told = f"request {caller.request.id} for {caller.item or 'the base'} raised {error!r} in its step"
            broken = WorldError("LM022", told, "the adapter or the request is broken; others go on")
            broken.__cause__ = error
            self._end(caller, broken)

    def _wrote(self, piece: Piece) -> None:
        sequence = piece.sequence
        sequence.written = piece.first + piece.count
        if sequence.row is not None and not sequence.out:
            self.schedule.prefixes.extend(sequence.row, sequence.written)

    def _choose(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Choose a token for each row of `logits`; what one of them raises ends that request."""
        try:
            chosen = choose(logits, [sequence.drawing for sequence in sequences]) if sequences else []
        except Exception as error:  # noqa: BLE001 -- it is told to whoever it concerns
            if len(sequences) == 1:
                self._broke(sequences[0].caller, error)
                return
            for row, sequence in enumerate(sequences):
                self._choose([sequence], logits[row : row + 1])
            return
        for sequence, choice in zip(sequences, chosen, strict=True):
            if not sequence.over:
                self._hear(sequence, choice)

    def _hear(self, sequence: Sequence, choice: Choice | None) -> None:
        caller = sequence.caller
        if choice is None:
            for answer in caller.answers:
                answer.written = 0  # nobody shall begin with these keys and values
            told = f"{caller.request.item} gave NaN or Inf after {len(sequence.out)} tokens"
            self._end(caller, WorldError("LM008", told, "the adapter is broken for this prompt"))
            return
        if not sequence.out and sequence.index == 0:
            self.schedule.add_first(caller.answers[1:])
        try:
            delta = self._say(sequence, choice)
        except Exception as error:  # noqa: BLE001 -- it is told to whoever it concerns
            self._broke(caller, error)
            return
        if delta.finish is not None:
            self._leave(sequence)
        last = all(answer.over for answer in caller.answers)
        if last:
            del self._callers[caller]
        self._events.append(Event(caller, delta, last))

    def _say(self, sequence: Sequence, choice: Choice) -> Delta:
        sampling, token = sequence.caller.request.sampling, choice.token
        self.tokens += 1
        sequence.out.append(token)
        sequence.drawing.seen.append(token)
        text = sequence.text.push(token)
        finish = None
        if sequence.text.stopped:
            finish = "stop"
        elif len(sequence.out) == sampling.max_tokens:
            finish = "length"
        if finish is not None:
            text += sequence.text.end()
            finish = "stop" if sequence.text.stopped else finish
        logprobs = () if choice.logprob is None else (choice.logprob,)
        return Delta(text, (token,), finish, sequence.index, logprobs)

    def _end(self, caller: Caller, error: TierceError | None) -> None:
        """End a request before its time, with `error` unless its caller has left."""
        del self._callers[caller]
        if error is None:
            self._delivery.closed(caller)
        else:
            self._events.append(Event(caller, error, last=True))
        for sequence in caller.answers:
            if not sequence.over:
                self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        sequence.over = True
        if sequence not in self._being_read:
            self._free(sequence)

    def _free(self, sequence: Sequence) -> None:
        caller = sequence.caller
        self.schedule.remove(sequence)
        caller.held -= 1
        if not caller.held:
            self._ended(caller)


def _part(piece: Piece) -> Part:
    """Return what a sequence puts into the batch: the next of its prompt, or its last token."""
    sequence, stop = piece.sequence, piece.first + piece.count
    row = 0 if sequence.row is None else sequence.row
    if sequence.out:
        return Part(sequence.caller.slot, sequence.out[-1:], piece.first, row, wanted=True)
    tokens = sequence.prompt[piece.first : stop]
    return Part(sequence.caller.slot, tokens, piece.first, row, wanted=stop == len(sequence.prompt))
