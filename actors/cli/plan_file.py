"""A plan that is kept: what `tierce apply` needs to do exactly that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from placement.errors import UserError

if TYPE_CHECKING:
    from placement.preview.plan import Plan


def keep(plan: Plan, file: Path) -> None:
    """Put a plan in `file`, whole or not at all. Raises BadParameter where that is not possible."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_text(written(plan), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--out") from error


def written(plan: Plan) -> str:
    """Return a plan as a file: what `apply` needs to do exactly that, and what it does, for people."""
    return json.dumps(
        {
            "schema": "tierce.plan-file/v1",
            "lab": plan.lab,
            "file": str(Path(plan.file).absolute()),
            "fingerprint": plan.fingerprint,
            "forget": plan.forget,
            "mark": plan.mark(),
            "does": plan.does(),
        },
        indent=2,
    )


def read_plan(path: Path) -> dict[str, Any]:
    """Return what a plan's file holds. Raises UserError CFG001 for one that cannot be read or is none."""
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] == "tierce.plan-file/v1":
            return {key: told[key] for key in ("lab", "file", "fingerprint", "forget", "mark", "does")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("CFG001", f"{path} is no plan: {error}", "write one: tierce plan --out") from error
    raise UserError("CFG001", f"{path} is no plan of this version", "write one: tierce plan --out")
