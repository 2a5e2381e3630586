"""What two labs say differently, entry by entry and field by field."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

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
    """A field of the file by its dotted name; `before` or `after` is "" where it does not stand."""

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
    was, now = _fields(old), _fields(new)
    fields = tuple(
        Field(field, was.get(field, ""), now.get(field, ""))
        for field in dict.fromkeys((*was, *now))
        if was.get(field) != now.get(field)
    )
    if old is None:
        return Change("+", kind, name, fields)
    if new is None:
        return Change("-", kind, name, fields)
    if old != new and not fields:
        fields = (Field("a secret", "as it was", "another"),)
    return Change("~", kind, name, fields) if fields else None


def _fields(entry: BaseModel | None) -> dict[str, str]:
    """Return what an entry says, flat; what is as by default is not said."""
    if entry is None:
        return {}
    said = entry.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"name"})
    return dict(_flat(said))


def _flat(said: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in said.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, int) and name.partition(".")[0] in _BYTES | {"ssd"}:
            yield name, format_bytes(value)
        elif isinstance(value, int | float) and key in _BYTES | _SECONDS:
            yield name, format_bytes(int(value)) if key in _BYTES else format_seconds(value)
        else:
            yield name, _written(value)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_written(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_written(part)}' for key, part in value.items())}}}"
    return str(value)
