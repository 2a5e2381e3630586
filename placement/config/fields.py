"""The kinds of value that a field can hold; each refuses with the code of its problem."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Literal, NoReturn, Self

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from placement.config.cron import cron_fault
from placement.config.problems import did_you_mean, quoted
from placement.config.tree import resolve
from placement.tiers import Tier
from placement.units import format_bytes, parse_bytes, parse_percent, parse_seconds

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
DEVICE = r"auto|cpu|cuda(:[0-9]{1,3})?"
_TIER_NAMES = ("VRAM", "RAM", "SSD", "disk", "network")
_CONTROL_TOKEN = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
_TEMPLATE_NAME = re.compile(r"\{\{-?\s*([A-Za-z_][\w.]*)[^{}]*\}\}|\{%")
_MAX_PERSONA_NBYTES = 64 * 1024


class EnvText(str):
    """Text in which environment variables were replaced; messages show `written`, never the value."""

    __slots__ = ("written",)

    written: str

    def __new__(cls, text: str, written: str) -> Self:
        """Return `text` that remembers how the file wrote it."""
        made = super().__new__(cls, text)
        made.written = written
        return made


def shown(value: object) -> str:
    """Return `value` quoted for a message; a value from the environment is shown as the file wrote it."""
    return quoted(value.written if isinstance(value, EnvText) else value)


def fail(code: str, message: str, *, at: tuple[str | int, ...] = (), offset: int | None = None) -> NoReturn:
    """Refuse a value: `at` is the path below the field, `offset` the character of its text that is wrong."""
    raise PydanticCustomError(code, "{message}", {"message": message, "at": at, "offset": offset})


def _typed(value: object, wanted: str) -> object:
    """Return the value, read as a plain scalar if it came from the environment; refuse text elsewhere."""
    read = resolve(value) if isinstance(value, EnvText) else value
    if isinstance(read, str):
        fail("CFG024", f"{shown(value)} is text; expected {wanted}")
    return read


def _flag(value: object) -> object:
    read = _typed(value, "true or false")
    if isinstance(read, int | float) and not isinstance(read, bool):
        fail("CFG024", f"{shown(value)} is a number; expected true or false")
    return read


def _whole(value: object) -> object:
    read = _typed(value, "a whole number")
    if isinstance(read, bool | float):
        fail("CFG024", f"{shown(value)} is not a whole number")
    return read


def _number(value: object) -> object:
    read = _typed(value, "a number")
    if isinstance(read, bool):
        fail("CFG024", f"{shown(value)} is not a number")
    if isinstance(read, float) and not math.isfinite(read):
        fail("CFG034", f"{shown(value)} is not a finite number")
    return read


def _measured(parse: Callable[[str], float], example: str) -> Callable[[object, ValidationInfo], object]:
    """Return the reader of a quantity with a unit; only code (no context) may pass the bare number."""

    def read(value: object, info: ValidationInfo) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if info.context is None:
                return value
            if value < 0 or not math.isfinite(value):
                fail("CFG023", f"{value} is not a quantity; write one such as {example}")
            fail("CFG023", f"{value:g} of what? write {value:g}{example.lstrip('0123456789')}")
        if not isinstance(value, str):
            fail("CFG022", f"expected a quantity such as {example}")
        try:
            return parse(value)
        except ValueError as error:
            if parse is parse_seconds and value.lstrip().startswith("-"):
                fail("CFG034", f"{shown(value)} is below zero")
            known = f"{shown(value)} is not a quantity such as {example}"
            return fail("CFG023", known if isinstance(value, EnvText) else str(error))

    return read


def _tier(value: object) -> object:
    if not isinstance(value, str):
        fail("CFG021", f"unknown tier {shown(value)}; one of {', '.join(_TIER_NAMES)}")
    try:
        return Tier.parse(value)
    except ValueError:
        return fail("CFG021", f"unknown tier {shown(value)}{did_you_mean(value, _TIER_NAMES)}")


def one_of(what: str, choices: Iterable[str]) -> BeforeValidator:
    """Return the reader of a field that takes one of a few words, with a suggestion for a misspelt one."""
    known = tuple(choices)

    def read(value: object) -> object:
        if isinstance(value, str) and value not in known:
            fail("CFG021", f"unknown {what} {shown(value)}{did_you_mean(value, known)}")
        return value

    return BeforeValidator(read)


def _device(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(DEVICE, value):
        fail("CFG037", f"unknown device {shown(value)}; one of auto, cpu, cuda, cuda:0, cuda:1 …")
    return value


def _cron(value: object) -> object:
    fault = cron_fault(value) if isinstance(value, str) else None
    if fault is not None:
        fail("CFG038", fault.message, offset=None if isinstance(value, EnvText) else fault.offset)
    return value


def _dotted(value: object) -> object:
    if isinstance(value, str) and value != "." and not re.fullmatch(r"[^.\s]+(\.[^.\s]+)*", value):
        fail("CFG022", f"{shown(value)} is not a path such as data.hits, or . for the whole answer")
    return value


def persona_fault(text: str) -> tuple[str, str] | None:
    """Return (code, message) of what is wrong with a persona: CFG071 size, 072 tokens, 073 variables."""
    nbytes = len(text.encode())
    if nbytes > _MAX_PERSONA_NBYTES:
        return "CFG071", f"a persona of {format_bytes(nbytes)}; at most {format_bytes(_MAX_PERSONA_NBYTES)}"
    token = _CONTROL_TOKEN.search(text)
    if token is not None:
        return "CFG072", f"the chat template's control token {quoted(token[0])} cannot be part of a persona"
    variable = _TEMPLATE_NAME.search(text)
    if variable is not None:
        return "CFG073", f"{quoted(variable[0])} is not defined; a persona is plain text without variables"
    return None


def _persona(value: object) -> object:
    fault = persona_fault(value) if isinstance(value, str) else None
    if fault is not None:
        fail(*fault)
    return value


def _home_vram(value: object, info: ValidationInfo) -> object:
    """Read a size, or a size for each device."""
    if not isinstance(value, dict):
        return _room(value, info)
    sizes = {}
    for device, size in value.items():
        if not re.fullmatch(r"cpu|cuda:[0-9]{1,3}", device):
            fail("CFG037", f"unknown device {quoted(device)}; one of cpu, cuda:0, cuda:1 …", at=(device,))
        try:
            sizes[device] = _room(size, info)
        except PydanticCustomError as error:
            fail(error.type, error.message(), at=(device,))
    return sizes


def _room(value: object, info: ValidationInfo) -> object:
    nbytes = _measured(parse_bytes, "24GiB")(value, info)
    if nbytes == 0:
        fail("CFG034", "must be more than 0")
    return nbytes


def _nodes(value: object) -> str | tuple[str, ...]:
    """Read the name of a node, or a list of different ones."""
    if isinstance(value, list | tuple):
        for index, name in enumerate(value):
            if not isinstance(name, str) or not name:
                fail("CFG022", "expected the name of a node", at=(index,))
            if name in value[:index]:
                fail("CFG027", f"{shown(name)} is named twice", at=(index,))
        return tuple(map(str, value)) or fail("CFG022", "is empty; name a node, or take the line out")
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "expected text")
    if not value:
        raise PydanticCustomError("string_too_short", "is empty")
    return str(value)


def _as_read(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Write nodes as they were read: pydantic takes the tuple of such a union for a list, and warns."""
    return value


Text = Annotated[str, Field(min_length=1)]
Nodes = Annotated[str | tuple[str, ...], PlainValidator(_nodes), PlainSerializer(_as_read)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Bytes = Annotated[int, BeforeValidator(_measured(parse_bytes, "24GiB"))]
Vram = Annotated[int | dict[str, int], BeforeValidator(_home_vram)]
Seconds = Annotated[float, BeforeValidator(_measured(parse_seconds, "10s"))]
Share = Annotated[float, BeforeValidator(_measured(parse_percent, "85%"))]
Home = Annotated[Tier, BeforeValidator(_tier)]
Device = Annotated[str, BeforeValidator(_device)]
Cron = Annotated[str, BeforeValidator(_cron)]
Dotted = Annotated[str, BeforeValidator(_dotted)]
Persona = Annotated[str, BeforeValidator(_persona)]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    one_of("dtype", ("auto", "float32", "bfloat16", "float16")),
]
Kernels = Annotated[Literal["auto", "torch"], one_of("kernels", ("auto", "torch"))]
SlotDtype = Annotated[Literal["float32", "bfloat16"], one_of("slot_dtype", ("float32", "bfloat16"))]
