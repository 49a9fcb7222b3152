"""Requests as raw bytes, each on a fresh socket, all at once; what came back, and whether that is as it must be.

Every request names itself in `X-Request-ID`, which every answer repeats: so it is seen which request was answered. The
one of the case is `first`; `behind` follows it on the same connection; one that hides in a body is `smuggled`.

Above: the cases, and `test_raw_http`. Nothing of the server is used here.
"""

import dataclasses
import enum
import errno
import re
import selectors
import socket
import time

BEHIND = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: behind\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: smuggled\r\n\r\n"

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2}) [\x20-\x7e]*\Z")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\x00]*?)[ \t]*\Z")


class Behind(enum.Enum):
    """What must become of the request that follows on the same connection."""

    LOST = "the connection is closed, and the answer says so"
    ANSWERED = "it is answered"
    EITHER = "it is answered, or the connection is closed"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a server may do with a request.

    Args:
        statuses: of its final answer.
        behind: what becomes of the request behind it.
        silence: whether the connection may be closed without an answer.
        continues: whether `100 Continue` must come (True), must not (False) or may (None).
    """

    statuses: frozenset
    behind: Behind
    silence: bool = False
    continues: bool | None = False


def verdict(*statuses, behind=Behind.EITHER, **more):
    """Return a verdict of these statuses."""
    return Verdict(frozenset(statuses), behind, **more)


SERVED = verdict(200, behind=Behind.ANSWERED)
REFUSED = verdict(400, behind=Behind.LOST)
TOO_LARGE = verdict(413, behind=Behind.LOST)
GARBAGE = verdict(400, behind=Behind.LOST, silence=True)
TIMED_OUT = verdict(408, behind=Behind.LOST, silence=True)
TOLERATED = verdict(200, 400)
"""Legal and odd: served right or refused, as the server likes."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One request.

    Args:
        name: a few words.
        section: where RFC 9110 or 9112 decides it.
        data: its bytes.
        verdict: what a server may do with it.
        is_alone: nothing is sent behind it (it is not whole, say).
        after_continue: sent once `100 Continue` has come.
        half_closes: the client closes its sending side after it.
    """

    name: str
    section: str
    data: bytes
    verdict: Verdict
    is_alone: bool = False
    after_continue: bytes = b""
    half_closes: bool = False


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer: its status, fields by lower-case name, and body."""

    status: int
    fields: dict
    body: bytes


@dataclasses.dataclass
class Outcome:
    """What came back: everything received, and whether the server closed the connection, or reset it."""

    received: bytearray = dataclasses.field(default_factory=bytearray)
    is_closed: bool = False
    is_reset: bool = False


class MalformedAnswerError(ValueError):
    """The server itself sent what is no HTTP."""


def answers(received, *, first_is_head=False):
    """Return the answers in what was received, interim ones too.

    Raises:
        MalformedAnswerError: it is no sequence of whole answers.
    """
    found, data = [], bytes(received)
    while data:
        head, ended, rest = data.partition(b"\r\n\r\n")
        status_line, *lines = head.split(b"\r\n")
        status, fields = _STATUS_LINE.match(status_line), [_FIELD.match(line) for line in lines]
        if not (ended and status and all(fields)):
            raise MalformedAnswerError(f"no whole head: {data[:200]!r}")
        by_name = {field[1].lower().decode(): field[2].decode("latin-1") for field in fields}
        if len(by_name) < len(fields):
            raise MalformedAnswerError(f"a field twice: {head!r}")
        number = int(status[1])
        is_final = number >= 200
        has_body = is_final and number not in (204, 304) and not (first_is_head and not _finals(found))
        length = int(by_name.get("content-length", "-1")) if has_body else 0
        if has_body and (length < 0 or length > len(rest)):
            raise MalformedAnswerError(f"no Content-Length, or fewer bytes than it says: {data[:200]!r}")
        found.append(Answer(number, by_name, rest[:length]))
        data = rest[length:]
    return found


def _finals(found):
    return [answer for answer in found if answer.status >= 200]


def faults(case, outcome):
    """Return a sentence for each thing that the server may not do; none if it did right."""
    try:
        found = answers(outcome.received, first_is_head=case.data.startswith(b"HEAD "))
    except MalformedAnswerError as error:
        return [f"malformed answer, {error}"]
    interim = len(found) - len(_finals(found))
    final = _finals(found)
    said = [] if outcome.is_closed else ["the connection was still open at the end"]
    if case.verdict.continues is not None and interim != int(case.verdict.continues):
        said.append(f"{interim} interim answers")
    if not final:
        return said if case.verdict.silence else [*said, "no answer"]
    first, *more = final
    if first.status not in case.verdict.statuses:
        said.append(f"answered {first.status}, expected one of {sorted(case.verdict.statuses)}")
    if first.fields.get("x-request-id") in ("behind", "smuggled"):
        said.append("the first answer is not to the first request")
    return said + _faults_behind(case, first, more)


def _faults_behind(case, first, more):
    """Return what is wrong with the answers after the first."""
    asked = [answer.fields.get("x-request-id") for answer in more]
    is_closing = first.fields.get("connection", "").lower() == "close"
    if case.verdict.behind is Behind.LOST:
        said = [f"answered requests behind: {asked}"] if more else []
        return said if is_closing else [*said, "did not say Connection: close"]
    if case.is_alone:
        return [f"answered requests behind: {asked}"] if more else []
    if not more and case.verdict.behind is Behind.EITHER:
        return [] if is_closing else ["closed without having said so"]
    if [("behind", 200)] != [(name, answer.status) for name, answer in zip(asked, more, strict=True)]:
        return [f"answered {asked} behind, expected ['behind'] with 200"]
    return []


class _Exchange:
    """One socket with its case: sends what it has, reads what comes."""

    def __init__(self, address, case):
        self.case, self.outcome = case, Outcome()
        self.waiting = memoryview(case.data if case.is_alone or case.after_continue else case.data + BEHIND)
        self.after_continue = case.after_continue and case.after_continue + BEHIND
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setblocking(False)
        self.is_half_closed = False

    def events(self):
        """Return what to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.waiting else 0)

    def send(self):
        """Send what the kernel takes; what a closed connection does not take is dropped."""
        try:
            self.waiting = self.waiting[self.socket.send(self.waiting) :]
        except BlockingIOError:
            return
        except OSError:
            self.waiting = memoryview(b"")
        if not self.waiting and self.case.half_closes and not self.is_half_closed:
            self.is_half_closed = True
            self.socket.shutdown(socket.SHUT_WR)

    def receive(self):
        """Read once; return whether there may be more."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError as error:
            self.outcome.is_reset = error.errno == errno.ECONNRESET
            data = b""
        self.outcome.received += data
        if self.after_continue and self.outcome.received.startswith(b"HTTP/1.1 100 "):
            self.waiting, self.after_continue = memoryview(self.after_continue), b""
        self.outcome.is_closed = not data
        return bool(data)


def exchange_all(address, cases, patience_seconds):
    """Return the outcome of each case by its name; all are sent at once, each on a socket of its own.

    Args:
        address: host and port.
        cases: what to send.
        patience_seconds: when to give up on connections that are still open.
    """
    deadline = time.monotonic() + patience_seconds
    exchanges = [_Exchange(address, case) for case in cases]
    with selectors.DefaultSelector() as selector:
        for exchange in exchanges:
            selector.register(exchange.socket, exchange.events(), exchange)
        while selector.get_map() and time.monotonic() < deadline:
            for key, events in selector.select(0.5):
                exchange = key.data
                if events & selectors.EVENT_WRITE:
                    exchange.send()
                if events & selectors.EVENT_READ and not exchange.receive():
                    selector.unregister(exchange.socket)
                    exchange.socket.close()
                elif exchange.events() != key.events:
                    selector.modify(exchange.socket, exchange.events(), exchange)
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    return {exchange.case.name: exchange.outcome for exchange in exchanges}
