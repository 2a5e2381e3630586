import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.units import format_bytes, format_seconds, parse_bytes, parse_percent, parse_seconds


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("24GiB", 25_769_803_776),
        ("24GB", 24_000_000_000),
        ("1.5TiB", 1_649_267_441_664),
        ("0.1KiB", 102),
        ("24.0 gib", 25_769_803_776),
        ("512 B", 512),
        ("0MiB", 0),
    ],
)
def test_sizes_are_read_to_the_byte(text, nbytes):
    """Binary and decimal units are told apart, in any letter case, with or without a space."""
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize(
    "text",
    ["24", "", "GiB", "-1GiB", "nan", "inf", "1e9", "1e9B", "24GiBs", "24G", "1_000B", "٣GiB", "2 4GiB"],
)
def test_what_is_no_size_is_refused(text):
    """Unitless, negative, exponential and misspelt sizes are a ValueError that quotes them."""
    with pytest.raises(ValueError, match=r"no unit|with a unit|unknown unit"):
        parse_bytes(text)


def test_a_size_beyond_64_bits_is_refused():
    """No counter of bytes can hold more than 2**63 - 1."""
    assert parse_bytes("8191PiB") == 8191 * 2**50
    with pytest.raises(ValueError, match="more bytes than a machine"):
        parse_bytes("8192PiB")


def test_a_size_without_unit_comes_with_the_right_spelling():
    """The message says what to write."""
    with pytest.raises(ValueError, match=r"'24' has no unit; write 24GiB"):
        parse_bytes("24")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_048_575, "1.0 MiB"),
        (25_769_803_776, "24.0 GiB"),
        (3 * 2**60, "3072.0 PiB"),
        (-(2**20), "-1.0 MiB"),
    ],
)
def test_sizes_are_written_in_the_largest_unit(nbytes, text):
    """One decimal, and never 1024.0 of a unit that has a larger one."""
    assert format_bytes(nbytes) == text


@given(st.integers(0, 2**62))
def test_a_written_size_is_read_back(nbytes):
    """Reading what was written loses no more than the rounding to one decimal."""
    assert parse_bytes(format_bytes(nbytes)) == pytest.approx(nbytes, rel=0.051, abs=0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10min", 600.0),
        ("10m", 600.0),
        ("30s", 30.0),
        ("500ms", 0.5),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1.5 H", 5400.0),
    ],
)
def test_times_are_read_as_seconds(text, seconds):
    """All units of time end as seconds."""
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["10", "-5s", "", "soon", "1e3s", "inf", "12:30", "10mins"])
def test_what_is_no_time_is_refused(text):
    """Unitless, negative and misspelt times are a ValueError."""
    with pytest.raises(ValueError, match=r"no unit|with a unit|unknown unit"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.0004, "0.4ms"),
        (0.0123, "12ms"),
        (0.9996, "1s"),
        (1.3, "1.3s"),
        (59.97, "1min"),
        (90.0, "1.5min"),
        (600.0, "10min"),
        (7200.0, "2h"),
        (1e9, "277778h"),
    ],
)
def test_times_are_written_in_the_largest_unit(seconds, text):
    """A time is short to read and never has an exponent."""
    assert format_seconds(seconds) == text


@given(st.floats(0.0001, 1e8))
def test_a_written_time_is_read_back(seconds):
    """Reading what was written loses no more than the rounding."""
    assert parse_seconds(format_seconds(seconds)) == pytest.approx(seconds, rel=0.06)


def test_a_share_is_written_in_percent():
    """92% is 0.92; more than all, or no sign, is refused."""
    assert parse_percent("92%") == 0.92
    for text in ("92", "0.92", "101%", "-1%"):
        with pytest.raises(ValueError, match=r"100%|unit"):
            parse_percent(text)
