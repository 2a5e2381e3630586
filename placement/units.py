"""Sizes in bytes, times in seconds and shares, as people write them and back."""

import re
from collections.abc import Container
from decimal import Decimal

_SIZES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "pb": 10**15,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "pib": 2**50,
}
_TIMES = {"ms": "0.001", "s": "1", "m": "60", "min": "60", "h": "3600", "d": "86400"}
_AMOUNT = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z%]*)\s*")
_LARGEST = 2**63 - 1


def parse_bytes(text: str) -> int:
    """Return the bytes that `text` says ("24GiB", "1.5 TiB", "24GB" = 24 * 10**9), any letter case.

    Raises ValueError without a unit, below zero, with an exponent, or above 2**63 - 1.
    """
    amount, unit = _split(text, "GiB", _SIZES)
    nbytes = int(amount * _SIZES[unit])
    if nbytes > _LARGEST:
        msg = f"{text!r} is more bytes than a machine can have"
        raise ValueError(msg)
    return nbytes


def parse_seconds(text: str) -> float:
    """Return the seconds that `text` says ("10min", "30s", "500ms", "2h", "1d").

    Raises ValueError without a unit or below zero.
    """
    amount, unit = _split(text, "s", _TIMES)
    return float(amount * Decimal(_TIMES[unit]))


def parse_percent(text: str) -> float:
    """Return the share that `text` says: "92%" is 0.92. Raises ValueError without the % or above 100%."""
    amount, _ = _split(text, "%", "%")
    if amount > 100:
        msg = f"{text!r} is more than 100%"
        raise ValueError(msg)
    return float(amount / 100)


def format_bytes(nbytes: int) -> str:
    """Return `nbytes` with one decimal in the largest binary unit that it fills: "24.0 GiB", "512 B"."""
    amount = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(round(amount, 1)) < 1024:
            return f"{nbytes} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} PiB"


def format_budget(nbytes: int) -> str:
    """Return a size of `nbytes` or a little more, as a person would write it into a file: "24GiB"."""
    unit = next((unit for unit in ("TiB", "GiB", "MiB") if nbytes >= _SIZES[unit.lower()]), "KiB")
    tenths = -(-10 * nbytes // _SIZES[unit.lower()])
    amount = Decimal(-(-tenths // 10) if tenths >= 160 else tenths / Decimal(10))
    return f"{amount.normalize():f}{unit}"


def format_seconds(seconds: float) -> str:
    """Return `seconds` in the largest unit that it fills: "10min", "1.3s", "12ms", "0s"."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        amount = round(seconds / size, 1)
        if amount >= 1:
            return f"{amount:g}{unit}" if amount < 1e5 else f"{amount:.0f}{unit}"
    milliseconds = seconds * 1000
    if milliseconds == 0:
        return "0s"
    return f"{milliseconds:.0f}ms" if milliseconds >= 9.5 else f"{milliseconds:.2g}ms"


def _split(text: str, example: str, units: Container[str]) -> tuple[Decimal, str]:
    """Return the number and the lower-case unit of `text`, or raise ValueError that shows how to write it."""
    found = _AMOUNT.fullmatch(text)
    if found is None:
        msg = f"{text!r} is not a number with a unit, such as 8{example}"
        raise ValueError(msg)
    unit = found[2].lower()
    if not unit:
        msg = f"{text!r} has no unit; write {found[1]}{example}"
        raise ValueError(msg)
    if unit not in units:
        msg = f"unknown unit {found[2]!r} in {text!r}; write {found[1]}{example}"
        raise ValueError(msg)
    return Decimal(found[1]), unit
