"""A lab small enough for tests.

A random two-layer base, three adapters, two shards, and the file that names them.
"""

import re
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BOOKS = {
    "war.md": "# War\n\nThe soldiers marched to the city at dawn.\n\nThe wall fell on the third day.\n",
    "bread.md": "# Bread\n\nThe baker kneads before sunrise.\n\nA good oven keeps its heat all night.\n",
}


def build_base(folder: Path, *, context: int = 512) -> Path:
    """Save a random Qwen3 of two layers of 64 with a byte-level tokenizer of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(BOOKS.values(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def build_adapter(base: Path, folder: Path, *, seed: int, rank: int = 4) -> Path:
    """Save a LoRA adapter with random A and B, so that it has an effect without training."""
    torch.manual_seed(seed)
    network = Qwen3ForCausalLM.from_pretrained(base)
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    tuned = get_peft_model(network, settings)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    tuned.save_pretrained(folder)
    return folder


def build_books(folder: Path) -> Path:
    """Write the documents of a shard."""
    folder.mkdir(parents=True)
    for name, text in BOOKS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


FILE = """
lab: {name}
nodes:
  desk: {{vram: 64MiB, ram: 64MiB, ssd: {{path: {root}/ssd, budget: 1GiB}}}}
bases:
  small: {{model: {parts}/base, device: cpu, slots: {slots}, max_rank: 8, kv_cache: 8MiB}}
roles:
  philosopher:
    {{lora_path: {parts}/philosopher, location: VRAM, persona: You think., rag: [war],
      unload: {{idle: {idle}}}, generation: {{temperature: 0, max_tokens: 12}}}}
  coder:
    {{lora_path: {parts}/coder, location: RAM, persona: You code., unload: {{idle: {idle}}},
      generation: {{temperature: 0, max_tokens: 12}}}}
  artist:
    {{lora_path: {parts}/artist, location: SSD, persona: You sing., rag: [bread], unload: {{idle: {idle}}},
      generation: {{temperature: 0, max_tokens: 12}}}}
rag:
  war: {{location: RAM, source: {parts}/war}}
  bread: {{location: SSD, path: {root}/bread, source: {parts}/bread}}
"""


def without_shards(text: str) -> str:
    """Return a lab's file whose roles read nothing: there is no embedder to start."""
    return re.sub(r" rag: \[\w+\],", "", text.partition("rag:\n")[0])


def build_parts(folder: Path) -> Path:
    """Make everything that a lab's file names, once for many labs."""
    base = build_base(folder / "base")
    for seed, role in enumerate(("philosopher", "coder", "artist"), 1):
        build_adapter(base, folder / role, seed=seed)
    build_books(folder / "war")
    build_books(folder / "bread")
    return folder


def write_file(root: Path, parts: Path, *, name: str, idle: str = "10min", slots: int = 3) -> Path:
    """Write the cluster.yaml of a lab called `name` whose own files lie in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "cluster.yaml"
    path.write_text(FILE.format(name=name, root=root, parts=parts, idle=idle, slots=slots), encoding="utf-8")
    return path
