"""What a file would change, and changing it: the driver's side of `tierce plan`, `diff` and `apply`.

A lab that runs answers for itself; of one that does not, the plan is all that `up` would do.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.applying import changed_since
from actors.cast import Cast
from actors.drafting import Here, draft
from actors.errors import translate
from actors.head import heads, home
from actors.joining import attach, labs
from actors.journal import Journal
from actors.launch import raise_lab, read, silent
from actors.muster import limits, seats
from actors.said import Orders, standing_of, summary
from placement.errors import WorldError
from placement.machine import Machine
from placement.preview.entries import entry_changes
from placement.preview.foresight import Foresight, foresee
from placement.preview.plan import Act, Plan, Trouble

if TYPE_CHECKING:
    from pathlib import Path

    from actors.progress import Say
    from actors.spec import LabSpec
    from placement.preview.drift import Drift

PLAN_S = 600.0
OP_S = 30.0


def plan_lab(file: str, *, address: str | None = None, forget: bool = False) -> Plan:
    """Return all that would be done to make the world like `file`. Nothing is changed.

    With `forget` only the file counts, and not what was said and ordered since. Raises as `launch.read` for a
    file that cannot be used.
    """
    spec = read(file)
    coordinator = _running(spec.lab.name, address)
    if coordinator is None:
        return asyncio.run(_foreseen(spec, forget=forget))
    plan: Plan = _answer(coordinator.plan.remote(spec, forget=forget))
    return plan


def drift_of(file: str, *, address: str | None = None) -> tuple[Drift, ...]:
    """Return where the running lab of `file` is other than it. Raises TRC040 if it does not run."""
    spec = read(file)
    coordinator = _running(spec.lab.name, address)
    if coordinator is None:
        raise WorldError("TRC040", f"lab {spec.lab.name} is not up", f"start it: tierce up {file}")
    drift: tuple[Drift, ...] = _answer(coordinator.drift.remote(spec))
    return drift


def apply_lab(
    file: str, *, address: str | None = None, forget: bool = False, mark: str = "", say: Say = silent
) -> None:
    """Make the world like `file`; bring the lab up if it does not run. `say` is told each step.

    With the `mark` of a plan exactly that is done: raises WorldError TRC049 if the plan would be another now.
    """
    spec = read(file)
    coordinator = _running(spec.lab.name, address)
    if coordinator is None:
        if mark and plan_lab(file, address=address, forget=forget).mark() != mark:
            raise changed_since()
        if forget:
            _forget(spec)
        raise_lab(file, address=address, say=say)
        return
    try:
        for step in coordinator.apply.options(num_returns="streaming").remote(spec, mark, forget=forget):
            say(ray.get(step))
    except RayError as error:
        raise translate(error, "the coordinator") from error


def _running(lab: str, address: str | None) -> Any:
    """Return the coordinator of a lab that runs, or None. Raises TRC044 for a Ray that cannot be joined."""
    known = address or os.environ.get("RAY_ADDRESS") or ray.is_initialized()
    if not known and lab not in {head.lab for head in heads()}:
        return None
    attach(address, lab)
    return ray.get_actor("coordinator", namespace=lab) if lab in labs() else None


def _answer(call: Any) -> Any:
    try:
        return ray.get(call, timeout=PLAN_S)
    except RayError as error:
        raise translate(error, "the coordinator") from error


def _journal(spec: LabSpec) -> Path | None:
    path = home() / spec.lab.name / "journal.db"
    return path if path.exists() else None


def _forget(spec: LabSpec) -> None:
    if (path := _journal(spec)) is not None:
        with closing(Journal.open(path)) as journal:
            journal.forget_lab(said=True)


async def _foreseen(spec: LabSpec, *, forget: bool) -> Plan:
    """Return all that `up` would do on this machine; the lab's journal is only read."""
    if (path := _journal(spec)) is None:
        return await _all_that_up_does(spec, None, forget=forget)
    with closing(Journal.glance(path)) as journal:
        return await _all_that_up_does(spec, journal, forget=forget)


async def _all_that_up_does(spec: LabSpec, journal: Journal | None, *, forget: bool) -> Plan:
    stands = None if journal is None else standing_of(spec, journal, forget=forget)
    made_of = spec if stands is None else stands.spec
    cast = Cast(made_of)
    orders = Orders(journal, stands.disordered if stands else ())
    cast.seats = seats(orders)
    known = {} if journal is None else {version.role: version for version in journal.versions()}
    made = await draft(cast, orders, Here(cast, known))
    machine = Machine(limits(made_of.lab.policy, OP_S), epoch=1)
    made.absent += [] if stands is None else stands.troubles()
    foresight = Foresight() if made.troubles else foresee(machine, made.specs, made.rooms, 0.0, made.kv)
    made.troubles += [Trouble("", one.code, one.message, one.hint) for one in foresight.refused]
    acts = [Act("+", "coordinator", cast.first_node)]
    acts += [Act("+", actor, node) for actor, node in cast.members().items() if node in cast.here]
    edits = stands.edits if stands else []
    return Plan(
        lab=spec.lab.name,
        file=spec.file,
        fingerprint=spec.fingerprint,
        running=False,
        forget=forget,
        changes=entry_changes(None, made_of.lab),
        acts=tuple(acts),
        builds=tuple(made.builds),
        foresight=foresight,
        said=tuple(f"role {edit.role}: {summary(edit)}, as was said since the file" for edit in edits),
        absent=tuple(made.absent),
        troubles=tuple(made.troubles),
    )
