"""A trace: who was asked and when, of what size they are, and how fast bytes travel. JSON lines, no texts."""

import json
import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from placement.errors import UserError
from placement.speed import ASSUMED
from placement.state import Item
from placement.tiers import Tier

VERSION = 1
#: the workload of what a lab wrote; the others are drawn
LOG = "log"
#: what a copy travels over: the disk's reader, and the bus to the engine's device
DISK, BUS = "SSD>RAM", "RAM>VRAM"
HOPS = (DISK, BUS)
_ASSUMED = {DISK: ASSUMED[Tier.SSD, Tier.RAM, True], BUS: ASSUMED[Tier.RAM, Tier.VRAM, True]}
#: as the Machine assumes them; a trace that measured its own says so in its header
SPEEDS: Mapping[str, float] = {hop: nbytes_per_s for hop, (nbytes_per_s, _) in _ASSUMED.items()}
LATENCIES: Mapping[str, float] = {hop: latency_s for hop, (_, latency_s) in _ASSUMED.items()}

_HINT = "a trace is written by a lab, or by `tierce replay --workload NAME --save FILE`"


class Ask(NamedTuple):
    """At `t` seconds `role` is asked, and holds its adapter for `busy_s` once that is ready.

    `after` is who speaks next, where the caller knows and says so.
    """

    t: float
    role: str
    busy_s: float
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Cargo:
    """What moves for a role: its bytes."""

    nbytes: int
    role: str


@dataclass(frozen=True, slots=True)
class Header:
    """All that a replay needs besides the asks.

    `speeds` (bytes per second) and `latencies` (seconds for each copy) are by hop, see HOPS; `slots` are the
    seats of the engine, `ram` the bytes that items may take of main memory, `fixed` those of the base's
    weights and KV cache, 0 if nobody knows. The SSD holds all items.
    """

    workload: str
    seed: int | None
    items: Mapping[Item, Cargo]
    slots: int
    ram: int
    speeds: Mapping[str, float]
    latencies: Mapping[str, float]
    fixed: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """A header and its asks, in the order of their times."""

    header: Header
    asks: tuple[Ask, ...]

    @property
    def lasts_s(self) -> float:
        """Return the seconds from the first ask to the last."""
        return self.asks[-1].t - self.asks[0].t if self.asks else 0.0


def write(trace: Trace) -> Iterator[str]:
    """Yield the lines of a trace, each with its newline."""
    yield head_line(trace.header)
    for ask in trace.asks:
        yield ask_line(ask)


def head_line(head: Header) -> str:
    """Return the first line of a trace, with its newline, as all these."""
    items = {item: {"nbytes": cargo.nbytes, "role": cargo.role} for item, cargo in head.items.items()}
    return _line(
        {
            "tierce_trace": VERSION,
            "workload": head.workload,
            "seed": head.seed,
            "items": items,
            "speeds": dict(head.speeds),
            "latencies": dict(head.latencies),
            "slots": head.slots,
            "ram": head.ram,
            "fixed": head.fixed,
        }
    )


def item_line(item: Item, cargo: Cargo) -> str:
    """Return the line of an item that came after the header."""
    return _line({"item": item, "nbytes": cargo.nbytes, "role": cargo.role})


def ask_line(ask: Ask, **told: object) -> str:
    """Return the line of an ask, with what else is `told` of it."""
    return _line({**ask._asdict(), **told})


def _line(value: Mapping[str, object]) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def read(lines: Iterable[str], name: str) -> Trace:
    """Return the trace that `lines` hold; `name` is said in errors.

    A line with an "item" adds one to the header, in place of the role's earlier one: the last version counts.
    Asks may stand in the order of their ends, as a lab writes them.
    Raises UserError TRC081 for a line that is none (its number, the value, the next step) and TRC082 for a
    trace without a header or without asks.
    """
    header: Header | None = None
    cargo: dict[Item, Cargo] = {}
    item_of: dict[str, Item] = {}
    asks: list[Ask] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        told = _object(line, where)
        if header is None:
            header = _header(told, where)
            cargo = dict(header.items)
            item_of = {of.role: item for item, of in cargo.items()}
        elif "item" in told:
            item = Item(str(told["item"]))
            made = _cargo(item, told, where)
            cargo.pop(item_of.get(made.role, item), None)
            cargo[item], item_of[made.role] = made, item
        else:
            asks.append(_ask(told, item_of, where))
    if header is None:
        raise UserError("TRC082", f"{name} is empty: its first line is the header", _HINT)
    if not asks:
        raise UserError("TRC082", f"{name} has no asks below its header", _HINT)
    return Trace(replace(header, items=cargo), tuple(sorted(asks, key=lambda ask: ask.t)))


def _bad(where: str, what: str) -> UserError:
    return UserError("TRC081", f"{where}: {what}", _HINT)


def _object(line: str, where: str) -> dict[str, object]:
    try:
        told = json.loads(line)
    except ValueError as error:
        raise _bad(where, f"{_short(line.strip())} is not JSON: {error}") from error
    if not isinstance(told, dict):
        raise _bad(where, f"{_short(told)} is not an object")
    return told


def _header(told: dict[str, object], where: str) -> Header:
    if told.get("tierce_trace") != VERSION:
        version = told.get("tierce_trace")
        raise _bad(where, f"the header's tierce_trace is {_short(version)}, and this Tierce reads {VERSION}")
    items = told.get("items")
    if not isinstance(items, dict) or not items:
        raise _bad(where, f"the header's items are {_short(items)}, not an object that names some")
    cargo = {Item(item): _cargo(item, of, where) for item, of in items.items()}
    roles: dict[str, str] = {}
    for item, of in cargo.items():
        if of.role in roles:
            raise _bad(where, f"role {of.role!r} has two items, {roles[of.role]} and {item}")
        roles[of.role] = item
    seed = told.get("seed")
    if seed is not None and not isinstance(seed, int):
        raise _bad(where, f"seed is {_short(seed)}, not a whole number or null")
    total = sum(of.nbytes for of in cargo.values())
    return Header(
        workload=str(told.get("workload", LOG)),
        seed=seed,
        items=cargo,
        slots=int(_number(told.get("slots", 8), "slots", where, least=1)),
        ram=int(_number(told.get("ram", total // 4), "ram", where)),
        speeds={hop: _hop(told, "speeds", hop, SPEEDS, where, least=1) for hop in HOPS},
        latencies={hop: _hop(told, "latencies", hop, LATENCIES, where) for hop in HOPS},
        fixed=int(_number(told.get("fixed", 0), "fixed", where)),
    )


def _cargo(item: str, told: object, where: str) -> Cargo:
    if not isinstance(told, dict):
        raise _bad(where, f"items.{item} is {_short(told)}, not an object with nbytes and role")
    role = told.get("role")
    if not isinstance(role, str) or not role:
        raise _bad(where, f"items.{item}.role is {_short(role)}, not a name")
    return Cargo(int(_number(told.get("nbytes"), f"items.{item}.nbytes", where, least=1)), role)


def _hop(
    told: dict[str, object], key: str, hop: str, else_: Mapping[str, float], where: str, least: float = 0.0
) -> float:
    of = told.get(key, {})
    if not isinstance(of, dict):
        raise _bad(where, f"{key} is {_short(of)}, not an object by hop ({', '.join(HOPS)})")
    return _number(of.get(hop, else_[hop]), f"{key}.{hop}", where, least=least)


def _ask(told: dict[str, object], roles: Container[str], where: str) -> Ask:
    role, after = told.get("role"), told.get("after")
    if role not in roles:
        raise _bad(where, f"role {_short(role)} has no item in the header")
    if after is not None and after not in roles:
        raise _bad(where, f"after {_short(after)} has no item in the header")
    t = _number(told.get("t"), "t", where, least=-math.inf)
    busy_s = _number(told.get("busy_s"), "busy_s", where)
    return Ask(t, str(role), busy_s, None if after is None else str(after))


def _number(value: object, name: str, where: str, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _bad(where, f"{name} is {_short(value)}, not a number")
    if value < least:
        raise _bad(where, f"{name} is {value:g}, and {least:g} is the least")
    return value


def _short(value: object) -> str:
    told = repr(value)
    return told if len(told) <= 60 else f"{told[:57]}…"
