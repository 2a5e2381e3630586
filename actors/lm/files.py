"""Slot images on an SSD: one file and one small sidecar per item; what is there is whole, or is set aside."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.lm.adapter import CONFIG, WEIGHTS
from actors.lm.disk import disk, locked, nbytes_under, remove, sync, write
from actors.lm.image import image_digest
from actors.lm.image_file import Stamp, digest_of
from actors.lm.sidecar import Sidecar
from actors.lm.source import copy_source
from placement.errors import UserError, WorldError
from placement.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from actors.lm.loader import Pace

ITEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@#+-]{0,199}")
#: Left free on the disk for everybody else.
RESERVE_NBYTES = 64 << 20
#: Engines whose proof of an image is remembered; the oldest is forgotten.
PROOFS = 16


class ImageFiles:
    """The images under `root`, which one process at a time may write; calls block on the disk.

    An item is here once its sidecar is: the image is written, synced and renamed first, its sidecar (size and
    digest) last, so a crash at any point leaves either the whole item or leftovers that the next open
    removes. Bytes are hashed when they come and by scrubbing; else a file is taken for the one that was
    hashed as long as its time, size and inode say so. Beside the images lie sources, which count in the
    budget: kept ones (of items whose directory was in memory), and those that are being fetched, with what
    has come of them.
    """

    def __init__(self, root: str | Path, budget: int | None = None) -> None:
        """Make and lock `root`, remove what a crash left; never hold over `budget` bytes (None: the disk's).

        Raises WorldError STO005 if the folder is not usable, STO007 if another owner still has it after
        LOCK_WAIT_S: the lock ends with its process, so one that was killed is not waited for in vain.
        """
        self.root = Path(root)
        self.budget = budget
        self.quarantine = self.root / "quarantine"
        self.sources = self.root / "sources"
        #: bytes set aside by name: of sources on their way, and of images that are being written
        self._reserved: dict[str, int] = {}
        self._counting = threading.Lock()
        #: held by whoever changes a sidecar
        self._telling = threading.Lock()
        with disk(f"open {self.root}"):
            self._lock = locked(self.root)
            try:
                self._clean()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let another owner open the folder; this one must not be used any more."""
        os.close(self._lock)

    def put(self, item: str, image: NDArray[np.uint8], digest: str) -> None:
        """Keep `image` under `item`, on the disk when this returns. Nothing happens if it is there already.

        Raises WorldError STO002 if the bytes are not those of `digest`, STO003 if disk or budget has no room.
        """
        found = image_digest(image)
        if found != digest:
            raise WorldError(
                "STO002", f"{item} came with digest {found[:12]}, not {digest[:12]}; nothing was kept"
            )
        file, sidecar = self._paths(item)
        told = Sidecar.read(sidecar)
        if told is not None and told.digest == digest and self._size(item) == image.nbytes:
            return
        self.reserve(item, image.nbytes)
        try:
            with disk(f"write {file}"):
                with self._telling:
                    sidecar.unlink(missing_ok=True)
                write(file, image.data)
                with self._telling:
                    told = Sidecar(item, image.nbytes, digest, Stamp.of(file), time.time())
                    write(sidecar, told.encoded())
        finally:
            self.release(item)

    def get(self, item: str) -> NDArray[np.uint8]:
        """Read the image of `item` and verify it.

        Raises WorldError STO001 if it is not here. A damaged image is moved to `quarantine/` and STO002 is
        raised.
        """
        file, sidecar = self._paths(item)
        if not sidecar.exists() or not file.exists():
            raise WorldError("STO001", f"{item} is not under {self.root}", "it has to be copied here again")
        told = Sidecar.read(sidecar)
        with disk(f"read {file}"):
            stamp = Stamp.of(file)
            image = np.fromfile(file, np.uint8)
        if told is None or (told.nbytes, told.digest) != (image.nbytes, image_digest(image)):
            self._set_aside(item)
            what = (
                "its sidecar"
                if told is None
                else f"{image.nbytes} bytes of {told.nbytes}, digest of the content"
            )
            raise WorldError(
                "STO002", f"{item} under {self.root} is damaged ({what}); moved to {self.quarantine}"
            )
        if told.verified != stamp:
            self._note(item, told.digest, verified=stamp, checked_s=time.time())
        return image

    def verified(self, item: str) -> tuple[Path, Sidecar]:
        """Return where the image of `item` lies, and what is known of it, its `verified` stamp included.

        It is read only if the file is not the one that was hashed last. Raises as `get`.
        """
        file, sidecar = self._paths(item)
        told = Sidecar.read(sidecar)
        if told is None or told.verified is None or told.verified != _stamp(file):
            self.get(item)
            told = Sidecar.read(sidecar)
        if told is None or told.verified is None:
            raise WorldError("STO001", f"{item} left {self.root} meanwhile", "it has to be copied here again")
        return file, told

    def proven(self, item: str, digest: str) -> tuple[str, ...]:
        """Return the keys of the engines in which the image of that digest has had an effect."""
        told = Sidecar.read(self._paths(item)[1])
        return told.proven if told is not None and told.digest == digest else ()

    def prove(self, item: str, digest: str, key: str) -> None:
        """Remember that the image of that digest has an effect in the engine of `key`, if it is here."""
        known = self.proven(item, digest)
        if key not in known:
            self._note(item, digest, proven=(*known, key)[-PROOFS:])

    def scrub_next(self, pace: Pace, before_s: float) -> tuple[str, str] | None:
        """Hash the image whose last check is longest ago, if that was before `before_s` (clock on the wall).

        Return what was found damaged and why; it is set aside. `pace` is called after each piece. Raises
        WorldError STO005 if the disk takes no sidecar.
        """
        with disk(f"scrub {self.root}"):
            told = (Sidecar.read(self._paths(item)[1]) for item in self.inventory())
            due = min((one for one in told if one is not None), key=lambda one: one.checked_s, default=None)
            if due is None or due.checked_s >= before_s:
                return None
            why = self._scrub(due, pace)
            return (due.item, why) if why else None

    def _scrub(self, told: Sidecar, pace: Pace) -> str:
        """Hash an image; return why it was set aside, "" if it is whole or was changed meanwhile."""
        file, sidecar = self._paths(told.item)
        stamp = _stamp(file)
        try:
            found = digest_of(file, pace)
        except OSError as error:
            if stamp is None or _stamp(file) is None:
                return ""  # dropped meanwhile
            why = f"it cannot be read: {error.strerror}"
        else:
            if found == told.digest:
                if stamp == _stamp(file):
                    self._note(told.item, found, verified=stamp, checked_s=time.time())
                return ""
            why = f"its digest is {found[:12]}, not {told.digest[:12]}"
        if stamp != _stamp(file) or Sidecar.read(sidecar) != told:
            return ""
        self._set_aside(told.item)
        return f"{why}; moved to {self.quarantine}"

    def reserve(self, name: str, nbytes: int) -> None:
        """Set bytes aside for an item or a source until `release`; a later call for a name replaces it.

        Raises WorldError STO003 if disk or budget has no room for them; then nothing has changed.
        """
        with self._counting:
            self._check_room(name, nbytes)
            self._reserved[name] = nbytes

    def release(self, name: str) -> None:
        """Give back what is set aside for `name`; what lies on the disk goes on to count."""
        with self._counting:
            self._reserved.pop(name, None)

    def fetching(self) -> dict[str, int]:
        """Return the bytes set aside for each source that is on its way, by the name of its folder."""
        with self._counting:
            return {name: nbytes for name, nbytes in self._reserved.items() if not _is_item(name)}

    def keep_source(self, item: str, lora_path: str, digest: str) -> str:
        """Copy the source of `item` from a directory; return the copy's, which stays until the item's drop.

        Raises AdapterError ADP034 if the directory no longer holds the version of `digest`, WorldError STO003
        or STO005.
        """
        into = self.source(item)
        nbytes = sum((Path(lora_path) / file).stat().st_size for file in (CONFIG, WEIGHTS))
        self.reserve(into.name, nbytes)
        try:
            copy_source(lora_path, into, digest)
        finally:
            self.release(into.name)
        return str(into)

    def source(self, item: str) -> Path:
        """Return the directory of the kept source of `item`; it exists if the source was copied here."""
        self._paths(item)
        return self.sources / item.replace("@", "-")

    def forget_source(self, name: str) -> None:
        """Remove a source by the name of its folder; nothing happens if there is none."""
        with disk(f"remove {self.sources / name}"):
            remove(self.sources / name)
        self.release(name)

    def drop(self, item: str) -> None:
        """Remove `item` and its kept source; nothing happens if it is not here."""
        file, sidecar = self._paths(item)
        with disk(f"remove {file}"), self._telling:
            sidecar.unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            sync(self.root)
        self.forget_source(self.source(item).name)

    def inventory(self) -> dict[str, int]:
        """Return the bytes of each item that is here; contents are not read."""
        names = (sidecar.name.removesuffix(".json") for sidecar in sorted(self.root.glob("*.json")))
        sizes = {name: self._size(name) for name in names if ITEM.fullmatch(name)}
        return {name: size for name, size in sizes.items() if size is not None}

    def _size(self, item: str) -> int | None:
        """Return the bytes of an item as its sidecar and its file agree on them; None if it is not here."""
        file, sidecar = self._paths(item)
        told, stamp = Sidecar.read(sidecar), _stamp(file)
        return stamp.nbytes if told and stamp and told.nbytes == stamp.nbytes else None

    def _clean(self) -> None:
        self.quarantine.mkdir(exist_ok=True)
        for folder in self.sources.glob("*.tmp"):
            shutil.rmtree(folder)
        for file in self.root.glob("*.tmp"):
            file.unlink()
        for file in self.root.glob("*.safetensors"):
            if not file.with_suffix(".json").exists():
                file.unlink()

    def _paths(self, item: str) -> tuple[Path, Path]:
        if not ITEM.fullmatch(item):
            raise UserError("STO006", f"{item!r} is not the name of an item", f"it must match {ITEM.pattern}")
        return self.root / f"{item}.safetensors", self.root / f"{item}.json"

    def _note(self, item: str, digest: str, **changes: Any) -> None:
        """Change what the sidecar of `item` says, if it still speaks of the image of `digest`."""
        sidecar = self._paths(item)[1]
        with disk(f"write {sidecar}"), self._telling:
            told = Sidecar.read(sidecar)
            if told is not None and told.digest == digest:
                write(sidecar, replace(told, **changes).encoded())

    def _held(self) -> dict[str, int]:
        """Return what lies on the disk by name: items, and the folders of sources."""
        try:
            sources = {folder.name: nbytes_under(folder) for folder in self.sources.iterdir()}
        except FileNotFoundError:
            sources = {}
        return self.inventory() | sources

    def _check_room(self, name: str, nbytes: int) -> None:
        held = self._held()
        # An image replaces the one before only when it is written whole; a source grows where it lies.
        here = 0 if _is_item(name) else held.get(name, 0)
        owed = {other: due for other, due in self._reserved.items() if other != name}
        free = os.statvfs(self.root)
        nbytes_free = free.f_bavail * free.f_frsize - sum(
            max(0, due - held.get(other, 0)) for other, due in owed.items()
        )
        if nbytes_free + here < nbytes + RESERVE_NBYTES:
            told = (
                f"{name} needs {nbytes} bytes, {self.root} has {nbytes_free} free"
                f" ({RESERVE_NBYTES} stay in reserve)"
            )
            raise WorldError("STO003", told, "free some space on this disk")
        taken = {other: size for other, size in held.items() if other != name}
        for other, due in owed.items():
            taken[other] = max(due, taken.get(other, 0))
        if self.budget is not None and sum(taken.values()) + nbytes > self.budget:
            largest = sorted(taken, key=lambda other: -taken[other])[:5]
            told = ", ".join(f"{other} {format_bytes(taken[other])}" for other in largest) or "nobody"
            used, budget = format_bytes(sum(taken.values())), format_bytes(self.budget)
            raise WorldError(
                "STO003",
                f"{name} needs {format_bytes(nbytes)}; {self.root} has {used} of {budget} taken ({told})",
                "raise the node's ssd budget, or remove old versions from that folder",
            )

    def _set_aside(self, item: str) -> None:
        with disk(f"set aside {item}"), self._telling:
            for path in self._paths(item):
                path.replace(self.quarantine / path.name)
            sync(self.root)


def _is_item(name: str) -> bool:
    """Tell an item (`coder@3fa9c1d2b0aa`) from the folder of a source (`coder-3fa9c1d2b0aa`)."""
    return "@" in name or "#" in name


def _stamp(file: Path) -> Stamp | None:
    """Return the stamp of a file, None if there is none."""
    try:
        return Stamp.of(file)
    except FileNotFoundError:
        return None
