"""The errors of Tierce: a stable code, one sentence that names the value and the place, and what to do."""


class TierceError(Exception):
    """Root of every error that Tierce raises on purpose.

    `code` is stable and documented (`CFG021`), `message` is one sentence, `hint` says what to do or is empty.
    All three are positional arguments of the exception, so it pickles across processes, subclasses included.
    """

    exit_code = 1

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return `message [CODE]`; the hint is shown apart."""
        return f"{self.message} [{self.code}]"


class UserError(TierceError):
    """What was asked for is wrong: asking again unchanged will fail again."""

    exit_code = 2


class WorldError(TierceError):
    """The world did not allow it (full disk, lost node, deadline): the same request may succeed later."""


class Cold(WorldError):
    """TRC010: the item has no slot in this engine now."""


class Busy(WorldError):
    """TRC011: the replica is in use (leases), try again."""
