"""Applying files to a lab that runs: what is refused, what was cut off, and what breaks it off."""

import asyncio

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file, save_file

from actors import applying, planning
from actors.coordinator import Coordinator
from actors.launch import raise_lab
from actors.proposing import apply_lab, plan_lab
from actors.spec import spec_of
from placement.errors import UserError, WorldError
from tests.tiny_lab import FILE, without_shards

pytestmark = pytest.mark.ray

BROKEN = """\
  extra:
    {{model: {}, device: cpu, slots: 1, max_rank: 8, kv_cache: 1MiB, deterministic: false}}
roles:"""


class Stranger:
    """An actor that no file knows; it ends as a role does."""

    async def close(self, drain_s):
        return drain_s > 0


def actors(lab) -> set[str]:
    """The names of a lab's actors, whatever their incarnations."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return {one["name"].partition("#")[0] for one in named if one["namespace"] == lab.name}


def pids(lab) -> dict[str, int]:
    """The process of each actor."""
    return {member.name: member.pid for member in lab.ps().members}


@pytest.fixture(scope="module")
def text(parts, folder_of):
    """The file of a lab without shards, whose roles name their base."""
    root = folder_of("applied")
    text = FILE.format(name="applied", root=root, parts=parts, idle="10min", slots=3)
    return without_shards(text).replace("persona:", "base: small, persona:")


@pytest.fixture(scope="module")
def applied(make_lab, text):
    """The lab of that file; the tests edit it one after another."""
    return make_lab("applied", text=text)


@pytest.fixture(scope="module")
def broken(parts, tmp_path_factory):
    """A base whose files look well and whose weights are NaN: its engine does not start."""
    folder = tmp_path_factory.mktemp("broken")
    for file in (parts / "base").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    spoilt = {name: np.full_like(tensor, np.nan) for name, tensor in weights.items()}
    save_file(spoilt, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_plan_of_another_moment_is_refused_by_the_lab_itself(lab, folder_of):
    """The coordinator plans once more: with another mark nothing is done."""
    file, before = str(folder_of("shared") / "cluster.yaml"), pids(lab)
    with pytest.raises(WorldError, match="the lab has changed since") as refused:
        apply_lab(file, mark="0" * 64)
    assert refused.value.code == "TRC049"
    assert pids(lab) == before


def test_an_apply_that_was_cut_off_is_completed_by_the_next_one(applied, text, broken, folder_of):
    """What the file changed and the first apply did not come to is done, and who is left over ends."""
    file, before = folder_of("applied") / "cluster.yaml", pids(applied)
    edited = text.replace("You think.", "You doubt.")
    file.write_text(edited.replace("roles:", BROKEN.format(broken)), encoding="utf-8")
    with pytest.raises(UserError, match="NaN") as failed:
        apply_lab(str(file))
    assert failed.value.code == "LM010"
    file.write_text(edited, encoding="utf-8")
    plan = plan_lab(str(file))
    assert plan.unfinished
    assert [f"{act.sign} {act.actor}" for act in plan.acts] == ["- engine:extra"]
    apply_lab(str(file))
    after = pids(applied)
    assert {name for name in before if before[name] != after[name]} == {"role:philosopher"}
    assert "engine:extra" not in actors(applied)
    assert not plan_lab(str(file)).changes_anything


@pytest.mark.soak
def test_a_lab_is_raised_without_strangers(applied, folder_of):
    """An actor that the file does not have, left by an apply before a crash, ends with the next `up`."""
    options = {"namespace": applied.name, "lifetime": "detached", "num_cpus": 0}
    left = [
        ray.remote(Stranger).options(name=name, **options).remote() for name in ("engine:gone", "role:gone")
    ]
    ray.get([each.__ray_ready__.remote() for each in left])
    members = actors(applied) - {"engine:gone", "role:gone"}
    raise_lab(str(folder_of("applied") / "cluster.yaml"))
    assert actors(applied) == members


def test_down_breaks_off_an_apply(tmp_path, monkeypatch):
    """Whoever takes the lab down does not wait for an apply that goes on for long."""

    async def scene() -> bool:
        spec = spec_of("lab: cut\nroles: {}\n", file="f", root=str(tmp_path), home=str(tmp_path), env={})
        coordinator, begun = Coordinator(spec), asyncio.Event()

        async def forever(*_: object, **__: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(planning, "draw", forever)
        work = asyncio.create_task(
            applying.apply(coordinator, spec, "", lambda _: None, forget=False), name="apply"
        )
        await begun.wait()
        await asyncio.wait_for(coordinator.down(), 10)
        await asyncio.wait([work], timeout=10)
        return work.cancelled()

    assert asyncio.run(scene())
