"""Write the documents for retrieval: The Republic by book, the plays by scene.

python examples/athens/make_docs.py --texts DIR      # republic.txt and tinyshakespeare.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

from corpus import read_book, read_speeches

DOCS = Path(__file__).resolve().parent / "docs"

#: The subtitles that later printings give the books; the text of Gutenberg has none.
BOOK_TITLES = {
    "BOOK I": "Of wealth, justice, moderation, and their opposites",
    "BOOK II": "The individual, the State, and education",
    "BOOK III": "The arts in education",
    "BOOK IV": "Wealth, poverty, and virtue",
    "BOOK V": "On matrimony and philosophy",
    "BOOK VI": "The philosophy of government",
    "BOOK VII": "On shadows and realities in education",
    "BOOK VIII": "Four forms of government",
    "BOOK IX": "On wrong or right government, and the pleasures of each",
    "BOOK X": "The recompense of life",
}
#: A book is headed anew after each so many characters.
PART_NCHARS = 6_000

#: Speakers that are in one play only, in the order in which the plays stand in the text.
SPEAKERS_OF = {
    "Coriolanus": {"First Citizen", "MENENIUS", "CORIOLANUS", "AUFIDIUS", "COMINIUS", "SICINIUS"},
    "Richard III": {"BRAKENBURY", "LADY ANNE", "BUCKINGHAM", "KING RICHARD III", "RICHMOND", "CATESBY"},
    "Richard II": {"KING RICHARD II", "JOHN OF GAUNT", "HENRY BOLINGBROKE", "DUKE OF AUMERLE", "BUSHY"},
    "Romeo and Juliet": {"SAMPSON", "ROMEO", "BENVOLIO", "MERCUTIO", "FRIAR LAURENCE", "PRINCE", "CAPULET"},
    "Henry VI, Part 3": {"WARWICK", "KING HENRY VI", "KING EDWARD IV", "CLIFFORD", "OXFORD", "SOMERSET"},
    "The Winter's Tale": {"ARCHIDAMUS", "LEONTES", "CAMILLO", "POLIXENES", "PAULINA", "AUTOLYCUS"},
    "Measure for Measure": {"DUKE VINCENTIO", "ESCALUS", "ANGELO", "ISABELLA", "LUCIO", "Provost"},
    "The Taming of the Shrew": {"SLY", "TRANIO", "PETRUCHIO", "KATHARINA", "GRUMIO", "HORTENSIO", "LUCENTIO"},
    "The Tempest": {"Boatswain", "PROSPERO", "MIRANDA", "ARIEL", "GONZALO", "ALONSO", "SEBASTIAN"},
}

#: How many speeches before and after a place are compared to see whether the cast has changed.
CAST_SPAN = 5
SHORTEST_SCENE_NCHARS = 1_500


def speaker_of(speech: str) -> str:
    """The name before the first colon."""
    return speech.partition(":")[0]


def split_plays(speeches: list[str]) -> dict[str, list[str]]:
    """The speeches by play; those after the last known speaker of one play go to the next."""
    plays: dict[str, list[str]] = {title: [] for title in SPEAKERS_OF}
    titles = list(plays)
    current, pending = 0, list[str]()
    for speech in speeches:
        pending.append(speech)
        later = range(current, min(current + 2, len(titles)))
        found = [number for number in later if speaker_of(speech) in SPEAKERS_OF[titles[number]]]
        if found:
            current = found[0]
            plays[titles[current]] += pending
            pending = []
    plays[titles[current]] += pending
    return plays


def split_scenes(speeches: list[str]) -> list[list[str]]:
    """A play cut where nobody of the last speeches is among the speakers of the next ones."""
    scenes: list[list[str]] = [[]]
    for position, speech in enumerate(speeches):
        before = {speaker_of(other) for other in scenes[-1][-CAST_SPAN:]}
        after = {speaker_of(other) for other in speeches[position : position + CAST_SPAN]}
        long_enough = sum(map(len, scenes[-1])) >= SHORTEST_SCENE_NCHARS
        left = sum(map(len, speeches[position:])) >= SHORTEST_SCENE_NCHARS
        if long_enough and left and not before & after:
            scenes.append([])
        scenes[-1].append(speech)
    return scenes


def write_book(texts: Path) -> None:
    """One document for each book of The Republic."""
    folder = DOCS / "plato"
    folder.mkdir(parents=True, exist_ok=True)
    book = read_book(texts / "republic.txt")
    for number, (heading, title) in enumerate(BOOK_TITLES.items(), 1):
        name = f"The Republic, Book {heading.removeprefix('BOOK ')}"
        lines, part, room = [f"# {name}: {title}"], 0, 0
        for paragraph in book[heading]:
            if room <= 0:
                part, room = part + 1, PART_NCHARS
                lines.append(f"## {name}, part {part}")
            lines.append(paragraph)
            room -= len(paragraph)
        (folder / f"republic-{number:02}.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def write_plays(texts: Path) -> None:
    """One folder for each play, in it one document for each scene."""
    for title, speeches in split_plays(read_speeches(texts / "tinyshakespeare.txt")).items():
        stem = title.lower().replace("'", "").replace(",", "").replace(" ", "-")
        folder = DOCS / "plays" / stem
        folder.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(split_scenes(speeches), 1):
            cast = ", ".join(dict.fromkeys(map(speaker_of, scene)))
            lines = [f"# {title}, scene {number}", f"Speakers: {cast}.", *scene]
            (folder / f"scene-{number:02}.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and write the documents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--texts", type=Path, required=True, help="folder of republic.txt and tinyshakespeare.txt"
    )
    arguments = parser.parse_args()
    write_book(arguments.texts)
    write_plays(arguments.texts)


if __name__ == "__main__":
    main()
