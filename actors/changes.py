"""Roles added, changed and removed while the lab runs: the same as if the file had said so from the start.

A change is read as if it stood in the file, tried, written down, and done, in this order: what is wrong
leaves everything as it was, and what a crash cuts off is finished by the next raising. Only a removal is
written down last: one that was cut off is to be said again.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from actors import incarnations
from actors.errors import UnknownName
from actors.homecoming import come_home
from actors.muster import joined, role_spec
from actors.progress import silent
from actors.raising import Raising
from placement.config.edits import Edit, change, entry
from placement.config.problems import nearest
from placement.errors import TierceError, UserError, WorldError
from placement.messages import MoveOrdered, Registered, Removed
from placement.state import Item
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from actors.journal import Version
    from actors.listing import Thing
    from actors.spec import LabSpec
    from placement.config.schema import Role as RoleConfig

GONE_S = 60.0


async def add_role(coordinator: Coordinator, name: str, fields: dict[str, Any]) -> Thing:
    """Add a role and bring it home; return its row.

    Said again in the same words, nothing happens. Raises UserError TRC047 for a name that is taken, the
    file's own errors for fields that do not fit, and the adapter's for one that cannot serve: then nothing
    has changed.
    """
    _, crew = await coordinator.opened()
    async with coordinator.changing:
        if any(edit.role == name and edit.fields == fields for edit in coordinator.edits):
            return (await coordinator.ps()).thing(name)
        if name in crew.lab.roles:
            raise UserError("TRC047", f"the lab has a role {name!r}", f"change it: tierce update-role {name}")
        await _bring(coordinator, name, fields)
    coordinator.journal.tell(name, "added by the user", time.time())
    return (await coordinator.ps()).thing(name)


async def update_role(coordinator: Coordinator, name: str, changed: dict[str, Any]) -> Thing:
    """Change fields of a role (None takes one out); return its row once that is true.

    Another adapter is brought up beside the old one: new asks take it, those in flight end on theirs, then
    the old one is dropped. Raises as `add_role`, and UnknownName TRC001; then nothing has changed.
    """
    _, crew = await coordinator.opened()
    async with coordinator.changing:
        check_known(coordinator, name)
        said = entry(coordinator.spec.text, coordinator.edits, name) or {}
        await _bring(coordinator, name, change(said, changed), again=crew.lab.roles[name])
    coordinator.journal.tell(name, f"changed by the user: {', '.join(changed) or 'nothing'}", time.time())
    return (await coordinator.ps()).thing(name)


async def remove_role(coordinator: Coordinator, name: str) -> Thing:
    """Take a role out of the lab: its answers in flight end, then all copies of its adapter go.

    Return its row as it was. Raises UnknownName TRC001, and the file's own error where others need it.
    """
    machine, crew = await coordinator.opened()
    async with coordinator.changing:
        check_known(coordinator, name)
        was = (await coordinator.ps()).thing(name)
        spec, edits = _proposed(coordinator, name, None)
        await incarnations.dismiss(crew, name)
        crew.follow(spec)
        items = [item for item, known in machine.state.items.items() if known.name == name]
        for item in items:
            if machine.state.items[item].kind == "adapter" and item not in machine.state.retired:
                coordinator.take(Removed(item))
        _write_down(coordinator, name, edits)  # after the deed: cut off before, it is to be said again
        coordinator.journal.forget_role(name)
        if not await coordinator.until(lambda: not set(items) & machine.state.items.keys(), GONE_S):
            told = f"copies of {name} are still being dropped after {GONE_S:.0f} s"
            raise WorldError("TRC013", told, f"it is removed; see `tierce story {name}`")
    coordinator.journal.tell(name, "removed by the user", time.time())
    return was


def item_named(coordinator: Coordinator, name: str) -> Item:
    """Return the item of a role or shard; an item's own name is taken too.

    Raises UnknownName TRC001, or why a role or shard of the lab has no item.
    """
    machine, crew = coordinator.brain()
    state = machine.state
    named = [item for item, spec in state.items.items() if name in (item, spec.name)]
    named = [item for item in named if item not in state.retired]
    if named:
        serving = {version.item for version in coordinator.journal.versions()}
        return max(named, key=lambda item: item in serving)  # or one that leaves, or is tried
    if name in crew.lab.roles or name in crew.lab.rag:
        raise not_movable(coordinator, name)
    raise unknown(coordinator, name)


def unknown(coordinator: Coordinator, name: str) -> UnknownName:
    """Return the error TRC001 for a name that the lab does not have: the one most like it, and all it has."""
    _, crew = coordinator.brain()
    known = (*crew.lab.roles, *crew.lab.rag)
    near = nearest(name.partition("@")[0], known)
    meant = f"did you mean {near!r}? " if near is not None else ""
    return UnknownName(
        "TRC001", f"the lab has no role or shard {name!r}", f"{meant}it has: {', '.join(known)}"
    )


def not_movable(coordinator: Coordinator, name: str) -> TierceError:
    """Return why a role or shard of the lab has no item that could be moved, pinned or warmed."""
    failure = next((one for one in coordinator.journal.failures() if one.role == name), None)
    if failure is not None:
        return UserError(failure.code, failure.message, failure.hint)
    return UserError(
        "TRC023", f"{name} rests on the network, and nothing of it is here to be moved", "ask it first"
    )


def check_known(coordinator: Coordinator, name: str) -> None:
    """Raise UnknownName TRC001 for a role that the lab does not have."""
    _, crew = coordinator.brain()
    if name not in crew.lab.roles:
        known = ", ".join(crew.lab.roles) or "none"
        raise UnknownName("TRC001", f"the lab has no role {name!r}", f"roles: {known}")


def _proposed(
    coordinator: Coordinator, name: str, fields: dict[str, Any] | None
) -> tuple[LabSpec, list[Edit]]:
    """Return the lab as it would be with these fields of a role (None: without it), and what is said then."""
    was = entry(coordinator.spec.text, (), name)
    others = [edit for edit in coordinator.edits if edit.role != name]
    unsaid = fields == was  # back to what the file says, or never in it
    edits = others if unsaid else [*others, Edit(name, fields, was)]
    return coordinator.spec.with_edits(edits), edits


def _write_down(coordinator: Coordinator, name: str, edits: list[Edit]) -> None:
    coordinator.edits = edits
    edit = next((edit for edit in edits if edit.role == name), None)
    if edit is None:
        coordinator.journal.unsay(name)
    else:
        coordinator.journal.edit(edit, time.time())


async def _bring(
    coordinator: Coordinator, name: str, fields: dict[str, Any], *, again: RoleConfig | None = None
) -> None:
    """Make a role be as `fields` say; `again` is what it was. The caller holds `changing`."""
    _, crew = coordinator.brain()
    before, seat = crew.spec, crew.seats.get(name)
    spec, edits = _proposed(coordinator, name, fields)
    old = next((one for one in coordinator.journal.versions() if one.role == name), None)
    raising = Raising(coordinator, silent)
    crew.follow(spec)
    moved = again is not None and _place_said(again) != _place_said(crew.lab.roles[name])
    if moved:
        crew.seats.pop(name, None)
    try:
        await _start_base(coordinator, raising, name)
        crew.check_seen(crew.role_node(name))
        version = await _version(raising, name, old, again)
        if version is not None:
            _register(coordinator, raising, version, again)
    except BaseException:
        if old is not None:
            coordinator.journal.register(old)
        else:
            coordinator.journal.forget_version(name)
        crew.follow(before)
        if seat is not None:
            crew.seats[name] = seat
        raise
    _write_down(coordinator, name, edits)
    coordinator.journal.mend(name)
    if version is None:
        coordinator.journal.forget_version(name)  # it is fetched when it is first wanted
    if moved:
        coordinator.journal.disorder(name, "seat")  # the fields say it from now on
    await raising.hire_roles([name])
    if version is not None:
        await come_home(coordinator, [Item(version.item)], silent)


def _place_said(role: RoleConfig) -> tuple[Tier, str | None, str | None]:
    return role.location, role.node, role.device


async def _start_base(coordinator: Coordinator, raising: Raising, name: str) -> None:
    """Start the engine of a role's base if it is new, and tell the Machine of its room."""
    _, crew = coordinator.brain()
    base = crew.base_of(crew.lab.roles[name])[0]
    if crew.engines_at(base):
        return
    nodes = dict.fromkeys(crew.where(f"engine:{engine}") for engine in crew.fleet_of(base))
    for node in nodes:
        crew.check_seen(node)
    started = await raising.start_engines(crew.fleet_of(base))
    if not started:
        raise WorldError("TRC031", f"the engine of {base} has not started", "see `tierce ps --wide`")
    await coordinator.beat()
    reports = {
        known: report
        for known, report in coordinator.census.engines.items()
        if report is not None and known in crew.fleet
    }
    for node in nodes:
        stored = coordinator.census.stores[node]
        if stored is not None:
            coordinator.take(joined(crew, node, stored, reports | started))


async def _version(
    raising: Raising, name: str, old: Version | None, again: RoleConfig | None
) -> Version | None:
    """Return the version that a role has now: prepared anew if its adapter or base changed.

    None for one at home on the network, which is fetched when it is first wanted.
    """
    role = raising.crew.lab.roles[name]
    network = role.location is Tier.NETWORK
    same = again is not None and (again.lora_path, again.base) == (role.lora_path, role.base)
    if same and old is not None and old.network == network:
        return old
    return None if network else await raising.versions.prepare(name)


def _register(
    coordinator: Coordinator,
    raising: Raising,
    version: Version,
    again: RoleConfig | None,
) -> None:
    """Tell the Machine of a new version, or of what else is new about one that it knows.

    A new place is an order to move there; another adapter goes where the one before was ordered to.
    """
    machine, crew = coordinator.brain()
    item, role = Item(version.item), crew.lab.roles[version.role]
    moved = again is not None and _place_said(again) != _place_said(role)
    if item not in machine.state.items:
        if moved:
            coordinator.journal.disorder(item, "home")
        raising.versions.register(version)
        return
    spec = role_spec(crew, version)
    if moved:
        coordinator.take(MoveOrdered(item, spec.home, "the user"))
        coordinator.journal.disorder(item, "home")
    known = machine.state.items[item]
    pinned = machine.state.pinned(item)
    if again is not None and again.pin != role.pin:
        pinned = role.pin
        coordinator.journal.disorder(item, "pin")
    spec = replace(spec, home=known.home, pinned=pinned, durable=known.durable, landing=known.landing)
    coordinator.take(Registered(spec, (known.durable,)))
