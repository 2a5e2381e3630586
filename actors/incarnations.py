"""The incarnations of a role's actor: a changed role begins anew, and the old one answers to its end.

Ray pins an actor for life and gives a name to one actor only. So what changes a role (its node, its adapter,
its persona) hires the next incarnation; whoever asks is told by the old one to go there; it ends when its
last answer has.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import ray

from actors.errors import reach
from actors.names import incarnations
from actors.nodes import actor_options
from actors.role import Role
from placement.errors import TierceError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from actors.crew import Crew

#: How long a role's process may take to start.
ROLE_S = 120.0
#: How long an incarnation that was replaced may go on answering.
LAST_WORDS_S = 300.0
CLOSE_S = 5.0


async def hire(
    crew: Crew, name: str, item: str, failure: TierceError | None
) -> Coroutine[Any, Any, None] | None:
    """Have the current incarnation of a role serve `item`, or answer every ask with `failure`.

    One that already does stays. Return the end of those that were replaced, for the caller to run on the
    side. Raises WorldError TRC041 for a node that is not there.
    """
    spec = crew.role_spec(name, item, failure)
    crew.check_seen(spec.node)
    known = incarnations(crew.lab.name, f"role:{name}")
    number = known[-1][0] if known else 0
    if known and await _serves(crew, known[-1][1], spec.mark):
        crew.roles[name] = ray.get_actor(known.pop()[1], namespace=crew.lab.name)
    else:
        spec = spec.incarnated(number + 1)
        options = actor_options(crew.lab.name, spec.actor, crew.selectors[spec.node])
        role: Any = ray.remote(Role).options(**options).remote(spec)
        try:
            await reach(role.beat.remote(), f"role:{name}", ROLE_S)
        except TierceError:
            ray.kill(role)  # or it would be the one to ask
            raise
        crew.roles[name] = role
    return _end(crew, [actor for _, actor in known], LAST_WORDS_S) if known else None


async def dismiss(crew: Crew, name: str) -> None:
    """End a role's actors: no new asks from now on; those in flight are answered first."""
    actors = [actor for _, actor in incarnations(crew.lab.name, f"role:{name}")]
    await _end(crew, actors, LAST_WORDS_S)
    crew.roles.pop(name, None)
    crew.seats.pop(name, None)


async def _serves(crew: Crew, actor: str, mark: str) -> bool:
    """Tell whether an incarnation is what it should be; one that cannot be reached is not."""
    try:
        role = ray.get_actor(actor, namespace=crew.lab.name)
        return bool((await reach(role.beat.remote(), actor, ROLE_S)).mark == mark)
    except (TierceError, ValueError):
        return False


async def _end(crew: Crew, actors: list[str], drain_s: float) -> None:
    """End incarnations, all at a time: none takes a new ask while another finishes its answers."""
    await asyncio.gather(*(_end_one(crew, actor, drain_s) for actor in actors))


async def _end_one(crew: Crew, actor: str, drain_s: float) -> None:
    """Let an incarnation finish what it answers, then end it; one that cannot be reached is ended at once."""
    try:
        role = ray.get_actor(actor, namespace=crew.lab.name)
    except ValueError:  # it has ended
        return
    try:
        await reach(role.close.remote(drain_s), actor, drain_s + CLOSE_S)
    except TierceError:
        pass
    finally:
        ray.kill(role)
