"""Actors by their names: which incarnation of a role is the current one, and handles that are looked up once.

`role:x` is a role's first incarnation, `role:x#2`, `role:x#3` … are those that followed it; the highest
number that exists is the one to ask. `engine:x#2` is the second engine of a base, beside the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import ray

from actors.errors import UnknownName, Unreachable, reach

_MARK = "#"


def numbered(names: Iterable[str], name: str) -> list[tuple[int, str]]:
    """Return (number, actor name) of each incarnation of `name` among `names`, the oldest first."""
    found = [(1, name)] if name in (names := list(names)) else []
    for other in names:
        plain, _, number = other.rpartition(_MARK)
        if plain == name and number.isdecimal():
            found.append((int(number), other))
    return sorted(found)


def incarnations(lab: str, name: str) -> list[tuple[int, str]]:
    """Return (number, actor name) of each incarnation of "role:x" that exists, the oldest first."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return numbered((actor["name"] for actor in named if actor["namespace"] == lab), name)


def runs(lab: str, name: str) -> bool:
    """Tell whether an actor of exactly this name exists."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return any((actor["name"], actor["namespace"]) == (name, lab) for actor in named)


def current(lab: str, name: str) -> str:
    """Return the full actor name of the current incarnation of "role:x". Raises ValueError if none exists."""
    found = incarnations(lab, name)
    if not found:
        raise ValueError(f"lab {lab} has no actor {name}")
    return found[-1][1]


class Handles:
    """Handles of a lab's actors by name, each looked up once; a role's is that of its current incarnation."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self._found: dict[str, Any] = {}

    async def find(self, name: str) -> Any:
        """Return the handle of an actor.

        Raises UnknownName TRC001 for a role that the lab does not have, Unreachable TRC031 for another actor
        that does not run.
        """
        if name not in self._found:
            try:
                self._found[name] = await asyncio.to_thread(self._look_up, name)
            except ValueError as error:
                raise self._missing(name) from error
        return self._found[name]

    def forget(self, name: str) -> None:
        """Look `name` up again when it is needed next: it moved, or it has died."""
        self._found.pop(name, None)

    async def call(self, name: str, method: str, *args: Any, within_s: float) -> Any:
        """Call an actor under a deadline.

        Whatever goes wrong is a typed error; one that was not reached is looked up again next time.
        """
        handle = await self.find(name)
        try:
            return await reach(getattr(handle, method).remote(*args), name, within_s)
        except Unreachable:
            self.forget(name)
            raise

    def _look_up(self, name: str) -> Any:
        actor = current(self.lab, name) if name.startswith("role:") else name
        return ray.get_actor(actor, namespace=self.lab)

    def _missing(self, name: str) -> UnknownName | Unreachable:
        kind, _, plain = name.partition(":")
        if kind == "role":
            return UnknownName("TRC001", f"lab {self.lab} has no role {plain!r}", "see `tierce ps`")
        return Unreachable("TRC031", f"{name} is not running", "run `tierce up` again")
