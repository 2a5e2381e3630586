"""A safetensors header: what is ambiguous, cut off or something else is refused, each with its own code."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from actors.lm.header import AdapterError, parse_header

GOOD = save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)}, {"made": "here"})


def packed(header, nbytes=0):
    """A file with this header, as text or as an object, and `nbytes` of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(nbytes)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    """One tensor of a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_a_good_header_is_read_whole():
    """Names, shapes, places and metadata come out as the library wrote them."""
    header = parse_header(GOOD, len(GOOD), "file")
    tensor = header.tensors["a"]
    assert header.metadata == {"made": "here"}
    assert tensor.shape == (2, 3)
    assert np.array_equal(np.frombuffer(GOOD[tensor.start : tensor.stop], "<f4"), np.ones(6))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "ADP006"),
        (b"1234567", "ADP006"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "ADP005"),
        (b"\x80\x04\x95 a pickle of something", "ADP004"),
        (b"PK\x03\x04 a zip, as torch saves", "ADP004"),
        (GOOD[:-1], "ADP007"),
        (GOOD[:20], "ADP007"),
        (GOOD + b"x", "ADP007"),
        ((2**63).to_bytes(8, "little") + b"{}", "ADP008"),
        ((5 << 20).to_bytes(8, "little") + b"{}", "ADP009"),
        (packed(b"{not json"), "ADP008"),
        (packed(b"\xff\xfe"), "ADP008"),
        (packed(b"[" * 5000), "ADP008"),
        (packed(b"[1]"), "ADP008"),
        (packed({"__metadata__": {"n": 1}}), "ADP008"),
        (packed({f"t{n}": 0 for n in range(20_001)}), "ADP009"),
        (
            packed(
                b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", 8
            ),
            "ADP010",
        ),
        (packed({"a": entry(), "b": entry()}, 8), "ADP011"),
        (packed({"a": entry(), "b": entry(offsets=(12, 20))}, 20), "ADP011"),
        (packed({"a": entry(shape=(0,), offsets=(0, 0))}), "ADP011"),
        (packed({"a": entry(offsets=(8, 0))}, 8), "ADP011"),
        (packed({"a": entry(offsets=(-8, 0))}, 8), "ADP011"),
        (packed({"a": entry(shape=(3,))}, 8), "ADP012"),
        (packed({"a": entry(dtype="F33")}, 8), "ADP012"),
        (packed({"a": entry(shape=(-2,))}, 8), "ADP012"),
        (packed({"a": entry(shape=(True, 2))}, 8), "ADP012"),
        (packed({"a": entry(shape=(2.0,))}, 8), "ADP012"),
        (packed({"a": {"dtype": "F32"}}, 8), "ADP012"),
        (packed({"a": {**entry(), "more": 1}}, 8), "ADP012"),
        (packed({"a": 7}, 8), "ADP012"),
    ],
)
def test_a_bad_file_is_refused_by_name(content, code):
    """Each sort of broken file gives its own code, and the message names the file."""
    with pytest.raises(AdapterError, match="the weights file") as refused:
        parse_header(content, len(content), "the weights file")
    assert refused.value.code == code
    assert refused.value.exit_code == 3
