"""A plan as plain data for `--json`: places stand as people write them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from placement.messages import Copy
from placement.preview.plan import routes

if TYPE_CHECKING:
    from placement.preview.ahead import Step
    from placement.preview.plan import Plan
    from placement.preview.room import Fill


def plan_fields(plan: Plan) -> dict[str, Any]:
    """Return all that a plan says; bytes and seconds are numbers."""
    return {
        "lab": plan.lab,
        "file": plan.file,
        "fingerprint": plan.fingerprint,
        "mark": plan.mark(),
        "running": plan.running,
        "unfinished": plan.unfinished,
        "forget": plan.forget,
        "said": plan.said,
        "changes": plan.changes,
        "actors": plan.acts,
        "builds": [{**asdict(build), "place": str(build.place)} for build in plan.builds],
        "steps": [_step(step) for step in plan.steps],
        "routes": {item: [str(place) for place in way] for item, way in routes(plan.steps).items()},
        "took_s": plan.foresight.took_s,
        "room": [
            {"now": None if now is None else _fill(now), "then": _fill(then)} for now, then in plan.room
        ],
        "misfits": [{**asdict(misfit), "place": str(misfit.place)} for misfit in plan.misfits],
        "absent": plan.absent,
        "troubles": plan.troubles,
    }


def _step(step: Step) -> dict[str, Any]:
    command = step.command
    times = {"begins_s": step.begins_s, "took_s": step.took_s, "reason": command.reason}
    if isinstance(command, Copy):
        way = {"source": str(command.source), "target": str(command.target), "nbytes": command.nbytes}
        return {"verb": "copy", "item": command.item, **way, **times}
    return {"verb": "drop", "item": command.item, "place": str(command.place), **times}


def _fill(fill: Fill) -> dict[str, Any]:
    return {**asdict(fill), "place": str(fill.place), "free": fill.free}
