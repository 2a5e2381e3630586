"""Kill -9 of each kind of actor, files damaged under a running lab, adapters that cannot serve."""

import json
import os
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from actors.errors import Broken, Unreachable
from placement.errors import TierceError
from tests.waiting import until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def lab(make_lab):
    """A lab of its own, since its actors get killed."""
    return make_lab("faults")


def at_home(lab, name):
    """Tell whether an item is ready where it belongs."""
    thing = lab.ps().thing(name)
    return f"{thing.home} ready" in thing.copies


def pid_of(lab, name):
    """Return the pid of an actor by the lab's own report; 0 while it does not answer."""
    return next(member.pid for member in lab.ps().members if member.name == name)


@contextmanager
def frozen(pid):
    """Stop a process in the middle of whatever it does, and let it go on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def begun(lab, item):
    """Return the commands for an item that the journal says were begun and have not ended."""
    journal = Path(os.environ["TIERCE_HOME"]) / lab.name / "journal.db"
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT item, command FROM intents WHERE ended IS NULL").fetchall()
    return [command for which, command in rows if which.startswith(f"{item}@")]


def test_a_killed_store_comes_back_with_its_ssd_and_its_ram_is_filled_again(lab, kill):
    """Kill -9 of the Store: asks go on, and the new one reads the SSD and fills the RAM homes again."""
    words = lab.ask("coder", "Hello?").text
    old = kill(lab, "store:desk")
    assert lab.ask("philosopher", "Still there?").text
    until(lambda: pid_of(lab, "store:desk") not in {0, old} and at_home(lab, "coder"))
    lab.move("coder", to="SSD")
    lab.move("coder", to="RAM")
    assert lab.ask("coder", "Hello?").text == words


def test_a_store_killed_in_the_middle_of_a_copy_is_copied_from_again(lab):
    """The engine that was taking an image gets an error in place of bytes; the move ends by a second copy."""
    words = lab.ask("artist", "Sing.").text
    lab.move("artist", to="SSD")
    store, engine = pid_of(lab, "store:desk"), pid_of(lab, "engine:small")
    with ThreadPoolExecutor(1) as pool:
        with frozen(engine):
            move = pool.submit(lab.move, "artist", "VRAM")
            until(lambda: begun(lab, "artist"))
            os.kill(store, signal.SIGKILL)
        assert move.result(120).home == "desk:VRAM(cpu)"
    assert lab.ask("artist", "Sing.").text == words
    lab.move("artist", to="SSD")


def test_a_killed_engine_is_filled_again_and_says_the_same(lab, kill):
    """Kill -9 of the Engine.

    The next ask waits for it, then answers in the same words with the same version.
    """
    before = lab.ask("philosopher", "Who are you?")
    kill(lab, "engine:small")
    after = lab.ask("philosopher", "Who are you?")
    assert (after.text, after.version) == (before.text, before.version)


def test_a_stream_of_a_killed_engine_ends_in_a_typed_error(lab, kill):
    """Kill -9 in the middle of an answer: what was sent is not passed off as the whole."""

    def cut_off():
        for number, _ in enumerate(lab.stream("philosopher", "Go on and on.", max_tokens=300)):
            if number == 3:
                kill(lab, "engine:small")

    with pytest.raises(Broken) as broken:
        cut_off()
    assert broken.value.code == "TRC050"


def test_a_killed_shard_loses_no_passage(lab, kill):
    """Kill -9 of a Shard: its log brings back what it had, and the role cites it again."""
    kill(lab, "shard:war")
    until(lambda: at_home(lab, "war"))
    assert lab.ask("philosopher", "When did the wall fall?").citations[0].document == "war.md"


def test_a_killed_role_answers_again(lab, kill):
    """Kill -9 of a Role: it is born again from its spec."""
    kill(lab, "role:artist")

    def answers():
        try:
            return bool(lab.ask("artist", "Sing.").text)
        except Unreachable:
            return False

    until(answers)


def test_a_coordinator_killed_in_the_middle_of_a_move_finishes_it(lab):
    """Kill -9 of the Coordinator while a copy runs: the next one tells of it, and copies anew."""
    words = lab.ask("artist", "Sing.").text
    lab.move("artist", to="SSD")
    epoch, coordinator, store = lab.ps().epoch, pid_of(lab, "coordinator"), pid_of(lab, "store:desk")
    with ThreadPoolExecutor(1) as pool:
        with frozen(store):
            move = pool.submit(lab.move, "artist", "RAM")
            until(lambda: begun(lab, "artist"))
            os.kill(coordinator, signal.SIGKILL)
        move.exception(120)  # its caller may be told that the coordinator is gone
    until(lambda: lab.ps().thing("artist").home == "desk:RAM" and at_home(lab, "artist"))
    assert lab.ps().epoch == epoch + 1
    assert any("cut off by a restart" in line.text for line in lab.story("artist"))
    assert lab.ask("artist", "Sing.").text == words
    lab.move("artist", to="SSD")


def test_a_coordinator_killed_while_roles_answer_is_not_missed(lab, kill):
    """A warm ask is answered while the coordinator is dead; the next one knows the homes and the pins."""
    words = lab.ask("philosopher", "Who?").text
    lab.pin("philosopher")
    kill(lab, "coordinator")
    assert lab.ask("philosopher", "Who?").text == words
    until(lambda: lab.ps().thing("philosopher").tier == "VRAM(cpu)")
    assert lab.ps().thing("philosopher").pinned
    lab.unpin("philosopher")


def test_a_damaged_image_is_set_aside_and_built_again(lab, folder_of):
    """A flipped bit in an SSD image is never served.

    The image is rebuilt from its source and the ask is answered.
    """
    words = lab.ask("artist", "Sing.").text
    lab.move("artist", to="VRAM")
    lab.move("artist", to="SSD")
    image = next((folder_of(lab.name) / "ssd" / "adapters").glob("artist@*.safetensors"))
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    assert lab.ask("artist", "Sing.").text == words
    assert any("built again from its source" in line.text for line in lab.story("artist"))


def test_a_deleted_image_is_built_again_though_nobody_asks(lab, folder_of):
    """A beat that misses a durable copy has it built from its source."""
    image = next((folder_of(lab.name) / "ssd" / "adapters").glob("artist@*.safetensors"))
    image.unlink()
    until(lambda: any("its file was gone; built again" in line.text for line in lab.story("artist")))
    assert image.exists()


def test_a_full_disk_is_told_and_has_its_file_built_again_once_there_is_room(lab, folder_of):
    """The story says what takes the room; others answer on, and what fails is not tried at each beat."""
    adapters = folder_of(lab.name) / "ssd" / "adapters"
    ballast = adapters / "sources" / "ballast" / "file"
    ballast.parent.mkdir(parents=True)
    with ballast.open("wb") as file:
        file.truncate(1 << 30)  # the whole budget; the disk has no byte of it
    image = next(adapters.glob("artist@*.safetensors"))
    began = len(lab.story("artist"))
    image.unlink()

    def told():
        return [line.text for line in lab.story("artist")[began:] if "cannot be built again" in line.text]

    until(told)
    assert lab.ask("coder", "Still there?").text
    assert not image.exists()
    shutil.rmtree(ballast.parent)
    until(image.exists)
    (line,) = told()
    assert "[STO003]" in line
    assert "ballast 1.0 GiB" in line
    assert lab.ask("artist", "Sing.").text


def test_a_bit_that_flipped_in_silence_is_found_by_scrubbing_and_mended(lab, folder_of):
    """Size and time do not tell of it, so nothing else would; its story says what was found."""
    image = next((folder_of(lab.name) / "ssd" / "adapters").glob("artist@*.safetensors"))
    before, content = image.stat(), bytearray(image.read_bytes())
    content[-1] ^= 1
    with image.open("r+b") as stream:
        stream.write(content)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    store = ray.get_actor("store:desk", namespace=lab.name)
    for _ in lab.ps().things:
        ray.get(store.scrub.remote(time.time() + 1))
    until(lambda: any("found damaged by scrubbing" in line.text for line in lab.story("artist")))
    until(lambda: image.exists() and image.read_bytes()[-1] == content[-1] ^ 1)
    assert lab.ask("artist", "Sing.").text


def test_a_killed_embedder_encodes_again(lab, kill):
    """Kill -9 of the Embedder: a role that needs it is answered as soon as it is back."""
    kill(lab, "embedder:desk")

    def answers():
        try:
            return lab.ask("philosopher", "When did the wall fall?").citations[0].document == "war.md"
        except Unreachable:
            return False

    until(answers)


def _edit(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _tensors(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def _wrong_base(folder):
    """Make it an adapter of a base that is wider than ours."""
    _tensors(
        folder,
        lambda state: {
            name: torch.cat([weight, weight], 1).contiguous() if "lora_A" in name else weight
            for name, weight in state.items()
        },
    )


def _match_nothing(folder):
    _tensors(
        folder, lambda state: {name.replace("layers", "blocks"): weight for name, weight in state.items()}
    )


def _silence(folder):
    file = folder / "adapter_model.safetensors"
    save_file(
        {name: weight.zero_() for name, weight in load_file(file).items()}, file, metadata={"format": "pt"}
    )


def _whisper(folder):
    """Make its numbers so small that no engine shows an effect: reading them finds nothing wrong."""
    _tensors(folder, lambda state: {name: weight * 1e-30 for name, weight in state.items()})


SPOILT = {
    "faint": (_whisper, "ADP037"),
    "missing": (shutil.rmtree, "ADP001"),
    "pickled": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x80\x04K\x01."),
        "ADP004",
    ),
    "foreign": (lambda folder: _edit(folder, peft_type="PREFIX_TUNING"), "ADP023"),
    "misfit": (lambda folder: _edit(folder, r=7), "ADP019"),
    "silent": (_silence, "ADP037"),
    "wrong-base": (_wrong_base, "ADP024"),
    "zero-match": (_match_nothing, "ADP021"),
}


@pytest.fixture(scope="module")
def spoilt_lab(make_lab, parts, folder_of):
    """A lab with one good adapter and one of each broken kind, brought up at once."""
    folder = folder_of("spoilt")
    roles = {"good": {"lora_path": str(parts / "coder"), "location": "VRAM"}}
    for name, (spoil, _) in SPOILT.items():
        shutil.copytree(parts / "coder", folder / name)
        spoil(folder / name)
        roles[name] = {"lora_path": str(folder / name), "location": "VRAM"}
    text = {
        "lab": "spoilt",
        "nodes": {
            "desk": {"vram": "64MiB", "ram": "64MiB", "ssd": {"path": str(folder / "ssd"), "budget": "1GiB"}}
        },
        "bases": {
            "small": {
                "model": str(parts / "base"),
                "device": "cpu",
                "slots": 6,
                "max_rank": 8,
                "kv_cache": "8MiB",
            }
        },
        "roles": roles,
    }
    return make_lab("spoilt", text=json.dumps(text))


@pytest.mark.parametrize("name", SPOILT)
def test_an_adapter_that_cannot_serve_is_an_error_at_up_and_at_ask(spoilt_lab, name):
    """A broken adapter fails its own role, with its code in `ps` and in the ask.

    The base never answers for it.
    """
    code = SPOILT[name][1]
    assert code in spoilt_lab.ps().thing(name).problem
    with pytest.raises(TierceError) as refused:
        spoilt_lab.ask(name, "?")
    assert refused.value.code == code


def test_a_broken_adapter_does_not_keep_the_others_from_serving(spoilt_lab):
    """The role whose adapter is whole answers."""
    assert spoilt_lab.ask("good", "?").end.version.startswith("good@")


@pytest.mark.parametrize("name", ["foreign", "faint"], ids=["at its intake", "in its engine"])
def test_an_adapter_that_was_mended_serves_after_up_again(spoilt_lab, make_lab, parts, folder_of, name):
    """`up` reads what failed once more, and its role, which refused every ask, answers.

    Of the version that failed nothing is left.
    """
    with pytest.raises(TierceError):
        spoilt_lab.ask(name, "?")
    shutil.copytree(parts / "coder", folder_of("spoilt") / name, dirs_exist_ok=True)
    lab = make_lab("spoilt")
    words = {role: lab.ask(role, "?", temperature=0.0).text for role in (name, "good")}
    assert words[name] == words["good"]
    assert not lab.ps().thing(name).problem
    images = folder_of("spoilt") / "ssd"
    until(lambda: len([file for file in images.rglob(f"{name}@*") if file.suffix == ".safetensors"]) == 1)
