"""The engine as the benches see it: every access to its insides is in this file."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from actors.lm.decoder import Decoder
from actors.lm.image import Dtype, Image, read_image
from actors.lm.model import Model, Part
from actors.lm.prepare import prepare
from actors.lm.request import Request, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from actors.lm.request import Delta


@dataclass(frozen=True, slots=True)
class Setting:
    """How an engine is built. The default is the product's: exact slots, deterministic, chosen kernels."""

    slots: int
    max_rank: int
    kv_nbytes: int
    threads: int = 1
    deterministic: bool = True
    slot_dtype: Dtype = "float32"
    kernels: str = "auto"
    device: str = "cpu"
    dtype: str = "auto"


def load_model(base: str, setting: Setting) -> Model:
    """Load the net alone: no decode thread, the caller's thread computes."""
    return Model.load(base, **_options(setting, but="threads"))


def load_decoder(base: str, setting: Setting) -> Decoder:
    """Load a running decoder; the caller stops it."""
    return Decoder.load(base, **_options(setting))


def sampling(**asked: Any) -> Sampling:
    """Return the sampling that is asked."""
    return Sampling(**asked)


def request(item: str | None, tokens: Sequence[int], max_tokens: int, **asked: Any) -> Request:
    """Return a greedy request, or one with what else is `asked` of its sampling."""
    return Request(
        f"bench-{time.monotonic_ns()}", item, list(tokens), sampling(max_tokens=max_tokens, **asked)
    )


def image_of(adapter: str, base: str, setting: Setting) -> NDArray[np.uint8]:
    """Prepare an adapter for the engine of `setting`."""
    return prepare(adapter, base, setting.max_rank, slot_dtype=setting.slot_dtype).image


def renamed(image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """Return a copy of an image with other values and another source digest, as of another adapter."""
    digest = read_image(image).digest
    copy = image.copy()
    head = 8 + int.from_bytes(image[:8].tobytes(), "little")
    header = image[:head].tobytes().replace(digest.encode(), f"{number:0{len(digest)}x}".encode())
    copy[:head] = np.frombuffer(header, np.uint8)
    # Whole cache lines change places: values stay what they were, and every matrix is another.
    body = copy[head:].reshape(-1, 64)
    body[:] = np.roll(body, number, axis=0)
    return copy


def fill(model: Model, slot: int, image: NDArray[np.uint8]) -> None:
    """Check an image and copy it into a slot of a model that nobody else uses."""
    content = _slot_image(image)
    model.slots.check(content)
    model.slots.fill(slot, content)


def filler(model: Model, image: NDArray[np.uint8]) -> Callable[[int], None]:
    """Return what copies an image, read and checked already, into a slot: what activation comes down to."""
    content = _slot_image(image)
    model.slots.check(content)
    return lambda slot: model.slots.fill(slot, content)


def payload(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the bytes of an image that a slot takes."""
    return _slot_image(image).slot.reshape(-1).view(np.uint8)


def mapped(path: str | Path) -> NDArray[np.uint8]:
    """Return an image file as an array over its pages, as a node offers one that rests on its SSD."""
    return np.asarray(np.memmap(path, np.uint8, mode="r"))


def slot_arrays(model: Model) -> list[NDArray[Any]]:
    """Return the memory of each slot, for a plain copy into the very same place."""
    return [row.view(torch.uint8).numpy() for row in model.slots.arena]


def model_of(decoder: Decoder) -> Model:
    """Return the model of a decoder; its decode thread may be using it."""
    return decoder._model  # noqa: SLF001 -- the benches measure what is inside


def chosen(model: Model) -> dict[str, str]:
    """Return which kernels the engine runs, by what they are for."""
    told: dict[str, str] = {}
    for owner, name in ((model, "kernels"), (model.slots, "chosen"), (model, "grain")):
        value = getattr(owner, name, None)
        if isinstance(value, dict):
            counts: dict[str, list[str]] = {}
            for key, kernel in value.items():
                counts.setdefault(str(kernel), []).append(str(key))
            for kernel, keys in counts.items():
                more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
                told[f"{name} {kernel}"] = ", ".join(keys[:3]) + more
        elif value is not None:
            told[name] = str(value)
    return told


def counts(decoder: Decoder) -> dict[str, float]:
    """Return what the decoder counts of its kept prefixes."""
    stats = decoder.stats()
    names = [each.name for each in fields(stats)]
    return {
        name: getattr(stats, name) for name in names if "prefix" in name or "hit" in name or "kept" in name
    }


def logprobs(delta: Delta) -> tuple[object, ...]:
    """Return what a piece says of the likelihood of its tokens."""
    return tuple(getattr(delta, "logprobs", ()))


class Batch:
    """Sequences on a model of one's own; `step` computes a token of each, again and again.

    Their prompts have one length; positions go round in the `room` behind it, so that all steps cost alike.
    """

    room = 64

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.context = len(prompts[0])
        self._span = self.context + self.room
        self._turn = 0
        with torch.inference_mode():
            for at, tokens in enumerate(prompts):
                model.forward([Part(0, list(tokens), 0, at * self._span, wanted=True)])

    @torch.inference_mode()
    def step(self, slots: Sequence[int]) -> float:
        """Compute one step in which sequence i is served by slots[i]; return its seconds."""
        self._turn = (self._turn + 1) % self.room
        place = self.context + self._turn
        parts = [Part(slot, [7 + at], place, at * self._span, wanted=True) for at, slot in enumerate(slots)]
        began_s = time.perf_counter()
        self.model.forward(parts).argmax(-1).tolist()
        return time.perf_counter() - began_s


@torch.inference_mode()
def greedy(model: Model, prompts: Sequence[Sequence[int]], answer: int) -> list[list[int]]:
    """Continue prompts by the base, all in one batch, each by `answer` tokens; an end token ends nothing."""
    span = max(map(len, prompts)) + answer
    out: list[list[int]] = [[] for _ in prompts]
    for turn in range(answer):
        parts = []
        for at, tokens in enumerate(prompts):
            first, new = (len(tokens) + turn - 1, out[at][-1:]) if turn else (0, list(tokens))
            parts.append(Part(0, new, first, at * span, wanted=True))
        for told, token in zip(out, model.forward(parts).argmax(-1).tolist(), strict=True):
            told.append(token)
    return out


@contextmanager
def inside(model: Model) -> Iterator[list[float]]:
    """Collect the seconds of each call of the transformers model while the block runs."""
    took_s: list[float] = []
    began_s: list[float] = []

    def enter(*_: object) -> None:
        began_s.append(time.perf_counter())

    def leave(*_: object) -> None:
        took_s.append(time.perf_counter() - began_s.pop())

    hooks = [model.net.register_forward_pre_hook(enter), model.net.register_forward_hook(leave)]
    try:
        yield took_s
    finally:
        for hook in hooks:
            hook.remove()


#: the logits after each token of a request, by the last token of its prompt
Logits: TypeAlias = "dict[int, list[Tensor]]"


@contextmanager
def tapped(decoder: Decoder, ends: dict[int, int]) -> Iterator[Logits]:
    """Keep all logits of the requests whose prompts end with the tokens `ends`: token -> prompt's length.

    No other prompt of that length may end with one of these tokens.
    """
    model = model_of(decoder)
    kept: Logits = {end: [] for end in ends}
    #: by KV row: whose it is, and the position of the token that it computes next
    owners: dict[int, tuple[int, int]] = {}
    plain = type(model)

    def forward(self: Model, parts: Sequence[Part], **options: Any) -> Tensor:
        logits = plain.forward(self, parts, **options)
        for row, part in zip(logits, [part for part in parts if part.wanted], strict=True):
            end, stop = part.tokens[-1], part.first + len(part.tokens)
            if ends.get(end) == stop:
                kept[end] = []
            else:
                end, due = owners.pop(part.row, (0, -1))
                if part.first != due:
                    continue
            owners[part.row] = end, stop
            kept[end].append(row.clone())
        return logits

    # The class of a slotted dataclass may be changed for one of the same layout; its method may not be set.
    model.__class__ = type("Tapped", (plain,), {"__slots__": (), "forward": forward})
    try:
        yield kept
    finally:
        model.__class__ = plain


def hollow(config: Any, path: Path) -> None:
    """Write a checkpoint of a config whose weights are a hole in the file: it takes no room on the disk.

    It reads as zeros: `randomise` gives the loaded model weights on its device.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        make: Any = AutoModelForCausalLM.from_config
        state = make(config, dtype=torch.bfloat16).state_dict()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    told, stop = {}, 0
    for name, tensor in state.items():
        if name not in tied:
            told[name] = {
                "dtype": "BF16",
                "shape": list(tensor.shape),
                "data_offsets": [stop, stop + tensor.nbytes],
            }
            stop += tensor.nbytes
    header = json.dumps(told).encode()
    header += b" " * (-len(header) % 8)
    path.mkdir(parents=True, exist_ok=True)
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + stop)
    config.dtype = "bfloat16"
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(path)


@torch.no_grad()
def randomise(decoder: Decoder) -> None:
    """Give a decoder that was loaded from a hollow checkpoint random weights, where they are."""
    model = model_of(decoder)
    for name, weight in model.net.named_parameters():
        weight.fill_(1.0) if "norm" in name else weight.normal_(0.0, 0.02)
    decoder._base_probe = decoder._loop.call(lambda: model.probe(0))  # noqa: SLF001 -- it was of zeros


def _slot_image(image: NDArray[np.uint8]) -> Image:
    content = read_image(image)
    if not isinstance(content, Image):
        raise TypeError(f"the bench measures slots, and {content.digest} is a shadow")
    return content


def _options(setting: Setting, but: str = "") -> dict[str, Any]:
    return {each.name: getattr(setting, each.name) for each in fields(setting) if each.name != but}
