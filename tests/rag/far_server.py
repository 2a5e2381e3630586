"""An HTTP server for the tests of network shards: Qdrant's REST on Qdrant's own engine, a search API, faults.

It speaks the routes that are needed of it and scores with the engine that the real server has inside, so the
client under test is unmodified. What it is not: a cluster, gRPC, or the errors of a server under load.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import qdrant_edge as edge


class Asked(NamedTuple):
    """A request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FarServer(ThreadingHTTPServer):
    """`faults` are taken one by one, each in place of one answer; without any, requests are answered well."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: list[Asked] = []
        self.faults: deque[Callable[[_Handler], None]] = deque()
        #: answers of a search API, by path
        self.pages: dict[str, Any] = {}
        self.collections: dict[str, tuple[dict[str, Any], edge.EdgeShard]] = {}
        self.lock = threading.Lock()
        #: one more for each request that came in
        self.arrivals = threading.Semaphore(0)
        #: set when the test is over: lets go of answers that hang
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def make(self, name: str, vectors: dict[str, Any]) -> None:
        """Create a collection as `PUT /collections/{name}` does."""
        params = {key: _params(value) for key, value in vectors.items()} if "size" not in vectors else None
        config = edge.EdgeConfig(vectors=params or _params(vectors), wal_enabled=False)
        folder = self.folder / name
        folder.mkdir()
        self.collections[name] = vectors, edge.EdgeShard.create(str(folder), config)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client hangs up: that is what many tests are about."""


@contextmanager
def serving(folder: Path) -> Iterator[FarServer]:
    """Run a server on a free port of loopback."""
    server = FarServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
        for _, shard in server.collections.values():
            shard.close()


def says(status: int, body: bytes | str | Any = b"", **headers: str) -> Callable[["_Handler"], None]:
    """Answer with this status and body; what is neither bytes nor text is sent as JSON."""
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()

    def answer(handler: _Handler) -> None:
        handler.reply(status, data, headers)

    return answer


def hangs(handler: "_Handler") -> None:
    """Never answer."""
    handler.server.over.wait()
    handler.close_connection = True


def cuts(handler: "_Handler") -> None:
    """Promise more than is sent, and hang up."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"results": [')
    handler.close_connection = True


def drips(handler: "_Handler") -> None:
    """Send a byte now and then, for ever: no single read of it times out."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()
    handler.close_connection = True


def floods(handler: "_Handler") -> None:
    """Send without end and without saying how much."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.over.is_set():
        handler.wfile.write(b"x" * 65536)


class _Handler(BaseHTTPRequestHandler):
    server: FarServer

    def log_message(self, *_args: Any) -> None:
        """Keep the output of the tests clean."""

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        with self.server.lock:
            self.server.asked.append(asked)
            fault = self.server.faults.popleft() if self.server.faults else None
        self.server.arrivals.release()
        if fault is not None:
            fault(self)
            return
        path = asked.path.partition("?")[0]
        if path in self.server.pages:
            self.reply(200, json.dumps(self.server.pages[path]).encode())
            return
        with self.server.lock:
            status, result = _route(self.server, asked, path.strip("/").split("/"))
        told: dict[str, Any] = {"time": 0.0, "status": "ok", "result": result}
        if status != 200:
            told = {"time": 0.0, "status": {"error": result}}
        self.reply(status, json.dumps(told).encode())

    do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815 -- the names of http.server


def _route(server: FarServer, asked: Asked, path: list[str]) -> tuple[int, Any]:
    match asked.method, path:
        case "PUT", ["collections", name]:
            server.make(name, asked.json["vectors"])
            return 200, True
        case _, ["collections", name, *_] if name not in server.collections:
            return 404, f"Not found: Collection `{name}` doesn't exist!"
        case "GET", ["collections", name]:
            return 200, _about(*server.collections[name])
        case "DELETE", ["collections", name]:
            server.collections.pop(name)[1].close()
            return 200, True
        case "PUT", ["collections", name, "points"]:
            points = [
                edge.Point(point["id"], point["vector"], point.get("payload"))
                for point in asked.json["points"]
            ]
            server.collections[name][1].update(edge.UpdateOperation.upsert_points(points))
            return 200, {"operation_id": 1, "status": "completed"}
        case "POST", ["collections", name, "points", "query"]:
            return _query(*server.collections[name], asked.json)
        case _:
            return 404, f"no route {asked.method} {'/'.join(path)}"


def _query(vectors: dict[str, Any], shard: edge.EdgeShard, asked: dict[str, Any]) -> tuple[int, Any]:
    params = vectors if "size" in vectors else vectors[asked["using"]]
    vector = asked["query"]["nearest"] if isinstance(asked["query"], dict) else asked["query"]
    if len(vector) != params["size"]:
        expected = f"expected dim: {params['size']}, got {len(vector)}"
        return 400, f"Wrong input: Vector dimension error: {expected}"
    nearest = edge.Query.Nearest(vector, using=asked.get("using"))
    found = shard.query(edge.QueryRequest(limit=asked["limit"], query=nearest, with_payload=True))
    points = [
        {"id": str(point.id), "version": 1, "score": point.score, "payload": point.payload} for point in found
    ]
    return 200, {"points": points}


def _about(vectors: dict[str, Any], shard: edge.EdgeShard) -> dict[str, Any]:
    count = shard.count(edge.CountRequest(exact=True))
    return {
        "status": "green",
        "optimizer_status": "ok",
        "indexed_vectors_count": 0,
        "points_count": count,
        "segments_count": 1,
        "config": {
            "params": {
                "vectors": vectors,
                "shard_number": 1,
                "replication_factor": 1,
                "on_disk_payload": True,
            },
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
        },
        "payload_schema": {},
    }


def _params(vectors: dict[str, Any]) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(vectors["size"], getattr(edge.Distance, vectors["distance"]))
