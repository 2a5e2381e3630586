"""A file as a tree whose every node knows its line and column, and YAML 1.2's reading of plain scalars."""

import re
from dataclasses import dataclass
from functools import cached_property

from placement.config.problems import Mark, Path

_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INT = re.compile(r"[-+]?[0-9]{1,100}")
_OCTAL = re.compile(r"0o[0-7]{1,100}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,100}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)")

Plain = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value: its text with quotes and escapes taken away, and `raw`, the characters of the file."""

    text: str
    plain: bool
    raw: str
    mark: Mark
    size: int = 1
    height: int = 1

    @property
    def is_empty(self) -> bool:
        """Nothing at all was written where a value belongs."""
        return self.plain and not self.text

    def inside(self, offset: int) -> Mark:
        """Return the place of the character `offset` of the raw text."""
        before = self.raw[:offset].split("\n")
        if len(before) == 1:
            return Mark(self.mark.line, self.mark.col + offset)
        return Mark(self.mark.line + len(before) - 1, len(before[-1]) + 1)


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list; `size` counts its nodes with aliases expanded, `height` its levels."""

    items: tuple["Node", ...]
    mark: Mark
    size: int
    height: int


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a mapping: always text, as in JSON."""

    text: str
    mark: Mark


@dataclass(frozen=True)
class Mapping:
    """A mapping without duplicate keys; `size` and `height` as for Sequence."""

    entries: tuple[tuple[Key, "Node"], ...]
    mark: Mark
    size: int
    height: int

    @cached_property
    def by_key(self) -> dict[str, tuple[Key, "Node"]]:
        """The entries by the text of their keys."""
        return {key.text: (key, node) for key, node in self.entries}


Node = Scalar | Sequence | Mapping


def resolve(text: str) -> Plain:
    """Return what the plain scalar `text` is in the core schema of YAML 1.2.

    There `no`, `on` and `12:30` are text, `010` is ten, and only `0o10` is octal.
    """
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text, 0)
    if _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) or _INFINITE.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf"))
    return float("nan") if text in {".nan", ".NaN", ".NAN"} else text


def locate(tree: Node, path: Path) -> tuple[Path, Mark, Node]:
    """Return the longest part of `path` that the tree has, the place of its key, and its node."""
    mark, node = tree.mark, tree
    for depth, part in enumerate(path):
        if isinstance(node, Mapping):
            entry = node.by_key.get(str(part))
            if entry is None:
                return path[:depth], mark, node
            mark, node = entry[0].mark, entry[1]
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            mark = node.mark
        else:
            return path[:depth], mark, node
    return path, mark, node
