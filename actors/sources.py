"""Reading what a lab is made from: its file, and the adapter configs and personas that it names. No Ray."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from placement.config import ConfigError, Problem, load
from placement.config.fields import persona_fault
from placement.config.problems import dotted
from placement.config.schema import Base
from placement.config.seats import overbooked
from placement.config.strict_yaml import decode
from placement.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from placement.config import Lab


def resolve(root: Path, text: str) -> str:
    """Return the absolute path that `text` means from folder `root`; a hub id, which is no path, as it is.

    What no path can be (too long, with a NUL) is no error here, and cannot be opened later.
    """
    path = home_expanded(text)
    if path.is_absolute() or "\0" in text:
        return str(root / path)
    if text.startswith(".") or os.path.exists(root / path):  # noqa: PTH110  (Path's raises for a long name)
        return os.path.realpath(root / path)
    return text


def home_expanded(text: str) -> Path:
    """Return the path with `~` replaced; a `~name` of nobody stays as written, and is then a missing path."""
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):
        return Path(text)


def reason(error: OSError | ValueError) -> str:
    """Return why a path cannot be used, without the path."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def read_text(file: str) -> str:
    """Return the text of a lab's file.

    Raises ConfigError CFG001 if it is missing, a directory or unreadable; CFG002, 008, 009 for what is not a
    text.
    """
    path = home_expanded(file)
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        where = f"{reason(error)}: {path.absolute()} (looked from {Path.cwd()})"
        raise ConfigError((Problem("CFG001", where, name=file),)) from error
    return decode(raw, file)


def read_lab(file: str, env: Mapping[str, str] = os.environ) -> Lab:
    """Return the lab of `file`, each role with a base.

    Raises ConfigError, or UserError as `resolve_bases`.
    """
    root = home_expanded(file).absolute().parent
    return resolve_bases(load(read_text(file), env, name=file, root=str(root)))


def resolve_bases(lab: Lab) -> Lab:
    """Return `lab` with a base for each role that names none: the one that its adapter was trained on.

    Raises UserError CFG025 for a role whose adapter cannot be read or names no base, CFG032 for a base with
    more pinned roles than slots.
    """
    root = Path(lab.root)
    models = {
        name: trained_on(root, name, role.lora_path) for name, role in lab.roles.items() if role.base is None
    }
    resolved = with_models(lab, models)
    fault = next(overbooked(resolved), None)
    if fault is not None:
        raise UserError(fault.code, f"{dotted(fault.path)}: {fault.message}")
    return resolved


def with_models(lab: Lab, models: Mapping[str, str]) -> Lab:
    """Return `lab` with a base for each role of `models`, by the model that its adapter was trained on.

    Roles whose adapters name one model share one base, called after it.
    """
    bases, roles = dict(lab.bases), dict(lab.roles)
    names: dict[str, str] = {}
    for name, model in models.items():
        role = roles[name]
        if model not in names:
            names[model] = _free_name(model, {*bases, *roles})
            node = role.node or next(iter(lab.nodes))
            bases[names[model]] = Base(name=names[model], model=model, node=node)
        roles[name] = role.model_copy(update={"base": names[model]})
    return lab.model_copy(update={"bases": bases, "roles": roles})


def _free_name(model: str, taken: set[str]) -> str:
    """Return a name for the base `model`: that of its last folder, with a number where it is taken."""
    plain = re.sub(r"[^a-z0-9._-]", "-", Path(model).name.lower()).strip("._-") or "base"
    names = (plain if number == 1 else f"{plain}-{number}" for number in itertools.count(1))
    return next(name for name in names if name not in taken)


def trained_on(root: Path, role: str, lora_path: str) -> str:
    """Return the model that an adapter's config names; a relative path is meant from the file's folder.

    Raises UserError CFG025 if the config cannot be read or names none.
    """
    where, file = dotted(("roles", role)), Path(resolve(root, lora_path)) / "adapter_config.json"
    try:
        model = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            "CFG025",
            f"{where}: no base, and its adapter cannot say which: {file}: {error}",
            "mend lora_path, or name a base under `bases:`",
        ) from error
    if not isinstance(model, str) or not model:
        raise UserError("CFG025", f"{where}: no base, and {file} names none", "name a base under `bases:`")
    return model


def read_personas(lab: Lab) -> dict[str, str]:
    """Return the persona of each role. Raises UserError as `read_persona`."""
    root = Path(lab.root)
    return {
        name: role.persona if role.persona_file is None else read_persona(root, name, role.persona_file)
        for name, role in lab.roles.items()
    }


def read_persona(root: Path, role: str, file: str) -> str:
    """Return the persona in a file.

    Raises UserError CFG070 if it cannot be read, CFG071 to 073 for what cannot be a persona.
    """
    path, where = root / resolve(root, file), dotted(("roles", role, "persona_file"))
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        message = f"{where}: {path} is not UTF-8 at byte {error.start}"
        raise UserError("CFG070", message, "save it as UTF-8") from error
    except (OSError, ValueError) as error:
        hint = "mend persona_file, or write the persona into the lab's file"
        raise UserError("CFG070", f"{where}: {reason(error)}: {path}", hint) from error
    fault = persona_fault(text)
    if fault is not None:
        code, message = fault
        raise UserError(code, f"{where}: {path}: {message}", f"change the text of {path}")
    return text
