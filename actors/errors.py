"""Errors that come from the living lab, and the one place that reads Ray's own errors."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)

from placement.errors import TierceError, UserError, WorldError


class UnknownName(UserError):
    """A role, shard or node that the lab's file does not name."""


class NotAllowed(UserError):
    """The caller is not among the role's `activated_by`, or roles consult each other in a circle."""


class Unreachable(WorldError):
    """An actor died, is restarting, or did not answer before its deadline."""


class Moved(WorldError):
    """TRC018: this incarnation of a role ends; the current one is to be asked."""


class StaleEpoch(WorldError):
    """A command of a coordinator that has been replaced; nothing was done."""


class Broken(WorldError):
    """A stream that had begun and cannot be finished; what was sent is not the whole answer."""


LOST = (ActorDiedError, ActorUnavailableError, RayActorError, OwnerDiedError)


def translate(error: BaseException, who: str) -> TierceError:
    """Turn what Ray raised into a typed error that names the actor; a typed cause comes back as itself."""
    if isinstance(error, TierceError) and not isinstance(error, RayTaskError):
        return error
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, TierceError):
            return cause
        return WorldError("TRC032", f"{who} failed: {type(cause).__name__}: {cause}", "see the actor's log")
    if isinstance(error, TaskCancelledError):
        return WorldError("TRC033", f"the call to {who} was cancelled")
    if isinstance(error, (TimeoutError, GetTimeoutError)):
        return Unreachable("TRC030", f"{who} did not answer in time", "look at `tierce ps --wide`")
    if isinstance(error, LOST):
        return Unreachable("TRC031", f"{who} is not running now", "it restarts by itself; ask again")
    if isinstance(error, RayError):
        return Unreachable("TRC034", f"{who} cannot be reached: {error}")
    raise error


async def reach(call: Awaitable[Any], who: str, within_s: float) -> Any:
    """Await a Ray call under a deadline; whatever goes wrong comes back as a typed error that names `who`."""
    try:
        return await asyncio.wait_for(call, within_s)
    except (RayError, TimeoutError) as error:
        raise translate(error, who) from error
