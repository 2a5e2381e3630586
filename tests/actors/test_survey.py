"""What is foreseen of an engine from its files is what the engine then takes."""

import pytest

from actors.lm.model import Model
from actors.survey import Foreseen, foreseen_base


@pytest.mark.parametrize("slot_dtype", ["float32", "bfloat16"])
def test_a_slot_on_a_cpu_takes_what_is_foreseen(parts, slot_dtype):
    """A CPU holds its slots in fp32 whatever their images are: the budget is reckoned with that."""
    base = str(parts / "base")
    model = Model.load(
        base,
        device="cpu",
        dtype="float32",
        slots=1,
        max_rank=8,
        kv_nbytes=1 << 20,
        kernels="torch",
        slot_dtype=slot_dtype,
    )
    assert foreseen_base(base, Foreseen("cpu", 1 << 20, 8, slot_dtype)).slot_nbytes == model.slots.nbytes


def test_a_slot_of_bf16_on_a_gpu_takes_about_half(parts):
    """Only a GPU holds slots as their images are."""
    full, half = (
        foreseen_base(str(parts / "base"), Foreseen("cuda:0", 1 << 20, 8, dtype)).slot_nbytes
        for dtype in ("float32", "bfloat16")
    )
    assert 0.5 * full <= half < 0.6 * full
