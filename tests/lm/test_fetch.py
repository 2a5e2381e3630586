"""Fetching over HTTP from servers that misbehave: what comes is whole, or the error says what it was."""

import base64
from hashlib import sha256

import pytest

from actors.lm.fetch import AHEAD_NBYTES, Patience, Remote, fetch, shown
from placement.errors import TierceError, UserError, WorldError
from tests.lm.host import chunked, cut_after, dripping, endless, piece, serving, silent_after, status

FILE = bytes(range(256)) * 400
PATH = "/lora/critic/weights"
QUICK = Patience(stall_s=0.3, total_s=20.0, tries=4, pause_s=0.0)
ONCE = Patience(stall_s=0.3, total_s=20.0, tries=1, pause_s=0.0)


@pytest.fixture
def host():
    """A server with one file."""
    with serving(files={PATH: FILE}) as host:
        yield host


@pytest.fixture
def bring(host, tmp_path):
    """Fetch the file into a folder; return what is there then."""

    def bring(patience=QUICK, *, limit=1 << 20, reserve=lambda _: None, url="") -> bytes:
        fetch({"weights": Remote(url or host.url + PATH, limit)}, tmp_path / "in", reserve, patience)
        return (tmp_path / "in" / "weights").read_bytes()

    return bring


def refused(call, *args, **named) -> TierceError:
    """The typed error that `call` raises."""
    with pytest.raises(TierceError) as raised:
        call(*args, **named)
    return raised.value


def test_room_is_reserved_before_bytes_come(bring):
    """The size that the server tells is reserved once, and the file is the server's."""
    told = []
    assert bring(reserve=told.append) == FILE
    assert told == [len(FILE)]


def test_no_room_means_no_byte(host, bring, tmp_path):
    """What `reserve` refuses is not asked for again, and nothing lies on the disk."""

    def full(_):
        raise WorldError("STO003", "no room")

    assert refused(bring, reserve=full).code == "STO003"
    assert len(host.seen) == 1
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("cuts", [[70_000], [1, 2, 3], [0, 50_000, 50_000]], ids=str)
def test_a_cut_connection_is_gone_on_with(host, bring, cuts):
    """After each cut only the rest is asked for, and the file is whole."""
    host.faults[PATH].extend(cut_after(nbytes) for nbytes in cuts)
    assert bring() == FILE
    whole = [sum(cuts[:count]) for count in range(1, len(cuts) + 1)]
    assert host.asked(PATH, "Range") == [None, *(f"bytes={size}-" if size else None for size in whole)]


def test_a_fetch_that_failed_is_gone_on_with_by_the_next(host, bring, tmp_path):
    """What came before the error stays as a part, and a later call asks for the rest only."""
    host.faults[PATH].append(cut_after(60_000))
    error = refused(bring, ONCE)
    assert (error.code, isinstance(error, WorldError)) == ("STO015", True)
    assert (tmp_path / "in" / "weights.part").stat().st_size == 60_000
    assert bring() == FILE
    assert host.asked(PATH, "Range")[-1] == "bytes=60000-"


def test_what_is_here_is_not_fetched_again(host, tmp_path):
    """A file that was complete when a later one failed costs no bytes in the next call."""
    remotes = {"config": Remote(host.url + "/config", 99), "weights": Remote(host.url + PATH, 1 << 20)}
    host.files["/config"] = b"{}"
    host.faults[PATH].append(status(503))
    assert refused(fetch, remotes, tmp_path, print, QUICK).code == "STO017"
    host.faults["/config"].append(status(416, Content_Range="bytes */2"))
    fetch(remotes, tmp_path, lambda _: None, QUICK)
    assert host.asked("/config", "Range") == [None, "bytes=2-"]
    assert (tmp_path / "config").read_bytes() == b"{}"
    assert (tmp_path / "weights").read_bytes() == FILE


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(host, bring):
    """A whole answer to a range begins the file anew, so nothing stands in it twice."""
    host.ranges = False
    host.faults[PATH].append(cut_after(60_000))
    assert bring() == FILE


def test_a_file_that_changed_in_between_is_read_from_the_beginning(host, bring):
    """Halves of two versions are never put together."""
    host.faults[PATH].append(cut_after(60_000))
    refused(bring, ONCE)
    host.files[PATH] = FILE[::-1]
    assert bring() == FILE[::-1]


def test_a_server_that_mixes_versions_is_not_believed(host, bring):
    """A range of the new file, sent although the old one was asked for, is told by its ETag."""
    host.heeds_if_range = False
    host.faults[PATH].append(cut_after(60_000))
    refused(bring, ONCE)
    host.files[PATH] = FILE[::-1]
    assert bring() == FILE[::-1]


def test_a_range_of_another_place_is_not_believed(host, bring):
    """An answer that begins elsewhere than was asked is thrown away with what was there."""
    host.faults[PATH].append(cut_after(60_000))
    etag = f'"{sha256(FILE).hexdigest()}"'
    host.faults[PATH].append(status(206, Content_Range=f"bytes 5-9/{len(FILE)}", ETag=etag))
    assert bring() == FILE
    assert host.asked(PATH, "Range") == [None, "bytes=60000-", None]


@pytest.mark.parametrize("etag", ["", 'W/"{}"'], ids=["none", "weak"])
def test_without_a_strong_etag_nothing_is_gone_on_with(host, bring, etag):
    """What cannot be told from another version is asked for as a whole."""
    host.etag = etag
    host.faults[PATH].append(cut_after(60_000))
    assert bring() == FILE
    assert host.asked(PATH, "Range") == [None, None]


def test_a_date_of_long_ago_stands_in_for_an_etag(host, bring):
    """Last-Modified is as good if the file was left alone before it was sent, and not good if it was not."""
    host.etag = ""
    host.headers[PATH] = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    host.faults[PATH].append(cut_after(60_000))
    assert bring() == FILE
    assert host.asked(PATH, "If-Range")[1] == "Mon, 01 Jan 2024 00:00:00 GMT"


def test_a_server_that_promises_more_than_it_sends_is_a_cut(host, bring):
    """The error has both numbers; it is not taken for a whole file."""
    host.faults[PATH].extend([lambda answer: answer.serve(FILE, more=7)] * 4)
    error = refused(bring)
    assert error.code == "STO015"


def test_a_size_that_nobody_told_is_reserved_as_it_comes(host, bring):
    """A chunked answer is taken, with room ahead of what came."""
    told = []
    host.faults[PATH].append(chunked)
    assert bring(reserve=told.append, limit=AHEAD_NBYTES * 2) == FILE
    assert told == [AHEAD_NBYTES]


@pytest.mark.parametrize("fault", [None, endless], ids=["told", "endless"])
def test_what_is_too_large_is_refused(host, bring, fault):
    """A file over the limit is STO014, whether its size was told or is found out."""
    if fault:
        host.faults[PATH].append(fault)
    error = refused(bring, limit=50_000)
    assert (error.code, isinstance(error, UserError)) == ("STO014", True)
    assert "48.8 KiB" in error.message


CASES = {
    404: ("STO010", UserError),
    410: ("STO010", UserError),
    401: ("STO011", UserError),
    403: ("STO011", UserError),
    418: ("STO016", UserError),
    304: ("STO016", UserError),
    429: ("STO017", WorldError),
    503: ("STO017", WorldError),
}


@pytest.mark.parametrize("number", CASES)
def test_each_refusal_is_told_apart(host, bring, number):
    """Missing, forbidden, busy and odd answers have codes of their own, each with the address."""
    host.faults[PATH].append(status(number))
    error = refused(bring)
    assert (error.code, type(error)) == CASES[number]
    assert host.url + PATH in error.message
    assert error.hint


@pytest.mark.parametrize(
    "header", [{"Content_Type": "text/html; charset=utf-8"}, {"Content_Encoding": "gzip"}]
)
def test_what_is_no_file_is_refused(host, bring, header):
    """A login page, or bytes that were packed on the way, are STO016."""
    host.faults[PATH].append(lambda answer: answer.serve(FILE, **header))
    assert refused(bring).code == "STO016"


@pytest.mark.parametrize("fault", [silent_after(0), silent_after(60_000)], ids=["at once", "later"])
def test_a_server_that_falls_silent_is_not_waited_for(host, bring, fault):
    """Silence ends in STO013 within the patience for progress."""
    host.faults[PATH].append(fault)
    error = refused(bring)
    assert (error.code, isinstance(error, WorldError)) == ("STO013", True)
    assert "goes on from there" in error.hint


def test_bytes_that_trickle_are_no_progress(host, bring):
    """A byte now and then never falls silent, and is told apart: it came too slowly, with the numbers."""
    host.faults[PATH].append(dripping)
    error = refused(bring)
    assert (error.code, "too slowly" in error.message) == ("STO013", True)


def test_a_range_may_come_in_pieces(host, bring):
    """A server may send less than was asked for; the rest is asked for again."""
    host.faults[PATH].append(cut_after(60_000))
    host.faults[PATH].append(piece(10_000))
    assert bring() == FILE
    assert host.asked(PATH, "Range") == [None, "bytes=60000-", "bytes=70000-"]


def test_a_whole_has_a_deadline(host, bring):
    """A fetch that makes progress all the time ends too, if it takes too long."""
    host.faults[PATH].append(endless)
    error = refused(bring, Patience(stall_s=5.0, total_s=0.1, tries=1), limit=1 << 40)
    assert error.code == "STO013"


def test_nobody_there_is_an_error_of_its_own(bring):
    """A port on which nobody listens is STO012."""
    with serving() as gone:
        url = gone.url
    error = refused(bring, url=url + PATH)
    assert (error.code, isinstance(error, WorldError)) == ("STO012", True)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "s3://bucket/x", "http://", "http://[::1/x"])
def test_what_is_no_web_address_is_refused(bring, url):
    """Other schemes and nonsense are STO019."""
    assert refused(bring, url=url).code == "STO019"


def test_redirects_are_followed(host, bring):
    """A file may lie elsewhere; a cut there is gone on with through the same address."""
    host.files["/elsewhere"] = FILE
    host.faults[PATH].extend([status(302, Location="/elsewhere")] * 2)
    host.faults["/elsewhere"].append(cut_after(60_000))
    assert bring() == FILE
    assert host.asked("/elsewhere", "Range") == [None, "bytes=60000-"]


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/x", "file:///etc/passwd", PATH])
def test_redirects_that_lead_astray_are_refused(host, bring, where):
    """Neither another scheme nor a circle is followed."""
    host.faults[PATH].extend([status(302, Location=where)] * 9)
    assert refused(bring).code == "STO018"


def test_credentials_reach_their_host_and_nobody_else(host, bring):
    """User and password of a URL are sent to that host, not to the one that it redirects to."""
    with serving(files={"/cdn": FILE}) as cdn:
        host.faults[PATH].append(status(302, Location=f"{cdn.url}/cdn"))
        url = host.url.replace("//", "//anna:secret@") + PATH
        assert bring(url=url) == FILE
        assert host.asked(PATH, "Authorization") == [f"Basic {base64.b64encode(b'anna:secret').decode()}"]
        assert cdn.asked("/cdn", "Authorization") == [None]


@pytest.mark.parametrize(
    "fault",
    [status(401), status(302, Location="ftp://x"), cut_after(9), silent_after(9)],
    ids=["forbidden", "astray", "cut", "silent"],
)
def test_no_message_shows_credentials(host, bring, tmp_path, fault):
    """Password and query of a URL stand in no message, no hint and no file."""
    host.faults[PATH].extend([fault] * 4)
    host.faults[PATH].append(cut_after(9))
    url = host.url.replace("//", "//anna:secret@") + PATH + "?sig=hidden"
    for _ in range(2):
        error = refused(bring, ONCE, url=url)
        texts = [error.message, error.hint, *(file.read_text("latin1") for file in tmp_path.rglob("*.json"))]
        assert not [text for text in texts if "secret" in text or "hidden" in text]


def test_an_address_is_shown_without_its_secrets():
    """Host and path stay; a hub id, which has no secrets, stays as it is."""
    assert shown("https://anna:p@ss@host:8/lora/?sig=1#x") == "https://host:8/lora/"
    assert shown("org/critic") == "org/critic"
