"""YAML read strictly: no duplicate keys, no tags, no alias bombs, bounded depth and size, each place kept."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import yaml

from placement.config.masking import secret_depth
from placement.config.problems import ConfigError, Mark, Problem, Source, in_order, quoted
from placement.config.tree import Key, Mapping, Node, Scalar, Sequence

if TYPE_CHECKING:
    from yaml._yaml import Mark as CMark

MAX_NBYTES = 5 * 10**6
MAX_DEPTH = 64
MAX_ALIASED = 10_000

_EMPTY = "the file is empty; the smallest lab is `roles: {NAME: {lora_path: DIRECTORY, location: RAM}}`"
_JSON_TABS = re.compile(r'"(?:[^"\\\n]|\\.)*"|\t')
_SURROGATES = re.compile("[\ud800-\udfff]")

#: Code, message and place of what is wrong with the text itself.
_Fault = tuple[str, str, Mark]


def decode(raw: bytes, name: str) -> str:
    """Return the text of a file. Raises ConfigError CFG008 too big, 009 not UTF-8 or NUL, 002 empty."""
    if len(raw) > MAX_NBYTES:
        raise _refuse("CFG008", f"{len(raw):,} bytes; a lab file has at most {MAX_NBYTES:,}", name)
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        col = len(raw[raw.rfind(b"\n", 0, error.start) + 1 : error.start].decode()) + 1
        byte = raw[error.start]
        raise ConfigError(
            (Problem("CFG009", f"byte 0x{byte:02x} is not UTF-8; save it as UTF-8", "", name, line, col),)
        ) from None
    if "\0" in text:
        source, at = Source(text, name), text.index("\0")
        mark = Mark(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
        raise ConfigError((source.problem("CFG009", "a NUL character; this is not a text file", mark),))
    if not text.strip():
        raise _refuse("CFG002", _EMPTY, name)
    return text


def read(text: str, name: str) -> tuple[Mapping, Source, list[Problem]]:
    """Return the tree of `text` (YAML or JSON), its source, and the problems that do not hide the others.

    Raises ConfigError when there is no tree to go on with: CFG002, 003, 006 to 010, 022.
    """
    if len(text) > MAX_NBYTES:
        raise _refuse("CFG008", f"{len(text):,} characters; a lab file has at most {MAX_NBYTES:,}", name)
    text = text.removeprefix("\ufeff")
    source = Source(text, name)
    if text.lstrip().startswith("{"):
        text = _JSON_TABS.sub(lambda found: " " if found[0] == "\t" else found[0], text)
    composer = _Composer(text, source)
    try:
        tree = composer.document()
    except yaml.reader.ReaderError as error:
        at = int(error.position)
        mark = Mark(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
        composer.faults.append(("CFG009", f"a control character: {error.reason}", mark))
    except yaml.MarkedYAMLError as error:
        composer.faults.append(_syntax(error))
    except _Unreadable as error:
        composer.faults.append(error.fault)
    else:
        source.parsed = True
        problems = [source.problem(*fault) for fault in composer.faults]
        if isinstance(tree, Mapping) and tree.entries:
            return tree, source, problems
        if tree is None or isinstance(tree, Mapping):
            problems.append(Problem("CFG002", _EMPTY, "", name))
        else:
            message = "a lab file is a mapping of sections: lab, nodes, bases, roles, rag, policy, serve"
            problems.append(source.problem("CFG022", message, tree.mark))
        raise ConfigError(in_order(problems))
    raise ConfigError(in_order(source.problem(*fault) for fault in composer.faults))


class _Unreadable(Exception):
    """A fault after which the rest of the file cannot be read."""

    def __init__(self, code: str, message: str, mark: Mark) -> None:
        super().__init__(message)
        self.fault: _Fault = (code, message, mark)


class _Composer:
    """Builds the tree of one document from PyYAML's events, which come one by one and without recursion.

    What stands at a secret's place is hidden in the source, and `faults` do not repeat it.
    """

    def __init__(self, text: str, source: Source) -> None:
        self.text = text
        self.source = source
        self.faults: list[_Fault] = []
        self.keys: list[str] = []
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.BaseLoader)
        self.anchors: dict[str, Node | None] = {}
        self.aliased = 0

    def document(self) -> Node | None:
        """Return the only document, or None if there is none or only an empty one."""
        tree: Node | None = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.stop(
                        "CFG010", "a second document begins here; one file describes one lab", event
                    )
            elif isinstance(event, yaml.NodeEvent):
                tree = self.node(event, 1)
        return None if isinstance(tree, Scalar) and tree.is_empty else tree

    def node(self, event: yaml.Event, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.stop("CFG007", f"nested deeper than {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, depth)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[anchor] = None
        tag = getattr(event, "tag", None)
        secret = self.hidden(event)
        if tag is not None:
            shown = "…" if secret else tag
            message = f"the tag {quoted(shown)} is not allowed; write plain values"
            self.faults.append(("CFG005", message, _mark(event)))
        made: Node
        if isinstance(event, yaml.ScalarEvent):
            made = Scalar(_joined(event.value), event.style is None, self.raw(event), _mark(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            made = self.sequence(event, depth)
        else:
            made = self.mapping(event, depth)
        if anchor is not None:
            self.anchors[anchor] = made
        return made

    def raw(self, event: yaml.Event) -> str:
        start, end = event.start_mark, event.end_mark
        return self.text[start.index : end.index] if start is not None and end is not None else ""

    def alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        secret = self.hidden(event)
        name = "…" if secret else event.anchor
        shown = quoted(f"*{name}")
        if event.anchor not in self.anchors:
            raise self.stop("CFG003", f"the alias {shown} has no anchor &{name} above it", event)
        node = self.anchors[event.anchor]
        if node is None:
            raise self.stop("CFG006", f"the alias {shown} contains itself", event)
        if secret and isinstance(node, Scalar):
            self.source.hide(node.mark, node.raw)
        self.aliased += node.size
        if self.aliased > MAX_ALIASED:
            raise self.stop("CFG006", f"aliases expand to more than {MAX_ALIASED:,} values", event)
        if depth + node.height - 1 > MAX_DEPTH:
            raise self.stop("CFG007", f"the alias {shown} nests deeper than {MAX_DEPTH} levels", event)
        return node

    def sequence(self, start: yaml.Event, depth: int) -> Sequence:
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        size, height = _extent(items)
        return Sequence(tuple(items), _mark(start), size, height)

    def mapping(self, start: yaml.Event, depth: int) -> Mapping:
        entries: dict[str, tuple[Key, Node]] = {}
        self.keys.append("")
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event)
            self.keys[-1] = key.text
            child = self.node(next(self.events), depth + 1)
            self.keys[-1] = ""
            first = entries.setdefault(key.text, (key, child))[0]
            if first is not key:
                shown = "…" if secret_depth(tuple(self.keys)) else key.text
                message = f"the key {quoted(shown)} is already there at line {first.mark.line}"
                self.faults.append(("CFG004", message, key.mark))
        self.keys.pop()
        size, height = _extent([child for _, child in entries.values()])
        return Mapping(tuple(entries.values()), _mark(start), size, height)

    def key(self, event: yaml.Event) -> Key:
        node = self.node(event, 1) if isinstance(event, yaml.AliasEvent | yaml.ScalarEvent) else None
        if not isinstance(node, Scalar):
            raise self.stop(
                "CFG003", "a key must be plain text; quote a value that begins with { or [", event
            )
        return Key(node.text, _mark(event))

    def hidden(self, event: yaml.Event) -> bool:
        """Say whether a secret stands here; a value of it is then hidden."""
        if not secret_depth(tuple(self.keys)):
            return False
        if isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            self.source.hide(_mark(event), self.raw(event))
        return True

    def stop(self, code: str, message: str, event: yaml.Event) -> _Unreadable:
        """Return the error after which the rest of the file cannot be read."""
        return _Unreadable(code, message, _mark(event))


def _refuse(code: str, message: str, name: str) -> ConfigError:
    return ConfigError((Problem(code, message, "", name),))


def _mark(event: yaml.Event) -> Mark:
    return _where(event.start_mark)


def _where(mark: yaml.Mark | CMark | None) -> Mark:
    """Return a place as people count; the parser leaves none out, though its types allow it."""
    return Mark(1, 1) if mark is None else Mark(mark.line + 1, mark.column + 1)


def _extent(children: list[Node]) -> tuple[int, int]:
    size = 1 + sum(child.size for child in children)
    return size, 1 + max((child.height for child in children), default=0)


def _joined(text: str) -> str:
    r"""Join the surrogate pairs that JSON writes as two \u escapes; a lone one becomes U+FFFD."""
    if not _SURROGATES.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _syntax(error: yaml.MarkedYAMLError) -> _Fault:
    at = error.problem_mark or error.context_mark
    mark = _where(at)
    what = error.problem or "cannot be read"
    if "'\\t'" in what:
        return "CFG003", "a tab cannot indent YAML; use spaces", mark
    if what.startswith("mapping values are not allowed"):
        what = "a second ': ' on this line; check the indentation, or quote the value"
    if what.endswith("got '{'"):
        what += "; quote a value that has braces"
    if error.context and error.context_mark is not None and error.context_mark.line + 1 != mark.line:
        what += f" ({error.context} that begins at line {error.context_mark.line + 1})"
    return "CFG003", f"not valid YAML: {what}", mark
