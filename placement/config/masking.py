"""What must not be printed: the places of a file that hold secrets, and what looks like one anywhere."""

import re
from difflib import SequenceMatcher
from functools import lru_cache

#: The sections whose keys are names that people choose, and say nothing of what is below.
_OF_NAMES = frozenset({"nodes", "bases", "roles", "rag"})
_WORDS = r"(?<!tenant_)(?:key|token|secret|passw(?:or)?d|passphrase|hash|authorization|credentials?)"
_OFTEN = ("api_key", "hash", "token", "secret", "password")
_SECRET_WORD = re.compile(rf"(?i){_WORDS}$")
_ENV_ONLY = re.compile(r"""["']?\$\{\w+\}["']?\s*""")
_KEYED = re.compile(
    rf"""(?ix) {_WORDS} ["']? \s* : \s*
        (?P<value> "(?:[^"\\]|\\.)*"? | '(?:[^']|'')*'? | \[[^\]\n]*\]? | [^,}}\]\s][^,}}\]\n]* )"""
)
_OPEN_KEY = re.compile(rf"""(?i){_WORDS}["']?\s*:\s*(?:[|>][-+0-9]*\s*)?$""")
_SHAPES = (
    re.compile(r"(?P<value>\b(?:sk-|hf_|gh[pousr]_)[\w-]{8,}|(?<=://)[^/\s:@]*:[^/\s@]+(?=@))"),
    re.compile(r"(?i)\bbearer\s+(?P<value>\$\{\w+\}|[\w.~+/=-]{6,})"),
    re.compile(
        r"""(?ix) [?&;] [\w.-]* (?: key | token | secret | passw(?:or)?d | sig(?:nature)? | auth ) =
            (?P<value> \$\{\w+\} | [^&\#\s"']+ )"""
    ),
)


def secret_depth(path: tuple[str | int, ...]) -> int:
    """Return how many parts of `path` lead to a secret, 0 if it leads to none.

    A misspelt word for a secret counts, and so does text that stands where an entry of api_keys belongs.
    """
    for depth, part in enumerate(path, start=1):
        if isinstance(part, str) and not (depth == 2 and path[0] in _OF_NAMES) and _is_secret_word(part):
            return depth
    words = [part for part in path if isinstance(part, str)]
    return len(path) if words and words[-1] == "api_keys" else 0


def holds_secret(written: str) -> bool:
    """Say whether a value of a secret place is one: only `${NAME}` is none, and stays readable."""
    return _ENV_ONLY.fullmatch(written) is None


def mask(line: str, above: str = "") -> str:
    """Return `line` with all that looks like a secret replaced by asterisks of the same length.

    Where the line `above` ends in a key of a secret, this one is its value.
    """
    if _OPEN_KEY.search(above):
        return re.sub(r"\S", "*", line)
    return mask_shapes(_KEYED.sub(_stars, line))


def mask_shapes(text: str) -> str:
    """Return `text` without what looks like a secret by itself: tokens, passwords and keys in addresses."""
    for shape in _SHAPES:
        text = shape.sub(_stars, text)
    return text


def _stars(found: re.Match[str]) -> str:
    value = found["value"]
    if not holds_secret(value):
        return found[0]
    start = found.start("value") - found.start()
    return f"{found[0][:start]}{'*' * len(value)}{found[0][start + len(value) :]}"


@lru_cache(maxsize=4096)
def _is_secret_word(word: str) -> bool:
    if _SECRET_WORD.search(word):
        return True
    if word == "api_keys" or len(word) > 12:
        return False
    return any(SequenceMatcher(None, word.lower(), other).ratio() > 0.8 for other in _OFTEN)
