"""Ingestion: every readable text once, every other file named, nothing done twice."""

import errno
import os

import pytest

from actors.rag.ingest import Document, Skipped, ingest, read_documents
from placement.errors import UserError


@pytest.fixture
def source(tmp_path):
    """Return a directory with two documents in it."""
    root = tmp_path / "source"
    (root / "sub").mkdir(parents=True)
    (root / "b.txt").write_text("The dog ate the bone.")
    (root / "sub" / "a.md").write_text("# Cats\n\nThe cat sat on the mat.")
    return root


def test_running_it_again_changes_nothing(source, shelf, hashed):
    """The second ingest of the same files writes no operation and asks for no vectors."""
    first = ingest(source, shelf, hashed.encode)
    assert (first.documents, first.chunks, first.unchanged) == (2, 2, 0)
    before = shelf.stats()
    again = ingest(source, shelf, lambda texts: pytest.fail(f"encoded {texts}"))
    assert (again.documents, again.chunks, again.unchanged, again.removed) == (0, 0, 2, 0)
    assert shelf.stats() == before


def test_a_file_that_is_too_large_is_skipped_with_both_sizes(source, monkeypatch):
    """DOC010 names what the file has and what it may have; nothing of it is read."""
    monkeypatch.setattr("actors.rag.ingest.MAX_NBYTES", 10)
    skipped = list(read_documents(source))
    assert [each.code for each in skipped] == ["DOC010", "DOC010"]
    assert "10 B are the most" in str(skipped[0])


def test_changed_new_and_deleted_files_are_followed(source, shelf, hashed, ask):
    """The shard becomes what the directory is."""
    ingest(source, shelf, hashed.encode)
    (source / "b.txt").write_text("The dog slept.")
    (source / "c.md").write_text("A bird sang.")
    (source / "sub" / "a.md").unlink()
    report = ingest(source, shelf, hashed.encode)
    assert (report.documents, report.unchanged, report.removed) == (2, 0, 1)
    assert sorted(ask(shelf, "the a", k=9)) == ["A bird sang.", "The dog slept."]


def test_bad_files_are_named_and_the_others_go_on(source, shelf, hashed):
    """Empty, binary, undecodable, foreign and escaping files are reported one by one with a reason."""
    (source / "empty.md").write_text(" \n")
    (source / "binary.txt").write_bytes(b"MZ\0\1")
    (source / "latin.txt").write_bytes("café".encode("latin-1"))
    (source / "scan.pdf").write_bytes(b"%PDF-1.7")
    (source.parent / "secret.txt").write_text("outside")
    (source / "link.txt").symlink_to(source.parent / "secret.txt")
    (source / "linked").symlink_to(source.parent)
    os.mkfifo(source / "pipe.txt")
    report = ingest(source, shelf, hashed.encode)
    assert report.documents == 2
    assert [str(skipped).split(str(source))[0] for skipped in report.skipped] == [
        "binary.txt: binary: a NUL at character 2 [DOC011]",
        "empty.md: empty [DOC011]",
        "latin.txt: not utf-8 text: byte 3 is 0xe9 [DOC011]",
        "link.txt: a link that leads out of ",
        "linked: a link that leads out of ",
        "pipe.txt: not a regular file [DOC011]",
        "scan.pdf: only .md and .txt files are read [DOC011]",
    ]


def test_a_file_that_turned_bad_keeps_its_last_good_version(source, shelf, hashed, ask):
    """A document that can no longer be read stays as it was, and the report says so."""
    ingest(source, shelf, hashed.encode)
    (source / "b.txt").write_bytes(b"\xff\xfe\x00")
    report = ingest(source, shelf, hashed.encode)
    assert [skipped.name for skipped in report.skipped] == ["b.txt"]
    assert ask(shelf, "dog bone", k=1) == ["The dog ate the bone."]


def test_an_emptied_file_is_removed_and_reported(source, shelf, hashed, ask):
    """A text that was withdrawn by emptying its file is not found any more."""
    ingest(source, shelf, hashed.encode)
    (source / "b.txt").write_text("")
    report = ingest(source, shelf, hashed.encode)
    assert (report.removed, [str(skipped) for skipped in report.skipped]) == (1, ["b.txt: empty [DOC011]"])
    assert ask(shelf, "dog bone", k=9) == ["# Cats\n\nThe cat sat on the mat."]


def test_a_directory_that_cannot_be_read_removes_nothing(source, shelf, hashed, monkeypatch):
    """What lies in an unreadable directory is not gone: the ingest stops and names the directory."""
    ingest(source, shelf, hashed.encode)
    scandir = os.scandir

    def refuse(path):
        if str(path) == str(source / "sub"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=f"{source / 'sub'} cannot be read: Permission denied") as caught:
        ingest(source, shelf, hashed.encode)
    assert caught.value.code == "RAG010"
    assert list(shelf.documents()) == ["b.txt", "sub/a.md"]


def test_an_empty_source_removes_nothing(source, shelf, hashed):
    """A wrong or emptied directory is an error, not an order to forget everything."""
    ingest(source, shelf, hashed.encode)
    (source / "b.txt").unlink()
    (source / "sub" / "a.md").unlink()
    for path in (source, source / "nowhere"):
        with pytest.raises(UserError) as caught:
            ingest(path, shelf, hashed.encode)
        assert caught.value.code == "RAG010"
    assert shelf.stats().documents == 2


def test_files_come_in_one_order_under_their_relative_names(source):
    """Documents are named by their path under the source; a single file is a source too."""
    (source / ".git").mkdir()
    (source / ".git" / "c.md").write_text("hidden")
    assert [found.name for found in read_documents(source)] == ["b.txt", "sub/a.md"]
    assert [found.name for found in read_documents(source / "b.txt")] == ["b.txt"]


def test_utf16_and_byte_order_marks_are_read(source):
    """A mark at the beginning says how the file is encoded, and is no part of the text."""
    (source / "b.txt").write_bytes("Ὅμηρος".encode("utf-16"))
    (source / "sub" / "a.md").write_bytes(b"\xef\xbb\xbfplain")
    assert [found.text for found in read_documents(source)] == ["Ὅμηρος", "plain"]


def test_an_unprintable_name_is_skipped(source):
    """A file name that is not UTF-8 is reported in a form that can be printed."""
    (source / os.fsdecode(b"\xff.txt")).write_text("x")
    found = [entry for entry in read_documents(source) if isinstance(entry, Skipped)]
    assert [entry.name.isprintable() for entry in found] == [True]


def test_a_version_is_of_the_content():
    """Two files of the same text have the same version, and another text has another."""
    assert Document("a.md", "x").version == Document("b.md", "x").version != Document("a.md", "y").version
