"""More raw requests, about their first line, their fields and what they expect.

See `raw_cases` for the 37 that these go beyond, and `smuggling_cases` for framing.
"""

from tests.chaos.raw_cases import BODY, CHUNKED, CHUNKED_BODY, LENGTH, MAX_BODY_BYTES, post
from tests.chaos.raw_http import REFUSED, SERVED, TOLERATED, Behind, Case, verdict

TOO_LONG = verdict(431, behind=Behind.LOST)
NOWHERE = verdict(400, 404)
NOT_THAT_WAY = verdict(405, 501)
NO_SUCH_VERSION = verdict(400, 505, behind=Behind.LOST)
CONTINUED = verdict(200, behind=Behind.ANSWERED, continues=True)

_LINES = {
    "tab behind the method": b"POST\t/score HTTP/1.1",
    "tab behind the target": b"POST /score\tHTTP/1.1",
    "space before the method": b" POST /score HTTP/1.1",
    "no version": b"POST /score",
    "no target": b"POST HTTP/1.1",
    "NUL in the target": b"POST /sc\x00ore HTTP/1.1",
    "CR in the target": b"POST /sc\rore HTTP/1.1",
    "space in the target": b"POST /sc ore HTTP/1.1",
    "version in lower case": b"POST /score http/1.1",
    "version with a comma": b"POST /score HTTP/1,1",
    "version with two digits": b"POST /score HTTP/1.10",
    "version with letters": b"POST /score HTTP/1.1x",
    "another protocol": b"POST /score ICY/1.1",
}

_LENIENT_LINES = {
    "two spaces behind the method": b"POST  /score HTTP/1.1",
    "two spaces behind the target": b"POST /score  HTTP/1.1",
    "space behind the version": b"POST /score HTTP/1.1 ",
    "fragment in the target": b"POST /score#x HTTP/1.1",
    "encoded slash in the target": b"POST /models%2fcolours%2fscore HTTP/1.1",
    "minor version to come": b"POST /score HTTP/1.2",
}

_PATHS = {
    "encoded NUL": b"/score%00",
    "encoded NUL in a model": b"/models/a%00b/score",
    "broken percent": b"/score%zz",
    "percent at the end": b"/score%",
    "encoded byte that is no UTF-8": b"/score%ff",
    "byte that is no UTF-8": b"/score\xff",
    "UTF-8": "/scoré".encode(),
    "dots": b"/models/../score",
    "backslash": b"\\score",
    "asterisk": b"*",
    "authority": b"x:80",
    "nothing like a path": b"score",
}

_METHODS = {
    "GET": b"GET",
    "PUT": b"PUT",
    "DELETE": b"DELETE",
    "PATCH": b"PATCH",
    "TRACE": b"TRACE",
    "OPTIONS": b"OPTIONS",
    "lower case": b"post",
    "unknown": b"BREW",
    "long": b"A" * 100,
}

_FIELDS = {
    "space in the name": b"X A: 1",
    "control character in the name": b"X\x01A: 1",
    "letter beyond ASCII in the name": "X-Ä: 1".encode(),
    "parenthesis in the name": b"X(A): 1",
    "empty name": b": 1",
    "no colon": b"X-A",
    "tab before colon": b"X-A\t: 1",
    "CR in the value": b"X-A: a\rb",
    "CR at the end of the value": b"X-A: a\r",
    "LF alone behind the value": b"X-A: a\nX-B: b",
    "NUL at the end of the value": b"X-A: a\x00",
    "folded with a tab": b"X-A: 1\r\n\tb",
}

_HOSTS = {
    "with a space": b"Host: a b",
    "with a path": b"Host: x/y",
    "with a user": b"Host: u@x",
    "list": b"Host: x, y",
}

_TARGETS = {
    "absolute": b"http://x/score",
    "absolute with a port": b"http://x:80/score",
    "absolute of another host": b"http://y/score",
    "absolute in capitals": b"HTTP://X/score",
    "query": b"/score?outputs=score",
    "encoded letter": b"/%73core",
}

_EXPECTED_REFUSALS = {
    "too much": (post(b"Expect: 100-continue", b"Content-Length: %d" % (MAX_BODY_BYTES + 1), body=b""), 413),
    "CL and TE": (post(b"Expect: 100-continue", LENGTH, CHUNKED, body=b""), 400),
    "no Host": (post(b"Expect: 100-continue", LENGTH, host=None, body=b""), 400),
    "bad length": (post(b"Expect: 100-continue", b"Content-Length: +1", body=b""), 400),
}


def _line(method, target=b"/score"):
    return method + b" " + target + b" HTTP/1.1"


CASES = [
    *(Case(f"line: {name}", "9112 3", post(LENGTH, line=line), REFUSED) for name, line in _LINES.items()),
    *(
        Case(f"line: {name}", "9112 3", post(LENGTH, line=line), verdict(200, 400, 404, 505))
        for name, line in _LENIENT_LINES.items()
    ),
    *(
        Case(
            f"version {version}",
            "9110 15.6.6",
            post(LENGTH, line=b"POST /score HTTP/" + version.encode()),
            NO_SUCH_VERSION,
        )
        for version in ("0.9", "2.0", "3.0", "9.9")
    ),
    Case("line of HTTP/0.9", "9112 3", b"GET /healthz\r\n", REFUSED),
    *(
        Case(f"path: {name}", "9110 4.1", post(LENGTH, line=_line(b"POST", path)), NOWHERE)
        for name, path in _PATHS.items()
    ),
    *(
        Case(f"method {name}", "9110 9.1", post(LENGTH, line=_line(method)), NOT_THAT_WAY)
        for name, method in _METHODS.items()
    ),
    Case("method HEAD", "9110 9.3.2", b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: first\r\n\r\n", SERVED),
    Case("method HEAD of what is posted", "9110 9.1", post(LENGTH, line=_line(b"HEAD")), NOT_THAT_WAY),
    Case("method with a letter that none has", "9110 9.1", post(LENGTH, line=_line(b"P@ST")), verdict(400, 405, 501)),
    Case("CONNECT", "9110 9.3.6", post(line=_line(b"CONNECT", b"x:80"), body=b""), verdict(400, 404, 405, 501)),
    Case(
        "OPTIONS of all", "9110 9.3.7", post(line=_line(b"OPTIONS", b"*"), body=b""), verdict(200, 204, 400, 404, 405)
    ),
    *(
        Case(f"target {name}", "9112 3.2", post(LENGTH, line=_line(b"POST", target)), SERVED)
        for name, target in _TARGETS.items()
    ),
    *(Case(f"field: {name}", "9112 5.1, 2.2, 5.2", post(LENGTH, field), REFUSED) for name, field in _FIELDS.items()),
    Case("field: space before the first", "9112 2.2", post(LENGTH, host=b" Host: x"), REFUSED),
    Case("field: control character in the value", "9110 5.5", post(LENGTH, b"X-A: a\x01b"), TOLERATED),
    Case("field: bytes beyond ASCII in the value", "9110 5.5", post(LENGTH, b"X-A: \xff\xfe"), TOLERATED),
    Case("field: value of nothing", "9110 5.5", post(LENGTH, b"X-A:"), SERVED),
    Case("field: the same twice", "9110 5.3", post(LENGTH, b"X-A: 1", b"X-A: 2"), SERVED),
    Case(
        "field: names in lower case",
        "9110 5.1",
        post(LENGTH).replace(b"Content-Type", b"content-type").replace(b"Host", b"host"),
        SERVED,
    ),
    Case("field: request id with underscores", "9110 5.1", post(LENGTH, b"X_Request_ID: smuggled"), TOLERATED),
    *(Case(f"Host {name}", "9112 3.2", post(LENGTH, host=host), REFUSED) for name, host in _HOSTS.items()),
    Case("Host empty", "9110 7.2", post(LENGTH, host=b"Host:"), TOLERATED),
    Case("Host twice the same", "9112 3.2", post(LENGTH, b"Host: x"), REFUSED),
    Case(
        "Host behind an absolute target is none",
        "9112 3.2",
        post(LENGTH, host=None, line=_line(b"POST", b"http://x/score")),
        REFUSED,
    ),
    Case(
        "HTTP/1.0 without Host",
        "9112 3.2",
        post(LENGTH, host=None, line=b"POST /score HTTP/1.0"),
        verdict(200, behind=Behind.LOST),
    ),
    Case("empty line before", "9112 2.2", b"\r\n" + post(LENGTH), SERVED),
    Case(
        "upgrade that nobody offers",
        "9110 7.8",
        post(LENGTH, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
        SERVED,
    ),
    Case("upgrade to web sockets", "9110 7.8", post(LENGTH, b"Connection: Upgrade", b"Upgrade: websocket"), TOLERATED),
    Case(
        "fields of 128 KiB in all",
        "9110 5.4",
        post(LENGTH, *(b"X-%d: " % n + b"a" * 120 for n in range(1024))),
        TOO_LONG,
    ),
    Case(
        "field without an end",
        "9110 5.4",
        post(LENGTH, b"X-A: " + b"a" * (1 << 20), body=b"")[:-4],
        TOO_LONG,
        is_alone=True,
    ),
    Case(
        "name without an end",
        "9110 5.4",
        post(LENGTH, b"a" * (1 << 20), body=b"")[:-4],
        verdict(400, 431, behind=Behind.LOST),
        is_alone=True,
    ),
    Case(
        "line without an end",
        "9112 3",
        b"GET /" + b"a" * (1 << 20),
        verdict(400, 414, 431, behind=Behind.LOST),
        is_alone=True,
    ),
    Case(
        "Expect with chunks",
        "9110 10.1.1",
        post(CHUNKED, b"Expect: 100-continue", body=b""),
        CONTINUED,
        after_continue=CHUNKED_BODY,
    ),
    Case(
        "Expect in capitals",
        "9110 10.1.1",
        post(LENGTH, b"expect: 100-CONTINUE", body=b""),
        CONTINUED,
        after_continue=BODY,
    ),
    Case(
        "Expect with the body behind",
        "9110 10.1.1",
        post(LENGTH, b"Expect: 100-continue"),
        verdict(200, behind=Behind.ANSWERED, continues=None),
    ),
    Case(
        "Expect in HTTP/1.0",
        "9110 10.1.1",
        post(LENGTH, b"Expect: 100-continue", line=b"POST /score HTTP/1.0"),
        verdict(200, behind=Behind.LOST),
    ),
    Case("Expect of something else", "9110 10.1.1", post(LENGTH, b"Expect: 200-ok"), verdict(200, 400, 417)),
    *(
        Case(f"Expect and refused: {name}", "9110 10.1.1", data, verdict(status, behind=Behind.LOST), is_alone=True)
        for name, (data, status) in _EXPECTED_REFUSALS.items()
    ),
]
