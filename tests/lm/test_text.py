"""Streamed text: whole characters, no piece of a stop text, and in sum exactly what the tokens say."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

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


def test_an_end_token_gives_no_text_and_ends_the_answer(tokenizer):
    """What was held back as a possible stop text is told then, for nothing can follow."""
    text = Text(tokenizer, ("###",), frozenset({7}))
    pieces = [text.push(token) for token in [*tokenizer.encode("a##", add_special_tokens=False).ids, 7]]
    assert text.stopped
    assert "".join([*pieces, text.end()]) == "a##"


@pytest.mark.parametrize("seed", range(5))
def test_added_tokens_are_told_as_the_tokenizer_decodes_them(world, seed):
    """Special tokens give no text and other added ones their own, wherever they stand."""
    tokenizer = load_tokenizer(str(world.base))
    tokenizer.add_tokens([" mid dle", "<x>"])
    dice = random.Random(seed)
    tokens = [dice.randrange(tokenizer.get_vocab_size()) for _ in range(80)]
    tokens += [tokenizer.token_to_id("<x>"), 2, tokenizer.token_to_id(" mid dle")]
    pieces, _ = told(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)


def sentencepiece():
    """A tokenizer with a few words, which writes all else as bytes."""
    words = [f"▁{word}" for word in ("wisdom", "is", "one", "ok")]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, "▁", "a", "b", "c", "x"]
    tokenizer = Tokenizer(
        models.Unigram([(piece, -float(len(pieces) - len(piece))) for piece in pieces], 0, byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@pytest.mark.parametrize("text", ["wisdom is one", "a  b\n c", "naïve 日本 🏛️ ok", "x"])
def test_words_of_a_sentencepiece_tokenizer_keep_their_spaces(text):
    """A tokenizer whose first word loses its space gives every other word its own."""
    tokenizer = sentencepiece()
    tokens = tokenizer.encode(text).ids
    pieces, _ = told(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)
    assert all("\ufffd" not in piece for piece in pieces)


def test_bytes_that_are_no_character_do_not_stop_the_stream():
    """After a whole character of a byte-fallback tokenizer garbage is told as U+FFFD, and text goes on."""
    tokenizer = sentencepiece()
    tokens = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in ["日".encode()[0], *"日本".encode()]]
    tokens = [*tokens[1:], *[tokens[0]] * 6, tokenizer.token_to_id("▁one")]
    pieces, _ = told(tokenizer, tokens)
    assert "".join(pieces).startswith("日本\ufffd")
    assert "".join(pieces).endswith("\ufffd one")
