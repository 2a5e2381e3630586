"""Where the world is other than a file says: what was said since, and what is not where it should rest."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from placement.preview.entries import Change
from placement.rows import rows
from placement.state import Item, Limits, Place, State


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference: of what, what the file says, what is, and why; "" where there is nothing to say."""

    kind: str
    name: str
    field: str
    file: str
    world: str
    why: str = ""

    def __str__(self) -> str:
        """Return `role coder home: desk:RAM in the file, desk:SSD in the lab (ordered)`."""
        why = f" ({self.why})" if self.why else ""
        head = " ".join(part for part in (self.kind, self.name, self.field) if part)
        return f"{head}: {self.file or 'nothing'} in the file, {self.world or 'nothing'} in the lab{why}"


def said_since(changes: Iterable[Change]) -> Iterator[Drift]:
    """Yield what a running lab says otherwise than its file, given how its entries differ from the file's."""
    for change in changes:
        if change.sign == "+":
            yield Drift(change.kind, change.name, "", "", "there", "not in the file")
        elif change.sign == "-":
            yield Drift(change.kind, change.name, "", "there", "", "not in the lab")
        else:
            for field in change.fields:
                yield Drift(change.kind, change.name, field.name, field.before, field.after)


def astray(
    state: State, homes: Mapping[Item, tuple[Place, bool]], now_s: float, limits: Limits
) -> Iterator[Drift]:
    """Yield which items are otherwise than `homes` (home and pin of each, by the file) and the lab want them.

    An item that is where it should rest now is no drift, nor is a copy above it that is in use.
    """
    for row in rows(state, now_s, limits):
        kind = "role" if row.kind == "adapter" else row.kind
        if row.item in homes:
            home, pinned = homes[row.item]
            if row.home != home:
                yield Drift(kind, row.name, "home", str(home), str(row.home), "ordered")
            if row.pinned != pinned:
                yield Drift(kind, row.name, "pin", _yes(pinned), _yes(row.pinned), "ordered")
        rest = state.rest(row.item, now_s)
        if row.phase == "removing":
            yield Drift(kind, row.name, "", "", str(row.item), "it is being removed")
        elif not state.ready(row.item, rest):
            ready = [str(spot.place) for spot in row.places if spot.phase == "ready" and spot.reachable]
            at = ", ".join(ready) or "no copy can be reached"
            yield Drift(kind, row.name, "place", str(rest), at, row.why or row.phase)


def _yes(pinned: bool) -> str:  # noqa: FBT001  (a value, not a switch)
    return "pinned" if pinned else "not pinned"
