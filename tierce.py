"""Tierce: one file says where each LoRA role and each RAG shard lives; a lab on Ray keeps it so.

import tierce
lab = tierce.connect()
print(lab.ask("philosopher", "What is justice?"))
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import actors
import placement

_home = Path(__file__).resolve().parent
for _package in (actors, placement):
    _found = Path(next(iter(_package.__path__))).resolve().parent
    if _found != _home:
        raise ImportError(
            f"tierce needs the `{_package.__name__}` package at {_home}, but Python found one at {_found}. "
            "Rename yours, or run from another directory."
        )

from placement.errors import TierceError, UserError, WorldError  # noqa: E402  (only after the guard)

if TYPE_CHECKING:
    from actors.client import Lab

try:
    __version__ = version("tierce")
except PackageNotFoundError:
    __version__ = "0+source"

__all__ = ["TierceError", "UserError", "WorldError", "__version__", "connect", "main", "up"]


def connect(lab: str | None = None, *, address: str | None = None) -> Lab:
    """Attach to a running lab; the calls of what comes back block, those of its `.aio` are awaited.

    `lab` may be left out where one lab runs. `address` is Ray's; left out, the lab that `tierce up` started
    on this machine is found, or the Ray that RAY_ADDRESS names. Raises WorldError TRC040 if none runs.
    """
    from actors.client import Lab

    return Lab.connect(lab, address=address)


def up(file: str = "cluster.yaml", *, address: str | None = None) -> Lab:
    """Bring up the lab of `file` and attach to it; a lab that is up already is left as it is."""
    from actors.launch import raise_lab

    return raise_lab(file, address=address)


def main() -> None:
    """Run the command line."""
    from actors.cli.app import run

    run()
