"""Where an adapter is read from: its directory as it is, a copy of it that we keep, or an address."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from actors.lm.adapter import CONFIG, WEIGHTS, source_digest
from actors.lm.disk import disk, remove, sync
from actors.lm.fetch import Remote, Reserve, fetch, shown
from actors.lm.header import AdapterError
from actors.lm.hub import adapter_files, cached_adapter
from actors.lm.image_file import Stamp
from actors.lm.mounts import is_volatile, read_table
from actors.lm.peft_config import MAX_CONFIG_NBYTES
from placement.errors import UserError

How = Literal["in place", "copied", "fetched"]
CHUNK_NBYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """Where the source of a version can be read (an address without credentials), and how it is kept.

    "in place": a directory on a durable disk, only ever read. "copied": from a directory in memory to the SSD
    tier. "fetched": from an address, which has to give it again.
    """

    path: str
    how: How


def how_kept(lora_path: str) -> How:
    """Tell how the source at `lora_path` is kept on this node. What is no absolute path is an address."""
    if not os.path.isabs(lora_path):  # noqa: PTH117  (Path's raises for a text with NUL)
        return "fetched"
    if "\0" in lora_path:
        return "in place"  # no path at all; whoever reads it says so
    paths = (lora_path, f"{lora_path}/{CONFIG}", f"{lora_path}/{WEIGHTS}")
    return "copied" if is_volatile(paths, read_table()) else "in place"


class Watched:
    """Which versions the directories of adapters hold; files that are as they were are not read again.

    Calls block on the disk.
    """

    def __init__(self) -> None:
        #: of each directory: how its files were when they were read, and the digest of their version
        self._known: dict[str, tuple[tuple[Stamp, ...], str]] = {}

    def stamps(self, lora_path: str) -> tuple[Stamp, ...]:
        """Return by what the files of a directory are told from others; () if one is missing."""
        try:
            return tuple(Stamp.of(Path(lora_path) / file) for file in (CONFIG, WEIGHTS))
        except OSError:
            return ()

    def note(self, lora_path: str, stamps: tuple[Stamp, ...], digest: str) -> None:
        """Remember the version that was read after the files had these stamps, if they have them still."""
        if stamps and stamps == self.stamps(lora_path):
            self._known[lora_path] = (stamps, digest)

    def digest(self, lora_path: str) -> str:
        """Return the digest of the version in a directory; "" if it is no directory or a file is missing.

        Raises WorldError STO005 for files that cannot be read.
        """
        stamps = self.stamps(lora_path) if how_kept(lora_path) != "fetched" else ()
        if not stamps:
            return ""
        known, digest = self._known.get(lora_path, ((), ""))
        if known != stamps:
            with disk(f"read {lora_path}"):
                digest = source_digest(*(_digest(Path(lora_path) / file) for file in (CONFIG, WEIGHTS)))
            self.note(lora_path, stamps, digest)
        return digest


def slug(role: str, address: str) -> str:
    """Return the name of the folder into which a role's adapter at `address` is fetched."""
    return f"{role}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


def folder_files(url: str, weights_limit: int) -> dict[str, Remote]:
    """Return the addresses of an adapter's two files in the folder `url`; a query stays with each.

    Raises UserError STO019 for what is no address.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError("STO019", f"{shown(url)} is no address", "mend lora_path") from error
    limits = {CONFIG: MAX_CONFIG_NBYTES, WEIGHTS: weights_limit}
    return {
        file: Remote(urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{file}", fragment="")), limit)
        for file, limit in limits.items()
    }


def fetch_source(address: str, into: Path, weights_limit: int, reserve: Reserve) -> str:
    """Bring the two files of an adapter from a URL or hub id to this node; return the directory with them.

    That is `into`, or the hub's cache if HF_HUB_OFFLINE is set. Raises as `fetch` and `adapter_files`.
    """
    if "://" in address:
        fetch(folder_files(address, weights_limit), into, reserve)
        return str(into)
    cached = cached_adapter(address)
    if cached is None:
        fetch(adapter_files(address, weights_limit), into, reserve)
    return cached or str(into)


def copy_source(lora_path: str, into: Path, digest: str) -> None:
    """Copy an adapter's two files into the directory `into`; they are whole and on the disk, or not there.

    Raises AdapterError ADP034 if they are no longer those of `digest`, WorldError STO005.
    """
    half = into.with_name(into.name + ".tmp")
    with disk(f"copy {lora_path} to {into}"):
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        found = source_digest(*(_copy(Path(lora_path) / file, half / file) for file in (CONFIG, WEIGHTS)))
        if found != digest:
            shutil.rmtree(half)
            told = f"{lora_path} changed while it was copied (now {found[:12]}, before {digest[:12]})"
            raise AdapterError("ADP034", told, "wait until its writer has finished")
        sync(half)
        remove(into)
        half.replace(into)
        sync(into.parent)


def at_address(error: AdapterError, folder: str, address: str) -> AdapterError:
    """Return `error` with the address in place of the folder into which it was fetched."""
    return AdapterError(error.code, error.message.replace(folder, shown(address).rstrip("/")), error.hint)


def _digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as reading:
        return hashlib.file_digest(reading, "sha256").hexdigest()


def _copy(source: Path, target: Path) -> str:
    """Copy a file to the disk; return its SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(CHUNK_NBYTES):
            digest.update(chunk)
            writing.write(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    return digest.hexdigest()
