"""From passages, opinions and earlier turns to a prompt that fits the model.

Each source is numbered and cited, and what was left out is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import shorten

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
_LINE_END = re.compile("[\n\r\u2028\u2029]+")


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
class Opinion:
    """What a consulted role answered, and the adapter version that spoke."""

    role: str
    version: str
    text: str


@dataclass(frozen=True, slots=True)
class Consulted:
    """What the mark [n] stands for where a role was consulted; `text` is what stood in the prompt."""

    n: int
    role: str
    version: str
    text: str

    def __str__(self) -> str:
        """Return `[2] critic (critic@3fa9c1d2b0aa): the first words of its answer`."""
        return f"[{self.n}] {self.role} ({self.version}): {shorten(self.text, 72, placeholder=' …')}"


@dataclass(frozen=True, slots=True)
class Said:
    """What a role said earlier at a round table."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages for the model, what each number in them stands for, and a sentence per thing left out."""

    messages: tuple[Message, ...]
    citations: tuple[Citation, ...]
    consulted: tuple[Consulted, ...]
    left_out: tuple[str, ...]


def build(
    persona: str,
    question: str,
    passages: Sequence[Passage],
    *,
    opinions: Sequence[Opinion] = (),
    said: Sequence[Said] = (),
    count: Count,
    context: int,
    max_tokens: int,
) -> Prompt:
    """Put persona, question and what fits beside them into `context - max_tokens` tokens.

    What was said before may take half of what is free, and then what the sources leave: the oldest goes
    first. Opinions come before passages, passages by their score; a passage found by two shards counts once.
    What does not fit is left out and named with its tokens; if no source fits whole, the first is shortened
    at a word. None of it keeps invisible characters, opens a chat role, or passes for another number or
    speaker. Raises UserError RAG002 if persona and question alone are too long.
    """
    draft = _Draft(persona, question, count, context, context - max_tokens)
    bare = draft.used
    if bare > draft.room:
        raise UserError(
            "RAG002",
            f"persona and question take {bare} tokens; {draft.room} are free "
            f"({context} of context, {max_tokens} for the answer)",
            "ask a shorter question, shorten the persona, or lower max_tokens",
        )
    turns = [_Turn(n, one.role, clean(one.text)) for n, one in enumerate(said, 1)]
    turns = draft.recall(turns, bare + (draft.room - bare) // 2)
    sources = [*(_Source(opinion, clean(opinion.text)) for opinion in opinions)]
    sources += [_Source(passage, clean(passage.text)) for passage in _ranked(passages)]
    left_out = [missing for missing in map(draft.add, sources) if missing]
    if left_out and not draft.sources:
        left_out[0] = draft.shorten(sources[0]) or left_out[0]
    turns = draft.recall(turns, draft.room)
    return Prompt(
        tuple(draft.messages()),
        tuple(
            Citation(n, p.shard, p.document, p.heading, p.start, p.end, p.score)
            for n, p, _ in draft.numbered()
            if isinstance(p, Passage)
        ),
        tuple(
            Consulted(n, o.role, o.version, text) for n, o, text in draft.numbered() if isinstance(o, Opinion)
        ),
        (*map(draft.lacks, turns), *left_out),
    )


@dataclass(frozen=True, slots=True)
class _Source:
    origin: Passage | Opinion
    text: str

    def __str__(self) -> str:
        origin = self.origin
        if isinstance(origin, Opinion):
            return f"the answer of {origin.role}"
        return f"{origin.document} {origin.start}-{origin.end} (score {origin.score:.2f})"


@dataclass(frozen=True, slots=True)
class _Turn:
    n: int
    role: str
    text: str

    def __str__(self) -> str:
        return f"turn {self.n}, of {self.role}"


class _Draft:
    """A prompt that grows; `used` of its `room` tokens are taken."""

    def __init__(self, persona: str, question: str, count: Count, context: int, room: int) -> None:
        self.persona, self.question, self.count = persona, question, count
        self.context, self.room = context, room
        self.sources: list[_Source] = []
        self.turns: list[_Turn] = []
        self.used = self._tokens()

    def numbered(self) -> list[tuple[int, Passage | Opinion, str]]:
        """Return (number, origin, text) of each source: first the passages, then the opinions."""
        ranked = sorted(self.sources, key=lambda source: isinstance(source.origin, Opinion))
        return [(n, source.origin, source.text) for n, source in enumerate(ranked, 1)]

    def messages(self) -> list[Message]:
        numbered = self.numbered()
        read = [f"[{n}] {text}" for n, origin, text in numbered if isinstance(origin, Passage)]
        told = [f"[{n}] {o.role}: {text}" for n, o, text in numbered if isinstance(o, Opinion)]
        said = [f"{turn.role}: {_indented(turn.text)}" for turn in self.turns]
        parts = [self.persona] if self.persona else []
        for head, lines in (("Passages", read), ("Answers of other roles", told), ("Said so far", said)):
            if lines:
                parts.append("\n".join((f"{head}:", *lines)))
        system = [{"role": "system", "content": "\n\n".join(parts)}] if parts else []
        return [*system, {"role": "user", "content": self.question}]

    def add(self, source: _Source) -> str:
        """Take a source; return "", or the sentence that says why it does not fit."""
        self.sources.append(source)
        if (tokens := self._tokens()) > self.room:
            self.sources.pop()
            return self._refusal(source, tokens)
        self.used = tokens
        return ""

    def shorten(self, source: _Source) -> str:
        """Take the beginning of a source, up to a word; return the sentence that says so, "" if none fits."""

        def tokens(text: str) -> int:
            self.sources = [_Source(source.origin, text)]
            return self._tokens()

        text, taken = _shortened(source.text, tokens, self.room)
        self.sources = [_Source(source.origin, text)] if text else []
        if not text:
            return ""
        before, self.used = self.used, taken
        return f"{source}: shortened to {len(text)} of {len(source.text)} characters, {taken - before} tokens"

    def recall(self, turns: list[_Turn], limit: int) -> list[_Turn]:
        """Put turns before those that are in, the newest first, while they fit; return those that do not."""
        while turns:
            self.turns.insert(0, turns[-1])
            if (tokens := self._tokens()) > limit:
                del self.turns[0]
                break
            self.used, turns = tokens, turns[:-1]
        return turns

    def lacks(self, turn: _Turn) -> str:
        """Return the sentence that says why a turn is not in."""
        self.turns.insert(0, turn)
        tokens = self._tokens()
        del self.turns[0]
        return self._refusal(turn, tokens)

    def _refusal(self, what: _Source | _Turn, tokens: int) -> str:
        free = self.room - self.used
        return f"{what}: needs {tokens - self.used} tokens, {free} of {self.context} are free"

    def _tokens(self) -> int:
        return self.count(self.messages())


def clean(text: str) -> str:
    """Return the text as a reader sees it, with `<|` made `< |`, and `[3]` that begins a line made `(3)`."""
    seen = _INVISIBLE.sub("", text)
    return _FAKE_NUMBER.sub(r"\1(\2)", _CHAT_MARK.sub("< ", seen)).strip()


def _indented(text: str) -> str:
    """Return text whose later lines are set in, so that none of them begins like another speaker's turn."""
    return _LINE_END.sub("\n  ", text)


def _ranked(passages: Sequence[Passage]) -> list[Passage]:
    """Best score first, a stable order among equals, each span of a document once."""
    ranked: dict[tuple[str, int, int, str], Passage] = {}
    for passage in sorted(passages, key=lambda p: (-p.score, p.document, p.start, p.shard)):
        ranked.setdefault((passage.document, passage.start, passage.end, passage.text), passage)
    return list(ranked.values())


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
