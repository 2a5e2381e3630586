"""What is wrong with a file, and where: one line each, with the source line kept and its secrets masked."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal

from placement.config.masking import holds_secret, mask, mask_shapes, secret_depth
from placement.errors import UserError

Path = tuple[str | int, ...]

_WINDOW = 120
_LINE_END = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A position in a text; lines and columns are counted from 1."""

    line: int
    col: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to repair (`error`) or to know (`warning`). `line` 0: the problem has no place in a text."""

    code: str
    message: str
    path: str = ""
    name: str = ""
    line: int = 0
    col: int = 0
    source: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        """Return `cluster.yaml:14:7 roles.coder.location: unknown tier 'vrm' [CFG021]`."""
        where = f"{self.name}:{self.line}:{self.col}" if self.line else self.name
        head = " ".join(part for part in (where, self.path) if part)
        return f"{head}: {self.message} [{self.code}]" if head else f"{self.message} [{self.code}]"

    def snippet(self) -> str:
        """Return the source line with a caret below the place, or "" when there is no source line."""
        if not self.source:
            return ""
        start = max(0, self.col - 1 - _WINDOW // 2) if len(self.source) > _WINDOW else 0
        shown = self.source[start : start + _WINDOW]
        gutter = f"  {self.line} | "
        return f"{gutter}{shown}\n{' ' * (len(gutter) - 2)}| {' ' * (self.col - 1 - start)}^"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem at a path, not yet at a line. `on_key`: it is about the key, else about the value."""

    code: str
    path: Path
    message: str
    on_key: bool = False
    warning: bool = False
    offset: int | None = field(default=None, compare=False)


class ConfigError(UserError):
    """A file that cannot be used. `problems` holds all errors and warnings of the file, sorted by line."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        errors = [problem for problem in problems if problem.severity == "error"]
        super().__init__(errors[0].code, "\n".join(str(problem) for problem in errors))
        self.problems = problems

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[tuple[Problem, ...]]]:
        """Pickle by the problems, from which everything else follows."""
        return type(self), (self.problems,)

    def __str__(self) -> str:
        """Return one line for each error; each line ends in its own code."""
        return self.message


class Source:
    """The text of a file under a name, which turns a place in it into a problem with its line.

    `hide` says where secrets are; until `parsed`, lines are also masked by what stands above them.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.lines = _LINE_END.split(text)
        self.parsed = False
        self._hidden: dict[int, list[tuple[int, int]]] = {}
        self._shown: dict[int, str] = {}

    def hide(self, mark: Mark, written: str) -> None:
        """Never show what is `written` at `mark`, a secret; before any problem is made."""
        if not holds_secret(written):
            return
        start = mark.col - 1
        for number, part in enumerate(_LINE_END.split(written), start=mark.line):
            self._hidden.setdefault(number, []).append((start, start + len(part)))
            start = 0

    def problem(
        self,
        code: str,
        message: str,
        mark: Mark,
        path: Path = (),
        *,
        warning: bool = False,
    ) -> Problem:
        """Return the problem `code` at `mark`, with the source line and without its secrets."""
        severity: Literal["error", "warning"] = "warning" if warning else "error"
        where = dotted(path[: secret_depth(path) or len(path)])
        said, line = printable(mask_shapes(message)), self._line(mark.line)
        return Problem(code, said, where, self.name, mark.line, mark.col, line, severity)

    def _line(self, number: int) -> str:
        if not 0 < number <= len(self.lines):
            return ""
        if number not in self._shown:
            shown = list(self.lines[number - 1])
            for start, end in self._hidden.get(number, ()):
                shown[start:end] = ["*" if c.isprintable() and c != " " else c for c in shown[start:end]]
            above = "" if self.parsed or number == 1 else self.lines[number - 2]
            self._shown[number] = printable(mask("".join(shown), above))
        return self._shown[number]


def dotted(path: Path) -> str:
    """Return `roles.coder.rag[0]` for a path; a name that is not plain text is quoted."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif re.fullmatch(r"[\w:-]+", part):
            out += f".{part}" if out else part
        else:
            out += f"[{quoted(part)}]"
    return out


def quoted(value: object) -> str:
    """Return `value` quoted for a message, shortened and free of control characters."""
    text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def printable(line: str) -> str:
    """Return `line` of the same length with tabs shown as arrows and control characters as dots."""
    return "".join("→" if c == "\t" else c if c.isprintable() else "·" for c in line)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice most like `word`, whatever its letter case, or None if none is like it."""
    return _nearest(word.lower(), tuple(choices))


@lru_cache(maxsize=1024)
def _nearest(word: str, choices: tuple[str, ...]) -> str | None:
    known = {choice.lower(): choice for choice in choices}
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return known[near[0]] if near else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'vram'?" for the nearest choice, in the case of `word`; else the choices."""
    known = tuple(choices)
    near = nearest(word, known)
    if near is not None:
        return f"; did you mean '{near.lower() if word.islower() else near}'?"
    return f"; one of {', '.join(known)}" if known else ""


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems sorted by place, each (code, place, message) once."""
    seen = {(p.line, p.col, p.code, p.message, "" if p.line else p.path): p for p in reversed(list(problems))}
    return tuple(seen[key] for key in sorted(seen))
