"""How a command ends: the exit codes, and an error as one line and a hint."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from placement.errors import TierceError, WorldError

if TYPE_CHECKING:
    from actors.cli.screen import Screen


class Exit(IntEnum):
    """The exit codes, for scripts."""

    DONE = 0
    WORLD = 1
    USER = 2
    ADAPTER = 3
    NO_LAB = 4
    LATE = 5
    PARTIAL = 6
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.WORLD: "the world did not allow it: a full disk, a lost node",
    Exit.USER: "a wrong file, command or name",
    Exit.ADAPTER: "an adapter that cannot be used",
    Exit.NO_LAB: "no lab or no Ray can be reached",
    Exit.LATE: "not done before the deadline",
    Exit.PARTIAL: "done in part: the lab is up, but some role or machine cannot serve",
    Exit.INTERRUPTED: "stopped with Ctrl-C",
}

#: Codes of errors whose exit code is not that of their family.
_BY_CODE = {
    "TRC012": Exit.LATE,
    "TRC013": Exit.LATE,
    "TRC030": Exit.LATE,
    "TRC040": Exit.NO_LAB,
    "TRC044": Exit.NO_LAB,
}


def exit_code(error: TierceError) -> int:
    """Return how a command ends that `error` ended."""
    if error.code.startswith("ADP"):
        return Exit.ADAPTER
    return _BY_CODE.get(error.code, error.exit_code)


def report(error: TierceError, screen: Screen, *, json: bool) -> None:
    """Write `error: message [CODE]` and the hint below it to stderr; of a file, all its problems.

    With `json` the same goes to stdout as one object.
    """
    if json:
        problems = getattr(error, "problems", ())
        screen.json("error", code=error.code, message=error.message, hint=error.hint, problems=problems)
        return
    if problems := getattr(error, "problems", ()):
        from actors.cli.check import render

        screen.tell(render(problems, problems[0].name), "red")
        return
    screen.tell(f"error: {error}", "red")
    if error.hint:
        screen.tell(f"  {error.hint}", "yellow")


def unforeseen(error: Exception) -> WorldError:
    """Return the error that stands for one that Tierce did not raise on purpose."""
    return WorldError(
        "TRC000",
        f"{type(error).__name__}: {error}",
        "this is a fault of Tierce; `tierce --debug …` shows where",
    )
