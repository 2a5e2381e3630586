"""A Ray head of our own: started on loopback for one lab, recorded, and stopped exactly as recorded."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from placement.errors import WorldError

START_S = 120.0
STOP_S = 30.0
POLL_S = 0.1
#: Ray resolves 127.0.0.1 to the machine's outward address; another loopback address it leaves alone.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
MIN_STORE_NBYTES = 80 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """The record of a head that we started.

    `created` is the process's start time, so that a reused pid is not ours.
    """

    lab: str
    address: str
    pid: int
    created: float
    temp_dir: str
    token_path: str
    dashboard: str

    def alive(self) -> bool:
        """Say whether the very process that was recorded still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def environment(self) -> dict[str, str]:
        """Return what a process must have set to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.token_path}


def home() -> Path:
    """Return the folder of everything that Tierce keeps on this machine (TIERCE_HOME, else ~/.tierce)."""
    return Path(os.environ.get("TIERCE_HOME") or "~/.tierce").expanduser().resolve()


def lab_home(lab: str) -> Path:
    """Return (and make, mode 0700) the folder of one lab's state on this machine."""
    folder = home() / lab
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextlib.contextmanager
def alone(lab: str) -> Iterator[None]:
    """Hold a lab's lock on this machine, waiting for it: two `up`s at once would start two heads."""
    with (lab_home(lab) / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def heads() -> list[Head]:
    """Return the recorded heads that still run, by lab name."""
    found = []
    for record in sorted(home().glob("*/head.json")):
        head = Head(**json.loads(record.read_text(encoding="utf-8")))
        if head.alive():
            found.append(head)
    return found


def start(lab: str, *, node: str, store_nbytes: int, dashboard: bool) -> Head:
    """Start a Ray head for `lab` with our label, our token and our temp dir; return its record.

    Raises WorldError TRC042 with the end of Ray's own output if it does not come up in time.
    """
    folder = lab_home(lab)
    token_path = folder / "token"
    write_secret(token_path, secrets.token_hex(32))
    temp_dir = tempfile.mkdtemp(prefix="tierce-")  # short: the paths of Ray's sockets may have 107 bytes
    log = folder / "head.log"
    arguments = [
        "--head", "--block", f"--node-ip-address={LOOPBACK}", "--port=0",
        "--dashboard-host=127.0.0.1", "--dashboard-port=0", f"--include-dashboard={str(dashboard).lower()}",
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
        f"--labels=tierce/node={node}", f"--object-store-memory={max(store_nbytes, MIN_STORE_NBYTES)}",
        f"--temp-dir={temp_dir}", "--disable-usage-stats",
    ]  # fmt: skip
    pid = _spawn(arguments, log, token_path)
    try:
        said = _wait_until_up(pid, log)
        head = Head(
            lab=lab,
            address=_after(said, "ray start --address='"),
            pid=pid,
            created=psutil.Process(pid).create_time(),
            temp_dir=temp_dir,
            token_path=str(token_path),
            dashboard=_after(said, "RAY_API_SERVER_ADDRESS='") if dashboard else "",
        )
    except BaseException:  # Ctrl-C too: what is not recorded could never be stopped
        _end(_session(pid))
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise
    (folder / "head.json").write_text(json.dumps(asdict(head)), encoding="utf-8")
    return head


def _spawn(arguments: list[str], log: Path, token_path: Path) -> int:
    """Run `ray start` in a session of its own, detached from this process; return its pid.

    Its PATH begins with this Python, so that the `python` of a job is the one that has Tierce.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    }
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), write, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    return os.posix_spawn(sys.executable, command, environment, file_actions=files, setsid=True)


def _wait_until_up(pid: int, log: Path) -> str:
    """Return what `ray start` said once Ray runs."""
    give_up = time.monotonic() + START_S
    while True:
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if "Ray runtime started" in said:
            return said
        if os.waitpid(pid, os.WNOHANG) != (0, 0) or time.monotonic() > give_up:
            raise WorldError("TRC042", f"Ray did not start: {said.strip()[-600:]}", f"its output is in {log}")
        time.sleep(POLL_S)


def stop(head: Head) -> int:
    """End the recorded head and every process of its session, and remove its temp dir; return how many ended.

    Raises WorldError TRC043 if some stay.
    """
    session = _session(head.pid) if head.alive() else []
    stayed = _end(session)
    (home() / head.lab / "head.json").unlink(missing_ok=True)
    if stayed:
        raise WorldError(
            "TRC043", f"processes {[process.pid for process in stayed]} of lab {head.lab} did not end"
        )
    shutil.rmtree(head.temp_dir, ignore_errors=True)
    return len(session)


def _end(session: list[psutil.Process]) -> list[psutil.Process]:
    """Ask the leader of a session to end it, then kill what is left; return what did not even end by that."""
    for process in session:
        if process.pid == _sid(process.pid):
            _signal(process, signal.SIGTERM)
    _, left = psutil.wait_procs(session, timeout=STOP_S)
    for process in left:
        _signal(process, signal.SIGKILL)
    return psutil.wait_procs(left, timeout=STOP_S)[1]


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end by itself meanwhile
        process.send_signal(number)


def _session(leader: int) -> list[psutil.Process]:
    """Return the processes of the session that `leader` leads.

    The head ran `setsid`, so they are all ours.
    """
    return [process for process in psutil.process_iter() if _sid(process.pid) == leader]


def _sid(pid: int) -> int:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return -1


def free_port() -> int:
    """Return a port that is free now: Ray's fixed defaults would clash with another head on this machine."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read (mode 0600 from the first byte)."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _after(text: str, mark: str) -> str:
    """Return what stands in Ray's output between `mark` and the next quote."""
    _, found, rest = text.partition(mark)
    if not found:
        raise WorldError("TRC042", f"Ray's output has no {mark!r}", "this Ray is not one that Tierce knows")
    return rest.split("'")[0]
