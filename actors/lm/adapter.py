"""A PEFT adapter directory, read once and checked in full before any of it may reach an engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.lm.base import BaseShape, aligned, base_shape, is_head, slot_nbytes
from actors.lm.dora import gains
from actors.lm.extras import PREFIX, check_finite, check_repeat, check_shadow
from actors.lm.header import HEAD_NBYTES, AdapterError, Header, Tensor, parse_header
from actors.lm.numbers import FLOATS, floats
from actors.lm.peft_config import PeftConfig, check_numbers, config_fields, parse_config
from actors.lm.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from numpy.typing import NDArray

__all__ = ["Adapter", "AdapterError", "BaseShape", "Target", "base_shape", "floats", "read_adapter"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LORA = re.compile(
    r"(?P<module>.+)\.lora_((?P<half>[AB])(\.default)?\.weight|(?P<dora>magnitude_vector)(\.default)?(\.weight)?)"
)
#: What a part of a tensor's name tells of a feature of which the config says nothing.
FEATURES = {
    "modules_to_save": "modules_to_save",
    ".bias": "trained biases",
    "token_adapter": "trainable tokens",
}
NAMED = 5


@dataclass(frozen=True, slots=True)
class Target:
    """One module of the base with its two matrices: a is [rank, in], b is [out, rank], as in the file.

    `dora` is [out], what each output is multiplied by, base and LoRA alike; None without DoRA.
    """

    module: str
    rank: int
    in_features: int
    out_features: int
    scale: float
    a: Tensor
    b: Tensor
    dora: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checked adapter: `digest` is 64 hex digits over its two files, `data` every byte of the weights.

    A slot serves its `targets`; or a shadow does, because of the feature `why`: then there are no targets,
    and `config` (every byte of the config) and `data` go to PEFT as they are.
    """

    path: str
    digest: str
    base: str
    targets: tuple[Target, ...]
    warnings: tuple[str, ...]
    data: NDArray[np.uint8]
    config: bytes
    kind: Literal["slot", "shadow"] = "slot"
    why: str = ""

    @property
    def rank(self) -> int:
        return max(target.rank for target in self.targets)


def read_adapter(path: str, base: BaseShape, *, max_rank: int, itemsize: int = 4) -> Adapter:
    """Read the PEFT directory `path` and check it against `base`, once and completely.

    `itemsize` is that of the slots' numbers, in bytes.
    Raises AdapterError (ADP001 to ADP040) for anything that would not give exactly what PEFT gives: nothing
    is skipped, clipped or guessed. A base of another name but the same shapes is a warning. With DoRA it
    reads the base's files and imports torch.
    """
    root = Path(path)
    try:
        text, data = _files(root, base, max_rank)
    except OSError as error:
        raise AdapterError("ADP030", f"cannot read {error.filename or root}: {error.strerror}") from error
    fields = config_fields(text, str(root / CONFIG))
    why = verdict(fields, str(root / CONFIG))
    name = str(root / WEIGHTS)
    header = parse_header(data[:HEAD_NBYTES].tobytes(), data.nbytes, name)
    if not header.tensors:
        raise AdapterError("ADP015", f"{name} holds no tensor")
    if not why and any("lora_embedding" in key for key in header.tensors):
        why = "LoRA on embeddings"
    targets: tuple[Target, ...] = ()
    if why:
        check_numbers(fields, str(root / CONFIG))
        check_shadow(header, fields, base, data, name)
    else:
        _check_nbytes(data.nbytes, largest_slot_weights(base, max_rank), name)
        targets = _targets(header, parse_config(fields, str(root / CONFIG)), base, data, max_rank, name)
        _check_room(targets, base, max_rank, itemsize, name)
    digest = source_digest(hashlib.sha256(text).hexdigest(), hashlib.sha256(data.data).hexdigest())
    return Adapter(
        path=str(root),
        digest=digest,
        base=base.fingerprint,
        targets=targets,
        warnings=_warnings(root, str(fields.get("base_model_name_or_path") or ""), base),
        data=data,
        config=text,
        kind="shadow" if why else "slot",
        why=why,
    )


def source_digest(config_sha256: str, weights_sha256: str) -> str:
    """Return the digest that names an adapter's source, from those of its two files."""
    manifest = {CONFIG: config_sha256, WEIGHTS: weights_sha256}
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def largest_slot_weights(base: BaseShape, max_rank: int) -> int:
    """Return the bytes that the weights for a slot may have: in fp32 they fill it, twice that is slack."""
    return 2 * base.slot_nbytes(max_rank) + HEAD_NBYTES


def largest_weights(base: BaseShape, max_rank: int) -> int:
    """Return the bytes that the weights of any adapter may have: a shadow may bring modules of its own.

    All modules of a 16-bit base in fp32 are twice the base.
    """
    return largest_slot_weights(base, max_rank) + 2 * base.nbytes


def _files(root: Path, base: BaseShape, max_rank: int) -> tuple[bytes, NDArray[np.uint8]]:
    if not (root / CONFIG).exists():
        found = sorted(file.name for file in root.iterdir())[:NAMED] if root.is_dir() else "no directory"
        raise AdapterError("ADP001", f"no {CONFIG} in {root}: found {found}")
    if not (root / WEIGHTS).exists():
        pickled = (root / "adapter_model.bin").exists()
        hint = (
            "adapter_model.bin is a pickle, which is never loaded: convert it to safetensors"
            if pickled
            else ""
        )
        raise AdapterError("ADP003", f"no {WEIGHTS} in {root}", hint)
    for file in (root / CONFIG, root / WEIGHTS):
        if not stat.S_ISREG(file.stat().st_mode):
            raise AdapterError("ADP030", f"{file} is not a regular file")
    nbytes = (root / WEIGHTS).stat().st_size
    _check_nbytes(nbytes, largest_weights(base, max_rank), str(root / WEIGHTS))
    return (root / CONFIG).read_bytes(), _whole(root / WEIGHTS)


def _check_nbytes(nbytes: int, most: int, name: str) -> None:
    if nbytes > most:
        raise AdapterError("ADP032", f"{name} has {nbytes} bytes, more than the {most} that may serve here")


def _whole(file: Path) -> NDArray[np.uint8]:
    with file.open("rb") as stream:
        before = os.fstat(stream.fileno())
        data = np.fromfile(stream, np.uint8)
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise AdapterError(
            "ADP034", f"{file} changed while it was read", "wait until its writer has finished"
        )
    return data


def _targets(
    header: Header, config: PeftConfig, base: BaseShape, data: NDArray[np.uint8], max_rank: int, name: str
) -> tuple[Target, ...]:
    parts = _parts(header, config, base, data, name)
    _check_named(parts, config, name)
    targets = tuple(_target(module, parts[module], config, base, max_rank) for module in sorted(parts))
    gained = tuple(_gained(target, parts[target.module].get("dora"), base, data, name) for target in targets)
    _check_effect(gained, data, name)
    return gained


def _parts(
    header: Header, config: PeftConfig, base: BaseShape, data: NDArray[np.uint8], name: str
) -> dict[str, dict[str, Tensor]]:
    """Return each module's tensors: A, B and, with DoRA, dora."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in header.tensors.items():
        found = LORA.fullmatch(key.removeprefix(PREFIX))
        if found is None:
            for part, feature in FEATURES.items():
                if part in key:
                    raise AdapterError("ADP023", f"{name}: {key}: {feature} of which {CONFIG} says nothing")
            check_repeat(key, tensor, base, data, name)
            continue
        if found["dora"] and not config.dora:
            raise AdapterError("ADP023", f"{name}: {key} is of DoRA, and {CONFIG} does not say use_dora")
        mine, part = parts.setdefault(found["module"], {}), found["half"] or "dora"
        if part in mine:
            raise AdapterError("ADP010", f"{name}: lora_{part} of {found['module']} stands twice")
        mine[part] = tensor
    unknown = [module for module in parts if module not in base.linears]
    if len(unknown) == len(parts):
        told = f"{unknown[:NAMED]}, the base has {list(base.linears)[:NAMED]}"
        raise AdapterError("ADP021", f"{name}: no module of base {base.name} is touched: it names {told}")
    if unknown:
        raise AdapterError(
            "ADP020", f"{name}: {len(unknown)} modules are not in base {base.name}: {unknown[:NAMED]}"
        )
    return parts


def _check_named(pairs: Mapping[str, object], config: PeftConfig, name: str) -> None:
    unnamed = [module for module in pairs if not config.targets.names(module)]
    if unnamed:
        told = (
            f"{len(unnamed)} of {len(pairs)} modules are not among the config's targets, so PEFT ignores them"
        )
        raise AdapterError("ADP022", f"{name}: {told}: {unnamed[:NAMED]}", f"mend target_modules in {CONFIG}")


def _target(
    module: str, parts: Mapping[str, Tensor], config: PeftConfig, base: BaseShape, max_rank: int
) -> Target:
    if "A" not in parts or "B" not in parts:
        raise AdapterError("ADP016", f"{module} has lora_{', lora_'.join(parts)} alone")
    a, b = parts["A"], parts["B"]
    out_features, in_features = base.linears[module]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise AdapterError("ADP016", f"{module}: lora_A {a.shape} and lora_B {b.shape} do not multiply")
    rank = a.shape[0]
    if rank > max_rank:
        raise AdapterError("ADP017", f"{module}: rank {rank} is over the engine's max_rank {max_rank}")
    if (b.shape[0], a.shape[1]) != (out_features, in_features):
        told = (
            f"the adapter maps {a.shape[1]} to {b.shape[0]}, base {base.name} {in_features} to {out_features}"
        )
        raise AdapterError("ADP024", f"{module}: {told}", "it was trained on another base model")
    if rank != config.rank(module):
        raise AdapterError(
            "ADP019", f"{module}: rank {rank} in the weights, {config.rank(module)} in the config"
        )
    if config.dora and "dora" not in parts:
        raise AdapterError("ADP016", f"{module} has no lora_magnitude_vector, which use_dora needs")
    if config.dora and parts["dora"].shape != (out_features,):
        raise AdapterError(
            "ADP016", f"{module}: lora_magnitude_vector is {parts['dora'].shape}, not ({out_features},)"
        )
    for tensor in parts.values():
        if tensor.dtype not in FLOATS:
            raise AdapterError("ADP036", f"{module}: dtype {tensor.dtype} is not supported")
    return Target(module, rank, in_features, out_features, config.scale(module), a, b)


def _check_room(
    targets: tuple[Target, ...], base: BaseShape, max_rank: int, itemsize: int, name: str
) -> None:
    sizes = [
        nbytes
        for t in targets
        for nbytes in (
            itemsize * t.rank * t.in_features,
            itemsize * t.rank * t.out_features,
            4 * t.out_features if t.dora is not None else 0,
        )
    ]
    nbytes = 4 * sum(aligned(-(-size // 4)) for size in sizes)
    room = slot_nbytes(base.linears, max_rank, itemsize)
    if nbytes > room:
        heads = [target.module for target in targets if is_head(target.module)]
        told = f"{name} takes {nbytes} bytes, a slot of base {base.name} {room} at max_rank {max_rank}"
        beside = f" ({', '.join(heads)} has no room of its own)" if heads else ""
        raise AdapterError("ADP032", told + beside, "raise max_rank of the base, or train fewer modules")


def _gained(
    target: Target, magnitude: Tensor | None, base: BaseShape, data: NDArray[np.uint8], name: str
) -> Target:
    """Check the values of a target; with DoRA, return it with the factors that its magnitudes come to."""
    halves = {"lora_A": floats(data, target.a), "lora_B": floats(data, target.b)}
    for half, values in halves.items():
        check_finite(values, f"{name}: {target.module}.{half}")
    if magnitude is None:
        return target
    length = floats(data, magnitude)
    check_finite(length, f"{name}: {target.module}.lora_magnitude_vector")
    dora = gains(base, target.module, halves["lora_A"], halves["lora_B"], target.scale, length)
    return replace(target, dora=dora)


def _check_effect(targets: tuple[Target, ...], data: NDArray[np.uint8], name: str) -> None:
    for target in targets:
        if target.dora is not None or all(floats(data, half).any() for half in (target.a, target.b)):
            return
    told = "each module has a lora_A or a lora_B of zeros"
    raise AdapterError("ADP037", f"{name} changes nothing: {told}", "is it trained?")


def _warnings(root: Path, trained_on: str, base: BaseShape) -> tuple[str, ...]:
    trained = trained_on.rstrip("/").rpartition("/")[2]
    names = {base.name.rstrip("/").rpartition("/")[2], Path(base.path).resolve().name}
    ignored = [name for name in ("tokenizer.json", "chat_template.jinja") if (root / name).exists()]
    return (
        *(
            [f"trained on {trained_on}, served on {base.name}: same shapes, other name"]
            if trained not in names
            else []
        ),
        *(
            [f"{', '.join(ignored)} of the adapter are ignored: the base's are used [ADP026]"]
            if ignored
            else []
        ),
    )
