"""Chunks: exact spans of the document, cut where its structure allows."""

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rag.chunk import chunk_document

WORDS = st.text(alphabet="ab .!?'é\u200b", max_size=60)
LINES = st.one_of(
    WORDS,
    st.sampled_from(
        [
            "",
            " ",
            "# Title",
            "## Part",
            "####",
            "```",
            "~~~ python",
            "MENENIUS:",
            "BOOK I.",
            "\x0c",
            "x" * 300,
        ]
    ),
)
DOCUMENTS = st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\n\n"])), max_size=40).map(
    lambda lines: "".join(line + end for line, end in lines)
)


@settings(max_examples=150)
@given(text=DOCUMENTS, name=st.sampled_from(["a.md", "a.txt"]), target=st.integers(24, 200))
def test_chunks_are_exact_and_cover_the_document(text, name, target):
    """For any text, chunks are its spans, in order, bounded, never empty; only white space is left out."""
    chunks = chunk_document(text, name, target_chars=target)
    covered = set()
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip() == chunk.text != ""
        assert len(chunk.text) <= target + target // 2 + target // 8 + 1
        covered.update(range(chunk.start, chunk.end))
    assert all(character.isspace() for at, character in enumerate(text) if at not in covered)
    starts = [chunk.start for chunk in chunks]
    assert starts == sorted(set(starts))


def test_a_chunk_knows_its_heading_path():
    """A passage says under which headings it stands, and no chunk crosses a heading."""
    text = "# Lab\n\nIntro.\n\n## Roles\n\nA role is an adapter.\n\n# Shards\n\nA shard is an index.\n"
    found = {chunk.heading: chunk.text for chunk in chunk_document(text, "a.md")}
    assert found == {
        "Lab": "# Lab\n\nIntro.",
        "Lab > Roles": "## Roles\n\nA role is an adapter.",
        "Shards": "# Shards\n\nA shard is an index.",
    }


def test_headings_without_text_go_with_what_follows():
    """A title page gives no chunk of a bare title."""
    chunks = chunk_document("# Plato\n\n## Book I\n\nI went down to the Piraeus.\n", "a.md")
    assert [(chunk.heading, chunk.text.count("\n")) for chunk in chunks] == [("Plato > Book I", 4)]


def test_plain_text_has_headings_in_capitals():
    """In a .txt file a short line of capitals that stands alone is a heading."""
    chunks = chunk_document("BOOK VII.\n\nBehold! human beings in a den.\n", "republic.txt")
    assert [chunk.heading for chunk in chunks] == ["BOOK VII"]


def test_code_is_kept_whole():
    """A code fence that fits is one chunk, its blank lines and its # lines included."""
    code = "```python\n# not a heading\nx = 1\n\ny = 2\n```"
    chunks = chunk_document(f"# Use\n\n{'Words. ' * 10}\n\n{code}\n\nAfter.\n", "a.md", target_chars=80)
    assert sum(code in chunk.text for chunk in chunks) == 1
    assert {chunk.heading for chunk in chunks} == {"Use"}


def test_a_long_speech_keeps_its_speaker():
    """When a speech is cut, the rest still says who speaks."""
    lines = "\n".join(f"And this is line {n} of what I say to you." for n in range(30))
    chunks = chunk_document(f"ACT I\n\nMENENIUS:\n{lines}\n", "play.txt", target_chars=300)
    assert len(chunks) > 2
    assert chunks[0].heading == "ACT I"
    assert {chunk.heading for chunk in chunks[1:]} == {"ACT I > MENENIUS"}


def test_neighbours_overlap_by_a_short_last_sentence_only_inside_a_section():
    """The last short sentence of a chunk opens the next one, unless a heading is between them."""
    text = f"# A\n\n{'Long words here. ' * 8}Short end.\n\n{'Other words there. ' * 8}\n\n# B\n\nNew.\n"
    first, second, third = chunk_document(text, "a.md", target_chars=150)
    assert second.start == first.end - len("Short end.")
    assert second.text.startswith("Short end.\n\nOther words")
    assert third.text == "# B\n\nNew."


def test_white_space_gives_no_chunk():
    """A document of white space has no passages."""
    assert chunk_document(" \n\t\n\u2003", "a.md") == []
