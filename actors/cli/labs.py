"""How the commands reach a lab. Ray is imported at the first call: commands without a lab start at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.client import Lab
    from actors.launch import Lowered
    from actors.progress import Progress
    from placement.preview.drift import Drift
    from placement.preview.plan import Plan

#: What stands for a file's name in messages about a lab that was said on the line.
LINE = "the command line"


class Labs:
    """The labs of this machine and of the Ray at `address`."""

    def connect(self, lab: str | None, address: str | None) -> Lab:
        """Attach to a running lab. Raises WorldError TRC040 or TRC044."""
        from actors.client import Lab

        return Lab.connect(lab, address=address)

    def up(
        self,
        file: str | None,
        *,
        address: str | None,
        dashboard: bool,
        say: Callable[[Progress], None],
        role: tuple[str, dict[str, Any]] | None = None,
    ) -> Lab:
        """Bring up the lab of `file`, and give each finished step to `say`.

        `role`, a name and its entry as in a file, comes up with it; its relative paths start from the current
        directory. Without a file there must be one: the lab is then that role alone.
        """
        from actors.cli.entry import alone
        from actors.launch import raise_lab

        said: dict[str, Any] = {}
        if role is not None:
            said = {"role": role} if file is not None else {"text": alone(*role)}
        return raise_lab(file or LINE, address=address, dashboard=dashboard, say=say, **said)

    def down(self, lab: str | None, address: str | None, *, forget: bool = False) -> Lowered:
        """Stop exactly what `up` started; `forget` also what was said on the line and in code."""
        from actors.launch import lower_lab

        said: dict[str, Any] = {"forget": True} if forget else {}
        return lower_lab(lab, address=address, **said)

    def plan(self, file: str, address: str | None, *, forget: bool = False) -> Plan:
        """Return all that would be done to make the world like `file`."""
        from actors.proposing import plan_lab

        return plan_lab(file, address=address, forget=forget)

    def drift(self, file: str, address: str | None) -> tuple[Drift, ...]:
        """Return where the running lab of `file` is other than it."""
        from actors.proposing import drift_of

        return drift_of(file, address=address)

    def apply(
        self, file: str, address: str | None, *, forget: bool, mark: str, say: Callable[[Progress], None]
    ) -> None:
        """Make the world like `file`, by exactly the plan with that mark."""
        from actors.proposing import apply_lab

        apply_lab(file, address=address, forget=forget, mark=mark, say=say)
