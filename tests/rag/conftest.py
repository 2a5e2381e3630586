"""What the tests of RAG share: a real encoder once, a small deterministic one, directories in both tiers."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.rag.chunk import Chunk
from actors.rag.encoder import Encoder
from actors.rag.ingest import Document
from actors.rag.shelf import Shelf
from placement.tiers import Tier

DIM = 64


class HashEncoder:
    """A bag of words hashed into 64 dimensions: equal texts, equal vectors; shared words, near vectors."""

    dim = DIM
    fingerprint = "hash:1"

    def encode(self, texts):
        vectors = np.zeros((len(texts), DIM), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                vectors[
                    row, int.from_bytes(hashlib.blake2b(word.encode(), digest_size=2).digest()) % DIM
                ] += 1
            vectors[row, 0] += 0.01
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def hashed() -> HashEncoder:
    """Return the small encoder, for every test that is not about meaning."""
    return HashEncoder()


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """Return the real encoder; it takes seconds to load."""
    return Encoder.load()


@pytest.fixture
def ram() -> Iterator[Path]:
    """A directory in memory, as a shard's RAM tier has."""
    path = Path(tempfile.mkdtemp(prefix="tierce-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def shelf(ram: Path, hashed: HashEncoder) -> Iterator[Shelf]:
    """Open an empty shard in memory."""
    opened = Shelf.open("papers", ram / "log", ram / "index", Tier.RAM, DIM, hashed.fingerprint)
    yield opened
    opened.close()


@pytest.fixture
def wide(ram: Path) -> Iterator[tuple[Shelf, np.ndarray]]:
    """Open a shard on SSD with 1,200 points that were not quantised yet."""
    opened = Shelf.open("papers", ram / "log", ram / "index", Tier.SSD, 32, "random:1")
    vectors = np.random.default_rng(0).standard_normal((1200, 32)).astype(np.float32)
    chunks = [Chunk(f"passage {n}", n * 20, n * 20 + 10, "", "a.md") for n in range(1200)]
    opened.add("a.md", "v1", chunks, vectors)
    yield opened, vectors
    opened.close()


@pytest.fixture
def reopen(ram: Path, hashed: HashEncoder) -> Callable[..., Shelf]:
    """Open the fixture's shard again, as another process would."""

    def again(index: str = "index", tier: Tier = Tier.RAM, fingerprint: str = hashed.fingerprint) -> Shelf:
        return Shelf.open("papers", ram / "log", ram / index, tier, hashed.dim, fingerprint)

    return again


@pytest.fixture
def put(hashed: HashEncoder) -> Callable[[Shelf, str, str], bool]:
    """Write a text as a document of a shelf."""

    def write(shelf: Shelf, name: str, text: str) -> bool:
        document = Document(name, text)
        chunks = document.chunks()
        return shelf.add(name, document.version, chunks, hashed.encode([chunk.text for chunk in chunks]))

    return write


@pytest.fixture
def ask(hashed: HashEncoder) -> Callable[..., list[str]]:
    """Search a shelf for a text; return the texts found."""

    def search(shelf: Shelf, question: str, k: int = 3) -> list[str]:
        return [passage.text for passage in shelf.search(hashed.encode([question])[0], k)]

    return search
