"""Fetching files over HTTP(S): what has come stays on the disk, and the next try goes on from there."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import IO

import httpx2

from actors.lm.disk import disk, sync, write
from placement.errors import TierceError, UserError, WorldError
from placement.units import format_bytes

CONNECT_S = 10.0
REDIRECTS = 5
#: How far room is reserved ahead of a file whose size nobody told.
AHEAD_NBYTES = 16 << 20
#: Less than this in `stall_s` is no progress.
LEAST_NBYTES = 16 << 10
CUT_OFF = "STO015"
#: A date may stand for the content only if the file was left alone for some time before it was sent.
SETTLED = timedelta(seconds=60)

Reserve = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at an address: at most `limit` bytes; `headers` may hold a token, which no message shows."""

    url: str
    limit: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a fetch waits for the next bytes and for the whole; how often it goes on when cut off."""

    stall_s: float = 30.0
    total_s: float = 3600.0
    tries: int = 4
    pause_s: float = 1.0


def shown(address: str) -> str:
    """Return an address without user, password, query and fragment, as messages and stories may show it."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def fetch(
    remotes: Mapping[str, Remote], folder: Path, reserve: Reserve, patience: Patience | None = None
) -> None:
    """Bring `remotes` into `folder` under their names; each is there and on the disk when this returns.

    `reserve` is told how many bytes the folder will hold, before they come. What has come when this fails
    stays as `<name>.part`. Raises UserError STO010, 011, 014, 016, 018, 019 for an address that gives no such
    file, WorldError STO012, 013, 015, 017 for one that does not give it now, STO005 for the disk, and what
    `reserve` raises.
    """
    patience = patience or Patience()
    with disk(f"write {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    timeout = httpx2.Timeout(patience.stall_s, connect=min(CONNECT_S, patience.stall_s))
    until_s, come = time.monotonic() + patience.total_s, 0
    with httpx2.Client(timeout=timeout, headers={"Accept-Encoding": "identity"}) as client:
        for name, remote in remotes.items():
            further = partial(_further, reserve, come)
            come += Download(client, remote, folder / f"{name}.part", further).run(patience, until_s)
    with disk(f"write {folder}"):
        for name in remotes:
            (folder / f"{name}.part").replace(folder / name)
        sync(folder)


def _further(reserve: Reserve, before: int, nbytes: int) -> None:
    reserve(before + nbytes)


class Download:
    """One file on its way into `part`; beside it `part`.json says which content the bytes there belong to."""

    def __init__(self, client: httpx2.Client, remote: Remote, part: Path, reserve: Reserve) -> None:
        self.client = client
        self.remote = remote
        self.part = part
        self.reserve = reserve
        self.shown = shown(remote.url)
        self._told = part.with_name(part.name + ".json")

    def run(self, patience: Patience, until_s: float) -> int:
        """Fetch all that is missing, in a few tries; return the bytes of the file."""
        for again in range(1, patience.tries + 1):
            try:
                return self._go_on(patience, until_s)
            except WorldError as error:
                if error.code != CUT_OFF or again == patience.tries:
                    raise
                time.sleep(patience.pause_s)
        raise WorldError(CUT_OFF, f"{self.shown} was not tried")

    def _go_on(self, patience: Patience, until_s: float) -> int:
        here, validator = self._left()
        asked = {"Range": f"bytes={here}-", "If-Range": validator} if here else {}
        with self._typed(patience), self._opened(asked) as response:
            if response.status_code == 416 and here:
                return self._end_of_range(response, here, validator)
            start, total = self._span(response, here)
            if start and _is_other(response.headers, validator):
                raise self._forget("it has changed in between")
            self._check_size(total or start)
            self.reserve(self._ahead(start) if total is None else total)
            with disk(f"write {self.part}"):
                if not start:  # before it is said to be of this content
                    self.part.unlink(missing_ok=True)
                write(self._told, json.dumps([self.shown, _validator(response.headers)]).encode())
                stream = self.part.open("r+b" if start else "wb")
            with stream:
                stream.seek(start)
                size = self._take(response, stream, total, patience, until_s)
        if total is not None and size != total:
            raise WorldError(CUT_OFF, f"{self.shown} was cut off at {size} of {total} bytes")
        return size

    def _take(
        self,
        response: httpx2.Response,
        stream: IO[bytes],
        total: int | None,
        patience: Patience,
        until_s: float,
    ) -> int:
        """Write what comes; return the size of the file then. Whatever ends it, what came is on the disk."""
        size = mark = stream.tell()
        reserved, mark_s = self._ahead(size), time.monotonic()
        try:
            for chunk in response.iter_raw():
                now_s = time.monotonic()
                size += len(chunk)
                self._check_size(size)
                if total is None and size > reserved:
                    reserved = self._ahead(size)
                    self.reserve(reserved)
                with disk(f"write {self.part}"):
                    stream.write(chunk)
                if size - mark >= LEAST_NBYTES:
                    mark, mark_s = size, now_s
                elif now_s - mark_s > patience.stall_s:
                    told = f"{size - mark} bytes in {now_s - mark_s:.0f} s, at byte {size}"
                    raise WorldError("STO013", f"{self.shown} came too slowly: {told}", GOES_ON)
                if now_s > until_s:
                    told = f"{patience.total_s:.0f} s, at byte {size}"
                    raise WorldError("STO013", f"{self.shown} did not come in {told}", GOES_ON)
        finally:
            with disk(f"write {self.part}"):
                stream.flush()
                os.fsync(stream.fileno())
        return size

    def _left(self) -> tuple[int, str]:
        """Return how much of which content an earlier try left; (0, "") if it cannot be gone on with."""
        try:
            address, validator = json.loads(self._told.read_bytes())
            size = self.part.stat().st_size
        except (FileNotFoundError, ValueError, TypeError):
            return 0, ""
        return (size, str(validator)) if validator and address == self.shown else (0, "")

    def _forget(self, why: str) -> WorldError:
        """Remove what was left; return the error that begins the file anew."""
        with disk(f"remove {self.part}"):
            self._told.unlink(missing_ok=True)
            self.part.unlink(missing_ok=True)
        return WorldError(CUT_OFF, f"{self.shown} cannot be gone on with: {why}", "it begins anew")

    @contextmanager
    def _opened(self, asked: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """Ask for the file and follow redirects to http(s), never from https down to http."""
        request = self.client.build_request("GET", self.remote.url, headers={**self.remote.headers, **asked})
        for _ in range(REDIRECTS + 1):
            response = self.client.send(request, stream=True)
            try:
                if response.next_request is None:
                    yield response
                    return
                scheme, before = response.next_request.url.scheme, request.url.scheme
                if scheme not in {"http", "https"} or (before, scheme) == ("https", "http"):
                    told = f"{self.shown} redirects from {before} to {scheme}, which is not followed"
                    raise UserError("STO018", told, "name the final address")
                request = response.next_request
            finally:
                response.close()
        raise UserError(
            "STO018", f"{self.shown} redirects more than {REDIRECTS} times", "name the final address"
        )

    def _span(self, response: httpx2.Response, here: int) -> tuple[int, int | None]:
        """Return where the bytes of an answer begin in the file, and the file's size if it was told."""
        if response.status_code not in {200, 206}:
            raise refusal(self.shown, response.status_code)
        headers = response.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            told = (
                f"{self.shown} came encoded ({headers['Content-Encoding']}), though it was asked for as it is"
            )
            raise UserError("STO016", told, "mend the server")
        if headers.get("Content-Type", "").startswith("text/html"):
            told = f"{self.shown} is a web page, not a file of an adapter"
            raise UserError("STO016", told, "name the address of the raw files")
        if response.status_code == 200:
            length = headers.get("Content-Length", "")
            return 0, int(length) if length.isdecimal() else None
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        if span is None or int(span[1]) != here or not here:
            raise self._forget(
                f"asked from byte {here}, it sent {headers.get('Content-Range', 'no range')!r}"
            )
        return here, int(span[2])

    def _end_of_range(self, response: httpx2.Response, here: int, validator: str) -> int:
        """Return the size of a file of which nothing is missing."""
        told = response.headers.get("Content-Range", "")
        if told != f"bytes */{here}" or response.headers.get("ETag", validator) != validator:
            raise self._forget(f"{here} bytes are here, it has {told!r}, or another content")
        self.reserve(here)
        return here

    def _ahead(self, size: int) -> int:
        """Return what to reserve for a file of unknown size of which `size` bytes are here."""
        return min(size + AHEAD_NBYTES, self.remote.limit)

    def _check_size(self, nbytes: int) -> None:
        if nbytes > self.remote.limit:
            told = f"{self.shown} has {format_bytes(nbytes)} or more"
            most = format_bytes(self.remote.limit)
            raise UserError("STO014", f"{told}, an adapter of this base {most} at most", "is it an adapter?")

    @contextmanager
    def _typed(self, patience: Patience) -> Iterator[None]:
        try:
            yield
        except httpx2.HTTPError as error:
            raise outage(self.shown, error, patience.stall_s) from error
        except httpx2.InvalidURL as error:
            raise UserError("STO019", f"{self.shown} is no address", "mend lora_path") from error


GOES_ON = "what has come stays; the next try goes on from there"


def outage(address: str, error: Exception, stall_s: float) -> TierceError:
    """Return the typed error for a request to `address` that got no answer, or not all of it."""
    match error:
        case httpx2.ConnectTimeout():
            return WorldError("STO012", f"{address} cannot be reached: no connection in time", REACHABLE)
        case httpx2.TimeoutException():
            return WorldError("STO013", f"{address} sent nothing for {stall_s:.0f} s", GOES_ON)
        case httpx2.UnsupportedProtocol() | httpx2.LocalProtocolError():
            return UserError("STO019", f"{address} is no address of http or https", "mend lora_path")
        case httpx2.ConnectError() | httpx2.ProxyError():
            return WorldError("STO012", f"{address} cannot be reached: {error}", REACHABLE)
        case _:
            return WorldError(CUT_OFF, f"{address} was cut off ({type(error).__name__})", GOES_ON)


REACHABLE = "is the server running, and can this node reach it?"


def refusal(address: str, status: int) -> TierceError:
    """Return the typed error for an answer with `status` from `address`."""
    if status in {404, 410}:
        return UserError("STO010", f"{address} does not exist (HTTP {status})", "mend lora_path")
    if status in {401, 403, 407}:
        hint = "give HF_TOKEN (the hub) or user and password in the URL (elsewhere), and restart the lab"
        return UserError("STO011", f"{address} may not be read (HTTP {status})", hint)
    if status in {408, 429} or status >= 500:
        return WorldError("STO017", f"{address} is not served now (HTTP {status})", "try again later")
    return UserError("STO016", f"{address} gave HTTP {status}, not a file", "mend lora_path")


def _is_other(headers: httpx2.Headers, validator: str) -> bool:
    """Tell whether a range is of another content than `validator`'s: not every server heeds If-Range."""
    found = _validator(headers)
    # Only an ETag has to be repeated with a range; a date may be left out.
    return found != validator and (found != "" or validator.startswith('"'))


def _validator(headers: httpx2.Headers) -> str:
    """Return what stands for exactly this content: a strong ETag, a settled date, or "" for nothing."""
    etag: str = headers.get("ETag", "")
    if etag:
        return etag if etag.startswith('"') else ""
    modified: str = headers.get("Last-Modified", "")
    try:
        settled = parsedate_to_datetime(headers["Date"]) - parsedate_to_datetime(modified) >= SETTLED
    except (KeyError, ValueError, TypeError):
        return ""
    return modified if settled else ""
