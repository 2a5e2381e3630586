"""The allowance of a process on a GPU, against a device of the test's."""

from types import SimpleNamespace

import pytest
import torch

from actors.lm.allowance import keep_within

GB = 1 << 30


class Cuda:
    """Two GPUs of 24 and 80 GiB, and what was allowed on which."""

    def __init__(self):
        self.allowed = {}

    def get_device_properties(self, index):
        return SimpleNamespace(total_memory=(24 * GB, 80 * GB)[index])

    def set_per_process_memory_fraction(self, share, index):
        self.allowed[index] = share


@pytest.fixture
def cuda(monkeypatch):
    """A machine on which torch finds two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return Cuda()


@pytest.mark.parametrize(
    ("device", "vram", "allowed"),
    [
        ("auto", 12 * GB, {0: 0.5}),
        ("cuda", 6 * GB, {0: 0.25}),
        ("cuda:1", {"cuda:0": 6 * GB, "cuda:1": 20 * GB}, {1: 0.25}),
        ("cuda:0", 100 * GB, {0: 1.0}),
        ("cuda:1", {"cuda:0": 6 * GB}, {}),
        ("cuda:0", None, {}),
        ("cpu", 6 * GB, {}),
    ],
)
def test_a_process_may_take_its_budget_of_its_device_and_no_more(cuda, device, vram, allowed):
    """The share is budget by memory, on the device that the engine is on; where no budget is told, all."""
    share = keep_within(device, vram, cuda)
    assert cuda.allowed == allowed
    assert share == next(iter(allowed.values()), None)
