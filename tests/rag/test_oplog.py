"""The log: what was acknowledged is there, whatever happened to the file's end, and damage is named."""

import resource

import numpy as np
import pytest

from actors.rag.chunk import Chunk
from actors.rag.oplog import START, Header, Oplog, Put, Remove, replay
from placement.errors import WorldError

HEADER = Header("log-1", 3, "hash:1")


def _put(n: int) -> Put:
    vectors = np.full((1, 3), n, dtype=np.float32)
    return Put(f"d{n}", "v1", (Chunk(f"text é {n}", 0, 8, "Head", f"d{n}"),), vectors)


@pytest.fixture
def path(tmp_path):
    """Write a log of three operations and return its file."""
    log = Oplog.create(tmp_path / "ops.log", HEADER)
    log.append([_put(1), _put(2)])
    log.append([Remove("d1")])
    log.close()
    return tmp_path / "ops.log"


def test_operations_come_back_as_they_were(path):
    """Texts, spans and vectors are read back bit for bit, in order, with their sequence numbers."""
    log = Oplog.open(path)
    records = list(replay(path, START, log.seq))
    assert log.header == HEADER
    assert [record.seq for record in records] == [1, 2, 3]
    assert records[1].op.chunks == _put(2).chunks
    np.testing.assert_array_equal(records[1].op.vectors, _put(2).vectors)
    assert records[2].op == Remove("d1")


def test_replay_goes_on_from_a_mark(path):
    """A reader that remembers where the log ended sees only what came later."""
    log = Oplog.open(path)
    mark = log.mark
    log.append([_put(7)])
    assert [record.op.document for record in replay(path, mark, log.seq)] == ["d7"]
    assert list(replay(path, log.mark, log.seq)) == []


def test_a_mark_is_never_half_of_an_append(path, monkeypatch):
    """Whenever another thread reads the mark during an append, number and offset belong together."""
    log = Oplog.open(path)
    seen = [log.mark]

    def observed(self, name, value):
        object.__setattr__(self, name, value)
        seen.append(log.mark)

    monkeypatch.setattr(Oplog, "__setattr__", observed)
    log.append([_put(4), _put(5)])
    assert set(seen) == {seen[0], log.mark}


@pytest.mark.parametrize("cut", [1, 3, 19, 20, 40])
def test_a_torn_tail_is_cut_off_and_reported(path, cut):
    """An unfinished append is cut off and kept aside; writing goes on after the last whole record."""
    whole = path.read_bytes()
    log = Oplog.open(path)
    log.append([_put(4)])
    log.close()
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    log = Oplog.open(path)
    assert (log.seq, log.torn.nbytes, path.read_bytes()) == (3, cut, whole)
    assert log.append([_put(5)]) == 4
    assert [record.op.document for record in replay(path, START, 4)] == ["d1", "d2", "d1", "d5"]


def test_a_tail_of_zeros_is_torn(path):
    """A file that grew before its data arrived, as after a power loss, loses only the unfinished end."""
    with path.open("ab") as file:
        file.write(bytes(500))
    log = Oplog.open(path)
    assert (log.seq, log.torn.nbytes) == (3, 500)


def test_every_flipped_bit_is_found(path):
    """One changed bit anywhere is an error that names file and offset, and nothing is cut."""
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(WorldError, match=r"ops\.log is damaged at byte \d+") as caught:
            Oplog.open(path)
        assert caught.value.code == "RAG004"
        assert len(path.read_bytes()) == len(whole)


def test_a_missing_record_is_found(path):
    """A record that was cut out of the middle is noticed by the sequence numbers."""
    log = Oplog.open(path)
    ends = [log.nbytes]
    log.append([_put(4)])
    ends.append(log.nbytes)
    log.append([_put(5)])
    log.close()
    data = path.read_bytes()
    path.write_bytes(data[: ends[0]] + data[ends[1] :])
    with pytest.raises(WorldError, match="record 4 was due, 5 is here"):
        Oplog.open(path)


def test_a_write_that_the_disk_refuses_leaves_no_trace(path):
    """When the file cannot grow, the append fails with the numbers, and a later one works."""
    log = Oplog.open(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, limits[1]))
    try:
        with pytest.raises(WorldError, match="could not take") as caught:
            log.append([_put(4)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "RAG003"
    assert (path.read_bytes(), log.seq) == (before, 3)
    assert log.append([_put(4)]) == 4


def test_a_log_is_not_created_over_another(path):
    """Creating a log where one is keeps the one that is there."""
    with pytest.raises(FileExistsError):
        Oplog.create(path, HEADER)
