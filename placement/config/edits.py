"""A lab file and what was said since in code or on the command line: one text again, for `load` and `export`.

Nothing here reads a file or the environment: values stay as they were written, `${NAME}` too.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import normpath

from placement.config.problems import ConfigError
from placement.config.strict_yaml import read
from placement.config.tree import Mapping as Tree
from placement.config.tree import Node, Scalar, Sequence, resolve
from placement.config.written import plain, written
from placement.errors import UserError

Fields = dict[str, object]

_HEAD = """\
# A lab as it stands, written by `tierce export`: its file, and what was said since in code, on the command
# line and by `move` and `pin`. Relative paths were made absolute; ${NAME} is still read from the environment.
"""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)
#: The fields of each section that hold a path; in those of `_OR_ID` a hub id may stand as well.
_PATHS = {
    "nodes": (("ssd", "path"),),
    "bases": (("model",),),
    "roles": (("lora_path",), ("persona_file",)),
    "rag": (("source",), ("path",)),
}
_OR_ID = frozenset({"model", "lora_path"})


@dataclass(frozen=True, slots=True)
class Edit:
    """What was said of a role outside the file: `fields` as an entry of the file, None if it was removed.

    `was` is the file's own entry of that role when it was said, as `raw` gives it; None if it had none.
    """

    role: str
    fields: Mapping[str, object] | None
    was: Mapping[str, object] | None


def raw(text: str) -> Fields:
    """Return a lab file as plain data, values as they are written: `${NAME}` is kept, quantities are text.

    Raises ConfigError if there is no tree to go on with.
    """
    tree, _, _ = read(text, "cluster.yaml")
    return _fields(_value(tree))


def edited(text: str, edits: Iterable[Edit]) -> str:
    """Return the file with the edits in place, the later ones over the earlier; without any, as it is.

    A role keeps its place in the file, a new one comes last. Comments go. Raises ConfigError as `raw`, and
    UserError CFG022 for a value that no file can hold.
    """
    edits = list(edits)
    return written(_merged(raw(text), edits)) if edits else text


def entry(text: str, edits: Iterable[Edit], role: str) -> Fields | None:
    """Return the entry of `role` with the edits in place, None if there is none."""
    roles = _section(_merged(raw(text), edits), "roles")
    return _fields(roles[role]) if role in roles else None


def standing(text: str, edits: Iterable[Edit]) -> tuple[list[Edit], list[Edit]]:
    """Return the edits that still hold, and those that the file has overtaken.

    Overtaken is an edit whose role the file now says otherwise than when the edit was said.
    """
    own = _section(raw(text), "roles")
    held: list[Edit] = []
    overtaken: list[Edit] = []
    for edit in edits:
        same = _alike(own.get(edit.role), edit.was)
        (held if same else overtaken).append(edit)
    return held, overtaken


def change(entry: Mapping[str, object], changes: Mapping[str, object]) -> Fields:
    """Return `entry` with `changes` over it: None takes a field out, nested mappings are replaced whole."""
    merged = {**entry, **changes}
    return {field: value for field, value in merged.items() if changes.get(field, value) is not None}


def export(
    text: str,
    edits: Iterable[Edit],
    root: str,
    overlay: Mapping[str, Mapping[str, object]],
    is_id: Callable[[str], bool],
) -> str:
    """Return a whole file of the lab as it stands, which loads from any folder.

    `overlay` has, by the name of a role or shard, the fields that orders changed since (homes, pins), as
    `change` takes them. Relative paths become absolute from `root`; `is_id` says of a value of `model` or
    `lora_path` that begins with no dot whether it is the id of a hub. Paths from `~` or `${NAME}` stay.
    Whoever wrote a secret into the file finds it here too.
    """
    data = _merged(raw(text), edits)
    for section in ("roles", "rag"):
        entries = _section(data, section)
        for name in entries:
            if name in overlay:
                entries[name] = change(_fields(entries[name]), overlay[name])
    for section, paths in _PATHS.items():
        for fields in _section(data, section).values():
            for path in paths:
                _make_absolute(fields, path, root, is_id)
    return _HEAD + written(data)


def faults_of(error: ConfigError) -> UserError:
    """Return the errors of an edited file for whoever made the edit: without lines, which nobody wrote.

    The code is that of the first; the message has one sentence for each.
    """
    said = [problem for problem in error.problems if problem.severity == "error"]
    sentences = [f"{one.path}: {one.message}" if one.path else one.message for one in said]
    return UserError(said[0].code, "\n".join(dict.fromkeys(sentences)))


def _value(node: Node) -> object:
    if isinstance(node, Tree):
        return {key.text: _value(child) for key, child in node.entries}
    if isinstance(node, Sequence):
        return [_value(child) for child in node.items]
    return _scalar(node)


def _scalar(node: Scalar) -> object:
    return resolve(node.text) if node.plain else node.text


def _merged(data: Fields, edits: Iterable[Edit]) -> Fields:
    """Return `data` with the edits in place."""
    roles = dict(_section(data, "roles"))
    for edit in edits:
        if edit.fields is None:
            roles.pop(edit.role, None)
        else:
            roles[edit.role] = plain(edit.fields, ("roles", edit.role))
    return {**data, "roles": roles} if roles or "roles" in data else data


def _section(data: Mapping[str, object], name: str) -> Fields:
    """Return a section of a file, empty where there is none or something else stands there."""
    return _fields(data.get(name))


def _fields(value: object) -> Fields:
    return value if isinstance(value, dict) else {}


def _alike(one: object, other: object) -> bool:
    """Say whether two entries are the same for a file: 1 and true differ, the order of fields does not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


def _make_absolute(fields: object, path: tuple[str, ...], root: str, is_id: Callable[[str], bool]) -> None:
    """Make the path at `path` of an entry absolute, in place."""
    for part in path[:-1]:
        fields = _fields(fields).get(part)
    holder, field = _fields(fields), path[-1]
    value = holder.get(field)
    if not isinstance(value, str) or value.startswith(("/", "~", "${")) or _URL.fullmatch(value):
        return
    if field in _OR_ID and not value.startswith(".") and is_id(value):
        return
    holder[field] = normpath(PurePosixPath(root) / value)
