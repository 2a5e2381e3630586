"""The shape of a base model, from its config and the headers of its weights: no tensor is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.lm.header import HEAD_NBYTES, AdapterError, Header, parse_header
from placement.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Images are laid out in steps of 16 floats, so that each matrix begins at a cache line.
ALIGN = 16
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDINGS = {"embed_tokens", "embed_in", "embed_positions", "word_embeddings", "wte", "wpe"}
#: Matrices of a family that are not of an nn.Linear; everywhere `gate` is the router of a mixture of experts.
NO_LINEARS = {"gpt2": {"c_attn", "c_proj", "c_fc", "q_attn"}, "gpt_oss": {"router"}}


@dataclass(frozen=True, slots=True)
class BaseShape:
    """What an adapter is checked against.

    `linears` maps each module that can carry LoRA to (out features, in features). `weights` maps each tensor
    of the checkpoint to (file name, dtype, start, stop): bytes that an adapter may repeat but not change.
    `nbytes` is the size of the weights as stored. `fingerprint` is 64 hex digits over names, shapes and
    dtypes; it ignores the path.
    """

    path: str
    name: str
    fingerprint: str
    linears: Mapping[str, tuple[int, int]]
    weights: Mapping[str, tuple[str, str, int, int]]
    context: int
    vocab: int
    nbytes: int
    tied: bool

    def slot_nbytes(self, max_rank: int) -> int:
        """Return the bytes of one slot: `max_rank` on every Linear of the decoder layers, with DoRA, in fp32.

        The output head is not counted (its vocabulary would double a slot for nothing); an adapter on the
        head is taken when it fits.
        """
        return slot_nbytes(self.linears, max_rank)


def slot_nbytes(linears: Mapping[str, tuple[int, int]], max_rank: int, itemsize: int = 4) -> int:
    """Return the bytes of a slot for `linears` (module -> (out, in)); see `BaseShape.slot_nbytes`.

    Beside its matrices each module has room for the fp32 vector [out] of a DoRA.
    """
    shapes = [shape for module, shape in linears.items() if not is_head(module)]
    floats = [
        aligned(-(-nbytes // 4))
        for out, size in shapes
        for nbytes in (itemsize * max_rank * size, itemsize * max_rank * out, 4 * out)
    ]
    return 4 * sum(floats)


def is_head(module: str) -> bool:
    """Tell whether `module` is the output head, whose width is the vocabulary."""
    return module.rpartition(".")[2] in {"lm_head", "embed_out"}


def aligned(floats: int) -> int:
    """Round a count of floats up to the next cache line."""
    return -(-floats // ALIGN) * ALIGN


def base_shape(path: str) -> BaseShape:
    """Read the shape of the checkpoint in `path`. Raises UserError LM010 if it is not a safetensors model."""
    root = Path(path)
    config = read_json(root / "config.json")
    text = config.get("text_config", config)
    kind = str(config.get("model_type"))
    headers = {file: _header(root / file) for file in _weight_files(root)}
    tensors = {
        key: (file, tensor) for file, header in headers.items() for key, tensor in header.tensors.items()
    }
    linears = {
        _module(key): (tensor.shape[0], tensor.shape[1])
        for key, (_, tensor) in tensors.items()
        if key.endswith(".weight") and len(tensor.shape) == 2 and not _is_other(key, kind)
    }
    tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    embedding = next((key for key in tensors if _is_embedding(key)), "")
    if tied and embedding and "lm_head" not in linears:
        shape = tensors[embedding][1].shape
        linears["lm_head"] = (shape[0], shape[1])
    told = sorted((key, tensor.dtype, tensor.shape) for key, (_, tensor) in tensors.items())
    return BaseShape(
        path=str(root),
        name=str(config.get("_name_or_path") or root.resolve().name),
        fingerprint=hashlib.sha256(json.dumps([config.get("model_type"), told]).encode()).hexdigest(),
        linears=linears,
        weights={
            key: (file, tensor.dtype, tensor.start, tensor.stop) for key, (file, tensor) in tensors.items()
        },
        context=context_of(config, path),
        vocab=int(text.get("vocab_size", 0)),
        nbytes=sum(tensor.stop - tensor.start for _, tensor in tensors.values()),
        tied=tied,
    )


def context_of(config: Mapping[str, Any], path: str) -> int:
    """Return the tokens that prompt and answer may have. Raises UserError LM010 if the config is silent."""
    text = config.get("text_config", config)
    context = text.get("max_position_embeddings", text.get("n_positions"))
    if not isinstance(context, int) or context < 1:
        raise UserError("LM010", f"base model {path}: max_position_embeddings is {context!r} in config.json")
    return context


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of the base model. Raises UserError LM010 if it is missing or is not one."""
    try:
        fields = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("LM010", f"base model: cannot read {file}: {error}") from error
    if not isinstance(fields, dict):
        raise UserError("LM010", f"base model: {file} is not a JSON object")
    return fields


def _weight_files(root: Path) -> list[str]:
    """Return the files that hold the weights, as transformers chooses them, and no others."""
    if (root / WEIGHTS).is_file():
        return [WEIGHTS]
    if (root / INDEX).is_file():
        files = read_json(root / INDEX).get("weight_map")
        if (
            not isinstance(files, dict)
            or not files
            or not all(isinstance(file, str) for file in files.values())
        ):
            raise UserError("LM010", f"base model: {root / INDEX} has no weight_map of tensors to file names")
        return sorted(set(files.values()))
    raise UserError(
        "LM010", f"base model {root} has neither {WEIGHTS} nor {INDEX}", "pickled checkpoints are not loaded"
    )


def _header(file: Path) -> Header:
    try:
        with file.open("rb") as stream:
            return parse_header(stream.read(HEAD_NBYTES), file.stat().st_size, str(file))
    except OSError as error:
        raise UserError("LM010", f"base model: cannot read {file}: {error}") from error
    except AdapterError as error:
        raise UserError("LM010", f"base model: {error.message}", error.hint) from error


def _is_embedding(key: str) -> bool:
    return key.removesuffix(".weight").rpartition(".")[2] in EMBEDDINGS


def _module(key: str) -> str:
    """Return the name of a weight's module in transformers' tree, which renames the head of GPT-NeoX."""
    name = key.removesuffix(".weight")
    return "lm_head" if name == "embed_out" else name


def _is_other(key: str, kind: str) -> bool:
    """Tell whether a matrix of a `kind` of model is not the weight of an nn.Linear."""
    name = key.removesuffix(".weight").rpartition(".")[2]
    expert = ".experts." in key  # one tensor of all experts, once it is loaded
    return expert or name in EMBEDDINGS or name in {"gate", *NO_LINEARS.get(kind, ())}
