"""The adapter versions of the roles: each is kept as an image by the store of its node, then registered."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from actors.errors import Unreachable, reach
from actors.journal import Failure, Version
from actors.lm.fetch import shown
from actors.muster import device_fault, durable, role_spec
from actors.progress import Progress
from actors.said import Orders
from placement.errors import TierceError, WorldError
from placement.messages import Registered
from placement.state import NETWORK, Item, Place
from placement.tiers import Tier
from placement.warmth import failed_for_good

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from actors.coordinator import Coordinator
    from actors.intake import Origin
    from actors.journal import Journal
    from actors.lm.prepare import Prepared
    from actors.lm.source import Kept
    from actors.store import Stored

PREPARE_S = 3600.0
#: How long it may take to see whether a directory holds another version.
LOOK_S = 600.0
TRIES = 4
RETRY_S = 3.0
#: How long a version that came back waits for its own removal.
REMOVED_S = 60.0

T = TypeVar("T")


class Versions:
    """Has the adapters of roles taken in by their stores; `say` is told each finished step."""

    def __init__(self, coordinator: Coordinator, say: Callable[[Progress], None]) -> None:
        self.coordinator = coordinator
        self.machine, self.crew = coordinator.brain()
        self.journal = coordinator.journal
        self.say = say
        #: versions that no engine could serve, by role, where another one takes their place
        self.given_up: dict[str, Item] = {}

    async def of(self, roles: Iterable[str], stored: Mapping[str, Stored]) -> dict[str, Version]:
        """Return the version of each role that can serve; of the others, the reason is noted and told.

        A version that failed in its engine for good is read from its source again, which may be mended.
        A role at home on the network that was never asked for has none yet, and no failure.
        """
        known = {version.role: version for version in self.journal.versions()}

        async def version(name: str) -> Version | None:
            try:
                self.check_seats(name)
                found = known.get(name)
                if found is not None and self._has_failed(found):
                    return await self._anew(found)
                if found is not None and found.source == self.crew.origin(name).lora_path:
                    holders = [node for node in stored if found.item in stored[node].ssd]
                    if found.network or holders:
                        self.journal.mend(name)
                        return found if found.node in holders or found.network else found.at(holders[0])
                if self.crew.lab.roles[name].location is Tier.NETWORK:
                    self.journal.mend(name)
                    self.journal.forget_version(name)  # of another address
                    return None
                return await steadily(lambda: self.prepare(name))
            except TierceError as error:
                self.fail(name, error)
                return None

        names = list(roles)
        found = await asyncio.gather(*map(version, names))
        return {name: version for name, version in zip(names, found, strict=True) if version is not None}

    def _has_failed(self, version: Version) -> bool:
        item, state = Item(version.item), self.machine.state
        return item in state.items and failed_for_good(state, item) is not None

    async def _anew(self, failed: Version) -> Version | None:
        """Read the source of a version again; one at home on the network is fetched when it is wanted."""
        version: Version | None = None
        if self.crew.lab.roles[failed.role].location is Tier.NETWORK:
            self.journal.hand_over(failed.item, _unfetched(failed.role))
            self.journal.forget_version(failed.role)
        else:
            version = await steadily(lambda: self.prepare(failed.role))
        if version is None or version.item != failed.item:
            self.given_up[failed.role] = Item(failed.item)
        return version

    def check_seats(self, name: str) -> None:
        """Raise TRC041 if the node of a role or of its base is not there, CFG037 for another device."""
        base = self.crew.base_of(self.crew.lab.roles[name])[0]
        nodes = [self.crew.where(f"engine:{engine}") for engine in self.crew.fleet_of(base)]
        engine_node = next((node for node in nodes if node in self.crew.here), nodes[0])
        for node in (self.crew.role_node(name), engine_node):
            if node not in self.crew.here:
                raise self.crew.not_seen(node)
        if not self.crew.engines_at(base):
            raise WorldError("TRC031", f"the engine of {base} has not started", "run `tierce up` again")
        if (fault := device_fault(self.crew, name)) is not None:
            raise fault

    async def prepare(self, name: str) -> Version:
        """Check a role's adapter and keep its image on the SSD of its node; write the version down.

        Raises as `read`.
        """
        version = await self.read(name)
        self.journal.register(version)
        return version

    async def read(self, name: str) -> Version:
        """Check a role's adapter and keep its image on the SSD of its node; tell what was found.

        One that is just being removed is read again once it is gone. Raises WorldError TRC025 if that takes
        long, and what is wrong with the adapter.
        """
        network = self.crew.lab.roles[name].location is Tier.NETWORK
        node = self.crew.role_node(name)
        origin = self.crew.origin(name)
        began = time.perf_counter()
        item, found, kept = await self._read(origin, node)
        if Item(item) in self.machine.state.retired:  # its drops may take what was just kept
            gone = await self.coordinator.until(lambda: Item(item) not in self.machine.state.items, REMOVED_S)
            if not gone:
                raise WorldError("TRC025", f"{item} is still being removed", f"see `tierce story {name}`")
            item, found, kept = await self._read(origin, node)
        for warning in found.warnings:
            self.journal.tell(item, f"warning: {warning}", time.time())
        version = Version(
            item=item,
            role=name,
            digest=found.digest,
            image_digest=found.image_digest,
            nbytes=found.nbytes,
            node=node,
            source=origin.lora_path,
            kept=kept.how,
            network=network,
        )
        self.journal.tell(
            item,
            f"read from {shown(origin.lora_path)} ({kept.how}): rank {found.rank}, {found.modules} modules",
            time.time(),
        )
        told = f"adapter {item} on {durable(node)}, its source {kept.how}"
        self.say(Progress(told, found.nbytes, time.perf_counter() - began))
        return version

    async def _read(self, origin: Origin, node: str) -> tuple[str, Prepared, Kept]:
        read: tuple[str, Prepared, Kept] = await reach(
            self.crew.stores[node].prepare.remote(origin), f"store:{node}", PREPARE_S
        )
        return read

    async def outdated(self) -> dict[str, str]:
        """Return the digest of what a role's adapter directory holds now, where that is another version.

        What lies at an address is not fetched to see, and where a store does not answer, or cannot read the
        directory at this moment, nothing is known.
        """

        async def look(version: Version) -> str:
            path = self.crew.origin(version.role).lora_path
            store = self.crew.stores.get(self.crew.role_node(version.role))
            if store is None or version.source != path:
                return ""
            try:
                found: str = await reach(
                    store.present_digest.remote(path), f"store of {version.role}", LOOK_S
                )
            except TierceError:  # no answer, or files that are just being exchanged
                return ""
            return found if found != version.digest else ""

        known = [version for version in self.journal.versions() if version.role in self.crew.lab.roles]
        found = await asyncio.gather(*map(look, known))
        return {version.role: digest for version, digest in zip(known, found, strict=True) if digest}

    def register(self, version: Version, *, fetched: bool = False) -> None:
        """Tell the Machine of a version that it does not know; one of the network may just be `fetched`.

        What was ordered of one that failed before holds for what was fetched in its place. Raises WorldError
        TRC025 for a version that is being removed. Of one that it knows, only an engine that came since is
        told.
        """
        state, item = self.machine.state, Item(version.item)
        serves_at = self.crew.engines_at(self.crew.base_of(self.crew.lab.roles[version.role])[0])
        if item in state.items and item not in state.retired:
            known = state.items[item]
            if serves_at != known.serves_at and serves_at:
                self.coordinator.take(Registered(replace(known, serves_at=serves_at), (known.durable,)))
            return
        if fetched:
            self.journal.hand_over(_unfetched(version.role), version.item)
        spec = Orders(self.journal).applied(role_spec(self.crew, version), self.crew.here)
        at: tuple[Place, ...] = (spec.durable,)
        if fetched and spec.landing is not None:
            at = (NETWORK, spec.landing)
        self.coordinator.take(Registered(spec, at))

    def fail(self, role: str, error: TierceError) -> None:
        """Note and tell why a role cannot serve."""
        note_failure(self.journal, self.say, "role", role, error)


def _unfetched(role: str) -> str:
    """Return under which item the journal keeps what was ordered of a role that was not fetched again yet."""
    return f"{role}@"


def note_failure(
    journal: Journal, say: Callable[[Progress], None], kind: str, name: str, error: TierceError
) -> None:
    """Note and tell why a role or shard cannot serve."""
    journal.fail(Failure(name, error.code, error.message, error.hint))
    journal.tell(name, str(error), time.time())
    say(Progress(f"{kind} {name}", problem=f"{error}; {error.hint}" if error.hint else str(error)))


async def steadily(work: Callable[[], Awaitable[T]]) -> T:
    """Do a piece of work; again, if an actor that it needs is just being restarted."""
    for _ in range(TRIES - 1):
        try:
            return await work()
        except Unreachable:
            await asyncio.sleep(RETRY_S)
    return await work()
