"""What was said of roles in code and on the line since the file: beside the file it makes the lab."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.progress import Progress
from actors.sources import resolve
from placement.config.edits import export as written
from placement.config.edits import raw, standing
from placement.errors import TierceError
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.journal import Journal
    from actors.spec import LabSpec
    from placement.config import Lab
    from placement.config.edits import Edit


def since(spec: LabSpec, journal: Journal, say: Callable[[Progress], None]) -> tuple[LabSpec, list[Edit]]:
    """Return the lab of the file with what was said since in it, and which words these are; tell each.

    The newer word counts: where the file says something else of a role now than when it was spoken of, the
    file stands, and what was said and ordered is forgotten. What no longer fits is told and left out.
    """
    _forget_overtaken_orders(spec, journal)
    kept, overtaken = standing(spec.text, journal.edits())
    for edit in overtaken:
        journal.unsay(edit.role)
        journal.forget_orders(edit.role)
        told = "the file says something else now: what was said before is forgotten"
        journal.tell(edit.role, told, time.time())
        say(Progress(f"role {edit.role}: {told}"))
    made = spec
    taken: list[Edit] = []
    for edit in kept:
        try:
            made = spec.with_edits([*taken, edit])
        except TierceError as error:
            journal.tell(edit.role, f"what was said of it does not fit the file: {error}", time.time())
            say(Progress(f"role {edit.role}, as it was said", problem=str(error)))
        else:
            taken.append(edit)
            say(Progress(f"role {edit.role}: {summary(edit)}, as was said since the file"))
    return made, taken


def summary(edit: Edit) -> str:
    """Return in a word what was said: added, removed or changed."""
    if edit.fields is None:
        return "removed"
    return "added" if edit.was is None else "changed"


def export(spec: LabSpec, edits: list[Edit], journal: Journal, lab: Lab) -> str:
    """Return the text of a file that says what the lab is like now; its paths are absolute."""
    overlay: dict[str, dict[str, Any]] = {}
    for item, home in journal.homes().items():
        fields: dict[str, Any] = {"location": str(home.tier)}
        if home.tier not in {Tier.NETWORK, Tier.VRAM}:
            fields["node"] = home.node
        overlay.setdefault(_name(item), {}).update(fields)
    for item, pinned in journal.pins().items():
        overlay.setdefault(_name(item), {})["pin"] = pinned
    known = {name: fields for name, fields in overlay.items() if name in lab.roles or name in lab.rag}
    root = Path(spec.root)
    return written(spec.text, edits, spec.root, known, lambda text: resolve(root, text) == text)


def _name(item: str) -> str:
    return item.partition("@")[0].partition("#")[0]


def _forget_overtaken_orders(spec: LabSpec, journal: Journal) -> None:
    """Forget moves and pins of what the file says differently now than when the lab last came up."""
    document: dict[str, Any] = raw(spec.text)
    now = {name: said for section in ("roles", "rag") for name, said in (document.get(section) or {}).items()}
    before = json.loads(journal.fact("entries") or "{}")
    for name in before:
        if now.get(name) != before[name]:
            journal.forget_orders(name)
    journal.set_fact("entries", json.dumps(now))
