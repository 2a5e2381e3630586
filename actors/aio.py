"""A running lab for `await`: what every verb comes down to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.ask import USER, Ask
from actors.errors import Unreachable, reach, translate
from actors.joining import DOWN_S, end_actors
from actors.names import Handles
from actors.roundtable import hold, nobody
from actors.sources import resolve
from actors.stream import Stream
from placement.errors import TierceError, UserError, WorldError

if TYPE_CHECKING:
    from actors.answer import Answer, Event
    from actors.description import Description
    from actors.journal import Activated, Line
    from actors.listing import Listing, Thing
    from actors.renewed import Renewed
    from actors.roundtable import RoundTable
    from actors.warming import Warming
    from placement.why import Why

CALL_S = 30.0
#: A role's adapter is read, and fetched where it lies at an address, before the change is done.
CHANGE_S = 900.0
RETRY_S = 0.25


class AioLab:
    """A running lab, on the running event loop. Every call has a deadline and raises typed errors only."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._handles = Handles(name)

    async def _call(self, actor: str, method: str, *args: Any, within_s: float = CALL_S) -> Any:
        """Call an actor; one that restarts is waited for, up to `within_s`."""
        give_up = asyncio.get_running_loop().time() + within_s
        while True:
            left_s = give_up - asyncio.get_running_loop().time()
            try:
                return await asyncio.wait_for(
                    getattr(self._actor(actor), method).remote(*args), max(left_s, 0.1)
                )
            except (RayError, TimeoutError) as error:
                known = translate(error, actor)
                if left_s <= RETRY_S or not isinstance(known, Unreachable) or isinstance(error, TimeoutError):
                    raise known from error
            await asyncio.sleep(RETRY_S)

    def _actor(self, name: str) -> Any:
        try:
            return ray.get_actor(name, namespace=self.name)
        except ValueError as error:
            raise WorldError(
                "TRC040", f"lab {self.name} is not up", "start it: tierce up cluster.yaml"
            ) from error

    def stream(self, role: str, question: str, **options: Any) -> Stream:
        """Ask `role`; iterate over what comes back for the text as it is decoded.

        `options` as in `actors.ask.Ask`; the question is stamped as the user's.
        """
        return Stream(self._handles, role, Ask(question, **options), USER)

    async def ask(self, role: str, question: str, **options: Any) -> Answer:
        """Ask `role` and wait for its whole answer."""
        return await self.stream(role, question, **options).whole()

    async def roundtable(
        self,
        question: str,
        roles: Sequence[str],
        rounds: int = 1,
        warm_ahead: bool = True,  # noqa: FBT001, FBT002  (the same word as in the lab's file)
        *,
        hear: Callable[[str, Event], None] = nobody,
        **options: Any,
    ) -> RoundTable:
        """Have `roles` speak to `question` in turn, `rounds` times, each hearing what was said before.

        The next speaker is announced when a turn begins, so that its adapter is warm before its own turn;
        without `warm_ahead` nobody is. `hear` gets each speaker and event as it comes. `options` as in
        `actors.ask.Ask`, for every turn. A speaker that fails is shown as such and the table goes on. Raises
        UserError for what would fail again: a role that there is not, that may not be asked, or cannot serve.
        """
        return await hold(self, question, roles, rounds, options, hear=hear, warm_ahead=warm_ahead)

    async def ps(self) -> Listing:
        """Say where everything is now."""
        listing: Listing = await self._call("coordinator", "ps")
        return listing

    async def move(
        self, item: str, to: str | None = None, node: str | None = None, *, within_s: float = 120.0
    ) -> Thing:
        """Give a role or shard a new home, and wait until it is there and has left its old place.

        Without `to` it keeps its tier. A role that goes to another node answers from there on.
        """
        thing: Thing = await self._call(
            "coordinator", "move", item, to, node, within_s, within_s=within_s + CALL_S
        )
        return thing

    async def pin(self, item: str) -> Thing:
        """Never let a role or shard leave its home, until `unpin`."""
        thing: Thing = await self._call("coordinator", "pin", item, True)
        return thing

    async def unpin(self, item: str) -> Thing:
        """Let it leave its home again."""
        thing: Thing = await self._call("coordinator", "pin", item, False)
        return thing

    async def warm(self, name: str, within_s: float = 30.0, *, cause: str = "the user") -> Warming:
        """Order a role or shard up to where it serves, ahead of need; answers when it is ordered.

        The answer tells in how many seconds it is likely to be there and whom it evicts. Raises WorldError
        TRC022 if there is no room for it, TRC028 if it cannot be there `within_s`.
        """
        told: Warming = await self._call("coordinator", "warm", name, USER.caller, cause, within_s)
        return told

    async def cool(self, name: str) -> Thing:
        """Take an order to warm back: nothing keeps the item where it serves for that any more."""
        thing: Thing = await self._call("coordinator", "cool", name, "the user")
        return thing

    async def unload(self, name: str) -> Thing:
        """Send a role or shard to where it rests, once nobody uses it."""
        thing: Thing = await self._call("coordinator", "unload", name, "the user")
        return thing

    async def add_role(self, name: str, **fields: Any) -> Thing:
        """Add a role to the running lab.

        `fields` are those of its entry in the file (`lora_path`, `location`, …); relative paths are meant
        from the current directory. It is journalled, shown by `export`, and survives a restart.
        """
        thing: Thing = await self._call("coordinator", "add_role", name, _absolute(fields), within_s=CHANGE_S)
        return thing

    async def update_role(self, name: str, **changes: Any) -> Thing:
        """Change fields of a role's entry; None takes a field out. Answers in flight are not disturbed."""
        thing: Thing = await self._call(
            "coordinator", "update_role", name, _absolute(changes), within_s=CHANGE_S
        )
        return thing

    async def update(self, role: str) -> Renewed:
        """Read a role's adapter from its source again; another version takes over while the role answers.

        It is loaded beside the old one and proven there first. New asks take it then, answers in flight end
        on the old one, which goes when its last has ended; moves and pins hold for it. Raises what is wrong
        with the adapter, or why it does not come up (TRC012 with who has the seats): the old one serves on.
        """
        renewed: Renewed = await self._call("coordinator", "update", role, within_s=CHANGE_S)
        return renewed

    async def remove_role(self, name: str) -> Thing:
        """Take a role out of the lab, its answers in flight drained first; return its last row."""
        thing: Thing = await self._call("coordinator", "remove_role", name, within_s=CHANGE_S)
        return thing

    async def export(self) -> str:
        """Return the text of a file of the lab as it stands, with what was said in code and on the line."""
        text: str = await self._call("coordinator", "export")
        return text

    async def describe(self, name: str) -> Description:
        """Say all of a role, a shard or a version: who may ask it, its story, and why it is where it is."""
        told: Description = await self._call("coordinator", "describe", name)
        return told

    async def why(self, name: str) -> Why:
        """Say why a role, a shard or a version is where it is, copy by copy.

        Raises UserError TRC023 for one of which nothing is here.
        """
        told = await self.describe(name)
        if told.why is None:
            raise UserError("TRC023", f"nothing of {name} is here: {told.note}", "see `tierce describe`")
        return told.why

    async def story(self, item: str) -> list[Line]:
        """Say what happened to a role or shard, oldest first, with causes."""
        lines: list[Line] = await self._call("coordinator", "story", item)
        return lines

    async def activations(self) -> list[Activated]:
        """Return what each activation cost since the lab came up."""
        costs: list[Activated] = await self._call("coordinator", "activations")
        return costs

    async def down(self, *, forget: bool = False) -> list[str]:
        """End the lab's actors and return their names; the files of its SSD tier and its story stay.

        So does what was said of roles in code and on the line, unless `forget`: then the coordinator must
        answer, or its error is raised and the lab stays up. Without it a lab that is still coming up, or
        whose coordinator does not answer, is ended all the same.
        """
        coordinator = self._actor("coordinator")
        try:
            await reach(coordinator.down.remote(forget=forget), "the coordinator", DOWN_S)
        except TierceError:
            if forget:
                raise
        return await asyncio.to_thread(end_actors, self.name)


def _absolute(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields of a role with what names a file made absolute; hub ids and URLs stay as they are."""
    paths = {
        key: resolve(Path.cwd(), text)
        for key in ("lora_path", "persona_file")
        if isinstance(text := fields.get(key), str) and "://" not in text
    }
    return fields | paths
