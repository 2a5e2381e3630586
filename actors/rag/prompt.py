"""From passages to a prompt that fits the model, with citations, and with a word on what was left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from placement.errors import UserError

Message = dict[str, str]
#: How many tokens the model's own chat template makes of the messages.
Count = Callable[[list[Message]], int]

#: Zero-width, bidirectional, tag and other invisible characters: a reader cannot see what they say.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
#: The beginnings of `<|im_start|>`, `<s>`, `</s>`: what tokenizers take for control tokens.
_CHAT_MARK = re.compile(r"<(?=\||/?s>)")
#: A number where that of a passage stands: at the beginning of a line. Elsewhere it is text, as in `x[0]`.
_FAKE_NUMBER = re.compile(r"(?:^|(?<=[\n\r\u2028\u2029]))([^\S\n]*)\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Passage:
    """A found chunk: the characters [start, end) of `document`; `score` is the cosine with the question."""

    text: str
    document: str
    heading: str
    start: int
    end: int
    score: float
    shard: str


@dataclass(frozen=True, slots=True)
class Citation:
    """What the answer's mark [n] stands for; `start` and `end` are characters of the document."""

    n: int
    shard: str
    document: str
    heading: str
    start: int
    end: int
    score: float

    def __str__(self) -> str:
        """Return `[1] plato/republic-04.md 0.83 chars 120-560 Book IV`."""
        where = f"{self.shard}/{self.document} {self.score:.2f} chars {self.start}-{self.end}"
        return f"[{self.n}] {where} {self.heading}".rstrip()


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages for the model, the citation of each passage in them, and a sentence per passage left out."""

    messages: tuple[Message, ...]
    citations: tuple[Citation, ...]
    left_out: tuple[str, ...]


def build(
    persona: str,
    question: str,
    passages: Sequence[Passage],
    *,
    count: Count,
    context: int,
    max_tokens: int,
) -> Prompt:
    """Put persona, question and as many passages as fit into `context - max_tokens` tokens, best score first.

    A passage found by two shards counts once. One that does not fit is left out and named with its tokens;
    if none fits whole, the best is shortened at a word. Passages lose invisible characters and cannot open a
    chat role or pass for another number. Raises UserError RAG002 if persona and question alone are too long.
    """
    room = context - max_tokens
    bare = count(_messages(persona, question, []))
    if bare > room:
        raise UserError(
            "RAG002",
            f"persona and question take {bare} tokens; {room} are free "
            f"({context} of context, {max_tokens} for the answer)",
            "ask a shorter question, shorten the persona, or lower max_tokens",
        )
    taken: list[Passage] = []
    texts: list[str] = []
    left_out: list[str] = []
    used = bare
    for passage in _ranked(passages):
        text = clean(passage.text)
        tokens = count(_messages(persona, question, [*texts, text]))
        if tokens > room:
            left_out.append(
                f"{_label(passage)}: needs {tokens - used} tokens, {room - used} of {context} are free"
            )
            continue
        taken.append(passage)
        texts.append(text)
        used = tokens
    if not taken and left_out:
        best = _ranked(passages)[0]
        text, tokens = _shortened(
            clean(best.text), lambda part: count(_messages(persona, question, [part])), room
        )
        if text:
            taken, texts = [best], [text]
            whole, part = len(clean(best.text)), len(text)
            left_out[0] = f"{_label(best)}: shortened to {part} of {whole} characters, {tokens - bare} tokens"
    citations = tuple(
        Citation(n, p.shard, p.document, p.heading, p.start, p.end, p.score) for n, p in enumerate(taken, 1)
    )
    return Prompt(tuple(_messages(persona, question, texts)), citations, tuple(left_out))


def clean(text: str) -> str:
    """Return the text as a reader sees it, with `<|` made `< |`, and `[3]` that begins a line made `(3)`."""
    seen = _INVISIBLE.sub("", text)
    return _FAKE_NUMBER.sub(r"\1(\2)", _CHAT_MARK.sub("< ", seen)).strip()


def _messages(persona: str, question: str, texts: list[str]) -> list[Message]:
    numbered = "\n".join(f"[{n}] {text}" for n, text in enumerate(texts, 1))
    system = "\n\n".join(part for part in (persona, f"Passages:\n{numbered}" if texts else "") if part)
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": question}]


def _ranked(passages: Sequence[Passage]) -> list[Passage]:
    """Best score first, a stable order among equals, each span of a document once."""
    ranked: dict[tuple[str, int, int, str], Passage] = {}
    for passage in sorted(passages, key=lambda p: (-p.score, p.document, p.start, p.shard)):
        ranked.setdefault((passage.document, passage.start, passage.end, passage.text), passage)
    return list(ranked.values())


def _label(passage: Passage) -> str:
    return f"{passage.document} {passage.start}-{passage.end} (score {passage.score:.2f})"


def _shortened(text: str, tokens: Callable[[str], int], room: int) -> tuple[str, int]:
    """The longest beginning of `text` that ends at a word and fits, with its tokens; ("", 0) if none does."""
    ends = [match.start() for match in re.finditer(r"\s+", text)]
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if tokens(text[: ends[middle - 1]]) <= room:
            low = middle
        else:
            high = middle - 1
    kept = text[: ends[low - 1]] if low else ""
    return kept, tokens(kept) if kept else 0
