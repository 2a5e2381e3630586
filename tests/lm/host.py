"""A web server for tests that cuts off, lies, changes its files, redirects, falls silent."""

from __future__ import annotations

import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: What a server does with one request in place of answering it well.
Fault = Callable[["Answer"], None]


@dataclass
class Host:
    """Files by path, and for each path the faults of its next requests, in turn; `seen` is what was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    headers: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    #: status and headers of the answer for a path that is no file; 404 for others
    missing: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    ranges: bool = True
    #: answer with a range although the file is no longer the one that was asked for
    heeds_if_range: bool = True
    #: how a file's ETag is written; "" for none
    etag: str = '"{}"'
    url: str = ""
    ending: threading.Event = field(default_factory=threading.Event)

    def asked(self, path: str, header: str) -> list[str | None]:
        """Return a header of each GET of `path`, None where it was not sent."""
        return [sent.get(header) for method, where, sent in self.seen if (method, where) == ("GET", path)]


class Answer(BaseHTTPRequestHandler):
    """One request; the host is the server's."""

    protocol_version = "HTTP/1.1"

    @property
    def host(self) -> Host:
        return self.server.host

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.host.seen.append((self.command, path, dict(self.headers)))
        if self.host.faults[path] and self.command == "GET":
            self.host.faults[path].popleft()(self)
        elif path in self.host.files:
            self.serve(self.host.files[path])
        else:
            number, headers = self.host.missing.get(path, (404, {}))
            self.refuse(number, **headers)

    do_HEAD = do_GET  # noqa: N815

    def serve(self, content: bytes, *, most: int | None = None, more: int = 0, **headers: str) -> None:
        """Send a file, or the range of it that was asked for; at most `most` bytes of it, told as `more`."""
        start, total = self.start_of(content), len(content) + more
        self.send_response(206 if start is not None else 200)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        body = content[start or 0 :]
        told = {"Content-Length": str(len(body) + more), "ETag": self.etag_of(content), **headers}
        told |= self.host.headers[self.path.partition("?")[0]]
        for name, value in told.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:most])
        if most is not None or more:
            self.close_connection = True

    def etag_of(self, content: bytes) -> str:
        """Return the ETag of a content as this host writes it."""
        return self.host.etag.format(sha256(content).hexdigest())

    def start_of(self, content: bytes) -> int | None:
        """Return where the asked range begins, if it is for this content."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") == self.etag_of(content) or not self.host.heeds_if_range
        return int(asked[1]) if asked and same and self.host.ranges else None

    def refuse(self, status: int, **headers: str) -> None:
        """Send a status without content."""
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def cut_after(nbytes: int) -> Fault:
    """Hang up in the middle of the body."""
    return lambda answer: answer.serve(answer.host.files[answer.path], most=nbytes)


def status(number: int, **headers: str) -> Fault:
    """Answer with a status."""
    return lambda answer: answer.refuse(number, **headers)


def silent_after(nbytes: int) -> Fault:
    """Send some bytes, then none until the test is over."""

    def fall_silent(answer: Answer) -> None:
        answer.serve(answer.host.files[answer.path], most=nbytes)
        answer.wfile.flush()
        answer.host.ending.wait()

    return fall_silent


def piece(nbytes: int) -> Fault:
    """Send less of a range than was asked for, and say so."""

    def send(answer: Answer) -> None:
        content = answer.host.files[answer.path]
        start = answer.start_of(content) or 0
        answer.send_response(206)
        answer.send_header("Content-Range", f"bytes {start}-{start + nbytes - 1}/{len(content)}")
        answer.send_header("Content-Length", str(nbytes))
        answer.send_header("ETag", answer.etag_of(content))
        answer.end_headers()
        answer.wfile.write(content[start : start + nbytes])

    return send


def held(until: threading.Event) -> Fault:
    """Answer well, but the body only after an event."""

    def hold(answer: Answer) -> None:
        content = answer.host.files[answer.path]
        answer.send_response(200)
        answer.send_header("Content-Length", str(len(content)))
        answer.end_headers()
        answer.wfile.flush()
        until.wait(30)
        answer.wfile.write(content)

    return hold


def dripping(answer: Answer) -> None:
    """Send a byte at a time, each before anybody's patience with silence ends."""
    content = answer.host.files[answer.path]
    answer.send_response(200)
    answer.send_header("Content-Length", str(len(content)))
    answer.end_headers()
    answer.close_connection = True
    try:
        for byte in content:
            answer.wfile.write(bytes([byte]))
            if answer.host.ending.wait(0.02):
                return
    except OSError:
        return  # the client gave up, as it should


def endless(answer: Answer) -> None:
    """Send chunk after chunk and never tell how many there are."""
    answer.send_response(200)
    answer.send_header("Transfer-Encoding", "chunked")
    answer.end_headers()
    answer.close_connection = True
    try:
        while not answer.host.ending.is_set():
            answer.wfile.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    except OSError:
        return  # the client hung up, as it should


def chunked(answer: Answer) -> None:
    """Send a file whole without telling its size."""
    content = answer.host.files[answer.path]
    answer.send_response(200)
    answer.send_header("Transfer-Encoding", "chunked")
    answer.end_headers()
    answer.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))


class Server(ThreadingHTTPServer):
    """The listener; clients that hang up are no news."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(**settings: object) -> Iterator[Host]:
    """Run a host on a free port of this machine."""
    host = Host(**settings)
    server = Server(("127.0.0.1", 0), Answer)
    server.host = host
    host.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
