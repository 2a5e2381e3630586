"""Applying a file to a running lab: what leaves goes first, then the file is the lab's, then the new comes.

So a crash in between leaves the old file or the new one: before the file is taken over, what went is raised
again; after it, the next raising does the rest. Whoever is in neither list is not disturbed.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import ray

from actors import incarnations, planning, said
from actors.drafting import draft
from actors.errors import reach
from actors.homecoming import come_home
from actors.muster import limits, seats, shard_item
from actors.names import incarnations as incarnations_of
from actors.progress import Progress
from actors.raising import Raising
from placement.errors import TierceError, UserError, WorldError
from placement.messages import MoveOrdered, Registered, Removed
from placement.preview.intent import intent
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from actors.planning import Drawn
    from actors.progress import Say
    from actors.spec import LabSpec
    from placement.preview.entries import Change
    from placement.state import Item

GONE_S = 60.0
CLOSE_S = 30.0
POLL_S = 0.05


async def apply(coordinator: Coordinator, spec: LabSpec, mark: str, say: Say, *, forget: bool) -> None:
    """Make the lab as the file `spec` says; `say` is told each step.

    With a `mark`, do exactly what the plan of that mark does: raises WorldError TRC049 if the lab or the file
    has changed since. Raises the first trouble of the plan; then nothing has changed.
    """
    async with coordinator.changing:
        drawn = await planning.draw(coordinator, spec, forget=forget)
        if mark and drawn.plan.mark() != mark:
            raise WorldError(
                "TRC049", "the lab has changed since the plan was made", "make another: `tierce plan --out`"
            )
        for trouble in drawn.plan.troubles:
            raise UserError(trouble.code, trouble.said, trouble.hint)
        await _Applying(coordinator, spec, drawn, say).run()


class _Applying:
    """One apply. The caller holds `changing`."""

    def __init__(self, coordinator: Coordinator, spec: LabSpec, drawn: Drawn, say: Say) -> None:
        self.coordinator = coordinator
        self.journal = coordinator.journal
        self.machine, self.crew = coordinator.brain()
        self.spec = spec
        self.drawn = drawn
        self.say = say
        self.gone = {(one.kind, one.name) for one in drawn.plan.changes if one.sign == "-"}
        self.acts = {act.actor: act.sign for act in drawn.plan.acts}

    async def run(self) -> None:
        await self._let_go()
        self._take_over()
        raising = Raising(self.coordinator, self.say)
        self.crew.look()
        stored = await raising.start_stores()
        new = [name for name in self.crew.lab.bases if name not in self.crew.engine_places]
        await raising.start_engines(new)
        shards = self._named("shard", "+~")
        await raising.shelving.start(shards)
        for change in self.drawn.plan.changes:
            if change.kind == "role" and change.sign == "~":
                self._unlearn(change)
        roles = {one.name for one in self.drawn.plan.changes if one.kind == "role" and one.sign != "-"}
        roles |= set(self._named("role", "+~"))
        before = {version.role: version.item for version in self.journal.versions()}
        versions = await raising.versions.of([name for name in self.crew.lab.roles if name in roles], stored)
        for role, version in versions.items():
            if role in before and before[role] != version.item:
                self.journal.hand_over(before[role], version.item)
        await self.coordinator.beat()
        touched = await self._tell()
        await raising.hire_roles([name for name in self.crew.lab.roles if name in roles])
        await self._tell(leaving=True)
        await self._dismiss_idle()
        await self.coordinator.beat()
        await come_home(self.coordinator, touched, self.say)
        self._settle(touched)
        self.journal.set_fact("up", self.spec.fingerprint)

    def _named(self, kind: str, signs: str) -> list[str]:
        """Return whose actors of a kind start or begin anew, in the order of the file."""
        pairs = [(*actor.split(":", 1), sign) for actor, sign in self.acts.items() if ":" in actor]
        return [name for one, name, sign in pairs if one == kind and sign in signs]

    async def _let_go(self) -> None:
        """Have roles and shards that leave end what they answer, and wait until their items are gone."""
        roles = [name for kind, name in self.gone if kind == "role"]
        await asyncio.gather(*(incarnations.dismiss(self.crew, name) for name in roles))
        shards = self._named("shard", "-~")
        await asyncio.gather(*(self._end(self.crew.shards, f"shard:{name}") for name in shards))
        await self.coordinator.beat()  # or one that runs now would tell of them once more
        for name in shards:
            self.coordinator.census.shards.pop(name, None)
        kinds = {"adapter": "role", "shard": "shard"}
        state = self.machine.state
        items = [item for item, spec in state.items.items() if (kinds[spec.kind], spec.name) in self.gone]
        for item in items:
            if item not in self.machine.state.retired:
                self.coordinator.take(Removed(item))
        if not await self.coordinator.until(lambda: not set(items) & self.machine.state.items.keys(), GONE_S):
            told = f"copies of {', '.join(items)} are still being dropped after {GONE_S:.0f} s"
            raise WorldError("TRC013", told, "apply the file again")
        for kind, name in sorted((kind, name) for kind, name in self.gone if kind in kinds.values()):
            self.journal.forget_role(name)
            self.journal.tell(name, f"removed: {self.spec.file} no longer has it", time.time())
            self.say(Progress(f"{kind} {name} is removed"))

    async def _end(self, handles: dict[str, Any], actor: str) -> None:
        """End an actor; a shard writes its files down first, one that leaves the lab removes its index."""
        name = actor.partition(":")[2]
        handle = handles.pop(name, None)
        if handle is None:
            return
        try:
            if actor.startswith("shard:"):
                ending = handle.withdraw if self.acts[actor] == "-" else handle.close
                await reach(ending.remote(), actor, CLOSE_S)
        except TierceError as error:
            self.journal.tell(name, f"it did not close: {error}", time.time())
        finally:
            ray.kill(handle)
        give_up = time.monotonic() + CLOSE_S
        while incarnations_of(self.crew.lab.name, actor):  # or the next one of that name would be this one
            if time.monotonic() > give_up:
                raise WorldError("TRC043", f"{actor} does not end", "apply the file again")
            await asyncio.sleep(POLL_S)

    def _take_over(self) -> None:
        """From here on the lab is made from this file."""
        stands, coordinator = self.drawn.stands, self.coordinator
        said.settle(self.spec, stands, self.journal, self.say)
        said.take_over(self.spec, coordinator.spec, self.journal)
        coordinator.spec, coordinator.edits = self.spec, stands.edits
        self.crew.follow(stands.spec)
        self.crew.seats = seats(said.Orders(self.journal))
        self.machine.limits = limits(stands.spec.lab.policy, self.machine.limits.op_s)

    def _unlearn(self, change: Change) -> None:
        """Forget the version of a role that must be made anew: on another base, or to or from an address."""
        known = next((one for one in self.journal.versions() if one.role == change.name), None)
        network = self.crew.lab.roles[change.name].location is Tier.NETWORK
        if known is not None and (change.touches("base") or known.network != network):
            self.journal.forget_version(change.name)

    async def _tell(self, *, leaving: bool = False) -> list[Item]:
        """Tell the Machine what is new, or (`leaving`) which versions are replaced; return whom that was."""
        orders = said.Orders(self.journal)
        surveyor = planning.Asked(self.coordinator, self.crew, ())
        made = await draft(self.crew, orders, surveyor)
        known = {version.item for version in self.journal.versions()}
        known |= {shard_item(name) for name, report in self.coordinator.census.shards.items() if report}
        specs = [spec for spec in made.specs if spec.item in known]
        touched: list[Item] = []
        for event in list(intent(self.machine.state, specs, made.rooms)):
            if isinstance(event, Removed) != leaving:
                continue
            self.coordinator.take(event)
            if isinstance(event, MoveOrdered):
                touched.append(event.item)
            elif isinstance(event, Registered):
                touched.append(event.spec.item)
        return list(dict.fromkeys(touched))

    async def _dismiss_idle(self) -> None:
        """End the engines and embedders that nobody needs any more."""
        census = self.coordinator.census
        for actor, sign in self.acts.items():
            kind, _, name = actor.partition(":")
            if sign != "-" or kind not in {"engine", "embedder"}:
                continue
            await self._end(self.crew.engines if kind == "engine" else self.crew.embedders, actor)
            if kind == "engine":
                await self.coordinator.beat()  # or one that runs now would tell of it once more
                census.engines.pop(name, None)
                self.crew.engine_places.pop(name, None)
            self.say(Progress(f"{actor} has ended"))

    def _settle(self, touched: list[Item]) -> None:
        """Write down on which node each item that moved has its durable copy now."""
        for item in touched:
            spec = self.machine.state.items.get(item)
            if spec is not None and spec.kind == "adapter":
                self.journal.settle(item, (spec.landing or spec.durable).node)
