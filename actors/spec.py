"""What a lab is made from: its file, what was said since in code or on the line, what both name. No Ray."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.sources import read_personas, resolve_bases
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
