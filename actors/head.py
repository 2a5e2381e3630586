"""A Ray head of our own: started on loopback for one lab, recorded, and stopped exactly as recorded.

What its GCS knows lies in a RocksDB in the lab's folder. A head that died without being stopped goes on from
there: same address, same token, and Ray itself makes the detached actors again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from placement.errors import WorldError

START_S = 120.0
#: The last that `ray start --head --block` says once Ray runs; its address and the rest stand before it.
SAID_ALL = "This command will now block"
STOP_S = 30.0
POLL_S = 0.1
#: Ray resolves 127.0.0.1 to the machine's outward address; another loopback address it leaves alone.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
MIN_STORE_NBYTES = 80 << 20
#: Of several machines, a dead one is noticed in 10 s and a cut link in 25 s; Ray's own values take a minute.
#: Any quicker, and a machine that is merely busy is taken for dead, with all that runs on it.
HEALTH = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
}


@dataclass(frozen=True, slots=True)
class Head:
    """The record of a head that we started.

    `created` is the process's start time, so that a reused pid is not ours. `storage` is the folder of what
    its GCS knows. `up` is False from the birth of its process until Ray runs; until it first did, the port
    is 0.
    """

    lab: str
    address: str
    pid: int
    created: float
    temp_dir: str
    token_path: str
    dashboard: str
    storage: str = ""
    up: bool = True

    def alive(self) -> bool:
        """Say whether the very process that was recorded still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def goes_on(self) -> bool:
        """Say whether Ray once ran here and left what it knew, so that a new process can go on from it."""
        return not self.address.endswith(":0") and bool(self.storage) and Path(self.storage).is_dir()

    def environment(self) -> dict[str, str]:
        """Return what a process must have set to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.token_path}

    def record(self) -> None:
        """Write the record, so that it is whole whatever happens to this process."""
        path = lab_home(self.lab) / "head.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)), encoding="utf-8")
        new.replace(path)


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


def recorded(lab: str) -> Head | None:
    """Return the record of a lab's head, dead or alive; None if there was none, or it was stopped."""
    path = home() / lab / "head.json"
    return Head(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def heads() -> list[Head]:
    """Return the recorded heads that run, by lab name."""
    known = (recorded(path.parent.name) for path in sorted(home().glob("*/head.json")))
    return [head for head in known if head is not None and head.up and head.alive()]


def start(
    lab: str,
    *,
    node: str,
    store_nbytes: int,
    dashboard: bool,
    host: str = LOOPBACK,
    resume: bool = True,
) -> Head:
    """Start a Ray head for `lab` with our label, our token and our temp dir; return its record.

    It listens at `host`: on loopback no other machine can join it.

    A head that runs is returned as it is. One that died without being stopped goes on: what is left of it is
    ended, and Ray makes its detached actors again; `resume=False` starts anew instead. The caller holds
    `alone(lab)`. Raises WorldError TRC042 with the end of Ray's own output if it does not come up in time; a
    head that was to go on can then be started again, or be forgotten by `stop`.
    """
    before = recorded(lab)
    if before is not None and before.up and before.alive():
        return before
    if before is not None and not (resume and before.goes_on()):
        stop(before)
        before = None
    if before is not None:
        _end(_session(before))
        Path(before.temp_dir).mkdir(mode=0o700, exist_ok=True)  # a reboot may have emptied /tmp
        # Ray would take a raylet that joined the head on this machine for the head itself, and refuse.
        (Path(before.temp_dir) / "ray_current_cluster").unlink(missing_ok=True)
    plan = before or _new(lab, host)
    log = lab_home(lab) / "head.log"
    pid = _spawn(_arguments(plan, node, store_nbytes, dashboard=dashboard), log, plan)
    head = replace(plan, pid=pid, created=psutil.Process(pid).create_time(), up=False)
    try:
        head.record()
        said = _wait_until_up(pid, log)
        address = _after(said, "ray start --address='")
        head = replace(
            head,
            address=address,
            dashboard=_after(said, "RAY_API_SERVER_ADDRESS='") if dashboard else "",
            up=True,
        )
        head.record()
    except BaseException:  # Ctrl-C too: what is not up must not stay
        _end(_session(head))
        if before is None:
            _forget(head)
        raise
    return head


def _new(lab: str, host: str) -> Head:
    """Return a head that has yet to be born, with a token and a temp dir of its own, and no past."""
    folder = lab_home(lab)
    shutil.rmtree(folder / "gcs", ignore_errors=True)
    write_secret(folder / "token", secrets.token_hex(32))
    return Head(
        lab=lab,
        address=f"{host}:0",
        pid=0,
        created=0.0,
        temp_dir=tempfile.mkdtemp(prefix="tierce-"),  # short: the paths of Ray's sockets may have 107 bytes
        token_path=str(folder / "token"),
        dashboard="",
        storage=str(folder / "gcs"),
        up=False,
    )


def _arguments(head: Head, node: str, store_nbytes: int, *, dashboard: bool) -> list[str]:
    host, _, port = head.address.rpartition(":")
    return [
        "--head", "--block", f"--node-ip-address={host}", f"--port={port}",
        "--dashboard-host=127.0.0.1", "--dashboard-port=0", f"--include-dashboard={str(dashboard).lower()}",
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
        f"--labels=tierce/node={node}", f"--object-store-memory={max(store_nbytes, MIN_STORE_NBYTES)}",
        f"--temp-dir={head.temp_dir}", "--disable-usage-stats",
    ]  # fmt: skip


def _spawn(arguments: list[str], log: Path, head: Head) -> int:
    """Run `ray start` in a session of its own, detached from this process; return its pid.

    Its PATH begins with this Python, so that the `python` of a job is the one that has Tierce.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # it would wait 30 s for actors that are to end with it
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": head.storage,
        **({} if head.address.startswith(f"{LOOPBACK}:") else HEALTH),
        **head.environment(),
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
    """Return all that `ray start` said until Ray runs: it is written piece by piece."""
    give_up = time.monotonic() + START_S
    while True:
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if SAID_ALL in said:
            return said
        if os.waitpid(pid, os.WNOHANG) != (0, 0) or time.monotonic() > give_up:
            raise WorldError("TRC042", f"Ray did not start: {said.strip()[-600:]}", f"its output is in {log}")
        time.sleep(POLL_S)


def stop(head: Head) -> int:
    """End the recorded head and every process of its session, and remove its files; return how many ended.

    Also for a head that has died: what it left is ended, and nothing goes on from it. Raises WorldError
    TRC043 if some processes stay.
    """
    session = _session(head)
    stayed = _end(session)
    if stayed:
        raise WorldError(
            "TRC043", f"processes {[process.pid for process in stayed]} of lab {head.lab} did not end"
        )
    _forget(head)
    return len(session)


def _forget(head: Head) -> None:
    (home() / head.lab / "head.json").unlink(missing_ok=True)
    shutil.rmtree(head.temp_dir, ignore_errors=True)
    if head.storage:
        shutil.rmtree(head.storage, ignore_errors=True)


def join_command(address: str, node: str, *, store_nbytes: int | None = None) -> str:
    """Return the line that a person types on machine `node` to have it join the Ray at `address`.

    It names the file of the token as this process knows it, never the token: that machine needs a copy there.
    `store_nbytes` sizes the object store, which carries the RAM tier.
    """
    words = ["ray", "start", f"--address={address}", f"--labels=tierce/node={node}"]
    if store_nbytes is not None:
        words.append(f"--object-store-memory={max(store_nbytes, MIN_STORE_NBYTES)}")
    settings = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
    known = {
        name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH") if name in os.environ
    }
    said = [f"{name}={shlex.quote(value)}" for name, value in (known | settings).items()]
    line = " ".join([*said, shlex.join(words)])
    here_only = address.startswith("127.")
    return line + "  # this Ray is for its own machine alone: see `ray start --head`" if here_only else line


def _end(session: list[psutil.Process]) -> list[psutil.Process]:
    """Ask the leader of a session to end it, then kill what is left; return what did not even end by that."""
    leaders = [process for process in session if process.pid == _sid(process.pid)]
    for process in leaders:
        _signal(process, signal.SIGTERM)
    _, left = psutil.wait_procs(session, timeout=STOP_S if leaders else 0)
    for process in left:
        _signal(process, signal.SIGKILL)
    return psutil.wait_procs(left, timeout=STOP_S)[1]


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end by itself meanwhile
        process.send_signal(number)


def _session(head: Head) -> list[psutil.Process]:
    """Return the processes of the session that the recorded process leads, or led before it died.

    The head ran `setsid`, so they are all ours. Without its leader a session is known by the folder of its
    processes: the number may have gone to somebody else's.
    """
    session = [process for process in psutil.process_iter() if _sid(process.pid) == head.pid]
    if head.alive():
        return session
    ours = any(head.temp_dir in word for process in session for word in _command(process))
    return session if ours else []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


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
