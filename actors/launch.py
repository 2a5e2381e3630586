"""Up and down: from a file to a lab that runs, and back to nothing. The driver's side.

The coordinator does the work.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.cast import ram_folder
from actors.client import Lab
from actors.errors import translate
from actors.head import Head, alone, heads, lab_home, recorded, start, stop
from actors.joining import attach, end_actors
from actors.journal import Journal
from actors.nodes import actor_options, not_seen, object_store_nbytes, selectors
from actors.progress import Progress
from actors.sources import home_expanded, read_text
from actors.spec import LabSpec, spec_of
from actors.watcher import Watcher
from placement.config.unserved import unserved
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from placement.config import Lab as LabConfig

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


def read(file: str, text: str | None = None) -> LabSpec:
    """Read and check a lab's file and what it names; `text`, if given, stands for what is in the file.

    Raises ConfigError with every problem of the file, UserError for an adapter or persona that cannot be
    read.
    """
    written = read_text(file) if text is None else text
    root = str(home_expanded(file).absolute().parent)
    spec = spec_of(written, file=file, root=root, home="", env=os.environ)
    return replace(spec, home=str(lab_home(spec.lab.name)))


def raise_lab(
    file: str = "cluster.yaml",
    *,
    address: str | None = None,
    dashboard: bool = False,
    say: Callable[[Progress], None] = silent,
    role: tuple[str, dict[str, Any]] | None = None,
    text: str | None = None,
) -> Lab:
    """Bring up the lab of `file`.

    Return once each item is at home or known to have failed (`Thing.problem`). Joins the Ray at `address` or
    RAY_ADDRESS; without either, starts a Ray head of its own on loopback, which `lower_lab` stops. A lab that
    is up already stays as it is. `role`, a name and its fields, is added to the lab, or changed to be so;
    `text` stands for the content of `file`. Raises WorldError TRC045 if it was made from another file.
    """
    spec = read(file, text)
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
                    f"run `tierce apply {file}`, or `tierce down` first",
                )
            end_actors(spec.lab.name)  # of a lab that never came up
            coordinator = _hire(spec)
        for step in coordinator.up.options(num_returns="streaming").remote():
            say(ray.get(step))
    except RayError as error:
        raise translate(error, "the coordinator") from error
    lab = Lab(spec.lab.name)
    if role is not None:
        _say_role(lab, *role)
    return lab


def _say_role(lab: Lab, name: str, fields: dict[str, Any]) -> None:
    """Add a role to a lab; where it is there already, change what differs."""
    if any(thing.name == name and thing.kind == "role" for thing in lab.ps().things):
        lab.update_role(name, **fields)
    else:
        lab.add_role(name, **fields)


def _clear(killed: Head, *, forget: bool) -> Lowered:
    """Clear away what a killed head left: there is nobody to ask, and its lab is to come up fresh."""
    journal = Journal.open(lab_home(killed.lab) / "journal.db")
    journal.forget_lab(said=forget)
    journal.close()
    stopped = stop(killed)
    shutil.rmtree(ram_folder(killed.lab, lab_home(killed.lab)), ignore_errors=True)
    return Lowered(killed.lab, 0, killed.pid, stopped)


def _hire(spec: LabSpec) -> Any:
    names = list(spec.lab.nodes)
    seen = selectors(names)
    if not seen:
        raise not_seen(names[0], spec.lab.nodes[names[0]].ram)
    selector = next(iter(seen.values()))
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
    nbytes = object_store_nbytes(ram)
    if len(lab.nodes) == 1:
        return start(lab.name, node=node, store_nbytes=nbytes, dashboard=dashboard)
    outward = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return start(lab.name, node=node, store_nbytes=nbytes, dashboard=dashboard, host=outward)


def lower_lab(lab: str | None = None, *, address: str | None = None, forget: bool = False) -> Lowered:
    """Take a lab down: its actors, and the Ray head that `raise_lab` started for it.

    Files and the story stay, and what was said in code and on the line, unless `forget`. A head of ours is
    stopped also when its lab does not answer. Raises WorldError TRC040 if there is nothing to take down.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    own = {} if address else {head.lab: head for head in heads()}
    name = lab or (next(iter(own)) if len(own) == 1 else None)
    head = own.get(name) if name else None
    killed = recorded(name) if name and head is None and not address else None
    if killed is not None:
        return _clear(killed, forget=forget)
    try:
        running = Lab.connect(name, address=address or (head.address if head else None))
        name, members = running.name, running.down(forget=forget)
    except WorldError:
        if head is None or forget:
            raise
        members = []
    if head is None:
        return Lowered(name or "", len(members), None, 0)
    ray.shutdown()
    stopped = stop(head)
    shutil.rmtree(ram_folder(head.lab, lab_home(head.lab)), ignore_errors=True)  # what died left its index
    return Lowered(head.lab, len(members), head.pid, stopped)
