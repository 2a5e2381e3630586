"""What is asked of a role, and the stamp that says who asks: the question is the caller's, the stamp is not.

A stamp is made by whoever passes the question on (the client for its user, a role for itself), so nothing in
a request decides who it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.errors import NotAllowed
from actors.lm.request import Sampling
from actors.rag.prompt import Said
from placement.config.schema import Generation

#: How many roles may stand between the user and the role that is asked.
MAX_DEPTH = 3
#: What a question may say of the draw; the names are those of `Generation` and of `Sampling` too.
SETTINGS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "max_tokens",
    "stop",
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to a role; None leaves a setting to the role's own `generation`.

    `said` is what was said before at a round table, oldest first. `deadline_s` bounds the whole answer:
    searches, consulted roles and activation included.
    """

    question: str
    said: tuple[Said, ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] | None = None
    deadline_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who asks ("user", "schedule" or a role), and the roles that the question came through, in order."""

    caller: str
    chain: tuple[str, ...] = ()

    def through(self, role: str) -> Stamp:
        """Return the stamp of what `role` asks in order to answer what came with this one."""
        return Stamp(role, (*self.chain, role))


USER = Stamp("user")
#: Who asks for a new version of an adapter while the old one serves; no role's name has a space.
UPDATE = "an update"


def named(caller: str) -> str:
    """Return who asks as a sentence names it: "the user", "the schedule", "an update", "role coder"."""
    plain = {"user": "the user", "schedule": "the schedule", UPDATE: UPDATE}
    return plain.get(caller, f"role {caller}")


def drawn_by(ask: Ask, own: Generation) -> Sampling:
    """Return how to draw the answer: as the question says, else as the role does. Raises UserError LM006."""
    settings: dict[str, Any] = {}
    for name in SETTINGS:
        said = getattr(ask, name)
        settings[name] = getattr(own, name) if said is None else said
    if isinstance(settings["stop"], list):
        settings["stop"] = tuple(settings["stop"])
    return Sampling(**settings)


def admit(role: str, activated_by: Sequence[str], stamp: Stamp) -> None:
    """Let a question in, or refuse it.

    Raises NotAllowed TRC002 for a caller that `activated_by` does not name, TRC003 for a role that is asked
    again on the way to its own answer, or that stands more than MAX_DEPTH roles from the user.
    """
    if stamp.caller not in activated_by:
        allowed = ", ".join(activated_by) or "nobody"
        raise NotAllowed(
            "TRC002",
            f"{role} may be activated by {allowed}; not by {stamp.caller!r}",
            f"add {stamp.caller} to roles.{role}.activated_by",
        )
    way = " > ".join((*stamp.chain, role))
    if role in stamp.chain:
        raise NotAllowed("TRC003", f"roles consult each other in a circle: {way}", "break it in `consults`")
    if len(stamp.chain) > MAX_DEPTH:
        raise NotAllowed(
            "TRC003",
            f"{len(stamp.chain)} roles consult each other in a row ({way}); {MAX_DEPTH} may",
            "shorten the way through `consults`",
        )
