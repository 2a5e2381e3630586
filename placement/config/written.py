"""Plain values as the text of a lab file, such that the strict loader reads the same values back."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath

import yaml

from placement.config.problems import dotted
from placement.config.tree import resolve
from placement.errors import UserError

_WIDTH = 100
#: Lists and mappings of plain values stay on one line up to so many characters.
_ONE_LINE = 80


def written(values: Mapping[str, object]) -> str:
    """Return `values` as YAML. What another reader of YAML would take for a number or a flag is quoted.

    Raises UserError CFG022 as `plain`.
    """
    text: str = yaml.dump(
        plain(values), Dumper=_Writer, sort_keys=False, allow_unicode=True, width=_WIDTH, line_break="\n"
    )
    return text


def plain(value: object, path: tuple[str | int, ...] = ()) -> object:
    """Return `value` as dict, list, str, int, float, bool and None, as a file can hold it.

    Raises UserError CFG022, with the place below `path`, for what no file can hold.
    """
    match value:
        case None | bool():
            return value
        case str():
            return str(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case PurePath():
            return str(value)
        case Mapping():
            return {str(key): plain(child, (*path, str(key))) for key, child in value.items()}
        case list() | tuple() | set() | frozenset():
            items: Iterable[object] = sorted(value, key=str) if isinstance(value, set | frozenset) else value
            return [plain(child, (*path, index)) for index, child in enumerate(items)]
    where = f"{dotted(path)}: " if path else ""
    raise UserError(
        "CFG022",
        f"{where}a {type(value).__name__} cannot be written in a lab file",
        "give text, a number, true or false, a list or a mapping of these",
    )


class _Writer(yaml.SafeDumper):
    """Writes blocks, and short leaves on one line; what `plain` made shares nothing, so has no aliases."""

    def text(self, value: str) -> yaml.ScalarNode:
        style: str | None
        if not value.replace("\n", "").isprintable():
            style = '"'
        elif "\n" in value:
            style = "|"
        else:
            style = None if resolve(value) == value else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    def mapping(self, value: dict[str, object]) -> yaml.MappingNode:
        node = self.represent_mapping("tag:yaml.org,2002:map", value)
        node.flow_style = self._is_short([child for pair in node.value for child in pair])
        return node

    def sequence(self, value: list[object]) -> yaml.SequenceNode:
        node = self.represent_sequence("tag:yaml.org,2002:seq", value)
        node.flow_style = self._is_short(node.value)
        return node

    def _is_short(self, children: list[yaml.Node]) -> bool:
        texts = [child.value for child in children if isinstance(child, yaml.ScalarNode)]
        on_one = len(texts) == len(children) and not any("\n" in text for text in texts)
        return on_one and sum(map(len, texts)) <= _ONE_LINE


_Writer.add_representer(str, _Writer.text)
_Writer.add_representer(dict, _Writer.mapping)
_Writer.add_representer(list, _Writer.sequence)
