"""A role's adapter, read again from the same source: another version takes the place of the one that serves.

It is tried first: loaded beside the old one, where its engine proves that it has an effect. Then the role's
next incarnation serves it, it is written down, and the old one goes when its last answer has ended. So what
is wrong, or cut off by a crash before it is written down, leaves the old one serving.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from actors import incarnations, wants
from actors.ask import UPDATE
from actors.changes import check_known
from actors.homecoming import come_home
from actors.leaving import let_go
from actors.lm.fetch import shown
from actors.muster import role_spec
from actors.progress import silent
from actors.renewed import Renewed
from actors.versions import Versions
from placement.errors import TierceError
from placement.messages import Registered, Removed
from placement.state import NETWORK, Item
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from actors.journal import Version


async def renew(coordinator: Coordinator, name: str) -> Renewed:
    """Read a role's adapter from its source again, and have another version take over; say what came of it.

    New asks take it from then on, those in flight end on the version that they began with. Homes and pins
    that were ordered hold for it. Raises UnknownName TRC001, what is wrong with the adapter, or why it does
    not come up beside the old one (TRC012 with who has the seats); then the old one serves on.
    """
    _, crew = await coordinator.opened()
    async with coordinator.changing:
        check_known(coordinator, name)
        old = next((one for one in coordinator.journal.versions() if one.role == name), None)
        before = old.item if old is not None else ""
        try:
            after = await _read_anew(coordinator, name, before)
        except TierceError as error:
            stays = f"; {before} serves on" if before else ""
            coordinator.journal.tell(before or name, f"not updated: {error}{stays}", time.time())
            raise
        source = shown(crew.origin(name).lora_path)
    thing = (await coordinator.ps()).thing(name)
    return Renewed(thing, before.partition("@")[2], after.partition("@")[2], source)


async def _read_anew(coordinator: Coordinator, name: str, before: str) -> str:
    """Return the item that a role has after its source was read; what was never fetched is left alone.

    A role that could not serve is tried again, also with the version that it had.
    """
    machine, crew = coordinator.brain()
    failed = any(failure.role == name for failure in coordinator.journal.failures())
    if not before and not failed and crew.lab.roles[name].location is Tier.NETWORK:
        return ""
    versions = Versions(coordinator, silent)
    versions.check_seats(name)
    version = await versions.read(name)
    if version.item == before and Item(before) in machine.state.items and not failed:
        coordinator.journal.tell(before, "its source still holds this version", time.time())
        return before
    await _succeed(coordinator, version, before)
    return version.item


async def _succeed(coordinator: Coordinator, version: Version, before: str) -> None:
    """Try a version, then have it serve in the place of another one."""
    machine, crew = coordinator.brain()
    item, role = Item(version.item), version.role
    coordinator.take(_registered(coordinator, version, Item(before)))
    try:
        await wants.bring(coordinator, item, UPDATE, crew.lab.policy.want_deadline_s)
        ending = await incarnations.hire(crew, role, item, None)
    except BaseException:
        if coordinator.machine is machine and item in machine.state.items and item != before:
            coordinator.take(Removed(item))
        raise
    coordinator.journal.register(version)
    told = "it serves" if before in {"", item} else f"it serves in place of {before}"
    coordinator.journal.tell(item, f"{told}: its source holds it now", time.time())
    coordinator.keep(let_go(coordinator, role, ending))
    await come_home(coordinator, [item], silent)


def _registered(coordinator: Coordinator, version: Version, before: Item) -> Registered:
    """Return the registration of a version that takes over home and pin of the one `before`, if there is one.

    One at home on the network has just landed.
    """
    machine, crew = coordinator.brain()
    state = machine.state
    spec = role_spec(crew, version)
    if before in state.items:
        spec = replace(spec, home=state.home(before), pinned=state.pinned(before))
    at = (spec.durable,) if spec.landing is None else (NETWORK, spec.landing)
    return Registered(spec, at)
