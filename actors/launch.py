"""Up and down: from a file to a lab that runs, and back to nothing. The driver's side.

The coordinator does the work.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.client import Lab, attach, end_actors
from actors.crew import LabSpec, actor_options, ram_folder, selectors
from actors.errors import translate
from actors.head import Head, alone, heads, lab_home, start, stop
from actors.progress import Progress
from actors.sources import read_lab, read_personas
from actors.watcher import Watcher
from placement.config.unserved import unserved
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from placement.config import Lab as LabConfig

#: Room in the object store beside the RAM tier: images on their way between places.
TRANSFER_NBYTES = 128 << 20
DEFAULT_RAM_NBYTES = 1 << 30
CALL_S = 30.0


@dataclass(frozen=True, slots=True)
class Lowered:
    """What `down` ended: the lab, its actors, and its own Ray head (None if Ray was somebody else's)."""

    lab: str
    members: int
    head_pid: int | None
    stopped_processes: int


def silent(_: Progress) -> None:
    """Tell nobody."""


def read(file: str) -> LabSpec:
    """Read and check a lab's file and what it names.

    Raises ConfigError with every problem of the file, UserError for an adapter or persona that cannot be
    read.
    """
    lab = read_lab(file)
    personas = read_personas(lab)
    says = lab.model_dump_json(exclude={"warnings"})
    mark = hashlib.sha256(f"{says}\0{sorted(personas.items())}".encode()).hexdigest()
    return LabSpec(lab, lab.root, str(lab_home(lab.name)), personas, mark)


def raise_lab(
    file: str = "cluster.yaml",
    *,
    address: str | None = None,
    dashboard: bool = False,
    say: Callable[[Progress], None] = silent,
) -> Lab:
    """Bring up the lab of `file`.

    Return once each item is at home or known to have failed (`Thing.problem`). Joins the Ray at `address` or
    RAY_ADDRESS; without either, starts a Ray head of its own on loopback, which `lower_lab` stops. A lab that
    is up already stays as it is. Raises WorldError TRC045 if it was made from another file.
    """
    spec = read(file)
    for path in unserved(spec.lab):
        say(Progress(path, problem="taken, and without effect in this version"))
    _join(spec.lab, address, dashboard=dashboard)
    coordinator = _hire(spec)
    try:
        made_from, stands = ray.get(coordinator.standing.remote(), timeout=CALL_S)
        if made_from != spec.fingerprint:
            if stands:
                raise WorldError(
                    "TRC045",
                    f"lab {spec.lab.name!r} is up already, from another file than {file} is now",
                    "run `tierce down` first",
                )
            end_actors(spec.lab.name)  # of a lab that never came up
            coordinator = _hire(spec)
        for step in coordinator.up.options(num_returns="streaming").remote():
            say(ray.get(step))
    except RayError as error:
        raise translate(error, "the coordinator") from error
    return Lab(spec.lab.name)


def _hire(spec: LabSpec) -> Any:
    selector = next(iter(selectors(list(spec.lab.nodes)).values()))
    options = actor_options(spec.lab.name, "coordinator", selector)
    return ray.remote(Watcher).options(**options).remote(spec)


def _join(lab: LabConfig, address: str | None, *, dashboard: bool) -> None:
    if ray.is_initialized() or address or os.environ.get("RAY_ADDRESS"):
        attach(address)
        return
    with alone(lab.name):
        own = {head.lab: head for head in heads()}
        head = own.get(lab.name) or _start(lab, dashboard=dashboard)
    attach(head.address)


def _start(lab: LabConfig, *, dashboard: bool) -> Head:
    node = next(iter(lab.nodes))
    ram = lab.nodes[node].ram or DEFAULT_RAM_NBYTES
    return start(lab.name, node=node, store_nbytes=int(ram * 1.3) + TRANSFER_NBYTES, dashboard=dashboard)


def lower_lab(lab: str | None = None, *, address: str | None = None) -> Lowered:
    """Take a lab down: its actors, and the Ray head that `raise_lab` started for it.

    Files and the story stay. A head of ours is stopped also when its lab does not answer. Raises WorldError
    TRC040 if there is nothing to take down.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    own = {} if address else {head.lab: head for head in heads()}
    name = lab or (next(iter(own)) if len(own) == 1 else None)
    head = own.get(name) if name else None
    try:
        running = Lab.connect(name, address=address or (head.address if head else None))
        name, members = running.name, running.down()
    except WorldError:
        if head is None:
            raise
        members = []
    if head is None:
        return Lowered(name or "", len(members), None, 0)
    ray.shutdown()
    stopped = stop(head)
    shutil.rmtree(ram_folder(head.lab, lab_home(head.lab)), ignore_errors=True)  # what died left its index
    return Lowered(head.lab, len(members), head.pid, stopped)
