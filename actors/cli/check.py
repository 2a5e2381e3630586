"""`tierce check`: everything that is wrong with a file, and with `--files` also with what it names."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from actors.sources import home_expanded, read_persona, read_text, reason, resolve, trained_on, with_models
from placement.config import ConfigError, Lab, Problem, load
from placement.config.load import place
from placement.config.problems import Finding, dotted, in_order
from placement.config.problems import Path as Where
from placement.config.schema import Role, Shard
from placement.config.seats import crowded, overbooked
from placement.config.strict_yaml import read
from placement.config.unserved import without_effect
from placement.errors import UserError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_file(path: str, env: Mapping[str, str] = os.environ, *, files: bool = False) -> tuple[Problem, ...]:
    """Return all errors and warnings of the lab file at `path`, sorted by line; empty if it is right.

    Starts nothing and asks no network. What has no effect in this version is a warning. With `files`, what
    the file names has to exist on this machine too: adapters, base models, documents, personas, and the base
    of a role that names none.
    """
    try:
        text = read_text(path)
        lab = load(text, env, name=path, root=str(home_expanded(path).absolute().parent))
    except ConfigError as error:
        return error.problems
    findings = [*without_effect(lab), *(missing_files(lab) if files else ())]
    if not findings:
        return lab.warnings
    tree, source, _ = read(text, path)
    return in_order([*lab.warnings, *place(findings, tree, source)])


def render(problems: tuple[Problem, ...], file: str) -> str:
    """Return the problems as text: each with its line of the file and a caret, then how many there are."""
    shown = [
        f"{problem}\n{snippet}" if (snippet := problem.snippet()) else str(problem) for problem in problems
    ]
    errors = sum(problem.severity == "error" for problem in problems)
    count = f"{_some(errors, 'error')}, {_some(len(problems) - errors, 'warning')}"
    return "\n".join([*shown, f"{file}: {count if problems else 'nothing is wrong'}"])


def missing_files(lab: Lab) -> Iterator[Finding]:
    """Yield what a lab names and this machine does not have: CFG060, CFG070 to 073, CFG025.

    Where the adapters say the bases, also what only then is known of these: CFG032, L5.
    """
    root = Path(lab.root)
    models: dict[str, str] = {}
    for name, base in lab.bases.items():
        yield from _folder(root, base.model, ("bases", name, "model"), far=True)
    for name, role in lab.roles.items():
        where = ("roles", name, "lora_path")
        lacking = list(_folder(root, role.lora_path, where, far=True))
        yield from lacking
        if role.base is None and _is_far(root, role.lora_path):
            message = "which base? its adapter is not on this machine to say so; list its base under bases:"
            yield Finding("CFG025", ("roles", name), message, on_key=True)
        elif role.base is None and not lacking:
            try:
                models[name] = trained_on(root, name, role.lora_path)
            except UserError as error:
                yield _told(error, ("roles", name), on_key=True)
            else:
                yield from _folder(root, models[name], where, far=True, of="the base that it names: ")
        yield from _persona(root, role)
    for name, shard in lab.rag.items():
        yield from _documents(root, name, shard)
    if models:
        resolved = with_models(lab, models)
        yield from overbooked(resolved)
        yield from crowded(resolved)


def _folder(root: Path, text: str, where: Where, *, far: bool = False, of: str = "") -> Iterator[Finding]:
    """Yield CFG060 if `text` is no folder that can be read; where it may be `far`, an id or URL is let be."""
    if far and _is_far(root, text):
        return
    path = root / resolve(root, text)
    fault = _unusable(path, f"there is no folder {path} on this machine", folder=True)
    if fault is not None:
        yield Finding("CFG060", where, f"{of}{fault}")


def _is_far(root: Path, text: str) -> bool:
    """Say whether `text` is an address, or may be the id of a hub since no path of that name is here."""
    if _URL.fullmatch(text):
        return True
    here = Path(resolve(root, text)).is_absolute()
    return _HUB_ID.fullmatch(text) is not None and not here and text[0] not in ".~"


def _unusable(path: Path, missing: str, *, folder: bool) -> str | None:
    """Return why `path` cannot be read by this user, `missing` if it is not there, None if it can be."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return missing
    except (OSError, ValueError) as error:
        return f"{reason(error)}: {path}"
    if folder and not stat.S_ISDIR(mode):
        return f"{path} is a file; a folder is needed"
    if not os.access(path, os.R_OK | os.X_OK if folder else os.R_OK):
        return f"{'the folder ' if folder else ''}{path} cannot be read by this user"
    return None


def _persona(root: Path, role: Role) -> Iterator[Finding]:
    if role.persona_file is None:
        return
    try:
        read_persona(root, role.name, role.persona_file)
    except UserError as error:
        yield _told(error, ("roles", role.name, "persona_file"))


def _told(error: UserError, where: Where, *, on_key: bool = False) -> Finding:
    """Return an error of the sources as a finding, whose place need not be said again."""
    return Finding(error.code, where, error.message.removeprefix(f"{dotted(where)}: "), on_key)


def _documents(root: Path, name: str, shard: Shard) -> Iterator[Finding]:
    source, index = shard.source, shard.path
    if source is not None and not _URL.fullmatch(source):
        path = root / resolve(root, source)
        fault = _unusable(path, f"there are no documents at {path} on this machine", folder=False)
        if fault is not None:
            yield Finding("CFG060", ("rag", name, "source"), fault)
    elif source is None and index is not None:
        yield from _folder(root, index if "/" in index else f"./{index}", ("rag", name, "path"))


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
