"""Each bench runs on a tiny model and prints its table; what its figures are is not a test's business."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
import torch

from actors.bench.sheet import Sheet, at_least, at_most
from actors.bench.spread import Spread, interleaved, over
from actors.cli.app import run


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One folder for what all benches make."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def bench(cache, capsys):
    """Run a bench to its end; return its exit code, what it printed and what it told."""
    threads = torch.get_num_threads()

    def measure(*arguments):
        with pytest.raises(SystemExit) as ended:
            run(["bench", *arguments, "--quick", "--cache", str(cache)])
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    yield measure
    torch.set_num_threads(threads)


PARTS = {
    ("activation", "engine"): ("RAM to slot ÷ memcpy", "SSD to slot ÷ memcpy", "SSD to slot ÷ read()"),
    ("activation", "peft"): ("load_adapter, 1 present ÷", "load_adapter, 11 present ÷", "hotswap_adapter ÷"),
    ("decode", "steps"): ("exact B=4 k=4", "fast B=4 k=4", "exact: grain"),
    ("decode", "roles"): ("ours ÷ PEFT mixed batch", "ours ÷ PEFT set_adapter", "answers equal PEFT's"),
    ("decode", "throughput"): ("ours ÷ generate", "ours ÷ continuous batching"),
    ("decode", "mixed"): ("ours ÷ generate", "answers of 1 to 9"),
    ("decode", "overhead"): ("T: step, whole", "T: outside the model"),
    ("decode", "load"): (
        "ours, base, 4 callers",
        "ours, 8 roles, 4 callers",
        "the checkpoint, for any server",
    ),
    ("churn", "activations"): ("activations: p50 ÷ idle", "activations: p99 ÷ idle"),
    ("churn", "prompt"): ("a long prompt: p99 ÷ idle", "the long prompt's first token"),
    ("churn", "crowd"): ("RSS ÷ images", "p50 step, 12 registered"),
    ("churn", "cold"): ("cold role's first token", "first token ÷ median request"),
    ("prefix", "persona"): ("persona: cold ÷ known", "logits that differ from cold"),
    ("prefix", "sessions"): (
        "second turn, with persona: cold ÷ known",
        "second turn, without: cold ÷ known",
        "not deterministic",
    ),
    ("determinism", "bits"): ("deterministic, 5 together: logits that differ",),
    ("determinism", "cost"): ("step, B=4: with ÷ without", "end to end: with ÷ without"),
    ("architectures", "architectures"): ("llama", "gemma2", "mamba"),
    ("handle", "curve"): ("1/62: Tick", "4/200: p99 of every event"),
    ("handle", "hour"): ("8 slots: handle",),
}


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_bench_prints_its_lines(bench, name, part):
    """Each part of each bench runs through and shows the machine and every line that it is there for."""
    code, out, err = bench(name, "--part", part)
    assert code == 0, err
    assert "torch threads 1" in out
    for line in PARTS[name, part]:
        assert line in out


def test_the_bits_of_a_request_do_not_depend_on_company(bench):
    """In deterministic mode the bench counts no differing logits, among those of all tokens."""
    code, out, _ = bench("determinism", "--part", "bits", "--json")
    assert code == 0
    lines = {line["what"]: line for line in json.loads(out)["sheets"][0]["lines"]}
    logits = lines["deterministic, 5 together: logits that differ"]
    assert logits["note"] == f"of {5 * 4 * 512}"
    assert (logits["value"]["median"], logits["met"]) == (0, True)


def test_without_a_gpu_the_bench_of_one_says_so(bench):
    """It is one line and the exit code of a world that does not allow it."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    code, out, err = bench("gpu")
    assert (code, out) == (1, "")
    assert err == "error: torch finds no CUDA GPU here, so there is nothing to measure [LM014]\n"


def test_a_part_that_does_not_exist_is_told(bench):
    """The error names the parts that there are."""
    code, _, err = bench("decode", "--part", "nonsense")
    assert code == 2
    assert "bench decode has no part nonsense [TRC073]" in err
    assert "steps, roles, throughput" in err


class Server(BaseHTTPRequestHandler):
    """A server that speaks OpenAI's protocol: every completion has as many pieces as were asked."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_POST(self):
        """Stream the pieces, then the usage."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body["model"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        pieces = [{"choices": [{"text": "a"}]}] * body["max_tokens"]
        for piece in [*pieces, {"choices": [], "usage": {"completion_tokens": body["max_tokens"]}}]:
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def peer():
    """Serve completions on a port of this machine; return its URL."""
    Server.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_peer_stands_beside_ours(bench, peer):
    """The base and the adapters of a server are asked by their names, at the same load as ours."""
    peers = ("--peer", peer, "--peer-model", "base", "--peer-adapter", "one", "--peer-adapter", "two")
    code, out, err = bench("decode", "--part", "load", *peers)
    assert code == 0, err
    assert "ours, 8 roles ÷ peer, base, 4 callers" in out
    assert "ours, 8 roles ÷ peer, 2 adapters, 1 callers" in out
    assert set(Server.asked) == {("/v1/completions", model) for model in ("base", "one", "two")}


def test_a_peer_that_is_not_there_is_told(bench):
    """A refused connection is one error line that names the address."""
    peers = ("--peer", "http://127.0.0.1:1", "--peer-model", "base")
    code, _, err = bench("decode", "--part", "load", *peers)
    assert code == 1
    assert "the peer at http://127.0.0.1:1 does not answer" in err
    assert "[TRC072]" in err


def test_a_goal_is_met_by_the_median():
    """At most, or at least; a line without a goal or a number has no verdict."""
    sheet = Sheet("a sheet")
    sheet.add("good", Spread(1.1, 0.9, 9.0, 5), "x", goal=at_most(1.2))
    sheet.add("bad", Spread(39.0, 30.0, 90.0, 5), "x", goal=at_least(40))
    sheet.add("free", Spread(1.0, 1.0, 1.0, 1), "x")
    sheet.add("told", "in words", goal=at_most(1))
    assert [line.met for line in sheet.lines] == [True, False, None, None]


def test_cases_are_interleaved_and_compared_round_by_round():
    """Every case runs once before, then once a round, each round begun by another one."""
    order = []
    cases = {name: lambda name=name: order.append(name) or float(len(order)) for name in "AB"}
    found = interleaved(cases, 3)
    assert "".join(order) == "ABABBAAB"
    assert found == {"A": [3.0, 6.0, 7.0], "B": [4.0, 5.0, 8.0]}
    assert over(found["A"], found["B"]) == Spread(0.875, 0.75, 1.2, 3)
