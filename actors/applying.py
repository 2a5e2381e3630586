"""Applying a file to a running lab: what leaves goes first, then the file is the lab's, then the new comes.

So a crash in between leaves the old file or the new one: before the file is taken over, what went is raised
again; after it, the next raising does the rest. So does the next apply, of any file: one that was cut off has
left its mark in the plan, and then everyone is looked at. Else whoever is in neither list is not disturbed.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from actors import incarnations, planning, said
from actors.drafting import draft
from actors.homecoming import come_home
from actors.leaving import end, end_strangers
from actors.muster import limits, seats, shard_item
from actors.progress import Progress
from actors.raising import Raising
from placement.errors import UserError, WorldError
from placement.messages import MoveOrdered, Registered, Removed
from placement.preview.intent import intent
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from actors.drafting import Draft
    from actors.planning import Drawn
    from actors.progress import Say
    from actors.spec import LabSpec
    from placement.preview.entries import Change
    from placement.state import Item, State

GONE_S = 60.0


async def apply(coordinator: Coordinator, spec: LabSpec, mark: str, say: Say, *, forget: bool) -> None:
    """Make the lab as the file `spec` says; `say` is told each step.

    With a `mark`, do exactly what the plan of that mark does: raises WorldError TRC049 if the lab or the file
    has changed since. Raises the first trouble of the plan; then nothing has changed.
    """
    async with coordinator.changing:
        coordinator.bringing = asyncio.current_task()
        try:
            drawn = await planning.draw(coordinator, spec, forget=forget, advise=False)
            if mark and drawn.plan.mark() != mark:
                raise changed_since()
            for trouble in drawn.plan.troubles:
                raise UserError(trouble.code, trouble.said, trouble.hint)
            await Applying(coordinator, spec, drawn, say).run()
        finally:
            coordinator.bringing = None


def changed_since() -> WorldError:
    """Return the error of a plan that would be another now."""
    return WorldError(
        "TRC049", "the lab has changed since the plan was made", "make another: `tierce plan --out`"
    )


class Applying:
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
        lab, whole = self.crew.lab, not self.drawn.plan.unfinished
        raising = Raising(self.coordinator, self.say)
        self.crew.look()
        stored = await raising.start_stores()
        new = [name for name in self.crew.fleet if not whole or name not in self.crew.engine_places]
        await raising.start_engines(new)
        await raising.shelving.start(self._named("shard", "+~") if whole else lab.rag)
        roles = {one.name for one in self.drawn.plan.changes if one.kind == "role" and one.sign != "-"}
        roles |= set(self._named("role", "+~") if whole else lab.roles)
        await raising.versions.of([name for name in lab.roles if name in roles], stored)
        await self.coordinator.beat()
        made = await draft(
            self.crew, said.Orders(self.journal), planning.Asked(self.coordinator, self.crew, ())
        )
        touched = self.tell(made)
        await raising.hire_roles([name for name in lab.roles if name in roles])
        self.tell(made, leaving=True)
        await end_strangers(self.coordinator, self.say)
        await self.coordinator.beat()
        moved = touched if whole else list(self.machine.state.items)
        await come_home(self.coordinator, moved, self.say)
        self._settle(moved)
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
        ending = {actor: self.acts[actor] == "-" for actor in (f"shard:{name}" for name in shards)}
        await asyncio.gather(*(end(self.coordinator, actor, for_good=gone) for actor, gone in ending.items()))
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

    def _take_over(self) -> None:
        """From here on the lab is made from this file; whole it is at the end."""
        stands, coordinator = self.drawn.stands, self.coordinator
        for change in self.drawn.plan.changes:
            if change.kind == "role" and change.sign == "~":
                self._unlearn(change)
        self.journal.set_fact("up", "")
        said.settle(self.spec, stands, self.journal, self.say)
        said.take_over(self.spec, coordinator.spec, self.journal)
        coordinator.spec, coordinator.edits = self.spec, stands.edits
        self.crew.follow(stands.spec)
        self.crew.seats = seats(said.Orders(self.journal))
        self.machine.limits = limits(stands.spec.lab.policy, self.machine.limits.op_s)

    def _unlearn(self, change: Change) -> None:
        """Forget the version of a role that must be made anew: on another base, or to or from an address."""
        known = next((one for one in self.journal.versions() if one.role == change.name), None)
        network = self.drawn.stands.spec.lab.roles[change.name].location is Tier.NETWORK
        if known is not None and (change.touches("base") or known.network != network):
            self.journal.forget_version(change.name)

    def tell(self, made: Draft, *, leaving: bool = False) -> list[Item]:
        """Tell the Machine what is new, or (`leaving`) which versions nothing serves; return whom that was.

        A version that another one replaced goes when its last answer has ended: whoever hires the role's next
        incarnation lets it go.
        """
        versions = self.journal.versions()
        known, replacing = {version.item for version in versions}, {version.role for version in versions}
        known |= {shard_item(name) for name, report in self.coordinator.census.shards.items() if report}
        specs = [spec for spec in made.specs if spec.item in known]
        touched: list[Item] = []
        for event in list(intent(self.machine.state, specs, made.rooms)):
            if isinstance(event, Removed) != leaving:
                continue
            if isinstance(event, Removed) and _adapter_of(self.machine.state, event.item) in replacing:
                continue
            self.coordinator.take(event)
            if isinstance(event, MoveOrdered):
                touched.append(event.item)
            elif isinstance(event, Registered):
                touched.append(event.spec.item)
        return list(dict.fromkeys(touched))

    def _settle(self, touched: list[Item]) -> None:
        """Write down on which node each item that moved has its durable copy now."""
        for item in touched:
            spec = self.machine.state.items.get(item)
            if spec is not None and spec.kind == "adapter":
                self.journal.settle(item, (spec.landing or spec.durable).node)


def _adapter_of(state: State, item: Item) -> str:
    """Return the role whose adapter an item is, "" for a shard."""
    spec = state.items[item]
    return spec.name if spec.kind == "adapter" else ""
