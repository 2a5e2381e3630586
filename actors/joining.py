"""Which Ray a process joins, which labs run on it, and how the actors of one end."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from actors.head import Head, heads
from placement.errors import WorldError

DOWN_S = 60.0
POLL_S = 0.05


def attach(address: str | None = None, lab: str | None = None) -> None:
    """Join Ray.

    What this process joined already, `address`, RAY_ADDRESS, or the head that `tierce up` started for `lab`,
    or the only one. Raises WorldError TRC040 if there is nothing to join or too much, TRC044 if it cannot be
    joined.
    """
    if ray.is_initialized():
        return
    own = heads()
    target = _target(own, lab, address or os.environ.get("RAY_ADDRESS"))
    for head in own:
        if head.address == target:
            os.environ.update(head.environment())
            _read_auth_again()
    try:
        ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WorldError(
            "TRC044", f"Ray at {target} cannot be joined: {error}", "is it running? is the token right?"
        ) from error


def _target(own: list[Head], lab: str | None, address: str | None) -> str:
    if address and "://" in address:
        raise WorldError(
            "TRC044",
            f"{address} is where jobs are submitted; a command needs the address of Ray itself",
            "pass HOST:PORT of `ray start` by --address or RAY_ADDRESS",
        )
    if address:
        return address
    if not own:
        raise WorldError("TRC040", "no lab runs on this machine", "start one: tierce up cluster.yaml")
    chosen = [head for head in own if head.lab == lab] or own
    if len(chosen) > 1:
        names = ", ".join(head.lab for head in own)
        raise WorldError("TRC040", f"{len(own)} labs run on this machine: {names}", "name one: --lab NAME")
    return chosen[0].address


def _read_auth_again() -> None:
    """Have Ray look at RAY_AUTH_MODE and the token once more: it read them when it was imported."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def labs() -> list[str]:
    """Return the names of the labs that run on the Ray that this process joined."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(actor["namespace"] for actor in named if actor["name"] == "coordinator")


def end_actors(lab: str) -> list[str]:
    """Kill every actor of a lab, its coordinator first, and wait for their names to be free; return them."""
    named = ray.util.list_named_actors(all_namespaces=True)
    names = sorted((actor["name"] for actor in named if actor["namespace"] == lab), key=_coordinator_first)
    for name in names:
        with suppress(ValueError):  # it has ended by itself
            ray.kill(ray.get_actor(name, namespace=lab))
    give_up = time.monotonic() + DOWN_S
    while left := [
        actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == lab
    ]:
        if time.monotonic() > give_up:
            stuck = ", ".join(actor["name"] for actor in left)
            raise WorldError("TRC043", f"actors of lab {lab} do not end: {stuck}", "stop their Ray")
        time.sleep(POLL_S)
    return names


def _coordinator_first(name: str) -> bool:
    return name != "coordinator"
