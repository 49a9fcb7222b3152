"""The 37 raw requests that tell HTTP servers apart: ambiguous framing, heads and bodies over the limits, no HTTP.

Each says where RFC 9110 or RFC 9112 decides what a server may do. The limit of the server's bodies is 1 MiB.
"""

from tests.chaos.raw_http import (
    GARBAGE,
    REFUSED,
    SERVED,
    SMUGGLED,
    TIMED_OUT,
    TOLERATED,
    TOO_LARGE,
    Behind,
    Case,
    verdict,
)

MAX_BODY_BYTES = 1 << 20
BODY = b'{"instances":[[173.0,202.0,232.0]],"outputs":["score"]}'
"""The first row of the probe of the shipped model that is asked."""

LINE = b"POST /score HTTP/1.1"
HOST = b"Host: x"
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
LAST_CHUNK = b"0\r\n\r\n"
UNKNOWN_CODING = verdict(400, 501, behind=Behind.LOST)


def post(*fields, body=BODY, line=LINE, host=HOST):
    """Return a request to score with these fields."""
    usual = [line, *([host] if host else []), b"Content-Type: application/json", b"X-Request-ID: first"]
    return b"\r\n".join([*usual, *fields]) + b"\r\n\r\n" + body


def chunked(size, data=BODY, end=b"\r\n", last=LAST_CHUNK):
    """Return a chunk whose size line is `size`, and the last chunk."""
    return size + b"\r\n" + data + end + last


CHUNKED_BODY = chunked(b"%x" % len(BODY))

CASES = [
    Case("ok", "9112 2.1", post(LENGTH), SERVED),
    Case("CL and TE", "9112 6.3 rule 3", post(LENGTH, CHUNKED, body=CHUNKED_BODY), REFUSED),
    Case("TE unknown and CL", "9112 6.1", post(LENGTH, b"Transfer-Encoding: xchunked"), UNKNOWN_CODING),
    Case(
        "TE list that does not end in chunked",
        "9112 6.3 rule 4",
        post(b"Transfer-Encoding: chunked, identity", body=CHUNKED_BODY),
        UNKNOWN_CODING,
    ),
    Case(
        "TE twice",
        "9112 6.3 rule 4",
        post(CHUNKED, b"Transfer-Encoding: identity", body=CHUNKED_BODY),
        UNKNOWN_CODING,
    ),
    Case("TE space before colon", "9112 5.1", post(b"Transfer-Encoding : chunked", body=CHUNKED_BODY), REFUSED),
    Case(
        "TE vertical tab",
        "9110 5.5, 9112 6.1",
        post(b"Transfer-Encoding:\x0bchunked", body=CHUNKED_BODY),
        UNKNOWN_CODING,
    ),
    Case(
        "TE in HTTP/1.0",
        "9112 6.1",
        post(CHUNKED, b"Connection: keep-alive", body=CHUNKED_BODY, line=b"POST /score HTTP/1.0"),
        REFUSED,
    ),
    Case("two CL, different", "9112 6.3 rule 5", post(LENGTH, b"Content-Length: 3"), REFUSED),
    Case("two CL, same", "9112 6.3 rule 5", post(LENGTH, LENGTH), TOLERATED),
    Case("CL with plus", "9110 8.6", post(b"Content-Length: +%d" % len(BODY)), REFUSED),
    Case("CL with underscore", "9110 8.6", post(b"Content-Length: 0_%d" % len(BODY)), REFUSED),
    Case("CL negative", "9110 8.6", post(b"Content-Length: -1"), REFUSED),
    Case("CL huge", "9110 8.6", post(b"Content-Length: " + b"9" * 30), verdict(400, 413, behind=Behind.LOST)),
    Case("CL over the limit", "9110 15.5.14", post(b"Content-Length: 2097152", body=b""), TOO_LARGE, is_alone=True),
    Case("chunk size 0x", "9112 7.1", post(CHUNKED, body=chunked(b"0x%x" % len(BODY))), REFUSED),
    Case("chunk size with plus", "9112 7.1", post(CHUNKED, body=chunked(b"+%x" % len(BODY))), REFUSED),
    Case(
        "chunk size overflow",
        "9112 7.1",
        post(CHUNKED, body=chunked(b"ffffffffffffffff%x" % len(BODY))),
        verdict(400, 413, behind=Behind.LOST),
    ),
    Case("chunk LF only", "9112 7.1", post(CHUNKED, body=b"%x\n" % len(BODY) + BODY + b"\n0\n\n"), REFUSED),
    Case("bare LF in the head", "9112 2.2", post(LENGTH, body=b"").replace(b"\r\n", b"\n") + BODY, REFUSED),
    Case("obs-fold", "9112 5.2", post(LENGTH, b"X-A: 1\r\n b"), REFUSED),
    Case("NUL in a field", "9110 5.5", post(LENGTH, b"X-A: a\x00b"), REFUSED),
    Case("no Host", "9112 3.2", post(LENGTH, host=None), REFUSED),
    Case("two Hosts", "9112 3.2", post(LENGTH, b"Host: y"), REFUSED),
    Case("underscore field", "9110 5.1", post(LENGTH, b"Content_Length: 3"), TOLERATED),
    Case("many fields", "9110 5.4", post(LENGTH, *(b"X-%d: 1" % n for n in range(120))), verdict(200, 431)),
    Case("long field", "9110 5.4", post(LENGTH, b"X-A: " + b"a" * 65536), verdict(431, behind=Behind.LOST)),
    Case(
        "long URL",
        "9110 15.5.15",
        post(LENGTH, line=b"POST /" + b"a" * 65536 + b" HTTP/1.1"),
        verdict(414, 431, behind=Behind.LOST),
    ),
    Case("smuggled prefix", "9112 6.3 rule 3", post(LENGTH, CHUNKED, body=LAST_CHUNK + SMUGGLED), REFUSED),
    Case(
        "depth bomb",
        "9110 15.5.1",
        post(b"Content-Length: 200000", body=b"[" * 200_000),
        verdict(400, behind=Behind.ANSWERED),
    ),
    Case("NaN", "9110 15.5.1", post(b"Content-Length: 9", body=b'{"x":NaN}'), verdict(400, behind=Behind.ANSWERED)),
    Case(
        "chunked over the limit",
        "9110 15.5.14",
        post(CHUNKED, body=(b"10000\r\n" + b"x" * 65536 + b"\r\n") * 32),
        TOO_LARGE,
        is_alone=True,
    ),
    Case("short body", "9110 15.5.9", post(LENGTH, body=BODY[:-3]), TIMED_OUT, is_alone=True),
    Case(
        "Expect",
        "9110 10.1.1",
        post(LENGTH, b"Expect: 100-continue", body=b""),
        verdict(200, behind=Behind.ANSWERED, continues=True),
        after_continue=BODY,
    ),
    Case("HTTP/2 preface", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), GARBAGE),
    Case(
        "TLS hello",
        "9112 3",
        bytes.fromhex("16030100a5010000a10303") + bytes(range(32)) + b"\x20" + bytes(32) + b"\x00\x02\x13\x01",
        GARBAGE,
    ),
    Case("garbage", "9112 3", b"\x00\xff\xfe\r\n\r\n", GARBAGE),
]
