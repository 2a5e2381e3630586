"""What others do with the same checkpoint and adapters: PEFT, and transformers' two ways to generate."""

from __future__ import annotations

import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from actors.bench.shapes import EOS, prompt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from peft import PeftModel

    from actors.bench.plan import Plan
    from actors.bench.shapes import Made

Prompts = "Sequence[Sequence[int]]"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' own warnings and progress bars off the screen: the table is what is asked for."""
    told = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(told)


def base(path: str, dtype: str, attention: str = "sdpa") -> Any:
    """Load the checkpoint as a user of transformers does."""
    with quiet():
        net = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation=attention, local_files_only=True
        )
    return net.train(mode=False)


def faster_dtype(path: str, dtypes: Iterable[str], prompts: Sequence[Sequence[int]]) -> str:
    """Return in which of `dtypes` transformers answers these prompts sooner here, by two tokens of each.

    A CPU without a unit for bf16 takes several times as long in it as in fp32.
    """
    took_s = {}
    for dtype in dtypes:
        net = base(path, dtype)
        generate(net, prompts[:1], 1)
        began_s = time.perf_counter()
        generate(net, prompts, 2)
        took_s[dtype] = time.perf_counter() - began_s
    return min(took_s, key=took_s.__getitem__)


def peers_dtype(plan: Plan, made: Made, batch: int) -> str:
    """Return the dtype in which transformers is faster here: beside that one ours must stand."""
    if made.shape.dtype == "float32":
        return "float32"
    plan.tell(f"which of float32 and {made.shape.dtype} suits transformers here")
    asked = [prompt(made.shape, made.shape.prompt, 100 + at) for at in range(batch)]
    return faster_dtype(made.base, ("float32", made.shape.dtype), asked)


class Peft:
    """The base with adapters in PEFT's hands, named a0, a1 …; the first of them is active."""

    def __init__(self, path: str, adapters: Sequence[str], dtype: str) -> None:
        from peft import PeftModel

        with quiet():
            self.net: PeftModel = PeftModel.from_pretrained(base(path, dtype), adapters[0], adapter_name="a0")
            for at, adapter in enumerate(adapters[1:], 1):
                self.net.load_adapter(adapter, adapter_name=f"a{at}")
        self.net.train(mode=False)
        self.count = len(adapters)

    def load(self, adapter: str) -> None:
        with quiet():
            self.net.load_adapter(adapter, adapter_name="one-more")

    def forget(self) -> None:
        with quiet():
            self.net.delete_adapter("one-more")

    def activate(self, at: int) -> None:
        self.net.set_adapter(f"a{at}", inference_mode=True)

    def swap(self, adapter: str) -> None:
        """Put an adapter in the place of a0."""
        from peft.utils.hotswap import hotswap_adapter

        with quiet():
            hotswap_adapter(self.net, adapter, "a0", torch_device="cpu")

    def mixed(self, prompts: Sequence[Sequence[int]], answer: int) -> list[list[int]]:
        """Answer all prompts in one batch, prompt i with adapter i of those there are."""
        names = [f"a{at % self.count}" for at in range(len(prompts))]
        return generate(self.net, prompts, answer, adapter_names=names)

    def by_role(self, prompts: Sequence[Sequence[int]], answer: int) -> list[list[int]]:
        """Answer role by role: activate an adapter, answer its prompts in one batch, activate the next."""
        out: list[list[int]] = []
        for at in range(self.count):
            self.activate(at)
            out += generate(self.net, prompts[at :: self.count], answer)
        return out


def generate(net: Any, prompts: Sequence[Sequence[int]], answer: int, **more: Any) -> list[list[int]]:
    """Continue prompts greedily by exactly `answer` tokens, in one batch that is padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[EOS] * (longest - len(tokens)) + list(tokens) for tokens in prompts])
    mask = torch.tensor([[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in prompts])
    with quiet(), torch.inference_mode():
        out = net.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=answer,
            min_new_tokens=answer,
            do_sample=False,
            pad_token_id=EOS,
            **more,
        )
    return [list(map(int, row)) for row in out[:, ids.shape[1] :]]


class Continuous:
    """transformers' continuous batching with one manager for many batches, as a server would keep it."""

    def __init__(self, path: str, dtype: str, *, answer: int, tokens: int) -> None:
        from transformers import ContinuousBatchingConfig

        self._net = base(path, dtype)
        greedy = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=answer, do_sample=False, eos_token_id=-1, pad_token_id=EOS
        )
        page = 16
        room = ContinuousBatchingConfig(
            page_size=page, num_blocks=-(-2 * tokens // page), max_batch_tokens=256, allow_block_sharing=False
        )
        with quiet():
            self._manager = self._net.init_continuous_batching(
                generation_config=greedy, continuous_batching_config=room
            )
            self._manager.start()
        self._answer = answer

    def run(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Answer all prompts. Raises RuntimeError if the manager's thread ends before they are answered."""
        asked = self._manager.add_requests([list(tokens) for tokens in prompts], max_new_tokens=self._answer)
        done: dict[str, list[int]] = {}
        while len(done) < len(asked):
            result = self._manager.get_result(timeout=1.0)
            if result is not None and result.is_finished():
                done[result.request_id] = list(result.generated_tokens)
            elif not self._manager.is_running():
                raise RuntimeError("continuous batching stopped")
        return [done[name] for name in asked]

    def stop(self) -> None:
        with quiet():
            self._manager.stop(block=True)
