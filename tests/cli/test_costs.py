"""What activations cost, summed up and shown beside PEFT; and the demo where it cannot run."""

from pathlib import Path

import pytest

from actors.bench.activations import costs, peft
from actors.bench.peft_load import PeftLoads
from actors.cli.costs import cost_table
from actors.cli.screen import Screen
from actors.journal import Activated
from placement.errors import WorldError

ACTIVATIONS = [
    Activated(at=1.0, item="coder@0b1c", source="RAM", nbytes=2_000_000, total_s=0.020, copy_s=0.004),
    Activated(at=2.0, item="artist@9f8e", source="SSD", nbytes=2_000_000, total_s=0.050, copy_s=0.005),
    Activated(at=3.0, item="coder@0b1c", source="RAM", nbytes=2_000_000, total_s=0.010, copy_s=0.002),
    Activated(at=4.0, item="coder@0b1c", source="SSD", nbytes=2_000_000, total_s=0.040, copy_s=0.002),
    Activated(at=5.0, item="coder@0b1c", source="RAM", nbytes=2_000_000, total_s=0.012, copy_s=0.003),
]


def test_costs_are_summed_up_by_adapter_and_source():
    """Activations of one adapter from one tier are one row: number, median, extremes, time of copying."""
    coder, artist, cold = costs(ACTIVATIONS)
    assert (coder.role, coder.source, coder.times, coder.nbytes) == ("coder", "RAM", 3, 2_000_000)
    assert (coder.median_s, coder.min_s, coder.max_s, coder.copy_s) == (0.012, 0.010, 0.020, 0.003)
    assert (artist.role, artist.source, artist.times) == ("artist", "SSD", 1)
    assert (cold.role, cold.source, cold.median_s) == ("coder", "SSD", 0.040)


def test_peft_stands_below_the_same_adapter(capsys):
    """Each tier's row says how many times as long PEFT takes; PEFT's own row stands below them."""
    load = PeftLoads(times=5, median_s=0.12, min_s=0.1, max_s=0.2)
    Screen().show(cost_table(costs(ACTIVATIONS), {"coder": load}))
    _, ram, ssd, below, artist = capsys.readouterr().out.splitlines()
    assert ram.split()[:3] == ["coder", "RAM", "3"]
    assert "10.0 times as long" in ram
    assert "3.0 times as long" in ssd
    assert "667" in ram.split()
    assert below.split()[:6] == ["coder", "PEFT", "load_adapter", "5", "120.0", "ms"]
    assert "times" not in artist


def test_what_peft_cannot_load_is_an_error(tmp_path):
    """PEFT's own failure is told with its last words, as one typed error."""
    with pytest.raises(WorldError, match=r"PEFT could not load .*no-adapter.* \[TRC070\]"):
        peft(str(tmp_path / "no-base"), str(tmp_path / "no-adapter"), 1)


def test_the_demo_needs_the_example(tierce, monkeypatch, tmp_path):
    """Without the example's file the demo says where it belongs, starts nothing and leaves no folder."""
    import tierce as facade

    monkeypatch.setattr(facade, "__file__", str(tmp_path / "elsewhere/tierce.py"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    done = tierce("demo")
    assert done.code == 2
    assert "there is no cluster.yaml here or beside tierce.py [CFG001]" in done.err
    assert list(Path(tmp_path).iterdir()) == []
