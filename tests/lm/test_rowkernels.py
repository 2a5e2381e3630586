"""Row kernels on one Linear: PEFT's bits, in fp32 and bf16, with DoRA and without, batched or not."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from actors.lm.adapter import Adapter, Target
from actors.lm.header import Tensor
from actors.lm.image import build_image, read_image
from actors.lm.loader import PIECE_NBYTES
from actors.lm.rowkernels import COUNTS, measure, same_bits
from actors.lm.runs import progressions
from actors.lm.slots import Chunk, Slots
from placement.errors import WorldError

CPU = torch.device("cpu")


class Toy(nn.Module):
    """One Linear with a bias."""

    def __init__(self, dtype=torch.float32, into=96, out=160):
        super().__init__()
        torch.manual_seed(5)
        self.up = nn.Linear(into, out).to(dtype)

    def forward(self, x):
        return self.up(x)


def toy(slots, *, dtype=torch.float32, slot_dtype=torch.float32, **sizes):
    """A Toy with slots of rank up to 16."""
    net = Toy(dtype, **sizes).requires_grad_(requires_grad=False)
    return net, Slots.install(net, slots, 16, CPU, slot_dtype)


def image_of(a, b, scale, g=None, dtype="float32"):
    """The image of an adapter on `up` with these matrices."""
    a, b = (np.ascontiguousarray(matrix, np.float32) for matrix in (a, b))
    data = np.concatenate([a.ravel(), b.ravel()]).view(np.uint8)
    first, second = Tensor("F32", a.shape, 0, a.nbytes), Tensor("F32", b.shape, a.nbytes, data.nbytes)
    target = Target("up", a.shape[0], a.shape[1], b.shape[0], scale, first, second, g)
    return build_image(Adapter("here", "d" * 64, "b" * 64, (target,), (), data, b"{}"), dtype)


def dice(seed, rank=8, into=96, out=160):
    """Random A and B."""
    values = np.random.default_rng(seed)
    return (
        values.normal(size=(rank, into)).astype(np.float32),
        values.normal(size=(out, rank)).astype(np.float32),
    )


def run(net, slots, rows, x):
    """Outputs of rows of the slots `rows`, in their order."""
    order = list(slots.plan(rows).order)
    out = torch.empty(len(rows), net.up.linear.out_features, dtype=x.dtype)
    with torch.inference_mode(), slots.serving([rows[at] for at in order], [], []):
        out[order] = net(x[None, order])[0]
    return out


def dora(dtype):
    """PEFT's own DoRA on a Toy with the image of its matrices and vector."""
    peft = get_peft_model(
        Toy(dtype), LoraConfig(r=8, lora_alpha=11, target_modules=["up"], use_dora=True)
    ).eval()
    layer = peft.base_model.model.up
    lora_a, lora_b, magnitude = (
        part["default"] for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector)
    )
    nn.init.normal_(lora_b.weight)
    nn.init.normal_(magnitude.weight, 1, 0.3)
    with torch.inference_mode():
        product = magnitude.get_lora_weight(lora_a, lora_b)
        norm = magnitude.get_weight_norm(layer.base_layer.weight.float(), product, layer.scaling["default"])
        g = (magnitude.weight / norm).numpy()
    a, b = lora_a.weight.detach().numpy(), lora_b.weight.detach().numpy()
    return peft, image_of(a, b, layer.scaling["default"], g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dora_equals_peft_to_the_bit(dtype):
    """Lone rows, rows beside others and whole chunks give exactly what PEFT's DoRA gives, bias and all."""
    peft, image = dora(dtype)
    net, slots = toy(3, dtype=dtype)
    for slot in (1, 2, 3):
        slots.fill(slot, read_image(image))
    x = torch.randn(6, 96, dtype=dtype)
    with torch.inference_mode():
        theirs = torch.cat([peft(row[None]) for row in x])
        lone = torch.cat([run(net, slots, [1], row[None]) for row in x])
        with slots.serving([], [Chunk(0, 6, 2)], []):
            assert torch.equal(net(x[None])[0], peft(x))
    assert torch.equal(lone, theirs)
    if dtype == torch.float32:
        delta = run(net, slots, [1, 2, 3, 1, 3, 3], x) - run(net, slots, [0] * 6, x)
        torch.testing.assert_close(delta, theirs - run(net, slots, [0] * 6, x))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("slot_dtype", ["float32", "bfloat16"])
def test_a_batched_row_adds_what_a_lone_row_adds(count, slot_dtype):
    """For any number of rows and whatever the scales, to the bit; the base's part is one GEMM in both."""
    net, slots = toy(16, slot_dtype=getattr(torch, slot_dtype))
    slots.batched_from = 2
    for slot in range(1, 17):
        slots.fill(slot, read_image(image_of(*dice(slot), 1 + slot % 3 / 7, dtype=slot_dtype)))
    x = torch.randn(16, 96)
    together = run(net, slots, [*range(1, count + 1), *[0] * (16 - count)], x)
    for at in range(count):
        alone = run(net, slots, [0] * at + [at + 1] + [0] * (15 - at), x)
        assert torch.equal(alone[at], together[at])


def test_a_bfloat16_slot_gives_the_bits_of_its_rounded_values_in_float32():
    """Half the bytes cost the rounding of the values and nothing else."""
    a, b = dice(3)
    net, slots = toy(1, slot_dtype=torch.bfloat16)
    slots.fill(1, read_image(image_of(a, b, 1.7, dtype="bfloat16")))
    wide, fp32 = toy(1)
    a, b = (torch.from_numpy(matrix).bfloat16().float().numpy() for matrix in (a, b))
    fp32.fill(1, read_image(image_of(a, b, 1.7)))
    x = torch.randn(1, 96)
    assert torch.equal(run(net, slots, [1], x), run(wide, fp32, [1], x))


def test_dora_in_bfloat16_gives_the_bits_of_its_rounded_matrices_and_its_whole_vector():
    """The vector stays fp32 in a bf16 image, and whatever the slot held before is gone."""
    a, b = dice(3)
    g = np.random.default_rng(4).normal(1, 0.3, 160).astype(np.float32)
    net, slots = toy(1, slot_dtype=torch.bfloat16)
    slots.fill(1, read_image(image_of(*dice(9, rank=16), 0.4, dtype="bfloat16")))
    slots.fill(1, read_image(image_of(a, b, 1.7, g, dtype="bfloat16")))
    wide, fp32 = toy(1)
    a, b = (torch.from_numpy(matrix).bfloat16().float().numpy() for matrix in (a, b))
    fp32.fill(1, read_image(image_of(a, b, 1.7, g)))
    x = torch.randn(1, 96)
    assert torch.equal(run(net, slots, [1], x), run(wide, fp32, [1], x))


@pytest.mark.parametrize("slot_dtype", [torch.float32, torch.bfloat16])
def test_a_slot_tells_the_bytes_that_it_takes_of_the_device(slot_dtype):
    """On a CPU as many for bf16 images, which are widened: the budget counts what is there."""
    _, slots = toy(3, slot_dtype=slot_dtype)
    assert 3 * slots.nbytes == slots.arena.nbytes == slots.arena.untyped_storage().nbytes()
    assert slots.arena.dtype == torch.float32


def test_an_image_of_another_dtype_must_be_prepared_again():
    """fp32 bits in a bf16 slot would be nonsense: LM004."""
    _, slots = toy(1, slot_dtype=torch.bfloat16)
    with pytest.raises(WorldError, match="float32 for slots of bfloat16") as refused:
        slots.check(read_image(image_of(*dice(1), 1.0)))
    assert refused.value.code == "LM004"


def test_same_bits_tells_what_torch_does():
    """Where torch batches by another loop than it multiplies one row, the answer is no; here as anywhere."""
    for inner, rank in ((64, 2), (64, 16), (96, 3)):
        x, a, b = torch.randn(8, 1, inner), torch.randn(rank, inner).mT, torch.randn(inner, rank).mT
        for factor, matrix in ((x, a), (torch.randn(8, 1, rank), b)):
            batch = torch.bmm(factor, matrix.expand(8, *matrix.shape))
            alike = all(torch.equal(batch[at], torch.mm(factor[at], matrix)) for at in range(8))
            assert alike or not same_bits((inner, rank, inner), CPU)


def test_the_faster_kernel_is_chosen_for_each_count():
    """Each measured count has one of the two."""
    chosen = measure([(64, 96)], 8, CPU, torch.float32)
    assert sorted(chosen) == list(COUNTS)
    assert set(chosen.values()) <= {"mm", "bmm"}


def test_filling_copies_in_pieces_from_memory_that_cannot_be_written():
    """A mapped image needs no copy of its own; `pace` hears of each piece, and what it raises stops it."""
    net, slots = toy(2, into=100_000, out=64)
    image = image_of(*dice(1, 16, 100_000, 64), 1.0)
    image.flags.writeable = False
    content, heard = read_image(image), []
    slots.check(content)
    slots.fill(1, content, heard.append)
    assert sum(heard) == content.slot.nbytes
    assert max(heard) == PIECE_NBYTES
    x = torch.randn(1, 100_000)
    with pytest.raises(ZeroDivisionError):
        slots.fill(2, content, lambda nbytes: nbytes // 0)
    assert torch.equal(run(net, slots, [2], x), run(net, slots, [0], x))
    assert not torch.equal(run(net, slots, [1], x), run(net, slots, [0], x))


@pytest.mark.parametrize(
    ("numbers", "cut"),
    [
        ([3], [(3, 0, 1)]),
        ([1, 2, 3], [(1, 1, 3)]),
        ([1, 3, 5, 6, 7], [(1, 2, 3), (6, 1, 2)]),
        ([1, 2, 4], [(1, 1, 2), (4, 0, 1)]),
        ([], []),
    ],
)
def test_numbers_are_cut_into_progressions(numbers, cut):
    """Each number stands in exactly one progression, and each is as long as it goes."""
    assert list(progressions(numbers)) == cut
