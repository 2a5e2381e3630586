"""What was measured is remembered: the same kernels after a restart, whatever the noise says."""

import json

import pytest
import torch

from actors.lm import fit, measured, slots
from actors.lm.kernels import library
from actors.lm.measured import Measured, conditions, recall, settle
from actors.lm.model import Model

SIZES = {"slots": 1, "max_rank": 16, "kv_nbytes": 1 << 20}
UNDER = {"cpu": "one", "threads": 1}
NOW = Measured({"8 x 4": {"torch": {1: 0.5, 8: 1 / 3}}}, {1: "mm", 8: "bmm"})


def load(world, folder, **options):
    """A model of the base that keeps what it measures in `folder`."""
    return Model.load(str(world.base), device="cpu", dtype="auto", kept=str(folder), **SIZES | options)


def only(folder):
    """The one file in a folder."""
    (file,) = folder.iterdir()
    return file


def untimed(*_):
    """Takes the place of what measures, and must not be asked."""
    raise AssertionError("it is known and must not be measured")


def test_a_second_start_measures_nothing_and_chooses_the_same(world, tmp_path, monkeypatch):
    """Base kernels, grain and row kernels follow from the times of the first start."""
    first = load(world, tmp_path / "kernels", deterministic=True)
    monkeypatch.setattr(fit, "_time", untimed)
    monkeypatch.setattr(slots, "measure", untimed)
    second = load(world, tmp_path / "kernels", deterministic=True)
    assert (first.measured, second.measured) == ("measured", "remembered")
    assert second.kernels == first.kernels
    assert second.grain == first.grain
    assert second.kernel_times_s == first.kernel_times_s
    assert second.slots.chosen == first.slots.chosen
    assert second.slots.batched_from == first.slots.batched_from


@pytest.mark.skipif(len(library()) < 2, reason="one kernel leaves no choice")
def test_what_is_remembered_decides(world, tmp_path):
    """Where the file says that another kernel was faster, that one is run."""
    first = load(world, tmp_path)
    file, wanted = only(tmp_path), library()[-1].name
    told = json.loads(file.read_text())
    for by_name in told["times_s"].values():
        for name, times in by_name.items():
            times.update(dict.fromkeys(times, 1e-9 if name == wanted else 1.0))
    told["ways"] = dict.fromkeys(told["ways"], "mm")
    file.write_text(json.dumps(told))
    second = load(world, tmp_path)
    assert set(second.kernels.values()) == {wanted}
    assert set(second.slots.chosen.values()) == {"mm"}
    assert (first.measured, second.measured) == ("measured", "remembered")


@pytest.mark.parametrize(
    "changed", [{"deterministic": True}, {"slot_dtype": "bfloat16"}, {"kernels": "torch"}]
)
def test_another_way_to_load_a_base_is_measured_for_itself(world, tmp_path, changed):
    """Each has a file of its own, and neither takes the other's."""
    load(world, tmp_path)
    assert load(world, tmp_path, **changed).measured == "measured"
    assert load(world, tmp_path, **changed).measured == "remembered"
    assert load(world, tmp_path).measured == "remembered"
    assert len([*tmp_path.iterdir()]) == 2


def test_times_hold_for_the_threads_and_the_cpu_they_were_measured_with(monkeypatch):
    """One more thread, or another CPU or torch, are other conditions."""
    net, device = torch.nn.Linear(4, 8), torch.device("cpu")
    told = conditions(net, torch.float32, device, deterministic=True)
    assert told == json.loads(json.dumps(told))
    changes = (
        (torch, "get_num_threads", lambda: 7),
        (measured, "processor", lambda: "another"),
        (torch, "__version__", "9.9"),
    )
    for place, name, value in changes:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            assert conditions(net, torch.float32, device, deterministic=True) != told


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
    "a list": lambda _: "[1, 2]",
    "other fields": lambda _: '{"times_s": {}, "ways": 7, "conditions": {}}',
    "another CPU": lambda text: text.replace('"one"', '"two"'),
    "negative": lambda text: text.replace("0.5", "-0.5"),
    "no number": lambda text: text.replace("0.5", "NaN"),
    "no such way": lambda text: text.replace('"mm"', '"sideways"'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_file_tells_nothing_and_is_replaced(tmp_path, damage):
    """Cut, empty, of another CPU or with nonsense in it: measured anew, and whole again."""
    assert settle(tmp_path, UNDER, Measured(), NOW) == "measured"
    file = only(tmp_path)
    assert recall(tmp_path, UNDER) == NOW
    file.write_text(damage(file.read_text()))
    known = recall(tmp_path, UNDER)
    assert known == Measured()
    assert settle(tmp_path, UNDER, known, NOW) == "measured"
    assert recall(tmp_path, UNDER) == NOW
    assert only(tmp_path) == file


def test_times_that_lack_a_kernel_are_measured_anew(world, tmp_path):
    """Of another build, or of a base whose weights that kernel could not hold."""
    load(world, tmp_path)
    file = only(tmp_path)
    told = json.loads(file.read_text())
    for by_name in told["times_s"].values():
        by_name.pop("torch")
    file.write_text(json.dumps(told))
    assert load(world, tmp_path).measured == "measured"
    assert load(world, tmp_path).measured == "remembered"


def test_a_folder_that_cannot_be_made_stops_no_engine_and_is_told(world, tmp_path):
    """The base is served with what was measured now, and stats say why the next start measures again."""
    (tmp_path / "file").write_text("no folder")
    model = load(world, tmp_path / "file" / "kernels")
    assert model.measured.startswith("measured; cannot keep in ")
    assert "Not a directory" in model.measured


def test_without_a_folder_each_start_measures():
    """A bench or a test measures for itself."""
    assert settle(None, UNDER, recall(None, UNDER), NOW) == "measured"
