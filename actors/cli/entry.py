"""A role said on the command line, as the entry of the file that it stands for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import typer

from placement.config import ConfigError
from placement.config.edits import raw
from placement.config.problems import did_you_mean, quoted
from placement.config.schema import Role, fields_of
from placement.config.strict_yaml import read
from placement.config.tree import Mapping as Branch
from placement.config.tree import Node, Scalar, resolve

if TYPE_CHECKING:
    from pydantic import BaseModel

#: What was said: the path of each field in the role's entry, and its value as the file would hold it.
Said = dict[tuple[str, ...], Any]

NEEDED = ("lora_path", "location")


def path_of(key: str, option: str) -> tuple[str, ...]:
    """Return the path of a dotted key. Raises BadParameter for what is no field of a role."""
    path = tuple(key.split("."))
    model: type[BaseModel] | None = Role
    for depth, part in enumerate(path):
        known = {} if model is None else fields_of(model)
        if part not in known:
            owner = ".".join(path[:depth]) or "a role"
            raise typer.BadParameter(
                f"{owner} has no field {quoted(part)}{did_you_mean(part, known)}", param_hint=option
            )
        model = known[part]
    return path


def add(said: Said, path: tuple[str, ...], value: object, option: str) -> None:
    """Say one field more. Raises BadParameter if it, or what holds or is held by it, was said already."""
    for other in said:
        shorter = min(len(other), len(path))
        if other[:shorter] == path[:shorter]:
            raise typer.BadParameter(
                f"{'.'.join(path)} is said twice, the other time by {'.'.join(other)}", param_hint=option
            )
    said[path] = value


def value_of(key: str, text: str) -> Any:
    """Return the value that the file would have for `KEY: text`; nothing at all is the empty text.

    Raises BadParameter for lists, mappings and quotes that the file could not hold.
    """
    if text[:1] not in ("[", "{", '"', "'"):
        return resolve(text) if text else ""
    try:
        tree, _, problems = read(f"value: {text}", key)
    except ConfigError as error:
        problems, tree = list(error.problems), None
    if tree is None or problems or len(tree.entries) != 1:
        why = problems[0].message if problems else "more than one value"
        raise typer.BadParameter(f"{key}: {why}", param_hint="--set")
    return _plain(tree.entries[0][1])


def _plain(node: Node) -> Any:
    """Return a tree as plain values; text is kept as written, ${NAME} included."""
    if isinstance(node, Scalar):
        return resolve(node.text) if node.plain else node.text
    if isinstance(node, Branch):
        return {key.text: _plain(child) for key, child in node.entries}
    return [_plain(child) for child in node.items]


def new(said: Said) -> dict[str, Any]:
    """Return the entry of a new role. Raises BadParameter if it lacks what every role has."""
    entry = changed(said, {})
    for key in NEEDED:
        if entry.get(key) is None:
            option = f"--{key.replace('_', '-')}"
            raise typer.BadParameter("a new role needs it", param_hint=option)
    return {key: value for key, value in entry.items() if value is not None}


def unsaid(keys: Iterable[str]) -> Said:
    """Return the fields to take out, each with None. Raises BadParameter for what is no field."""
    said: Said = {}
    for key in keys:
        add(said, path_of(key, "--unset"), None, "--unset")
    return said


def changed(said: Said, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that what was said changes in a role's present entry, each whole; None takes it out.

    A part of a field (`unload.idle`) leaves its other parts as the entry has them.
    """
    changes: dict[str, Any] = {}
    for (top, *below), value in said.items():
        changes[top] = _with(changes.get(top, entry.get(top)), below, value)
    return changes


def _with(present: Any, below: list[str], value: Any) -> Any:
    if not below:
        return value
    parts = deepcopy(present) if isinstance(present, dict) else {}
    parts[below[0]] = _with(parts.get(below[0]), below[1:], value)
    return {key: part for key, part in parts.items() if part is not None} or None


def has_parts(said: Said) -> bool:
    """Say whether a part of a field was said, so that its other parts must be known to change it."""
    return any(len(path) > 1 for path in said)


def entry_in(text: str, role: str) -> dict[str, Any]:
    """Return the entry that a lab's file has for a role, as written; empty if it has none."""
    roles = raw(text).get("roles")
    return dict(roles.get(role) or {}) if isinstance(roles, dict) else {}


def alone(name: str, entry: Mapping[str, Any]) -> str:
    """Return the file of a lab that has one role and nothing else, on one machine with the role's `node`."""
    file: dict[str, Any] = {"roles": {name: entry}}
    if node := entry.get("node"):
        file = {"nodes": {node: {}}, **file}
    return json.dumps(file, indent=2, ensure_ascii=False) + "\n"
