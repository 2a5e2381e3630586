"""The tokenizer, and batches of token windows drawn from the domains."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from chat import Exchange, Runs, exchanges
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

VOCABULARY = 6_144
CONTEXT = 1_024
#: How many exchanges are cut out of each domain.
EXCHANGES = 4_000
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

#: `<|` in a message becomes `< |`, so that no message can spell a special token.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | replace('<|', '< |') }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCABULARY tokens trained on the texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def write_tokenizer(folder: Path, texts: list[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer and save it in the folder of the base."""
    tokenizer = make_tokenizer(texts)
    tokenizer.save_pretrained(folder)
    return tokenizer


@dataclass
class Windows:
    """An endless source of windows, the domains in equal parts; the same seed gives the same windows."""

    #: Per domain one long [tokens] tensor of plain text.
    plain: dict[str, Tensor]
    #: Per domain the exchanges through the chat template, as token lists.
    chats: dict[str, list[list[int]]]
    #: The share of windows that are made of exchanges.
    chat_share: float
    rng: random.Random

    def batch(self, rows: int, length: int) -> Tensor:
        """The next windows, [rows, length]."""
        return torch.stack([self.window(length) for _ in range(rows)])

    def window(self, length: int) -> Tensor:
        """One window of a domain drawn evenly: plain text, or exchanges one after the other."""
        domain = self.rng.choice(sorted(self.plain))
        if self.rng.random() >= self.chat_share:
            tokens = self.plain[domain]
            start = self.rng.randrange(len(tokens) - length)
            return tokens[start : start + length]
        packed: list[int] = []
        while len(packed) < length:
            packed += self.rng.choice(self.chats[domain])
        return torch.tensor(packed[:length])


def make_windows(
    tokenizer: PreTrainedTokenizerFast,
    runs: dict[str, Runs],
    chat_share: float,
    shortest_answer: int,
    seed: int,
) -> Windows:
    """Encode the runs of each domain, and exchanges cut out of them with answers of so many words."""
    rng = random.Random(seed)
    plain, chats = {}, {}
    for domain in sorted(runs):
        plain[domain] = encode_runs(tokenizer, domain, runs[domain])
        made = exchanges(domain, runs[domain], EXCHANGES, shortest_answer, rng)
        chats[domain] = [encode_exchange(tokenizer, exchange) for exchange in made]
    return Windows(plain, chats, chat_share, rng)


def encode_runs(tokenizer: PreTrainedTokenizerFast, domain: str, runs: Runs) -> Tensor:
    """All runs as one [tokens] tensor, an end-of-text after each."""
    between = "\n\n\n" if domain == "python" else "\n\n"
    tokens: list[int] = []
    for run in runs:
        tokens += tokenizer(between.join(run), verbose=False)["input_ids"] + [tokenizer.pad_token_id]
    return torch.tensor(tokens)


def encode_exchange(tokenizer: PreTrainedTokenizerFast, exchange: Exchange) -> list[int]:
    """The exchange through the chat template, as the engine would send it."""
    text = tokenizer.apply_chat_template(exchange.messages(), tokenize=False)
    tokens: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return tokens
