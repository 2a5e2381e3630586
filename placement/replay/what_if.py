"""`--what-if node.desk.vram=40GiB`: a lab's file with one value said otherwise."""

from collections.abc import Iterable

from placement.config.edits import Fields, raw
from placement.config.problems import did_you_mean
from placement.config.written import written
from placement.errors import UserError

_SECTIONS = {"node": "nodes", "base": "bases", "role": "roles", "rag": "rag"}
_HINT = "write it as node.NAME.ram=96GiB, base.NAME.slots=16, role.NAME.location=RAM or policy.vram_high=90%"


def what_if(text: str, changes: Iterable[str]) -> str:
    """Return the text of a lab's file with `changes`, each `KEY=VALUE`, in place; `load` judges the values.

    Raises UserError TRC087 for what is no such change or names an entry that the file lacks, ConfigError for
    a text that cannot be read.
    """
    changes = list(changes)
    if not changes:
        return text
    data = raw(text)
    for change in changes:
        _set(data, change)
    return written(data)


def _set(data: Fields, change: str) -> None:
    key, equals, value = change.partition("=")
    section, *path = key.strip().split(".")
    if not equals or not path:
        raise UserError("TRC087", f"{change!r} is no KEY=VALUE of a file", _HINT)
    holder: Fields = data
    if section in _SECTIONS:
        entries = data.get(_SECTIONS[section])
        named = entries if isinstance(entries, dict) else {}
        name, *path = path
        if name not in named or not path:
            known = did_you_mean(name, named) or "; it has none"
            told = f"names no field of {name!r}" if name in named else f"names {section} {name!r}{known}"
            raise UserError("TRC087", f"{change!r} {told}", _HINT)
        holder = named[name] = dict(named[name]) if isinstance(named[name], dict) else {}
    elif section in {"policy", "serve"}:
        section_fields = data.get(section)
        holder = data[section] = dict(section_fields) if isinstance(section_fields, dict) else {}
    else:
        raise UserError("TRC087", f"{change!r} begins with no section of a file", _HINT)
    for part in path[:-1]:
        inner = holder.get(part)
        holder[part] = inner = dict(inner) if isinstance(inner, dict) else {}
        holder = inner
    holder[path[-1]] = _plain(value.strip())


def _plain(value: str) -> object:
    if value in {"true", "false"}:
        return value == "true"
    return int(value) if value.isdecimal() else value
