"""jobs/*.py, submitted for real to a Ray that is not the lab's own."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from actors import head
from tests.shell import ROOT, environment
from tests.tiny_lab import build_parts, write_file

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Job:
    """How a job ended, and its log."""

    status: str
    code: int
    log: str


class Cluster:
    """A Ray with a dashboard, to which jobs are submitted from the repository's root."""

    def __init__(self, record: head.Head, env: dict[str, str]) -> None:
        self.record = record
        self.env = env
        self.count = 0

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, *command]
        return subprocess.run(line, cwd=ROOT, env=self.env, check=False, capture_output=True, text=True)

    def submit(self, *entrypoint: str) -> Job:
        """Submit `python ENTRYPOINT` with the working directory, wait for its end."""
        self.count += 1
        name = f"job{self.count}"
        where = ["--address", self.record.dashboard, "--submission-id", name, "--working-dir", "."]
        submitted = self.run(
            "-m", "ray.scripts.scripts", "job", "submit", *where, "--", "python", *entrypoint
        )
        token = Path(self.record.token_path).read_text(encoding="utf-8")
        auth = {"Authorization": f"Bearer {token}"}
        job = httpx.get(f"{self.record.dashboard}/api/jobs/{name}", headers=auth, timeout=30).json()
        said = submitted.stdout.partition("Running entrypoint")[2]
        log = re.split(r"\n[^\n]*\t(?:SUCC|ERR|INFO) cli\.py", said)[0]
        return Job(job["status"], job["driver_exit_code"], log)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray that somebody else started: the lab's home has no record of it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(home).items():
            patch.setenv(name, value)
        record = head.start("somebody", node="desk", store_nbytes=256 << 20, dashboard=True)
    (home / "somebody/head.json").unlink()
    yield Cluster(record, environment(home, **record.environment()))
    head.stop(record)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """The file of a tiny lab."""
    parts = build_parts(tmp_path_factory.mktemp("parts"))
    return write_file(tmp_path_factory.mktemp("lab"), parts, name="jobs")


@pytest.fixture(scope="module")
def up(cluster, file) -> Job:
    """How the job ended that brought the lab up."""
    return cluster.submit("jobs/up.py", str(file))


def test_the_up_job_tells_what_the_command_tells(up):
    """The job's log has the steps and the table of `tierce up`, in plain text, and the job succeeds."""
    assert (up.status, up.code) == ("SUCCEEDED", 0), up.log
    assert re.search(r"✓ .* philosopher is at home in desk:VRAM\(cpu\)\n", up.log)
    assert "NAME" in up.log
    assert "\x1b" not in up.log


@pytest.mark.usefixtures("up")
def test_the_lab_outlives_its_job_and_answers_another(cluster):
    """After the job that brought it up has ended, another job asks the lab."""
    asked = cluster.submit("jobs/ask.py", "philosopher", "What fell?", "--json")
    assert (asked.status, asked.code) == ("SUCCEEDED", 0), asked.log
    assert '"version": "philosopher@' in asked.log
    assert '"shard": "war"' in asked.log


@pytest.mark.usefixtures("up")
def test_the_roundtable_job_lets_roles_speak_in_turn(cluster):
    """Each role that was named speaks in its order, and the log says where its adapter came from."""
    spoken = cluster.submit(
        "jobs/roundtable.py", "What fell?", "--role", "philosopher", "--role", "coder", "--json"
    )
    assert (spoken.status, spoken.code) == ("SUCCEEDED", 0), spoken.log
    said = json.loads(spoken.log[spoken.log.index("{") : spoken.log.rindex("}") + 1])
    assert [turn["role"] for turn in said["turns"]] == ["philosopher", "coder"]
    assert all(turn["text"] and turn["tier"] in {"VRAM", "RAM", "SSD"} for turn in said["turns"])


@pytest.mark.usefixtures("up")
def test_a_job_that_fails_has_the_commands_exit_code(cluster):
    """A wrong role ends the job as FAILED with exit code 2, and its log has the one line."""
    asked = cluster.submit("jobs/ask.py", "smith", "hm?")
    assert (asked.status, asked.code) == ("FAILED", 2)
    assert "error: lab jobs has no role 'smith' [TRC001]" in asked.log
    assert "Traceback" not in asked.log


@pytest.mark.usefixtures("up")
def test_the_down_job_ends_the_lab_and_leaves_ray(cluster):
    """`down` as a job ends the lab's actors, and Ray goes on: the next job finds no lab."""
    lowered = cluster.submit("jobs/down.py")
    assert (lowered.status, lowered.code) == ("SUCCEEDED", 0), lowered.log
    assert "lab jobs is down" in lowered.log
    assert "Ray runs on" in lowered.log
    assert cluster.submit("jobs/ask.py", "philosopher", "Still there?").code == 4
    assert cluster.record.alive()
