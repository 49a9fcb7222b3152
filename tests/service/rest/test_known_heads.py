"""Heads that were read before: the same bytes are the same request, and nothing else is ever taken for one."""

import pytest

from service.rest.known_heads import MAX_KNOWN_BYTES, KnownHeads
from service.rest.request import Head
from service.rest.request_reader import MalformedError, RequestReader

POST = b"POST /score?version=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX-Twice: a\r\nX-Twice: b\r\n\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MAX_BODY_BYTES = 64


class Reading:
    """A reader of a connection of its own; what it read.

    Args:
        known: the heads that it shares with others.
    """

    def __init__(self, known):
        self.heads, self.wholes = [], []
        self.reader = RequestReader(self.heads.append, self.wholes.append, MAX_BODY_BYTES, known)

    def feed(self, *pieces):
        """Read pieces and return the targets and bodies of what is whole."""
        for piece in pieces:
            self.reader.feed(piece)
        return [(whole.target, bytes(whole.body)) for whole in self.wholes]


@pytest.fixture
def known():
    """Return heads of which `POST` and `GET` are known."""
    known = KnownHeads()
    Reading(known).feed(POST + b"abc")
    Reading(known).feed(GET)
    assert known.find(POST) is not None
    assert known.find(GET) is not None
    return known


@pytest.mark.parametrize("cut", [None, 1, len(POST) - 1, len(POST), len(POST) + 1])
def test_known_head_gives_the_request_that_was_parsed(known, cut):
    """Target, headers, body and the rest are the same as the parser's, however the bytes are cut."""
    first, second = Reading(KnownHeads()), Reading(known)
    data = POST + b"def" + GET
    pieces = [data] if cut is None else [data[:cut], data[cut:]]
    assert [(b"/score?version=1", b"def"), (b"/a", b"")] == first.feed(*pieces) == second.feed(*pieces)
    for parsed, recalled in zip(first.wholes, second.wholes, strict=True):
        for name in ("method", "target", "version", "headers", "keep_alive", "length", "num_body_bytes", "is_complete"):
            assert getattr(parsed, name) == getattr(recalled, name)
    assert b"a" == second.wholes[0].header(b"x-twice")
    assert second.reader.is_between_requests


def test_known_head_is_used(known):
    """A request of a known head has the very head that was read before: it was not parsed again."""
    reading = Reading(known)
    reading.feed(POST + b"abc" + POST + b"def")
    assert known.find(POST)[0] is reading.wholes[0].head is reading.wholes[1].head


def test_request_of_a_known_head_can_be_thrown_away(known):
    """Its body is counted and not kept, and the next request is read."""
    reading = Reading(known)
    reading.reader = RequestReader(lambda head: head.discard(), reading.wholes.append, MAX_BODY_BYTES, known)
    assert [(b"/score?version=1", b""), (b"/a", b"")] == reading.feed(POST + b"ab", b"c" + GET)
    assert [3, 0] == [whole.num_body_bytes for whole in reading.wholes]


def test_known_head_counts_for_nothing_within_a_body(known):
    """What stands in a body, parsed or not, is a body."""
    size = len(GET)
    head = b"POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    for _ in range(2):
        assert [(b"/c", GET)] == Reading(known).feed(head, GET)
    chunks = (
        b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"%x\r\n" % size,
        GET,
        b"\r\n0\r\n\r\n",
    )
    assert [(b"/c", GET)] == Reading(known).feed(*chunks)


def test_known_head_is_not_read_behind_a_request_that_is_the_last(known):
    """Behind `Connection: close` nothing is a request, however well its bytes are known; behind old HTTP neither."""
    assert [(b"/b", b"")] == Reading(known).feed(LAST, GET)
    assert [(b"/b", b"")] == Reading(known).feed(LAST + GET)
    assert [(b"/old", b"")] == Reading(known).feed(b"GET /old HTTP/1.0\r\n\r\n", GET)


def test_known_head_does_not_end_a_head_that_began_otherwise(known):
    """A head that is the end of another's bytes is a part of that one, which is refused."""
    with pytest.raises(MalformedError):
        Reading(known).feed(b"GET /a HTTP/1.1\r\nX", GET)


@pytest.mark.parametrize(
    "data",
    [
        LAST,
        b"\r\n" + GET,
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * MAX_KNOWN_BYTES + b"\r\n\r\n",
    ],
    ids=["last", "behind an empty line", "HTTP/1.0", "chunks", "expectation", "upgrade", "long"],
)
def test_head_that_is_more_than_its_bytes_is_not_kept(data):
    """Of these the connection has a part too, or they are large: each is parsed every time."""
    known = KnownHeads()
    assert 1 == len(Reading(known).feed(data))
    assert known.find(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET /a HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_head_that_is_refused_is_not_kept(data):
    """What was refused is refused again."""
    known = KnownHeads()
    for _ in range(2):
        with pytest.raises(MalformedError):
            Reading(known).feed(data)
        assert known.find(data) is None


def test_another_head_is_another_one(known):
    """One byte more, less or changed is not known."""
    for data in (POST[:-1], POST.replace(b"X-Twice: b", b"X-Twice: c"), POST[1:], b" " + POST, b""):
        assert known.find(data) is None


def test_number_of_known_heads_is_bounded():
    """Clients whose heads are all different take no memory; the newest is known."""
    known = KnownHeads()
    for number in range(1000):
        data = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number
        known.note(data, Head("GET", b"/%d" % number, "1.1", [(b"host", b"x")], keep_alive=True, length=0))
        assert known.find(data) is not None
    found = [known.find(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number) for number in range(1000)]
    assert 1 <= sum(each is not None for each in found) <= 256
