"""More raw requests, about framing: each that two readers could cut at different places, and valid ones that look odd.

See `raw_cases` for the 37 that these go beyond.
"""

from tests.chaos.raw_cases import (
    BODY,
    CHUNKED,
    CHUNKED_BODY,
    LAST_CHUNK,
    LENGTH,
    MAX_BODY_BYTES,
    UNKNOWN_CODING,
    chunked,
    post,
)
from tests.chaos.raw_http import REFUSED, SERVED, SMUGGLED, TIMED_OUT, TOLERATED, TOO_LARGE, Behind, Case, verdict

SIZE = b"%x" % len(BODY)
TOO_MUCH = verdict(400, 413, 431, behind=Behind.LOST)
CUT_OFF = verdict(400, behind=Behind.LOST, silence=True)

_CODINGS = {
    "with trailing characters": b"chunkedx",
    "list with an unknown one": b"cow, chunked",
    "gzip, chunked": b"gzip, chunked",
    "chunked twice": b"chunked, chunked",
    "quoted": b'"chunked"',
    "identity": b"identity",
    "empty": b"",
    "form feed": b"\x0cchunked",
    "with a parameter": b"chunked;q=1",
    "two words": b"chunked chunked",
}

_LENGTHS = {
    "negative zero": b"-0",
    "empty": b"",
    "two words": b"%d %d" % (len(BODY), len(BODY)),
    "list of different ones": b"%d, 3" % len(BODY),
    "hexadecimal": b"0x%x" % len(BODY),
    "decimal point": b"%d.0" % len(BODY),
    "exponent": b"1e2",
    "Arabic digits": "\u0665\u0665".encode(),
    "vertical tab": b"\x0b%d" % len(BODY),
    "letters behind": b"%dx" % len(BODY),
}

_CHUNKS = {
    "empty size": chunked(b""),
    "size with underscore": chunked(b"0_" + SIZE),
    "negative size": chunked(b"-" + SIZE),
    "space before the size": chunked(b" " + SIZE),
    "space behind the size": chunked(SIZE + b" "),
    "NUL behind the size": chunked(SIZE + b"\x00"),
    "extension without a size": chunked(b";a=b"),
    "LF in an extension": chunked(SIZE + b";a=b\nX"),
    "CR in an extension": chunked(SIZE + b";a=b\rX"),
    "LF alone behind the size": SIZE + b"\n" + BODY + b"\r\n" + LAST_CHUNK,
    "LF alone behind the data": chunked(SIZE, end=b"\n"),
    "nothing behind the data": chunked(SIZE, end=b""),
    "garbage behind the data": chunked(SIZE, end=b"XX"),
    "data longer than the size": chunked(b"%x" % (len(BODY) - 1)),
    "LF alone behind the last size": chunked(SIZE, last=b"0\n\r\n"),
    "trailer without colon": chunked(SIZE, last=b"0\r\nX\r\n\r\n"),
    "trailer with space before colon": chunked(SIZE, last=b"0\r\nX : 1\r\n\r\n"),
    "NUL in a trailer": chunked(SIZE, last=b"0\r\nX: a\x00\r\n\r\n"),
}

_TRAILERS = {
    "length": b"Content-Length: 3",
    "coding": b"Transfer-Encoding: identity",
    "host": b"Host: y",
    "request id": b"X-Request-ID: smuggled",
}

_VALID_CHUNKS = {
    "capital size": chunked(SIZE.upper()),
    "size with leading zeros": chunked(b"000" + SIZE),
    "several chunks": b"1\r\n"
    + BODY[:1]
    + b"\r\nA\r\n"
    + BODY[1:11]
    + b"\r\n"
    + chunked(b"%x" % len(BODY[11:]), BODY[11:]),
    "last size of many zeros": chunked(SIZE, last=b"00000\r\n\r\n"),
    "extensions": chunked(SIZE + b';a=b;c="d e"', last=b"0;last\r\n\r\n"),
    "trailers": chunked(SIZE, last=b"0\r\nX-Checksum: 1\r\nX-Other: 2\r\n\r\n"),
}

CASES = [
    *(
        Case(
            f"TE {name}",
            "9112 6.1, 6.3 rule 4",
            post(b"Transfer-Encoding: " + value, body=CHUNKED_BODY),
            UNKNOWN_CODING,
        )
        for name, value in _CODINGS.items()
    ),
    *(
        Case(f"TE {name}, and CL", "9112 6.3 rule 3", post(b"Transfer-Encoding: " + value, LENGTH), UNKNOWN_CODING)
        for name, value in _CODINGS.items()
    ),
    Case("TE chunked in two fields", "9112 6.1", post(CHUNKED, CHUNKED, body=CHUNKED_BODY), UNKNOWN_CODING),
    Case("TE with an empty element", "9110 5.6.1.2", post(CHUNKED + b",", body=CHUNKED_BODY), verdict(200, 400, 501)),
    Case("TE first and CL", "9112 6.3 rule 3", post(CHUNKED, LENGTH, body=CHUNKED_BODY), REFUSED),
    Case(
        "TE and a CL of the chunks",
        "9112 6.3 rule 3",
        post(CHUNKED, b"Content-Length: %d" % len(CHUNKED_BODY), body=CHUNKED_BODY),
        REFUSED,
    ),
    Case("TE and CL 0", "9112 6.3 rule 3", post(CHUNKED, b"Content-Length: 0", body=CHUNKED_BODY), REFUSED),
    Case("TE and CL in HTTP/1.0", "9112 6.1", post(CHUNKED, LENGTH, line=b"POST /score HTTP/1.0"), REFUSED),
    Case("TE with a NUL in its name", "9112 5.1", post(b"Transfer-Encoding\x00: chunked", LENGTH), REFUSED),
    Case("TE behind a bare LF", "9112 2.2", post(LENGTH, b"X-A: 1\nTransfer-Encoding: chunked"), REFUSED),
    Case("TE behind a bare CR", "9112 2.2", post(LENGTH, b"X-A: 1\rTransfer-Encoding: chunked"), REFUSED),
    Case("TE on a folded line", "9112 5.2", post(LENGTH, b"Transfer-Encoding:\r\n chunked"), REFUSED),
    Case("TE colon on the next line", "9112 5.1", post(LENGTH, b"Transfer-Encoding\r\n : chunked"), REFUSED),
    Case("TE behind a space", "9112 2.2, 5.2", post(LENGTH, b" Transfer-Encoding: chunked"), REFUSED),
    Case("TE with underscore", "9110 5.1", post(b"Transfer_Encoding: chunked", LENGTH), TOLERATED),
    Case("TE capital", "9112 7", post(b"Transfer-Encoding: CHUNKED", body=CHUNKED_BODY), SERVED),
    Case("TE lower-case name", "9110 5.1", post(CHUNKED.lower(), body=CHUNKED_BODY), SERVED),
    Case("TE behind a tab", "9110 5.6.3", post(b"Transfer-Encoding:\tchunked", body=CHUNKED_BODY), SERVED),
    Case("TE with trailing spaces", "9112 5.1", post(CHUNKED + b" \t ", body=CHUNKED_BODY), TOLERATED),
    *(Case(f"CL {name}", "9110 8.6", post(b"Content-Length: " + value), REFUSED) for name, value in _LENGTHS.items()),
    Case("CL list of equal ones", "9110 8.6", post(b"Content-Length: %d, %d" % (len(BODY), len(BODY))), TOLERATED),
    Case("CL with trailing spaces", "9112 5.1", post(LENGTH + b" \t "), SERVED),
    Case("CL without a space", "9112 5.1", post(b"content-length:%d" % len(BODY)), SERVED),
    Case("CL with leading zeros", "9110 8.6", post(b"Content-Length: 000%d" % len(BODY)), SERVED),
    Case("CL space before colon", "9112 5.1", post(b"Content-Length : %d" % len(BODY)), REFUSED),
    Case(
        "CL 2 to the 64 and some",
        "9110 8.6",
        post(b"Content-Length: %d" % (2**64 + len(BODY))),
        verdict(400, 413, behind=Behind.LOST),
    ),
    Case(
        "CL of the limit",
        "9110 15.5.14",
        post(b"Content-Length: %d" % MAX_BODY_BYTES, body=BODY.ljust(MAX_BODY_BYTES)),
        SERVED,
    ),
    Case(
        "CL one over the limit",
        "9110 15.5.14",
        post(b"Content-Length: %d" % (MAX_BODY_BYTES + 1), body=b""),
        TOO_LARGE,
        is_alone=True,
    ),
    Case(
        "CL over the limit, all sent", "9110 15.5.14", post(b"Content-Length: 2097152", body=b"x" * 2097152), TOO_LARGE
    ),
    Case(
        "chunks of the limit",
        "9110 15.5.14",
        post(CHUNKED, body=chunked(b"%x" % MAX_BODY_BYTES, BODY.ljust(MAX_BODY_BYTES))),
        SERVED,
    ),
    Case(
        "chunk over the limit, size alone", "9110 15.5.14", post(CHUNKED, body=b"200000\r\n"), TIMED_OUT, is_alone=True
    ),
    *(Case(f"chunks: {name}", "9112 7.1", post(CHUNKED, body=body), REFUSED) for name, body in _CHUNKS.items()),
    *(Case(f"chunks: {name}", "9112 7.1", post(CHUNKED, body=body), SERVED) for name, body in _VALID_CHUNKS.items()),
    *(
        Case(
            f"trailer {name}",
            "9110 6.5.1",
            post(CHUNKED, body=chunked(SIZE, last=b"0\r\n" + field + b"\r\n\r\n")),
            TOLERATED,
        )
        for name, field in _TRAILERS.items()
    ),
    Case(
        "chunk extension of 2 MiB",
        "9112 7.1.1",
        post(CHUNKED, body=SIZE + b";a=" + b"b" * (2 << 20)),
        TOO_MUCH,
        is_alone=True,
    ),
    Case(
        "extensions of 4 MiB in all",
        "9112 7.1.1",
        post(CHUNKED, body=(b"1;a=" + b"b" * 4096 + b"\r\n \r\n") * 1024),
        TOO_MUCH,
        is_alone=True,
    ),
    Case(
        "trailers of 2 MiB",
        "9110 6.5.1",
        post(CHUNKED, body=chunked(SIZE, last=b"0\r\n" + b"X-A: 1\r\n" * (1 << 18))),
        TOO_MUCH,
        is_alone=True,
    ),
    Case("size line without an end", "9112 7.1", post(CHUNKED, body=b"0" * (2 << 20)), TOO_MUCH, is_alone=True),
    Case(
        "GET whose body is a request",
        "9110 9.3.1",
        post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED, line=b"GET /healthz HTTP/1.1"),
        TOLERATED,
    ),
    Case(
        "GET whose chunk is a request",
        "9110 9.3.1",
        post(CHUNKED, body=chunked(b"%x" % len(SMUGGLED), SMUGGLED), line=b"GET /healthz HTTP/1.1"),
        TOLERATED,
    ),
    Case(
        "POST to nowhere whose body is a request",
        "9112 9.3",
        post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED, line=b"POST /nowhere HTTP/1.1"),
        verdict(404),
    ),
    Case(
        "body of the wrong kind that is a request",
        "9112 9.3",
        post(b"Content-Length: %d" % len(SMUGGLED), b"Content-Encoding: chunked", body=SMUGGLED),
        verdict(415),
    ),
    Case("neither CL nor TE", "9112 6.3 rule 7", post(body=b""), verdict(400, 411)),
    Case("pipelined behind a close", "9112 9.6", post(LENGTH, b"Connection: close"), verdict(200, behind=Behind.LOST)),
    Case(
        "pipelined behind HTTP/1.0",
        "9112 9.3",
        post(LENGTH, line=b"POST /score HTTP/1.0"),
        verdict(200, behind=Behind.LOST),
    ),
    Case(
        "HTTP/1.0 kept alive",
        "9112 9.3",
        post(LENGTH, b"Connection: keep-alive", line=b"POST /score HTTP/1.0"),
        verdict(200),
    ),
    Case(
        "whole and half closed",
        "9112 9.6",
        post(LENGTH, b"Connection: close"),
        verdict(200, behind=Behind.LOST),
        is_alone=True,
        half_closes=True,
    ),
    Case("cut off in the body", "9112 8", post(LENGTH, body=BODY[:-3]), CUT_OFF, is_alone=True, half_closes=True),
    Case(
        "cut off in a chunk", "9112 8", post(CHUNKED, body=CHUNKED_BODY[:20]), CUT_OFF, is_alone=True, half_closes=True
    ),
    Case(
        "cut off before the last chunk",
        "9112 8",
        post(CHUNKED, body=CHUNKED_BODY[: -len(LAST_CHUNK)]),
        CUT_OFF,
        is_alone=True,
        half_closes=True,
    ),
    Case("cut off in the head", "9112 8", post(LENGTH, body=b"")[:-2], CUT_OFF, is_alone=True, half_closes=True),
    Case("head without an end", "9110 15.5.9", post(LENGTH, body=b"")[:-2], TIMED_OUT, is_alone=True),
    Case(
        "chunks without an end",
        "9110 15.5.9",
        post(CHUNKED, body=CHUNKED_BODY[: -len(LAST_CHUNK)]),
        TIMED_OUT,
        is_alone=True,
    ),
]
