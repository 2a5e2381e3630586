"""Streamed text: whole characters, no piece of a stop text, and in sum exactly what the tokens say."""

import random

import pytest

from actors.lm.chat import load_tokenizer
from actors.lm.text import Text


@pytest.fixture(scope="module")
def tokenizer(world):
    """The byte-level tokenizer of the tiny base."""
    return load_tokenizer(str(world.base))


def told(tokenizer, tokens, *stops):
    """The pieces that a stream of `tokens` tells, and whether a stop text ended it."""
    text, pieces = Text(tokenizer, stops), []
    for token in tokens:
        pieces.append(text.push(token))
        if text.stopped:
            break
    return [*pieces, text.end()], text.stopped


@pytest.mark.parametrize(
    "text", ["wisdom is one", "naïve café", "日本語", "🏛️🏛️", "λόγος\n\n  x", " lead", "a\ufffdb"]
)
def test_pieces_are_whole_characters_and_sum_to_the_text(tokenizer, text):
    """No piece holds a broken character, however the tokens cut it."""
    pieces, _ = told(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids)
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in pieces)


@pytest.mark.parametrize("seed", range(20))
def test_random_tokens_sum_to_what_the_tokenizer_decodes(tokenizer, seed):
    """Even bytes that are no UTF-8 come out once, as the tokenizer itself writes them."""
    dice = random.Random(seed)
    tokens = [dice.randrange(3, 320) for _ in range(60)]
    pieces, _ = told(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)


def test_an_unfinished_character_is_told_at_the_end(tokenizer):
    """An answer cut inside a character ends with U+FFFD, told only once no token can follow."""
    tokens = tokenizer.encode("a🏺", add_special_tokens=False).ids[:-1]
    pieces, _ = told(tokenizer, tokens)
    assert "".join(pieces[:-1]) == "a"
    assert pieces[-1].strip("\ufffd") == ""
    assert pieces[-1]


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("wisdom. User: more", ("User:",), "wisdom. "),
        ("abcabd", ("abd",), "abc"),
        ("one two three", ("three", "two"), "one "),
        ("日本語", ("語",), "日本"),
        ("Us", ("User:",), "Us"),
        ("User", ("User:", "s"), "U"),
    ],
)
def test_a_stop_text_and_what_follows_are_not_told(tokenizer, text, stops, expected):
    """The answer ends before the first stop text; a mere beginning of one is told at the end."""
    pieces, stopped = told(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids, *stops)
    assert "".join(pieces) == expected
    assert stopped == (expected != text)


def test_a_possible_stop_text_is_held_back(tokenizer):
    """Characters that may begin a stop text are told only when it is clear that they do not."""
    text = Text(tokenizer, ("###",))
    pieces = [text.push(token) for token in tokenizer.encode("a##b", add_special_tokens=False).ids]
    assert pieces == ["a", "", "", "##b"]
