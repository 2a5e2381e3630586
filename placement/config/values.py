"""A tree as plain values: environment variables put in, empty entries refused, null left out."""

import re
from collections.abc import Mapping as Environment
from dataclasses import replace

from placement.config.fields import EnvText
from placement.config.masking import secret_depth
from placement.config.problems import Finding, Mark, Path, Problem, Source, quoted
from placement.config.schema import ENTRIES
from placement.config.tree import Mapping, Node, Scalar, Sequence, resolve

_REFERENCE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:[^${}]|\$(?!\{))*))?\}|(?P<open>\{))"
)

#: What a place of the tree has when it has no value: it is left out, and the schema's default holds.
_ABSENT = object()


class Values:
    """The plain values of a tree.

    `problems` are those of the environment and of emptiness; `absent` are the paths without a value
    because of them, at which nothing further is to be said.
    """

    def __init__(self, env: Environment[str, str], source: Source) -> None:
        self.env = env
        self.source = source
        self.problems: list[Problem] = []
        self.absent: set[Path] = set()
        self.written: dict[str, str] = {}

    def of(self, node: Node, path: Path = ()) -> object:
        """Return the values of `node` as dict, list, EnvText, str, int, float, bool, or None for no value."""
        value = self._value(node, path)
        return None if value is _ABSENT else value

    def veiled(self, finding: Finding) -> Finding:
        """Return a finding whose message shows what the file wrote, not values of the environment."""
        message = finding.message
        for value, written in self.written.items():
            message = message.replace(value, written)
        return replace(finding, message=message)

    def _value(self, node: Node, path: Path) -> object:
        if isinstance(node, Mapping):
            entries = [(key.text, self._value(child, (*path, key.text))) for key, child in node.entries]
            return {key: value for key, value in entries if value is not _ABSENT}
        if isinstance(node, Sequence):
            items = [self._value(child, (*path, index)) for index, child in enumerate(node.items)]
            return [None if value is _ABSENT else value for value in items]
        return self._scalar(node, path)

    def _scalar(self, node: Scalar, path: Path) -> object:
        if node.is_empty:
            if len(path) > 1:
                self._refuse("CFG022", "is empty; give a value, or take the line out", node.mark, path)
            return _ABSENT
        text, replaced = node.text, False
        if "$" in text:
            if self._malformed(node, path):
                return _ABSENT
            before = len(self.problems)
            text = _REFERENCE.sub(lambda found: self._replacement(found, node, path), node.text)
            if len(self.problems) > before:
                return _ABSENT
            replaced = any(found["name"] for found in _REFERENCE.finditer(node.text))
        if replaced:
            self.written[quoted(text)] = quoted(node.text)
            return EnvText(text, node.text)
        value = resolve(text) if node.plain else text
        if value is not None:
            return value
        if len(path) == 2 and path[0] in ENTRIES:
            self._refuse("CFG022", "is null; an entry is a mapping of fields", node.mark, path)
        return _ABSENT

    def _malformed(self, node: Scalar, path: Path) -> bool:
        """Refuse the first reference that is unterminated, nested or misspelt; say whether there is one."""
        found = next((found for found in _REFERENCE.finditer(node.text) if found["open"]), None)
        if found is None:
            return False
        start = node.text[found.start() :].partition(":")[0].split()[0][:40]
        shown = "${…" if secret_depth(path) else start
        message = (
            f"{quoted(shown)} does not begin ${{NAME}} or ${{NAME:-default}}, "
            "of one level and closed by a brace; write $${ for the characters themselves"
        )
        self._refuse("CFG041", message, node.inside(max(0, node.raw.find(start))), path)
        return True

    def _replacement(self, found: re.Match[str], node: Scalar, path: Path) -> str:
        if found["escaped"]:
            return "$"
        name, default = found["name"], found["default"]
        mark = node.inside(max(0, node.raw.find(found[0])))
        value = self.env.get(name)
        if default is not None:
            return value or default
        if value is None:
            message = f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            self._refuse("CFG040", message, mark, path)
            return ""
        return value

    def _refuse(self, code: str, message: str, mark: Mark, path: Path) -> None:
        self.absent.add(path)
        self.problems.append(self.source.problem(code, message, mark, path))
