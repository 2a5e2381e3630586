"""A cold role under steady load on all slots: the coordinator's own brain decides who gives up a seat."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Self

from actors.bench import rig, streams
from actors.bench.plan import sizes
from actors.bench.shapes import prompt
from actors.bench.sheet import Sheet, at_most
from actors.bench.spread import Spread
from placement.errors import TierceError, WorldError
from placement.machine import Machine
from placement.messages import (
    Beat,
    Command,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    DropRefused,
    Event,
    Grant,
    NodeJoined,
    Refuse,
    Registered,
    Seen,
    Tick,
    Wanted,
)
from placement.state import Item, Limits, Place, Room, Spec
from placement.tiers import Tier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from actors.bench.plan import Plan
    from actors.lm.decoder import Decoder

NODE = "bench"
BASE = "base"
SSD = Place(NODE, Tier.SSD)
RAM = Place(NODE, Tier.RAM)
VRAM = Place(NODE, Tier.VRAM, "cpu")
#: as the coordinator's
BEAT_S = 1.0
DRAIN_S = 30.0
#: a role that waits longer for its seat is starving
WANT_S = 120.0
QUICK_WANT_S = 3.0
POLL_S = 0.002


class Desk:
    """One node with one decoder and the Machine that decides for it: what coordinator and engine do with Ray.

    All its coroutines run on one event loop.
    """

    def __init__(
        self, decoder: Decoder, images: dict[str, NDArray[np.uint8]], slots: int, want_s: float
    ) -> None:
        self._decoder = decoder
        self._images = images
        self._machine = Machine(Limits(), 1)
        self.want_s = want_s
        self._patience_s = self._machine.limits.drain_after_s
        self._wants: dict[str, asyncio.Future[None]] = {}
        self._works: set[asyncio.Task[None]] = set()
        self._pulse: asyncio.Task[None] | None = None
        self._began_s = time.monotonic()
        largest = max(image.nbytes for image in images.values())
        room = Room(sum(image.nbytes for image in images.values()))
        self._rooms = {
            SSD: room,
            RAM: room,
            VRAM: Room(slots * largest, seats={BASE: slots}),
        }

    async def __aenter__(self) -> Self:
        self._tell(NodeJoined(NODE, self._rooms))
        self._beat(self._now_s())
        for item, image in self._images.items():
            self._tell(Registered(_spec(item, image.nbytes), (SSD, RAM)))
        self._pulse = asyncio.create_task(self._beats())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._works, *([self._pulse] if self._pulse else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, item: str, tokens: list[int], max_tokens: int) -> streams.Answer:
        """Answer as a role does: at once where the item has a slot, else once the brain has granted it.

        `asked_s` of the answer is the moment of the call. Raises WorldError if the want is refused.
        """
        asked_s = time.perf_counter()
        while True:
            use = self._decoder.attached().get(item)
            try:
                if use is None:
                    await self._want(item)
                answer = await streams.ask(self._decoder, item, tokens, max_tokens)
            except WorldError as error:
                if error.code != "TRC010":
                    raise
                await self._want(item)
                continue
            answer.asked_s = asked_s
            return answer

    async def _want(self, item: str) -> None:
        want = f"want{time.monotonic_ns()}"
        ended = self._wants[want] = asyncio.get_running_loop().create_future()
        try:
            self._tell(Wanted(want, Item(item), self._now_s() + self.want_s))
            # As the coordinator does: once a want has been patient, the brain looks whom to drain.
            await asyncio.wait([ended], timeout=self._patience_s)
            if not ended.done():
                self._tell(Tick())
            await ended
        finally:
            del self._wants[want]

    def _now_s(self) -> float:
        return time.monotonic() - self._began_s

    def _tell(self, event: Event) -> None:
        for command in self._machine.handle(event, self._now_s()):
            self._take(command)

    def _take(self, command: Command) -> None:
        match command:
            case Grant(want):
                if want in self._wants:  # else its caller was cancelled
                    self._wants[want].set_result(None)
            case Refuse(want, item, code, reason):
                if want in self._wants:
                    self._wants[want].set_exception(WorldError(code, f"{item}: {reason}"))
            case Copy() | Drop():
                work = asyncio.create_task(self._perform(command))
                self._works.add(work)
                work.add_done_callback(self._works.discard)

    async def _perform(self, command: Copy | Drop) -> None:
        item = str(command.item)
        try:
            if isinstance(command, Copy):
                began_s = time.monotonic()
                done = await asyncio.to_thread(self._decoder.attach, item, self._images[item])
                answer: Event = Copied(command.op, done.nbytes, time.monotonic() - began_s)
            else:
                answer = await self._drain(command.op, item)
        except TierceError as error:
            answer = CopyFailed(command.op, error.code, error.message)
        self._tell(answer)

    async def _drain(self, op: str, item: str) -> Event:
        """Take no new request, wait for those in flight, free the slot: as the engine's detach."""
        give_up_s = time.monotonic() + DRAIN_S
        self._decoder.close(item)
        while leases := self._decoder.attached()[item].leases:
            if time.monotonic() > give_up_s:
                self._decoder.reopen(item)
                return DropRefused(op, leases)
            await asyncio.sleep(POLL_S)
        await asyncio.to_thread(self._decoder.detach, item)
        return Dropped(op)

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self._tell(Tick())
            self._beat(self._now_s())

    def _beat(self, asked_s: float) -> None:
        seated = {
            Item(item): Seen(use.leases, use.idle_s, use.hits, self._images[item].nbytes)
            for item, use in self._decoder.attached().items()
        }
        held = {Item(item): Seen(nbytes=image.nbytes) for item, image in self._images.items()}
        known = held if self._machine.state.items else {}
        self._tell(Beat(NODE, asked_s, {SSD: known, RAM: known, VRAM: seated}))


def run(plan: Plan) -> Sheet:
    """Load every slot without a pause, let cold roles ask one after the other, and compare their waits."""
    shape = plan.shape
    slots = sizes(plan, (4,), (2,))[0]
    made = plan.made(8)
    setting = plan.setting(slots)
    decoder = rig.load_decoder(made.base, setting)
    paths = made.adapters[: slots + plan.repeats] if plan.repeats + slots <= 8 else made.adapters
    images = {f"role{at}": rig.image_of(path, made.base, setting) for at, path in enumerate(paths)}
    hot = list(images)[:slots]
    colds = [list(images)[slots + at % (len(images) - slots)] for at in range(plan.repeats)]
    plan.tell(f"cold roles: {len(colds)} against {slots} hot ones with 2 callers each")
    desk = Desk(decoder, images, slots, QUICK_WANT_S if plan.quick else WANT_S)
    try:
        firsts, took = streams.run(_under_load(plan, desk, hot, colds))
    finally:
        decoder.stop()
    sheet = Sheet(f"churn: a cold role while all {slots} slots are under load (shape {shape.name})")
    sheet.add(
        "hot roles' requests, whole",
        Spread.of(took),
        "s",
        note=f"{shape.prompt}+{shape.answer} tokens, 2 callers a role",
    )
    sheet.add(
        "cold role's first token", Spread.of(firsts), "s", note="from its question, seat and copy included"
    )
    starved = sum(first >= desk.want_s for first in firsts)
    sheet.count("cold roles that were refused", starved, goal=at_most(0), note="no seat before the deadline")
    median_s = statistics.median(took)
    sheet.add(
        "first token ÷ median request", Spread.of(first / median_s for first in firsts), "x", goal=at_most(2)
    )
    return sheet


async def _under_load(
    plan: Plan, desk: Desk, hot: list[str], colds: list[str]
) -> tuple[list[float], list[float]]:
    """Return the seconds of the cold roles' first tokens and of the hot roles' requests.

    A role that was refused a seat has waited as long as it might.
    """
    shape, took, seeds = plan.shape, list[float](), iter(range(20_000, 10**9))
    firsts: list[float] = []
    warm = asyncio.Event()

    async def caller(item: str) -> None:
        while True:
            answer = await desk.ask(item, prompt(shape, shape.prompt, next(seeds)), shape.answer)
            took.append(answer.took_s)
            warm.set()

    async def settled() -> None:
        """Let every caller ask twice, by and large."""
        target = len(took) + 4 * len(hot)
        while len(took) < target:
            warm.clear()
            await warm.wait()

    async with desk:
        callers = [asyncio.create_task(caller(item)) for item in hot for _ in range(2)]
        for item in colds:
            waiting = asyncio.create_task(settled())
            await asyncio.wait({waiting, *callers}, return_when=asyncio.FIRST_COMPLETED)
            for each in callers:
                if each.done():
                    each.result()
            tokens = prompt(shape, shape.prompt, next(seeds))
            try:
                firsts.append((await desk.ask(item, tokens, shape.answer)).first_s)
            except WorldError as error:
                if error.code != "TRC012":
                    raise
                firsts.append(desk.want_s)
        for each in callers:
            each.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    return firsts, took


def _spec(item: str, nbytes: int) -> Spec:
    return Spec(
        item=Item(item),
        name=item,
        kind="adapter",
        nbytes=nbytes,
        home=RAM,
        serves_at=(VRAM,),
        base=BASE,
        digest=item,
        durable=SSD,
    )
