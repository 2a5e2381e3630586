"""The plan of a lab: all that would be done to make the world like its file, and what it was made from."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from placement.messages import Copy
from placement.preview.ahead import Step
from placement.preview.entries import Change
from placement.preview.fit import Misfit
from placement.preview.foresight import Foresight
from placement.preview.room import Fill
from placement.state import Item, Place


@dataclass(frozen=True, slots=True)
class Act:
    """What becomes of an actor: it starts (+), stops (-) or begins anew (~); `why` says what for."""

    sign: Literal["+", "-", "~"]
    actor: str
    node: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Build:
    """What is made before anything can be copied: the image of an adapter, the index of a shard.

    `nbytes` is 0 where nobody can know it yet; what is not `exact` is an estimate.
    """

    item: Item
    source: str
    place: Place
    nbytes: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something of the file cannot be, with what to do about it."""

    what: str
    code: str
    message: str
    hint: str = ""

    @property
    def said(self) -> str:
        """Return `role coder: no weights`."""
        return f"{self.what}: {self.message}" if self.what else self.message

    def __str__(self) -> str:
        """Return `role coder: no weights [ADP002]`."""
        return f"{self.said} [{self.code}]"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` would do. `running` tells whether the lab is up; if not, it is all that `up` would do.

    `unfinished` tells that an `up` or `apply` before was cut off, so that everyone is looked at again. `said`
    is what was said and ordered since the file and stands. `troubles` forbid to apply it; `absent` are of
    what would not serve, as with `up`.
    """

    lab: str
    file: str
    fingerprint: str
    running: bool
    forget: bool
    changes: tuple[Change, ...]
    acts: tuple[Act, ...]
    builds: tuple[Build, ...]
    foresight: Foresight
    said: tuple[str, ...] = ()
    absent: tuple[Trouble, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    unfinished: bool = False

    @property
    def changes_anything(self) -> bool:
        """Tell whether there is anything to do."""
        todo = self.changes or self.acts or self.builds or self.foresight.steps
        return bool(todo or self.troubles or self.unfinished)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the copies and drops in their order."""
        return self.foresight.steps

    @property
    def room(self) -> tuple[tuple[Fill | None, Fill], ...]:
        """Return each place as it is (None: not yet) and as it will be."""
        before = {fill.place: fill for fill in self.foresight.before}
        return tuple((before.get(fill.place), fill) for fill in self.foresight.after)

    @property
    def misfits(self) -> tuple[Misfit, ...]:
        """Return what will not fit."""
        return self.foresight.misfits

    def does(self) -> tuple[str, ...]:
        """Return all that is done, one plain line each: two plans that do the same have the same lines."""
        return tuple(self._does())

    def _does(self) -> Iterator[str]:
        if self.unfinished:
            yield "~ whatever was cut off"
        for change in self.changes:
            yield f"{change.sign} {change.kind} {change.name}".rstrip()
            for field in change.fields:
                yield f"  {change.name} {field.name}: {field.before!r} -> {field.after!r}"
        for act in self.acts:
            yield f"{act.sign} actor {act.actor} on {act.node}"
        for build in self.builds:
            yield f"+ build {build.item} at {build.place}, {build.nbytes} bytes"
        for step in self.steps:
            command = step.command
            if isinstance(command, Copy):
                way = f"{command.source} -> {command.target}"
                yield f"+ copy {command.item}, {command.nbytes} bytes, {way}"
            else:
                yield f"- drop {command.item} at {command.place}"
        for trouble in self.troubles:
            yield f"! {trouble}"

    def mark(self) -> str:
        """Return 64 hex digits over the file and all that is done: the same lab gives the same plan."""
        lines = (self.fingerprint, str(self.forget), *self.does())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def routes(steps: tuple[Step, ...]) -> dict[Item, tuple[Place, ...]]:
    """Return the way of each item that is copied: where it starts, and each place that it comes to."""
    ways: dict[Item, tuple[Place, ...]] = {}
    for step in steps:
        if isinstance(step.command, Copy):
            way = ways.get(step.command.item, (step.command.source,))
            ways[step.command.item] = (*way, step.command.target)
    return ways
