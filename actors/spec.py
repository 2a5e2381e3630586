"""What a lab is made from: its file, what was said since in code or on the line, what both name. No Ray."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.sources import read_personas, resolve_bases, with_models
from placement.config import ConfigError, load
from placement.config.edits import edited, faults_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from placement.config import Lab
    from placement.config.edits import Edit

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class LabSpec:
    """A checked file, with what it names read in: personas by role.

    `root` is its folder, `home` the lab's own. `text` is the file as written and `env` the variables that it
    uses: with both, what is said later is read as if it stood in the file.
    """

    lab: Lab
    root: str
    home: str
    personas: dict[str, str]
    fingerprint: str
    text: str
    file: str
    env: dict[str, str]

    def with_edits(self, edits: Sequence[Edit]) -> LabSpec:
        """Return the lab of this file with `edits` in it.

        Raises UserError with every problem that the edits make, in the words of the file's own problems.
        """
        if not edits:
            return self
        try:
            changed = spec_of(
                edited(self.text, edits), file=self.file, root=self.root, home=self.home, env=self.env
            )
        except ConfigError as error:
            raise faults_of(error) from error
        return LabSpec(
            lab=changed.lab,
            root=self.root,
            home=self.home,
            personas=changed.personas,
            fingerprint=self.fingerprint,
            text=self.text,
            file=self.file,
            env=self.env,
        )


def as_text(spec: LabSpec) -> str:
    """Return a spec as text that `from_text` reads again, whatever became of the files that it names."""
    written = load(spec.text, spec.env, name=spec.file, root=spec.root)
    models = {
        name: spec.lab.bases[str(spec.lab.roles[name].base)].model
        for name, role in written.roles.items()
        if role.base is None
    }
    return json.dumps(
        {
            "text": spec.text,
            "file": spec.file,
            "root": spec.root,
            "home": spec.home,
            "env": spec.env,
            "personas": spec.personas,
            "fingerprint": spec.fingerprint,
            "models": models,
        }
    )


def from_text(text: str) -> LabSpec:
    """Return the spec that `as_text` wrote."""
    told = json.loads(text)
    models = told.pop("models")
    lab = with_models(load(told["text"], told["env"], name=told["file"], root=told["root"]), models)
    return LabSpec(lab=lab, **told)


def spec_of(text: str, *, file: str, root: str, home: str, env: Mapping[str, str]) -> LabSpec:
    """Read the text of a lab's file and what it names.

    Raises ConfigError with every problem of the text, UserError for an adapter or persona that cannot be
    read.
    """
    used = {name: env[name] for name in _VARIABLE.findall(text) if name in env}
    lab = resolve_bases(load(text, env, name=file, root=root))
    personas = read_personas(lab)
    says = lab.model_dump_json(exclude={"warnings"})
    mark = hashlib.sha256(f"{says}\0{sorted(personas.items())}".encode()).hexdigest()
    return LabSpec(lab, root, home, personas, mark, text, file, used)
