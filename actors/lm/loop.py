"""The decode thread: takes requests and calls in, runs steps until it is over, and leaves nobody waiting."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from actors.lm.schedule import MAX_WAITING
from actors.lm.watchdog import STALL_S, STALL_STEPS, Watchdog
from placement.errors import TierceError, WorldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.lm.delivery import Delivery
    from actors.lm.sequence import Caller
    from actors.lm.steps import Steps

T = TypeVar("T")


class Loop:
    """A thread that runs `steps` for the base `name`. Any thread may call its methods.

    Once it is over, by `stop`, by a fault or by the watchdog, everybody who waits and every later call gets
    the same typed error.
    """

    def __init__(self, steps: Steps, delivery: Delivery, name: str, threads: int) -> None:
        self.name = name
        #: whether the watchdog ended it: its thread may still hang, and only the end of the process frees it
        self.stuck = False
        self._steps = steps
        self._delivery = delivery
        self._threads = threads
        #: guards the three below; signalled when there is something to do
        self._inbox = threading.Condition()
        self._arrivals: deque[Caller] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        #: why nothing is taken any more; None while the thread runs
        self._over: TierceError | None = None
        #: calls that have no result yet, those that are being run included
        self._unanswered: dict[Future[Any], None] = {}
        self._thread = threading.Thread(target=self._run, name=f"decoder {name}", daemon=True)
        self._watchdog = Watchdog(self._has_work, lambda: steps.pulse.moves, self._limit_s, self._stalled)

    def start(self) -> None:
        self._thread.start()
        self._watchdog.start()

    @property
    def alive(self) -> bool:
        return self._over is None

    @property
    def stalled_s(self) -> float:
        return self._watchdog.stalled_s

    def check(self) -> None:
        """Raise why the loop is over, if it is."""
        over = self._over
        if over is not None:
            raise _fresh(over)

    def take(self, caller: Caller) -> None:
        """Take a request. Raises WorldError LM020 if too many of its item wait, and why the loop is over."""
        with self._inbox:
            self.check()
            item = caller.item
            waiting = self._steps.schedule.waiting().get(item, 0)
            waiting += sum(one.item == item for one in self._arrivals)
            if waiting >= MAX_WAITING:
                told = (
                    f"{waiting} requests for {item or 'the base'} wait already in the engine of {self.name}"
                )
                raise WorldError("LM020", told, "ask again in a while, or let another engine serve it too")
            self._delivery.opened(caller)
            self._arrivals.append(caller)
            self._inbox.notify()

    def call(self, call: Callable[[], T]) -> T:
        """Run `call` on the thread, between two steps or two layers of a prompt; return what it returns."""
        answer: Future[T] = Future()
        with self._inbox:
            self.check()
            self._unanswered[answer] = None
            self._calls.append((call, answer))
            self._inbox.notify()
        try:
            return answer.result()
        finally:
            self._unanswered.pop(answer, None)

    def arrivals(self) -> int:
        """Return how many requests the thread has not looked at yet."""
        return len(self._arrivals)

    def stop(self) -> None:
        """End the thread: a decode step is finished, a prompt is not. Everybody gets WorldError LM007."""
        with self._inbox:
            if self._over is None:
                self._over = WorldError("LM007", f"the decoder of {self.name} was stopped")
            self._inbox.notify()
        self._watchdog.stop()
        self._thread.join(1.0 if self.stuck else None)

    @torch.inference_mode()
    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        try:
            while self._turn():
                pass
        except BaseException as error:  # noqa: BLE001 -- everybody who waits is told, and so is everybody later
            over = WorldError(
                "LM007", f"the decoder of {self.name} died: {error!r}", "start its engine again"
            )
            over.__cause__ = error
            with self._inbox:
                self._over = self._over or over
        self._end()

    def _turn(self) -> bool:
        """Do one round: take what came in, then one step. Return False once the loop is over."""
        with self._inbox:
            while self._steps.idle and not self._arrivals and not self._calls and self._over is None:
                self._inbox.wait()
        if not self._serve():
            return False
        with self._inbox:
            arrived = [*self._arrivals]
            self._arrivals.clear()
        for caller in arrived:
            self._steps.enter(caller)
        now_s = time.monotonic()
        self._steps.sweep(now_s)
        self._steps.flush()
        self._steps.schedule.admit(now_s)
        self._steps.step(self._serve)
        self._steps.flush()
        return True

    def _serve(self) -> bool:
        """Answer the calls that came in. Return False once the loop is over: its calls get that error."""
        while True:
            with self._inbox:
                if self._over is not None:
                    return False
                if not self._calls:
                    return True
                call, answer = self._calls.popleft()
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 -- it is raised in the thread that asked
                with suppress(InvalidStateError):
                    answer.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    answer.set_result(result)
            self._steps.pulse.moves += 1

    def _end(self) -> None:
        """Tell everybody why the loop is over."""
        with self._inbox:
            over = self._over or WorldError("LM007", f"the decoder of {self.name} is over")
            arrived = [*self._arrivals]
            self._arrivals.clear()
            self._calls.clear()
        self._watchdog.stop()
        for caller in arrived:
            self._steps.enter(caller)
        self._steps.fail(lambda: _fresh(over))
        self._steps.flush()
        self._tell_all(over)

    def _tell_all(self, over: TierceError) -> None:
        self._delivery.end_all(lambda: _fresh(over))
        for answer in self._unanswered.copy():
            with suppress(InvalidStateError):
                answer.set_exception(_fresh(over))

    def _has_work(self) -> bool:
        return bool(self._unanswered) or self._delivery.waiting > 0

    def _limit_s(self) -> float:
        (median_s,) = self._steps.pulse.decode_s(0.5)
        return max(STALL_S, STALL_STEPS * median_s)

    def _stalled(self, stalled_s: float) -> None:
        """End everybody from the watchdog's thread: the decode thread does not come back, or too late."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 -- where it hangs is the news
        stack = traceback.extract_stack(frame)[-4:] if frame is not None else []
        place = " > ".join(f"{Path(at.filename).name}:{at.lineno} {at.name}" for at in stack)
        told = f"the decoder of {self.name} has not moved for {stalled_s:.0f} s, in {place or 'no thread'}"
        over: TierceError = WorldError("LM021", told, "its engine is started again")
        with self._inbox:
            over = self._over = self._over or over
            self.stuck = True
        self._tell_all(over)


def _fresh(error: TierceError) -> TierceError:
    """Copy an error for one more receiver: a shared one would collect everybody's traceback."""
    copy = type(error)(error.code, error.message, error.hint)
    copy.__cause__ = error.__cause__
    return copy
