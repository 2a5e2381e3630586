"""The three texts as lists of passages, and the split that keeps some of them out of training.

A passage is a paragraph of the dialogues, a speech of the plays or a whole Python module.
A run is a list of passages that follow one another in the source with none left out between.
"""

from __future__ import annotations

import re
import sysconfig
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

#: A module longer than this is a table more than a program (`_pydecimal`, `pydoc_data`).
LONGEST_MODULE_NBYTES = 100_000
PYTHON_NBYTES = 3_000_000

#: The modules of the standard library that no training sees.
HELDOUT_MODULES = ("bisect", "fnmatch", "reprlib", "sched")
WATCH_MODULES = ("colorsys", "linecache", "queue")

#: Where in each text, as a fraction of its passages, the held-out and the watched passages begin.
HELDOUT_AT = (0.14, 0.39, 0.64, 0.89)
WATCH_AT = (0.06, 0.29, 0.54, 0.79)
TAKEN_NCHARS = 4_800

#: The base sees every second block of this many characters; the adapters see all.
BLOCK_NCHARS = 24_000


@dataclass(frozen=True)
class Domain:
    """One text after the split; no character of `watch` and `heldout` is in `runs`."""

    name: str
    #: All training text: what the adapter of this domain sees.
    runs: list[list[str]]
    #: The part of `runs` that the base sees too.
    base_runs: list[list[str]]
    #: Decides when training stops.
    watch: str
    #: Decides nothing, is only measured; committed under `heldout/`.
    heldout: str


def read_book(path: Path) -> dict[str, list[str]]:
    """The Republic as {heading: paragraphs}: the translator's introduction, then ten books.

    The header and the licence of Project Gutenberg are left out, and each paragraph is on one line.
    """
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    text = re.split(r"\*\*\* START OF TH(?:IS|E) PROJECT GUTENBERG EBOOK THE REPUBLIC \*\*\*", text)[1]
    text = re.split(r"End of (?:the|The) Project Gutenberg EBook|\*\*\* END OF TH", text)[0]
    introduction, dialogue = text.split("\nINTRODUCTION AND ANALYSIS.\n")[1].split(
        "\nPERSONS OF THE DIALOGUE.\n"
    )
    introduction = introduction.removesuffix("THE REPUBLIC.\n\n\n\n")
    parts = re.split(r"\n(BOOK [IVX]+)\.\n", dialogue)
    book = {"INTRODUCTION": paragraphs(introduction)}
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        book[heading] = paragraphs(body)
    return book


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a wrapped text, each on one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def read_speeches(path: Path) -> list[str]:
    """The speeches of the plays in order, each `SPEAKER:` and its lines."""
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    return [part.strip() for part in re.split(r"\n\n+", text) if part.strip()]


def read_modules() -> dict[str, str]:
    """Top-level modules of this interpreter's standard library, by name, up to PYTHON_NBYTES."""
    modules: dict[str, str] = {}
    room = PYTHON_NBYTES
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        # `_sysconfigdata…` holds the paths of the machine that built the interpreter.
        if path.stem.startswith(("_sysconfigdata", "test")) or path.stat().st_size > LONGEST_MODULE_NBYTES:
            continue
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if 0 < len(text) <= room:
            modules[path.stem] = text
            room -= len(text)
    return modules


def read_domains(texts: Path) -> dict[str, Domain]:
    """The three domains, split the same way each time."""
    book = read_book(texts / "republic.txt")
    introduction = book.pop("INTRODUCTION")
    dialogue = [paragraph for body in book.values() for paragraph in body]
    return {
        "dialogues": split_text("dialogues", dialogue, always=[introduction]),
        "python": split_modules(read_modules()),
        "plays": split_text("plays", read_speeches(texts / "tinyshakespeare.txt"), always=[]),
    }


def split_text(name: str, passages: list[str], always: list[list[str]]) -> Domain:
    """Carve the held-out and watched passages out of a text; `always` is more text for the base."""
    runs, heldout = carve([passages], HELDOUT_AT)
    runs, watch = carve(runs, WATCH_AT)
    seen = [run for number, run in enumerate(blocks(runs)) if number % 2]
    return Domain(name, runs, always + seen, "\n\n".join(watch), "\n\n".join(heldout))


def split_modules(modules: dict[str, str]) -> Domain:
    """Hold some modules out whole; the base sees every second one of the rest."""
    apart = HELDOUT_MODULES + WATCH_MODULES
    runs = [[text] for name, text in modules.items() if name not in apart]
    watch = "\n\n\n".join(modules[name] for name in WATCH_MODULES)
    heldout = "\n\n\n".join(modules[name] for name in HELDOUT_MODULES)
    return Domain("python", runs, runs[::2], watch, heldout)


def carve(runs: list[list[str]], starts: tuple[float, ...]) -> tuple[list[list[str]], list[str]]:
    """Take TAKEN_NCHARS characters of passages at each start; return the runs that stay and the taken."""
    owners = [number for number, run in enumerate(runs) for _ in run]
    passages = [passage for run in runs for passage in run]
    taken: set[int] = set()
    for start in starts:
        position, room = int(start * len(passages)), TAKEN_NCHARS
        while room > 0:
            taken.add(position)
            room -= len(passages[position])
            position += 1
    kept = [position for position in range(len(passages)) if position not in taken]
    rest: list[list[str]] = [[passages[kept[0]]]]
    for before, after in pairwise(kept):
        if after != before + 1 or owners[after] != owners[before]:
            rest.append([])
        rest[-1].append(passages[after])
    return rest, [passages[position] for position in sorted(taken)]


def blocks(runs: list[list[str]]) -> list[list[str]]:
    """The runs cut into runs of about BLOCK_NCHARS characters."""
    parts: list[list[str]] = []
    for run in runs:
        room = 0
        for passage in run:
            if room <= 0:
                parts.append([])
                room = BLOCK_NCHARS
            parts[-1].append(passage)
            room -= len(passage)
    return parts
