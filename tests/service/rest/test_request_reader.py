"""Bytes to requests: what is read, what is refused, and that it does not matter how the bytes were cut."""

import http

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rest.request_reader import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES, MalformedError, RequestReader

MAX_BODY_BYTES = 64


def request(*lines, body=b"", line=b"POST /score HTTP/1.1", host=b"Host: x"):
    """Return a request's bytes."""
    return b"\r\n".join([line, *([host] if host else []), *lines, b"", b""]) + body


PLAIN = request(b"Content-Length: 3", body=b"abc")
CHUNKED = request(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n2;x=y\r\nbc\r\n0\r\nTrailer: t\r\n\r\n")
UPGRADE = request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: 3", body=b"abc")
UPGRADE_CHUNKED = request(  # so Java's HttpClient sends a body from a stream
    b"Connection: Upgrade, HTTP2-Settings",
    b"Transfer-Encoding: chunked",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    b"Upgrade: h2c",
    body=b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
)
BODILESS = request(line=b"GET /healthz HTTP/1.1")


def read(*pieces):
    """Return what a reader makes of pieces of bytes: heads, whole requests, and the status that ended it."""
    heads, wholes = [], []
    reader = RequestReader(heads.append, wholes.append, MAX_BODY_BYTES)
    try:
        for piece in pieces:
            reader.feed(piece)
    except MalformedError as error:
        return heads, wholes, error.status
    return heads, wholes, None


def seen(result):
    """Return a result in a form that compares."""
    heads, wholes, status = result
    return (
        [(head.method, head.target, head.version) for head in heads],
        [(whole.method, whole.target, bytes(whole.body), whole.keep_alive) for whole in wholes],
        status,
    )


@pytest.mark.parametrize(
    "data",
    [PLAIN, CHUNKED, UPGRADE, UPGRADE_CHUNKED],
    ids=["length", "chunks", "upgrade that is not taken", "chunks and an upgrade"],
)
def test_reader_gives_the_body_that_was_sent(data):
    """The same three bytes arrive by length, by chunks with an extension and a trailer, and beside an offer of h2c."""
    heads, wholes, status = read(data, PLAIN)
    assert ([b"abc", b"abc"], None) == ([bytes(whole.body) for whole in wholes], status)
    assert heads == wholes
    assert all(whole.is_complete and whole.keep_alive for whole in wholes)
    assert b"x" == wholes[0].header(b"host")
    assert b"" == wholes[0].header(b"missing")


@given(
    st.lists(
        st.sampled_from([PLAIN, CHUNKED, UPGRADE, UPGRADE_CHUNKED, BODILESS, b"\r\n", b"GET / HTTP/9.9\r\n\r\n"]),
        max_size=4,
    ),
    st.data(),
)
def test_reader_does_not_see_how_the_bytes_were_cut(parts, data):
    """Requests one behind the other are read alike whole and in any pieces, up to the first that is none."""
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert seen(read(whole)) == seen(read(*pieces))


@given(st.binary(max_size=200))
def test_reader_ends_in_requests_or_in_a_refusal_whatever_comes(data):
    """No bytes make it raise anything but its own error, alone or behind a head."""
    read(data)
    read(PLAIN[:20], data)
    read(request(b"Transfer-Encoding: chunked"), data)


MANY = b"\r\n".join(b"X-%d: 1" % number for number in range(MAX_HEADERS))
REFUSED = {
    "both lengths": (request(b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400),
    "two lengths": (request(b"Content-Length: 3", b"Content-Length: 3"), 400),
    "length with a sign": (request(b"Content-Length: +3"), 400),
    "another coding": (request(b"Transfer-Encoding: gzip, chunked"), 501),
    "two codings": (request(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"), 501),
    "coding in 1.0": (request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), 400),
    "bare line feeds": (PLAIN.replace(b"\r\n", b"\n"), 400),
    "folded line": (request(b"X: 1\r\n 2"), 400),
    "no host": (request(host=b""), 400),
    "two hosts": (request(b"Host: y"), 400),
    "host of two": (request(host=b"Host: x, y"), 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "proxy": (request(line=b"CONNECT x:80 HTTP/1.1"), 400),
    "unknown method": (request(line=b"BREW / HTTP/1.1"), 501),
    "no method": (b"\x16\x03\x01\x00\xa5", 400),
    "expectation": (request(b"Expect: a miracle", b"Content-Length: 3"), 417),
    "both lengths and an upgrade": (
        UPGRADE.replace(b"Upgrade: h2c", b"Upgrade: h2c\r\nTransfer-Encoding: chunked"),
        400,
    ),
    "chunk of an upgrade": (UPGRADE_CHUNKED.replace(b"\r\n2\r\n", b"\r\n+2\r\n"), 400),
    "chunk size in C": (request(b"Transfer-Encoding: chunked", body=b"0x1\r\na\r\n0\r\n\r\n"), 400),
    "too many headers": (request(MANY), 431),
    "one long header": (request(b"X: " + b"a" * MAX_HEAD_BYTES), 431),
    "long target": (request(line=b"GET /" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1"), 414),
    "announced body": (request(b"Content-Length: 65"), 413),
    "announced body beside an upgrade": (UPGRADE.replace(b"Length: 3", b"Length: 65"), 413),
    "chunked body": (request(b"Transfer-Encoding: chunked", body=b"41\r\n" + b"a" * 65), 413),
}


@pytest.mark.parametrize("name", REFUSED)
def test_reader_refuses_what_two_readers_could_understand_differently(name):
    """No such request is handed over, nor a sound one behind it, whole or byte by byte."""
    data, status = REFUSED[name]
    _, wholes, found = read(data + PLAIN)
    assert ([], status) == (wholes, found)
    _, wholes, found = read(*(data[index : index + 1] for index in range(len(data))), PLAIN)
    assert [] == wholes
    assert found in {status, http.HTTPStatus.BAD_REQUEST}  # a method cut in two is not told from garbage


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(b"X-A: 1", line=b"GET / HTTP/1.1")[:-4] + b"a" * 70000, 431),
        (request(b"Transfer-Encoding: chunked", body=b"1;a=" + b"b" * 70000), 400),
        (request(b"Transfer-Encoding: chunked", body=(b"1;a=" + b"b" * 4000 + b"\r\nx\r\n") * 60), 400),
        (request(b"Transfer-Encoding: chunked", body=b"0" * 70000), 400),
    ],
    ids=["header", "extension", "extensions", "size"],
)
def test_reader_refuses_what_never_ends(data, status):
    """A header, a chunk's extension or size that goes on and on is refused before it is whole."""
    assert status == read(*(data[start : start + 1000] for start in range(0, len(data), 1000)))[2]


def test_reader_takes_limits_to_the_byte():
    """The largest body passes, and as many headers as may be."""
    _, wholes, status = read(request(b"Content-Length: 64", body=b"a" * 64))
    assert ([b"a" * 64], None) == ([bytes(whole.body) for whole in wholes], status)
    headers = MANY.split(b"\r\n")[: MAX_HEADERS - 1]
    assert 1 == len(read(request(*headers))[1])
    tiny = b"".join(b"1\r\na\r\n" for _ in range(64))
    assert [b"a" * 64] == [bytes(whole.body) for whole in read(CHUNKED_HEAD + tiny + b"0\r\n\r\n")[1]]


CHUNKED_HEAD = request(b"Transfer-Encoding: chunked")


def test_reader_reads_a_discarded_body_to_its_end():
    """A body that nobody wants is thrown away, bounded all the same, and the next request is read."""
    wholes = []
    reader = RequestReader(lambda head: head.discard(), wholes.append, MAX_BODY_BYTES)
    reader.feed(PLAIN[:-1])
    assert not reader.is_between_requests
    reader.feed(PLAIN[-1:] + PLAIN)
    assert [(b"", 3), (b"", 3)] == [(whole.body, whole.num_body_bytes) for whole in wholes]
    assert reader.is_between_requests
    with pytest.raises(MalformedError):
        reader.feed(CHUNKED_HEAD + b"41\r\n" + b"a" * 65)


@pytest.mark.parametrize(
    ("data", "keep_alive", "expects"),
    [
        (PLAIN, True, False),
        (request(b"Connection: close"), False, False),
        (request(line=b"GET / HTTP/1.0"), False, False),
        (request(b"Connection: keep-alive", line=b"GET / HTTP/1.0"), True, False),
        (request(b"Expect: 100-Continue", b"Content-Length: 3"), True, True),
        (request(b"Expect: 100-continue", b"Content-Length: 3", line=b"POST / HTTP/1.0"), False, False),
    ],
)
def test_reader_knows_what_the_client_asks_of_the_connection(data, keep_alive, expects):
    """Whether it stays open and whether the client waits for a word, by version and header."""
    head = read(data)[0][0]
    assert (keep_alive, expects) == (head.keep_alive, head.expects_continue)


def test_reader_announces_a_request_whose_body_is_too_large():
    """Its head was read, so that the answer can carry its id."""
    heads, _, status = read(request(b"Content-Length: 65", b"X-Request-ID: one"))
    assert ([b"one"], 413) == ([head.header(b"x-request-id") for head in heads], status)


def test_reader_takes_a_request_for_the_last_where_its_trailer_says_so():
    """What llhttp will not read on after is no connection that stays open."""
    data = request(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\nConnection: close\r\n\r\n")
    _, wholes, status = read(data, PLAIN)
    assert ([False], None) == ([whole.keep_alive for whole in wholes], status)


def test_reader_leaves_unread_what_follows_the_last_request():
    """Bytes behind a request that closes are no request and no error."""
    _, wholes, status = read(request(b"Connection: close") + PLAIN, PLAIN)
    assert (1, None) == (len(wholes), status)
