"""Each job is its command: the same options, told by the same help."""

import subprocess
import sys

import pytest

from tests.shell import ROOT, tierce

JOBS = sorted((ROOT / "jobs").glob("*.py"))


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_a_job_takes_what_its_command_takes(job, tmp_path):
    """`python jobs/X.py --help` is the help of `tierce X`."""
    helped = subprocess.run(
        [sys.executable, str(job), "--help"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert helped.stdout == tierce(tmp_path, job.stem, "--help").stdout
    assert f"Usage: tierce {job.stem}" in helped.stdout
