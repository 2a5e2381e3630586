"""What two labs say differently, entry by entry and field by field."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from placement.config.masking import mask_shapes
from placement.config.schema import ENTRIES, Lab
from placement.units import format_bytes, format_seconds

Sign = Literal["+", "-", "~"]

#: What people call an entry of each section.
KINDS = {"nodes": "node", "bases": "base", "roles": "role", "rag": "shard"}
_BYTES = {"ram", "vram", "budget", "kv_cache"}
_SECONDS = {"idle", "want_deadline", "lease"}
#: Sections without names.
SINGLE = ("policy", "serve")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the file by its dotted name; `before` or `after` is "" where it does not stand.

    Neither shows a secret: one that changed is `as it was` before and `another` after.
    """

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Change:
    """An entry that is new (+), gone (-) or different (~), and the fields that say so."""

    sign: Sign
    kind: str
    name: str
    fields: tuple[Field, ...]

    def touches(self, *fields: str) -> bool:
        """Tell whether one of these fields, or a part of it, is different."""
        return any(field.name.partition(".")[0] in fields for field in self.fields)


def entry_changes(before: Lab | None, after: Lab | None) -> tuple[Change, ...]:
    """Return how the entries of `after` differ from those of `before`; None is a lab that says nothing."""
    found = []
    for section in ENTRIES:
        old, new = _section(before, section), _section(after, section)
        for name in dict.fromkeys((*old, *new)):
            change = _change(KINDS[section], name, old.get(name), new.get(name))
            if change is not None:
                found.append(change)
    for section in SINGLE:
        sections = [None if lab is None else getattr(lab, section) for lab in (before, after)]
        change = _change(section, "", *sections)
        if change is not None and before is not None and after is not None:
            found.append(change)
    return tuple(found)


def _section(lab: Lab | None, section: str) -> Mapping[str, BaseModel]:
    entries: Mapping[str, BaseModel] = {} if lab is None else getattr(lab, section)
    return entries


def _change(kind: str, name: str, old: BaseModel | None, new: BaseModel | None) -> Change | None:
    was, now = _said(old), _said(new)
    fields = tuple(
        _field(field, was.get(field), now.get(field))
        for field in dict.fromkeys((*was, *now))
        if was.get(field) != now.get(field)
    )
    if old is None:
        return Change("+", kind, name, fields)
    if new is None:
        return Change("-", kind, name, fields)
    return Change("~", kind, name, fields) if fields else None


def _said(entry: BaseModel | None) -> dict[str, Any]:
    """Return the values that an entry says, flat, secrets as they are; what is as by default is not said."""
    if entry is None:
        return {}
    return dict(_flat(entry.model_dump(by_alias=True, exclude_defaults=True, exclude={"name"})))


def _flat(said: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in said.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _field(name: str, was: Any, now: Any) -> Field:
    """Return a field that differs, for people: rounded where that tells the values apart, without secrets."""
    for write in (_rounded, _exact):
        before, after = write(name, was), write(name, now)
        if before != after:
            return Field(name, before, after)
    return Field(name, "as it was", "another")


def _rounded(name: str, value: Any) -> str:
    if isinstance(value, int) and _is_bytes(name):
        return format_bytes(value)
    if isinstance(value, int | float) and _key(name) in _SECONDS:
        return format_seconds(value)
    return _written(value)


def _exact(name: str, value: Any) -> str:
    if isinstance(value, int) and _is_bytes(name):
        return f"{value} B"
    if isinstance(value, int | float) and _key(name) in _SECONDS:
        return f"{value!r}".removesuffix(".0") + "s"
    return _written(value)


def _is_bytes(name: str) -> bool:
    return name.partition(".")[0] in _BYTES or _key(name) in _BYTES


def _key(name: str) -> str:
    return name.rpartition(".")[2]


def _written(value: Any) -> str:
    """Return a value without what is secret or looks like it; "" for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_written(part)}' for key, part in value.items())}}}"
    return mask_shapes(str(value))
