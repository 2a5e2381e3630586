"""How the commands reach a lab. Ray is imported at the first call: commands without a lab start at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.client import Lab
    from actors.launch import Lowered
    from actors.progress import Progress


class Labs:
    """The labs of this machine and of the Ray at `address`."""

    def connect(self, lab: str | None, address: str | None) -> Lab:
        """Attach to a running lab. Raises WorldError TRC040 or TRC044."""
        from actors.client import Lab

        return Lab.connect(lab, address=address)

    def up(self, file: str, *, address: str | None, dashboard: bool, say: Callable[[Progress], None]) -> Lab:
        """Bring up the lab of `file`, and give each finished step to `say`."""
        from actors.launch import raise_lab

        return raise_lab(file, address=address, dashboard=dashboard, say=say)

    def down(self, lab: str | None, address: str | None) -> Lowered:
        """Stop exactly what `up` started."""
        from actors.launch import lower_lab

        return lower_lab(lab, address=address)
