"""What was said of roles in code and on the line since the file: beside the file it makes the lab."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.progress import Progress
from actors.sources import resolve
from actors.spec import as_text, from_text
from placement.config.edits import export as written
from placement.config.edits import raw, standing
from placement.errors import TierceError
from placement.preview.plan import Trouble
from placement.resume import as_ordered
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from actors.journal import Journal
    from actors.spec import LabSpec
    from placement.config import Lab
    from placement.config.edits import Edit
    from placement.state import Item, Place, Spec

HINT = "say it anew once the file is as you want it; --forget leaves out all that was said"


@dataclass(frozen=True, slots=True)
class Standing:
    """A file with what was said since in it: `edits` hold, of the `overtaken` roles the file says otherwise.

    `disordered` are the roles and shards whose moves and pins the file overtakes, `unfit` what no longer fits
    the file, by role.
    """

    spec: LabSpec
    edits: list[Edit]
    overtaken: tuple[str, ...]
    disordered: tuple[str, ...]
    unfit: dict[str, TierceError]

    def troubles(self) -> list[Trouble]:
        """Return why what was said of some roles is left out."""
        return [
            Trouble(
                f"what was said of role {role}",
                error.code,
                f"it does not fit the file: {error.message}",
                HINT,
            )
            for role, error in self.unfit.items()
        ]


class Orders:
    """The moves and pins in a journal, if there is one, but for those of some roles and shards."""

    def __init__(self, journal: Journal | None, but: Collection[str] = ()) -> None:
        self._homes = {} if journal is None else journal.homes()
        self._pins = {} if journal is None else journal.pins()
        self._seats = {} if journal is None else journal.seats()
        self._but = frozenset(but)

    def homes(self) -> dict[Item, Place]:
        """Return the ordered home of each item that has one."""
        return {item: home for item, home in self._homes.items() if _name(item) not in self._but}

    def pins(self) -> dict[Item, bool]:
        """Return what was ordered of each item that was pinned or unpinned."""
        return {item: pin for item, pin in self._pins.items() if _name(item) not in self._but}

    def applied(self, spec: Spec, here: Collection[str]) -> Spec:
        """Return a Spec with the home and pin that were ordered since the file; see `resume.as_ordered`."""
        return as_ordered(spec, self.homes(), self.pins(), here)

    def seats(self) -> dict[str, str]:
        """Return the node that each role's actor was ordered to."""
        return {name: node for name, node in self._seats.items() if name not in self._but}


def standing_of(spec: LabSpec, journal: Journal, *, forget: bool = False) -> Standing:
    """Return what would stand if the lab were brought up from this file now; nothing is written.

    The newer word counts: where the file says something else of a role now than when it was spoken of, the
    file stands. With `forget` nothing that was said or ordered does.
    """
    if forget:
        roles = tuple(edit.role for edit in journal.edits())
        ordered = dict.fromkeys(_name(item) for item, _, _ in journal.orders())
        return Standing(spec, [], roles, tuple(ordered), {})
    kept, overtaken = standing(spec.text, journal.edits())
    made, unfit = spec, dict[str, TierceError]()
    taken: list[Edit] = []
    for edit in kept:
        try:
            made = spec.with_edits([*taken, edit])
        except TierceError as error:
            unfit[edit.role] = error
        else:
            taken.append(edit)
    names = tuple(edit.role for edit in overtaken)
    disordered = tuple(dict.fromkeys((*_newly_said(spec, journal), *names)))
    return Standing(made, taken, names, disordered, unfit)


def since(spec: LabSpec, journal: Journal, say: Callable[[Progress], None]) -> tuple[LabSpec, list[Edit]]:
    """Return the lab of the file with what was said since in it, and which words these are; tell each.

    What the file overtakes is forgotten, what no longer fits it is told and left out.
    """
    stands = standing_of(spec, journal)
    settle(spec, stands, journal, say)
    for edit in stands.edits:
        say(Progress(f"role {edit.role}: {summary(edit)}, as was said since the file"))
    return stands.spec, stands.edits


def settle(spec: LabSpec, stands: Standing, journal: Journal, say: Callable[[Progress], None]) -> None:
    """Forget what the file overtakes, tell what does not fit it, and remember what it says now."""
    for role in stands.overtaken:
        journal.unsay(role)
        told = "the file says something else now: what was said before is forgotten"
        journal.tell(role, told, time.time())
        say(Progress(f"role {role}: {told}"))
    for name in stands.disordered:
        journal.forget_orders(name)
    for role, error in stands.unfit.items():
        journal.tell(role, f"what was said of it does not fit the file: {error}", time.time())
        say(Progress(f"role {role}, as it was said", problem=str(error)))
    journal.set_fact("entries", json.dumps(_entries(spec)))


def take_over(spec: LabSpec, before: LabSpec, journal: Journal) -> None:
    """Remember that the running lab is made from another file now than the one that it was hired with."""
    was = journal.fact("file")
    born = json.loads(was)["born"] if was else before.fingerprint
    journal.set_fact("file", json.dumps({"born": born, "spec": as_text(spec)}))
    journal.set_fact("lab", spec.fingerprint)


def recalled(spec: LabSpec, journal: Journal) -> LabSpec:
    """Return the file that the lab is made from: the one that was applied since, or `spec`, of its hiring."""
    told = json.loads(journal.fact("file") or "{}")
    return from_text(told["spec"]) if told.get("born") == spec.fingerprint else spec


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


def _newly_said(spec: LabSpec, journal: Journal) -> list[str]:
    """Return of what the file says something else now than when the lab last came up."""
    now, before = _entries(spec), json.loads(journal.fact("entries") or "{}")
    return [name for name in before if now.get(name) != before[name]]


def _entries(spec: LabSpec) -> dict[str, Any]:
    document: dict[str, Any] = raw(spec.text)
    return {
        name: said for section in ("roles", "rag") for name, said in (document.get(section) or {}).items()
    }
