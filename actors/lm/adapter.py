"""A PEFT adapter directory, read once and checked in full before any of it may reach an engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.lm.base import BaseShape, aligned, base_shape, is_head
from actors.lm.header import HEAD_NBYTES, AdapterError, Header, Tensor, parse_header
from actors.lm.peft_config import PeftConfig, parse_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Adapter", "AdapterError", "BaseShape", "Target", "base_shape", "floats", "read_adapter"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(\.default)?\.weight")
#: What a part of a tensor's name tells of a feature that slots do not have.
FEATURES = {
    "lora_magnitude_vector": "DoRA",
    "lora_embedding": "LoRA on embeddings",
    "modules_to_save": "modules_to_save",
    ".bias": "trained biases",
    "token_adapter": "trainable tokens",
}
NAMED = 5


@dataclass(frozen=True, slots=True)
class Target:
    """One module of the base with its two matrices: a is [rank, in], b is [out, rank], as in the file.

    `dora` is the vector g [out] of a DoRA module: its magnitudes over the norms of the adapted weights.
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
    """A checked adapter: `digest` is 64 hex digits over its two files, `data` every byte of the weights."""

    path: str
    digest: str
    base: str
    targets: tuple[Target, ...]
    warnings: tuple[str, ...]
    data: NDArray[np.uint8]

    @property
    def rank(self) -> int:
        return max(target.rank for target in self.targets)


def read_adapter(path: str, base: BaseShape, *, max_rank: int) -> Adapter:
    """Read the PEFT directory `path` and check it against `base`, once and completely.

    Raises AdapterError (ADP001 to ADP037) for anything that would not give exactly what PEFT gives: nothing
    is skipped, clipped or guessed. A base of another name but the same shapes is a warning.
    """
    root = Path(path)
    try:
        config_text, data = _files(root, base.slot_nbytes(max_rank))
    except OSError as error:
        raise AdapterError("ADP030", f"cannot read {error.filename or root}: {error.strerror}") from error
    config = parse_config(config_text, str(root / CONFIG))
    name = str(root / WEIGHTS)
    header = parse_header(data[:HEAD_NBYTES].tobytes(), data.nbytes, name)
    if not header.tensors:
        raise AdapterError("ADP015", f"{name} holds no tensor")
    pairs = _pairs(header, base, data, name)
    _check_named(pairs, config, name)
    targets = tuple(_target(module, pairs[module], config, base, max_rank) for module in sorted(pairs))
    _check_room(targets, base, max_rank, name)
    _check_values(targets, data, name)
    digest = source_digest(hashlib.sha256(config_text).hexdigest(), hashlib.sha256(data.data).hexdigest())
    return Adapter(str(root), digest, base.fingerprint, targets, _warnings(root, config, base), data)


def source_digest(config_sha256: str, weights_sha256: str) -> str:
    """Return the digest that names an adapter's source, from those of its two files."""
    manifest = {CONFIG: config_sha256, WEIGHTS: weights_sha256}
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def largest_weights(slot_nbytes: int) -> int:
    """Return the bytes that weights may have at most: in fp32 they fill a slot, twice that is slack."""
    return 2 * slot_nbytes + HEAD_NBYTES


def floats(data: NDArray[np.uint8], tensor: Tensor) -> NDArray[np.float32]:
    """Return the values of `tensor` as float32 of its shape: exact for every dtype that is accepted."""
    raw = data[tensor.start : tensor.stop].tobytes()
    if tensor.dtype == "BF16":
        wide = np.frombuffer(raw, "<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(tensor.shape)
    return (
        np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[tensor.dtype])
        .astype(np.float32)
        .reshape(tensor.shape)
    )


def _files(root: Path, slot_nbytes: int) -> tuple[bytes, NDArray[np.uint8]]:
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
    if nbytes > largest_weights(slot_nbytes):
        raise AdapterError(
            "ADP032", f"{root / WEIGHTS} has {nbytes} bytes, a slot of this base {slot_nbytes}"
        )
    return (root / CONFIG).read_bytes(), _whole(root / WEIGHTS)


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


def _pairs(
    header: Header, base: BaseShape, data: NDArray[np.uint8], name: str
) -> dict[str, dict[str, Tensor]]:
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in header.tensors.items():
        found = LORA.fullmatch(key.removeprefix(PREFIX))
        if found is None or "lora_embedding" in key:
            _check_repeat(key, tensor, base, data, name)
            continue
        halves = pairs.setdefault(found["module"], {})
        if found["half"] in halves:
            raise AdapterError("ADP010", f"{name}: lora_{found['half']} of {found['module']} stands twice")
        halves[found["half"]] = tensor
    unknown = [module for module in pairs if module not in base.linears]
    if len(unknown) == len(pairs):
        told = f"{unknown[:NAMED]}, the base has {list(base.linears)[:NAMED]}"
        raise AdapterError("ADP021", f"{name}: no module of base {base.name} is touched: it names {told}")
    if unknown:
        raise AdapterError(
            "ADP020", f"{name}: {len(unknown)} modules are not in base {base.name}: {unknown[:NAMED]}"
        )
    return pairs


def _check_named(pairs: Mapping[str, object], config: PeftConfig, name: str) -> None:
    unnamed = [module for module in pairs if not config.targets.names(module)]
    if unnamed:
        told = (
            f"{len(unnamed)} of {len(pairs)} modules are not among the config's targets, so PEFT ignores them"
        )
        raise AdapterError("ADP022", f"{name}: {told}: {unnamed[:NAMED]}", f"mend target_modules in {CONFIG}")


def _check_repeat(key: str, tensor: Tensor, base: BaseShape, data: NDArray[np.uint8], name: str) -> None:
    """Let pass only an equal copy of a base weight: PEFT saves such copies beside LoRA on the head."""
    for part, feature in FEATURES.items():
        if part in key:
            raise AdapterError("ADP023", f"{name}: {feature} is not supported ({key})")
    weight = key.removeprefix(PREFIX).replace(".base_layer.", ".")
    if weight == "lm_head.weight" and weight not in base.weights and base.tied:
        weight = next((other for other in base.weights if other.endswith("embed_tokens.weight")), weight)
    if weight not in base.weights:
        raise AdapterError("ADP022", f"{name}: {key} is no LoRA matrix and no weight of base {base.name}")
    file, dtype, start, stop = base.weights[weight]
    try:
        with (Path(base.path) / file).open("rb") as stream:
            stream.seek(start)
            stored = stream.read(stop - start)
    except FileNotFoundError as error:
        told = f"{name}: {key} may repeat a weight of base {base.name}, whose files are not on this node"
        raise AdapterError(
            "ADP023", told, "put the role on the base's node, or save the LoRA alone"
        ) from error
    if dtype != tensor.dtype or stored != data[tensor.start : tensor.stop].tobytes():
        raise AdapterError(
            "ADP023", f"{name}: {key} replaces a weight of base {base.name}; only LoRA is supported"
        )


def _target(
    module: str, halves: Mapping[str, Tensor], config: PeftConfig, base: BaseShape, max_rank: int
) -> Target:
    if len(halves) == 1:
        (half,) = halves
        raise AdapterError("ADP016", f"{module} has lora_{half} alone")
    a, b = halves["A"], halves["B"]
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
    for tensor in (a, b):
        if tensor.dtype not in {"F32", "F16", "BF16"}:
            raise AdapterError("ADP036", f"{module}: dtype {tensor.dtype} is not supported")
    return Target(module, rank, in_features, out_features, config.scale(module), a, b)


def _check_room(targets: tuple[Target, ...], base: BaseShape, max_rank: int, name: str) -> None:
    sizes = [t.rank * features for t in targets for features in (t.in_features, t.out_features)]
    nbytes, room = 4 * sum(map(aligned, sizes)), base.slot_nbytes(max_rank)
    if nbytes > room:
        heads = [target.module for target in targets if is_head(target.module)]
        told = f"{name} takes {nbytes} bytes, a slot of base {base.name} {room} at max_rank {max_rank}"
        beside = f" ({', '.join(heads)} has no room of its own)" if heads else ""
        raise AdapterError("ADP032", told + beside, "raise max_rank of the base, or train fewer modules")


def _check_values(targets: tuple[Target, ...], data: NDArray[np.uint8], name: str) -> None:
    effect = False
    for target in targets:
        halves = {"lora_A": floats(data, target.a), "lora_B": floats(data, target.b)}
        for half, values in halves.items():
            broken = int(np.count_nonzero(~np.isfinite(values)))
            if broken:
                raise AdapterError(
                    "ADP013", f"{name}: {target.module}.{half} has {broken} values that are NaN or Inf"
                )
        effect = effect or all(values.any() for values in halves.values())
    if not effect:
        told = "each module has a lora_A or a lora_B of zeros"
        raise AdapterError("ADP037", f"{name} changes nothing: {told}", "is it trained?")


def _warnings(root: Path, config: PeftConfig, base: BaseShape) -> tuple[str, ...]:
    trained = config.base.rstrip("/").rpartition("/")[2]
    names = {base.name.rstrip("/").rpartition("/")[2], Path(base.path).resolve().name}
    ignored = [name for name in ("tokenizer.json", "chat_template.jinja") if (root / name).exists()]
    return (
        *(
            [f"trained on {config.base}, served on {base.name}: same shapes, other name"]
            if trained not in names
            else []
        ),
        *(
            [f"{', '.join(ignored)} of the adapter are ignored: the base's are used [ADP026]"]
            if ignored
            else []
        ),
    )
