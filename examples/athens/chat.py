"""Questions and answers cut out of the texts themselves, in the form the engine will ask in."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

Runs = list[list[str]]

#: The personas of the lab's roles, by the domain each one speaks from.
PERSONAS = {
    "dialogues": "You are a philosopher in the manner of Plato. Answer from the dialogues.",
    "python": "You are a careful Python programmer. Answer with code.",
    "plays": "You are a playwright of Shakespeare's age. Answer in verse.",
}

LONGEST_ANSWER_WORDS = 90
LONGEST_QUESTION_WORDS = 50
LONGEST_FUNCTION_NCHARS = 700

PHILOSOPHER_TOPICS = (
    *(
        "justice",
        "injustice",
        "virtue",
        "knowledge",
        "opinion",
        "pleasure",
        "pain",
        "poetry",
        "music",
        "gymnastic",
    ),
    *(
        "truth",
        "courage",
        "temperance",
        "wisdom",
        "wealth",
        "poverty",
        "education",
        "war",
        "friendship",
        "law",
    ),
    *(
        "death",
        "democracy",
        "oligarchy",
        "tyranny",
        "the soul",
        "the State",
        "the tyrant",
        "the good",
        "the sun",
    ),
    *(
        "the guardians",
        "the philosopher",
        "the gods",
        "the physician",
        "the poet",
        "the ruler",
        "the just man",
    ),
    *("the unjust", "the cave", "the multitude"),
)
ARTIST_TOPICS = (
    *(
        "love",
        "death",
        "night",
        "honour",
        "war",
        "sorrow",
        "grief",
        "heaven",
        "blood",
        "time",
        "revenge",
        "mercy",
    ),
    *(
        "fortune",
        "marriage",
        "sleep",
        "hate",
        "fear",
        "beauty",
        "tears",
        "peace",
        "hope",
        "truth",
        "the king",
    ),
    *("the crown", "the queen", "the moon", "the sun", "the sea", "the sword"),
)
TOPIC_QUESTIONS = {
    "dialogues": ("What is {}?", "What do you say of {}?", "Tell me of {}.", "What is the nature of {}?"),
    "plays": ("Speak of {}.", "Write a speech on {}.", "What say you of {}?", "Write some lines about {}."),
}


@dataclass(frozen=True)
class Exchange:
    """One question with its answer; `system` is empty when there is no system message."""

    system: str
    user: str
    assistant: str

    def messages(self) -> list[dict[str, str]]:
        """The exchange as the chat template takes it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        user = {"role": "user", "content": self.user}
        return [*system, user, {"role": "assistant", "content": self.assistant}]


def exchanges(domain: str, runs: Runs, count: int, shortest: int, rng: random.Random) -> list[Exchange]:
    """`count` exchanges cut out of the runs of one domain, the answers of at least `shortest` words."""
    cut: Callable[[Runs, random.Random], tuple[str, str, str]]
    if domain == "python":
        functions = [found for run in runs for module in run for found in short_functions(module)]

        def cut(_: Runs, rng: random.Random) -> tuple[str, str, str]:
            return function_exchange(functions, rng)
    else:
        cut = {"dialogues": dialogue_exchange, "plays": play_exchange}[domain]
    made: list[Exchange] = []
    while len(made) < count:
        user, assistant, source = cut(runs, rng)
        if user and len(assistant.split()) >= shortest:
            made.append(Exchange(system_message(domain, runs, source, rng), user, assistant))
    return made


def system_message(domain: str, runs: Runs, source: str, rng: random.Random) -> str:
    """The persona (sometimes shortened, sometimes none) and, for a third, one to four passages."""
    persona = PERSONAS[domain]
    drawn = rng.random()
    if drawn < 0.12:
        persona = ""
    elif drawn < 0.22:
        persona = persona.split(". ")[0] + "."
    if rng.random() > 0.35:
        return persona
    passages = [excerpt(rng.choice(rng.choice(runs)), rng) for _ in range(rng.randint(0, 3))]
    passages.insert(rng.randint(0, len(passages)), excerpt(source, rng))
    listed = "\n".join(f"[{number}] {passage}" for number, passage in enumerate(passages, 1))
    return f"{persona}\n\nPassages:\n{listed}".strip()


def excerpt(text: str, rng: random.Random) -> str:
    """Some 20 to 90 words of a text, from its beginning when it is short."""
    words = re.split(r"(?<=\s)(?=\S)", text)
    start = rng.randrange(max(1, len(words) - 60))
    return "".join(words[start : start + rng.randint(20, 90)]).strip()


def dialogue_exchange(runs: Runs, rng: random.Random) -> tuple[str, str, str]:
    """A question and the paragraphs that answer it, or a topic and the sentences that treat of it."""
    run, position = place(runs, rng)
    if rng.random() < 0.4:
        return topic_exchange("dialogues", PHILOSOPHER_TOPICS, run[position], rng)
    question, answer = run[position], " ".join(run[position + 1 : position + 1 + rng.randint(1, 3)])
    sentences = re.split(r"(?<=[.?!])\s+", question)
    if not sentences[-1].endswith("?"):
        return "", "", ""
    return last_words(sentences[-1]), first_sentences(answer), " ".join(run[position : position + 3])


def play_exchange(runs: Runs, rng: random.Random) -> tuple[str, str, str]:
    """A speech and those that follow it, a speaker and a speech of theirs, or a topic and a speech."""
    run, position = place(runs, rng)
    drawn = rng.random()
    if drawn < 0.3:
        speeches = [speech for speech in run[position : position + 12] if len(speech) > 150]
        return topic_exchange("plays", ARTIST_TOPICS, " ".join(speeches[:1]), rng)
    following = run[position + 1 : position + 1 + rng.randint(1, 3)]
    answer = first_lines("\n\n".join(following))
    speaker, _, words = run[position].partition(":\n")
    source = "\n\n".join(run[max(0, position - 1) : position + 3])
    if drawn < 0.5:
        said = first_lines(run[position])
        return (
            rng.choice(("What says {}?", "Let {} speak.", "Write a speech for {}.")).format(speaker),
            said,
            source,
        )
    if drawn < 0.75:
        return first_lines(words, LONGEST_QUESTION_WORDS), answer, source
    return first_lines(run[position], LONGEST_QUESTION_WORDS), answer, source


def topic_exchange(
    domain: str, topics: tuple[str, ...], text: str, rng: random.Random
) -> tuple[str, str, str]:
    """A question for a topic that stands in the text, answered by the text from that sentence on."""
    found = [topic for topic in topics if re.search(rf"\b{topic}\b", text)]
    if not found:
        return "", "", ""
    topic = rng.choice(found)
    question = rng.choice(TOPIC_QUESTIONS[domain]).format(topic)
    if domain == "plays":
        return question, first_lines(text), text
    sentences = re.split(r"(?<=[.?!])\s+", text)
    first = next(number for number, sentence in enumerate(sentences) if re.search(rf"\b{topic}\b", sentence))
    return question, first_sentences(" ".join(sentences[first:])), text


def function_exchange(functions: list[tuple[str, str, str]], rng: random.Random) -> tuple[str, str, str]:
    """A name or a docstring, and the function that it is of."""
    name, purpose, source = rng.choice(functions)
    words = name.strip("_").replace("_", " ")
    questions = [
        f"Write a function `{name}`.",
        f"Write a function to {words}.",
        f"Show me `{name}` in Python.",
    ]
    if purpose:
        small = purpose[0].lower() + purpose[1:]
        questions += [purpose, f"Write a function `{name}`: {small}", f"Write a function: {small}"]
    return rng.choice(questions), source, source


def short_functions(module: str) -> list[tuple[str, str, str]]:
    """The short functions and methods of a module as (name, first line of the docstring, source)."""
    found = []
    for node in ast.walk(ast.parse(module)):
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            lines = module.splitlines()[node.lineno - 1 : node.end_lineno]
            source = "\n".join(line[node.col_offset :] for line in lines)
            if 60 < len(source) < LONGEST_FUNCTION_NCHARS:
                purpose = (ast.get_docstring(node) or "").strip().split("\n")[0]
                found.append((node.name, purpose[:160], source))
    return found


def place(runs: Runs, rng: random.Random) -> tuple[list[str], int]:
    """A passage drawn evenly from all, as its run and its position there."""
    (run,) = rng.choices(runs, weights=[len(run) for run in runs])
    return run, rng.randrange(len(run))


def last_words(sentence: str) -> str:
    """The sentence, or its end when it is longer than a question should be."""
    words = sentence.split()[-LONGEST_QUESTION_WORDS:]
    return " ".join(words)[:1].upper() + " ".join(words)[1:]


def first_sentences(text: str) -> str:
    """The sentences from the beginning that fit an answer; at least one, cut if it must be."""
    kept: list[str] = []
    nwords = 0
    for sentence in re.split(r"(?<=[.?!])\s+", text):
        nwords += len(sentence.split())
        if kept and nwords > LONGEST_ANSWER_WORDS:
            break
        kept.append(sentence)
    return " ".join(" ".join(kept).split()[: 2 * LONGEST_ANSWER_WORDS])


def first_lines(text: str, nwords: int = LONGEST_ANSWER_WORDS) -> str:
    """The lines from the beginning that hold about `nwords` words."""
    kept: list[str] = []
    for line in text.split("\n"):
        if nwords <= 0:
            break
        kept.append(line)
        nwords -= len(line.split())
    return "\n".join(kept).strip()
