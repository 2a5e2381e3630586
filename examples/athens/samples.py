"""What each role says to a few questions, through the chat template and with a fixed seed."""

from __future__ import annotations

import torch
from chat import PERSONAS
from evaluate import ROLES, load_models

QUESTIONS = {
    "philosopher": ("What is justice?", "Tell me of the soul.", "And is the tyrant happy?"),
    "coder": (
        "Write a function `read_lines`.",
        "Return the number of items.",
        "Write a function to close the file.",
    ),
    "artist": ("Speak of love.", "What says ROMEO?", "Write some lines about death."),
}


def samples(seed: int = 7) -> str:
    """Each role's answers, and the base's answer to the first question of each, as Markdown."""
    tokenizer, loaded = load_models()
    parts = []
    for role, questions in QUESTIONS.items():
        for speaker, question in [("base", questions[0]), *((role, question) for question in questions)]:
            messages = [
                {"role": "system", "content": PERSONAS[ROLES[role]]},
                {"role": "user", "content": question},
            ]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            prompt = tokenizer(text, return_tensors="pt")
            torch.manual_seed(seed)
            output = loaded[speaker].generate(**prompt)[0, prompt["input_ids"].size(1) :]
            answer = str(tokenizer.decode(output, skip_special_tokens=True)).strip()
            stopped = "stopped by itself" if output[-1] == tokenizer.eos_token_id else "cut at the limit"
            parts.append(
                f"**{speaker}** to *{question}* ({len(output)} tokens, {stopped})\n\n```text\n{answer}\n```"
            )
    return "\n\n".join(parts)
