"""What a Role sends back while it answers: passages, then text, then one end."""

from dataclasses import dataclass, field
from html import escape

from actors.rag.prompt import Citation, Consulted


@dataclass(frozen=True, slots=True)
class Activation:
    """What it cost to bring the adapter into its slot for this answer.

    `source` is the tier that the bytes came from ("RAM", "SSD", "network"); `total_s` runs from the want to
    the grant, `copy_s` is the part of it that moved bytes.
    """

    source: str
    nbytes: int
    total_s: float
    copy_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """The passages and the answers of other roles that stand in the prompt, and what was left out of it."""

    citations: tuple[Citation, ...]
    left_out: tuple[str, ...]
    search_s: float
    consulted: tuple[Consulted, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the answer's text, in order."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The one terminal event of an answer that was given whole."""

    role: str
    version: str
    finish: str
    tokens: int
    prompt_tokens: int
    first_token_s: float
    total_s: float
    activation: Activation | None


Event = Found | Piece | End


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its text, the sources that it may cite, and which weights spoke."""

    text: str
    found: Found
    end: End
    question: str = field(default="")

    @property
    def citations(self) -> tuple[Citation, ...]:
        return self.found.citations

    @property
    def consulted(self) -> tuple[Consulted, ...]:
        return self.found.consulted

    @property
    def sources(self) -> tuple[Citation | Consulted, ...]:
        """Passages and consulted roles, in the order of their numbers."""
        return (*self.citations, *self.consulted)

    @property
    def left_out(self) -> tuple[str, ...]:
        return self.found.left_out

    @property
    def version(self) -> str:
        return self.end.version

    def __str__(self) -> str:
        sources = "".join(f"\n  {source}" for source in self.sources)
        return f"{self.text}{sources}"

    def _repr_html_(self) -> str:
        sources = "".join(f"<div><code>{escape(str(source))}</code></div>" for source in self.sources)
        end = self.end
        came = f", adapter from {end.activation.source}" if end.activation else ""
        return (
            f"<blockquote style='white-space:pre-wrap'>{escape(self.text)}</blockquote>{sources}"
            f"<small>{escape(end.version)}{came} · {end.tokens} tokens in {end.total_s:.2f} s</small>"
        )
