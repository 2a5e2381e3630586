"""adapter_config.json as PEFT means it: which modules, and each module's rank and scale."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.lm.base import is_head
from actors.lm.header import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CONFIG_NBYTES = 1 << 20
MAX_RANK = 4096
MAX_ALPHA = 1e6
#: PEFT's word for every Linear but the output head.
ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class Targets:
    """Which modules the adapter is for: `modules` is one pattern, or names or ends of names, as `exclude` is.

    `layers` and `layers_patterns` keep a list to some layers; None is all of them.
    """

    modules: str | tuple[str, ...]
    exclude: str | tuple[str, ...]
    layers: tuple[int, ...] | None
    layers_patterns: tuple[str, ...]

    def names(self, module: str) -> bool:
        """Tell whether PEFT would put LoRA on `module`; as `peft`'s `check_target_module_exists` does."""
        if _among(self.exclude, module):
            return False
        if isinstance(self.modules, str) and self.modules.lower() == ALL_LINEAR:
            return not is_head(module)
        if not _among(self.modules, module):
            return False
        if self.layers is None or module in self.modules:
            return True
        starts = [rf"(?:^|.*?\.){pattern}" for pattern in self.layers_patterns] or [r".*?\.[^.]*"]
        matches = (re.match(rf"{start}\.(?P<layer>\d+)\.", module) for start in starts)
        found = next((match for match in matches if match), None)
        return found is not None and int(found["layer"]) in self.layers


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The part of an adapter's config that this engine uses. Module names are those of the base model."""

    r: int
    alpha: float
    rslora: bool
    dora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: Targets

    def rank(self, module: str) -> int:
        """Return the rank that the config gives to `module`."""
        return self.rank_pattern.get(_key(self.rank_pattern, module), self.r)

    def scale(self, module: str) -> float:
        """Return alpha / r, or alpha / sqrt(r) with rsLoRA, each resolved for `module`."""
        alpha = self.alpha_pattern.get(_key(self.alpha_pattern, module), self.alpha)
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def parse_config(fields: Mapping[str, object], name: str) -> PeftConfig:
    """Read the fields of a LoRA from a config called `name`. Raises AdapterError ADP002, ADP017 or ADP018."""
    ranks = _pattern(fields, "rank_pattern", name)
    alphas = _pattern(fields, "alpha_pattern", name)
    return PeftConfig(
        r=_rank("r", fields.get("r", 8), name),
        alpha=_alpha("lora_alpha", fields.get("lora_alpha", 8), name),
        rslora=bool(fields.get("use_rslora")),
        dora=bool(fields.get("use_dora")),
        rank_pattern={key: _rank(f"rank_pattern {key}", rank, name) for key, rank in ranks.items()},
        alpha_pattern={key: _alpha(f"alpha_pattern {key}", alpha, name) for key, alpha in alphas.items()},
        targets=_targets(fields, name),
    )


def check_numbers(fields: Mapping[str, object], name: str) -> None:
    """Check what a shadow's config says of ranks and alphas, before PEFT makes room for them.

    Raises AdapterError ADP002, ADP017 or ADP018.
    """
    for field in ("r", "init_r", "target_r"):
        if isinstance(fields.get(field), int) and fields[field] != 0:
            _rank(field, fields[field], name)
    if fields.get("lora_alpha") is not None:
        _alpha("lora_alpha", fields["lora_alpha"], name)
    for key, rank in _pattern(fields, "rank_pattern", name).items():
        if not isinstance(rank, list):  # AdaLoRA lists the ranks that it kept
            _rank(f"rank_pattern {key}", rank, name)
    for key, alpha in _pattern(fields, "alpha_pattern", name).items():
        _alpha(f"alpha_pattern {key}", alpha, name)


def _targets(fields: Mapping[str, object], name: str) -> Targets:
    modules = _names(fields, "target_modules", name)
    layers, patterns = fields.get("layers_to_transform"), _names(fields, "layers_pattern", name)
    if not modules:
        raise AdapterError("ADP002", f"{name}: target_modules names nothing", "write the modules it is for")
    if isinstance(modules, str) and (layers is not None or fields.get("layers_pattern") is not None):
        raise AdapterError("ADP002", f"{name}: layers_to_transform or layers_pattern beside a pattern")
    if patterns and layers is None:
        raise AdapterError("ADP002", f"{name}: layers_pattern without layers_to_transform")
    told = layers if isinstance(layers, list) else [] if layers is None else [layers]
    indexes = [layer for layer in told if type(layer) is int]
    if len(indexes) != len(told):
        raise AdapterError("ADP002", f"{name}: layers_to_transform is {layers!r}, not numbers of layers")
    return Targets(
        modules,
        _names(fields, "exclude_modules", name),
        tuple(indexes) or None,
        (patterns,) if isinstance(patterns, str) else patterns,
    )


def _names(fields: Mapping[str, object], field: str, name: str) -> str | tuple[str, ...]:
    """Return the pattern or the names that `field` holds; () if it holds none."""
    told = fields.get(field) or []
    if isinstance(told, str) and field != "layers_pattern":
        return _compiled(told, field, name)
    if isinstance(told, str):
        told = [told]
    if not isinstance(told, list) or not all(isinstance(each, str) for each in told):
        raise AdapterError("ADP002", f"{name}: {field} is {told!r}, neither a pattern nor a list of names")
    if field == "layers_pattern":
        for each in told:
            _compiled(rf"(?:^|.*?\.){each}\.(?P<layer>\d+)\.", field, name)
    return tuple(told)


def _rank(field: str, value: object, name: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise AdapterError("ADP017", f"{name}: {field} is {value!r}, not a rank of 1 to {MAX_RANK}")
    return value


def _alpha(field: str, value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < abs(value) <= MAX_ALPHA:
        raise AdapterError("ADP018", f"{name}: {field} is {value!r}, not a usable alpha")
    return float(value)


def config_fields(text: bytes, name: str) -> dict[str, object]:
    """Read adapter_config.json, called `name`. Raises AdapterError ADP002 unless it is one JSON object."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) != len(pairs):
            raise AdapterError("ADP002", f"{name} has a key twice: {[key for key, _ in pairs]}")
        return dict(pairs)

    def refuse(literal: str) -> float:
        raise AdapterError("ADP002", f"{name} holds {literal}, which is not JSON")

    if len(text) > MAX_CONFIG_NBYTES:
        raise AdapterError("ADP002", f"{name} has {len(text)} bytes, more than {MAX_CONFIG_NBYTES}")
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise AdapterError("ADP002", f"{name} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise AdapterError("ADP002", f"{name} is not a JSON object")
    return fields


def _pattern(fields: Mapping[str, object], field: str, name: str) -> dict[str, object]:
    pattern = fields.get(field) or {}
    if not isinstance(pattern, dict):
        raise AdapterError("ADP002", f"{name}: {field} is not an object")
    for key in pattern:
        _compiled(rf"(.*\.)?({key})$", field, name)
    return pattern


def _compiled(pattern: str, field: str, name: str) -> str:
    """Return `pattern`, which is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise AdapterError("ADP002", f"{name}: {field}: {pattern!r} is not a pattern: {error}") from error
    return pattern


def _among(names: str | tuple[str, ...], module: str) -> bool:
    """Tell whether a pattern matches `module` whole, or a list has it or an end of it."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _key(pattern: Mapping[str, object], module: str) -> str:
    """Return the first key that matches the end of `module`, as `peft.utils.get_pattern_key` does."""
    return next((key for key in pattern if re.match(rf"(.*\.)?({key})$", module)), module)
