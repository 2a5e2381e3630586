"""Messages to tokens by the base model's own chat template; nothing that a user writes acts as control."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from actors.lm.base import read_json
from placement.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import Template
    from jinja2.parser import Parser

#: Unicode noncharacters: they never stand in text, so one of them can mark a cut inside it.
MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))


class Chat:
    """The tokenizer and chat template of the base in `path`; loads neither torch nor transformers.

    Raises UserError LM011 if the base has no readable tokenizer.json or chat template.
    """

    def __init__(self, path: str) -> None:
        root = Path(path)
        self.tokenizer = load_tokenizer(path)
        settings = read_json(root / "tokenizer_config.json")
        self._specials = {
            key: _content(value) for key, value in settings.items() if key.endswith("_token") and value
        }
        self._template = _template(root, settings)
        added = (token.content for token in self.tokenizer.get_added_tokens_decoder().values())
        longest_first = sorted((token for token in added if len(token) > 1), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the prompt for `messages` (role and content each), ending where the answer begins.

        Equal to AutoTokenizer.apply_chat_template(messages, add_generation_prompt=True), except that control
        tokens spelled out in a content ("<|im_end|>") stay plain text. Raises UserError LM012 if the template
        refuses.
        """
        clean = [{**message, "content": _whole(message["content"])} for message in messages]
        spoken = "".join(message["content"] for message in clean)
        mark = next((mark for mark in MARKS if mark not in spoken), None)
        if mark is None:
            raise UserError("LM012", "the messages hold every Unicode noncharacter: this is not text")
        cut = [{**message, "content": self._cut(message["content"], mark)} for message in clean]
        try:
            prompt = self._template.render(
                messages=cut, tools=None, documents=None, add_generation_prompt=True, **self._specials
            )
        except jinja2.TemplateError as error:
            raise UserError("LM012", f"the chat template refuses these messages: {error}") from error
        return [token for part in prompt.split(mark) for token in self._ids(part)]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _cut(self, text: str, mark: str) -> str:
        """Put `mark` after the first character of everything in `text` that reads as a control token."""
        parts, start = [], 0
        while found := self._controls.search(text, start):
            parts.append(text[start : found.start() + 1])
            start = found.start() + 1
        return mark.join([*parts, text[start:]])


def load_tokenizer(path: str) -> Tokenizer:
    """Load tokenizer.json of the base in `path`. Raises UserError LM011 if there is none that can be read."""
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        raise UserError("LM011", f"base model {path} has no tokenizer.json", "save it with a fast tokenizer")
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises it bare
        raise UserError("LM011", f"{file} is no tokenizer: {error}", "copy or download it again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def eos_ids(path: str, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that end an answer.

    They are those of generation_config.json, or of config.json where it names none, and the tokenizer's own.
    """
    root = Path(path)
    generation = root / "generation_config.json"
    told = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if told is None:
        told = read_json(root / "config.json").get("eos_token_id")
    ids = {int(token) for token in (told if isinstance(told, list) else [told]) if token is not None}
    settings = root / "tokenizer_config.json"
    eos = _content(read_json(settings).get("eos_token")) if settings.is_file() else ""
    spelled = tokenizer.token_to_id(eos) if eos else None
    return frozenset(ids if spelled is None else ids | {spelled})


def _template(root: Path, settings: Mapping[str, object]) -> Template:
    file = root / "chat_template.jinja"
    if not file.is_file():
        file = root / "tokenizer_config.json"
    try:
        told = settings.get("chat_template") if file.suffix == ".json" else file.read_text("utf-8")
        if isinstance(told, list):
            told = next((entry["template"] for entry in told if entry["name"] == "default"), None)
        if isinstance(told, str):
            return _environment().from_string(told)
    except (OSError, ValueError, KeyError, TypeError, jinja2.TemplateSyntaxError) as error:
        raise UserError("LM011", f"the chat template in {file} cannot be read: {error}") from error
    raise UserError("LM011", f"base model {root} has no chat template", "use a chat model as the base")


def _content(token: object) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token or "")


def _whole(text: str) -> str:
    """Replace lone surrogates, which no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks answers in training data; here it only renders them."""

    tags = {"generation"}  # noqa: RUF012 -- jinja2's own protocol

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Any) -> str:
        return str(caller())


def _environment() -> ImmutableSandboxedEnvironment:
    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: object, *, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    def strftime_now(form: str) -> str:
        return datetime.now().astimezone().strftime(form)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment
