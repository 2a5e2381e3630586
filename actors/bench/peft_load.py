"""What the usual way costs: `load_adapter` of PEFT, on the base and adapter that the lab activated.

python -m actors.bench.peft_load BASE ADAPTER --times 9

Prints one JSON object, seconds. The base's modules are wrapped before, by a first load that is not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class PeftLoads:
    """Seconds that `load_adapter` took."""

    times: int
    median_s: float
    min_s: float
    max_s: float


def measure(base: str, adapter: str, *, times: int) -> PeftLoads:
    """Wrap the base once, then load the adapter and delete it `times` times, on one thread of the CPU."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = PeftModel.from_pretrained(model, adapter, adapter_name="first")
    took_s = []
    for n in range(times):
        began_s = time.perf_counter()
        wrapped.load_adapter(adapter, adapter_name=f"again{n}")
        took_s.append(time.perf_counter() - began_s)
        wrapped.delete_adapter(f"again{n}")
    return PeftLoads(times, statistics.median(took_s), min(took_s), max(took_s))


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(description="Time PEFT's load_adapter.")
    parser.add_argument("base", help="directory of the base model")
    parser.add_argument("adapter", help="directory of the adapter")
    parser.add_argument("--times", type=int, default=9)
    asked = parser.parse_args()
    print(json.dumps(asdict(measure(asked.base, asked.adapter, times=asked.times))))  # noqa: T201


if __name__ == "__main__":
    main()
