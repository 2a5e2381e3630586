"""`load`: the text of a lab file in, a `Lab` out, or all its problems at once."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from placement.config.contradictions import contradictions
from placement.config.defaults import settle
from placement.config.draft import Draft, Refused
from placement.config.fields import NAME
from placement.config.lint import unused, unwise_text
from placement.config.names import Declared, name_faults, reference_faults
from placement.config.problems import ConfigError, Finding, Path, Problem, Source, in_order, quoted
from placement.config.refusals import meant_field, model_at, refusals, unknown_field
from placement.config.schema import ENTRIES, Entry, Lab, Policy, Serve, fields_of
from placement.config.strict_yaml import read
from placement.config.tree import Mapping as Tree
from placement.config.tree import Scalar, locate
from placement.config.values import Values

#: Tells the fields that a value is from a file, where a quantity has to have a unit.
_FROM_FILE = {"file": True}

#: Stand for a required field that was refused, so that the names used by the entry can still be checked.
_STAND_INS = {"location": "RAM", "lora_path": "?", "model": "?"}

Model = TypeVar("Model", bound=BaseModel)


def load(text: str, env: Mapping[str, str], *, name: str = "cluster.yaml", root: str = ".") -> Lab:
    """Return the lab that `text` (YAML or JSON) describes, with `env` put in for `${NAME}`.

    Reads no file and no environment: paths stay as written, and whether they exist is not asked. `name` is
    the file's name in messages, `root` the directory that relative paths start from. Raises ConfigError with
    every problem of the text.
    """
    tree, source, problems = read(text, name)
    values = Values(env, source)
    reading = _Reading(tree, values.of(tree), values.absent)
    lab = reading.lab()
    found = place(map(values.veiled, reading.findings), tree, source)
    everything = in_order([*problems, *values.problems, *found])
    if any(problem.severity == "error" for problem in everything):
        raise ConfigError(everything)
    warnings = in_order([*everything, *place(unused(lab), tree, source)])
    return lab.model_copy(update={"root": root, "warnings": warnings})


def place(findings: Iterable[Finding], tree: Tree, source: Source) -> Iterator[Problem]:
    """Yield each finding as a problem at its line and column."""
    for finding in findings:
        _, mark, node = locate(tree, finding.path)
        if isinstance(node, Scalar) and not finding.on_key:
            mark = node.mark if finding.offset is None else node.inside(finding.offset + (not node.plain))
        yield source.problem(finding.code, finding.message, mark, finding.path, warning=finding.warning)


class _Reading:
    """One pass over the values of a file: `lab()` makes what can be made, `findings` says what cannot."""

    def __init__(self, tree: Tree, data: object, absent: set[Path]) -> None:
        self.tree = tree
        self.data = cast("dict[str, object]", data)
        self.absent = absent
        self.refused = set(absent)
        self.findings: list[Finding] = []

    def lab(self) -> Lab:
        """Return the settled lab without what is wrong; complete only if nothing is found."""
        made = {section: self.section(section, model) for section, model in ENTRIES.items()}
        policy = self.single("policy", Policy)
        serve = self.single("serve", Serve)
        head = {key: value for key, value in self.data.items() if key not in {*ENTRIES, "policy", "serve"}}
        lab = self.made(Lab, head, (), {})
        if not re.fullmatch(NAME, lab.name):
            self.findings.append(
                Finding("CFG026", ("lab",), f"the lab name {quoted(lab.name)} must match {NAME}")
            )
        lab = lab.model_copy(update={**made, "policy": policy, "serve": serve})
        declared, refused = self.declared(), Refused(self.refused)
        self.findings += name_faults(declared)
        self.findings += reference_faults(lab, declared)
        settled = settle(Draft(lab, declared, refused))
        self.findings += contradictions(Draft(settled, declared, refused))
        self.findings += unwise_text(self.tree)
        return settled

    def declared(self) -> Declared:
        """Return the names that each section defines, those of broken entries too."""
        sections = {key.text: node for key, node in self.tree.entries if isinstance(node, Tree)}
        return {
            section: tuple(key.text for key, _ in sections[section].entries) if section in sections else ()
            for section in ENTRIES
        }

    def section(self, section: str, model: type[Entry]) -> dict[str, Entry]:
        """Return the entries of a section by name, each validated by itself."""
        entries = self.data.get(section, {})
        if not isinstance(entries, dict):
            self.refuse("CFG022", (section,), "expected a mapping of names to entries")
            return {}
        made = {}
        for name, fields in entries.items():
            if isinstance(fields, dict):
                made[name] = self.made(model, fields, (section, name), {"name": name})
            else:
                known = ", ".join(fields_of(model))
                self.refuse("CFG022", (section, name), f"expected a mapping of fields: {known}")
        return made

    def single(self, section: str, model: type[Model]) -> Model:
        """Return a section that is one entry; what is wrong in it has its default."""
        fields = self.data.get(section, {})
        if isinstance(fields, dict):
            return self.made(model, fields, (section,), {})
        self.refuse("CFG022", (section,), f"expected a mapping of fields: {', '.join(fields_of(model))}")
        return model()

    def made(self, model: type[Model], fields: dict[str, Any], path: Path, given: dict[str, str]) -> Model:
        """Return the entry at `path` without what is refused of it.

        `given` are the fields that the file does not write itself.
        """
        unwritten = {*given, "root", "warnings"} & set(fields) if model is Lab or given else set()
        for word in sorted(unwritten):
            self.findings.append(Finding("CFG020", (*path, word), unknown_field(word, model), on_key=True))
        draft = {key: _copied(value) for key, value in fields.items() if key not in unwritten}
        first = True
        while True:
            try:
                return model.model_validate({**draft, **given}, context=_FROM_FILE)
            except ValidationError as error:
                if first:
                    self.findings += refusals(error, model, self.tree, path, self.absent)
                first = False
                before = _copied(draft)
                for one in error.errors(include_url=False, include_input=False):
                    taken = _take_out(draft, one["loc"])
                    if one["type"] == "extra_forbidden" and taken == one["loc"]:
                        self.misspelt((*path, *taken), model_at(model, taken[:-1]))
                    else:
                        self.refused.add((*path, *taken))
                draft |= {key: text for key, text in _STAND_INS.items() if _lacks(model, draft, key)}
                if draft == before:
                    raise

    def misspelt(self, path: Path, model: type[BaseModel]) -> None:
        """Note that the field that the unknown one at `path` is meant to be has a value, and not which."""
        field = meant_field(str(path[-1]), model)
        meant = (*path[:-1], field or "")
        if locate(self.tree, meant)[0] != meant:
            self.refused.add(meant)

    def refuse(self, code: str, path: Path, message: str) -> None:
        self.refused.add(path)
        self.findings.append(Finding(code, path, message))


def _copied(value: Any) -> Any:
    """Return a copy of a value in which dicts and lists can be changed."""
    if isinstance(value, dict):
        return {key: _copied(child) for key, child in value.items()}
    return [_copied(child) for child in value] if isinstance(value, list) else value


def _take_out(fields: dict[str, Any], loc: Path) -> Path:
    """Take the value at `loc` out, or the field that holds it where it cannot be taken out alone.

    A list goes as a whole, so that the items that stay keep their places. Return what went.
    """
    holder, node, went = fields, fields.get(str(loc[0])), loc[:1]
    for depth, part in enumerate(loc[1:], start=2):
        if isinstance(node, dict) and part in node:
            holder, node, went = node, node[part], loc[:depth]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            break
    holder.pop(str(went[-1]), None)
    return went


def _lacks(model: type[BaseModel], fields: dict[str, Any], key: str) -> bool:
    return key not in fields and key in model.model_fields and model.model_fields[key].is_required()
