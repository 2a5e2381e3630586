"""A plan that is kept: what `tierce apply` needs to do exactly that."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from placement.errors import UserError, WorldError

if TYPE_CHECKING:
    from placement.preview.plan import Plan

SCHEMA = "tierce.plan-file/v1"


def keep(plan: Plan, file: Path) -> None:
    """Put a plan in `file`, whole or not at all. Raises WorldError TRC053 where that is not possible."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_text(written(plan), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        with suppress(OSError):  # the first one says what is wrong
            part.unlink(missing_ok=True)
        told = f"the plan cannot be kept in {file}: {error.strerror}"
        raise WorldError("TRC053", told, "name another file: --out FILE") from error


def written(plan: Plan) -> str:
    """Return a plan as a file: what `apply` needs to do exactly that, and what it does, for people."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "lab": plan.lab,
            "file": str(Path(plan.file).absolute()),
            "fingerprint": plan.fingerprint,
            "forget": plan.forget,
            "mark": plan.mark(),
            "does": plan.does(),
        },
        indent=2,
    )


def read_plan(path: Path) -> dict[str, Any] | None:
    """Return what a plan's file holds, known by its content; None for what may be the file of a lab.

    Raises UserError CFG001 for a plan that is not whole or of another version, and for another JSON of ours.
    """
    told = _object(path)
    schema = str(told.get("schema"))
    if not schema.startswith("tierce."):
        return None
    if schema != SCHEMA:
        raise UserError(
            "CFG001", f"{path} is no plan of this version: {schema}", "write one: tierce plan --out"
        )
    try:
        return {key: told[key] for key in ("lab", "file", "fingerprint", "forget", "mark", "does")}
    except KeyError as error:
        raise UserError("CFG001", f"{path} is no plan: {error}", "write one: tierce plan --out") from error


def _object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, nothing of one that holds anything else or cannot be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
