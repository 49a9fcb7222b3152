"""The HTTP server against raw requests: none that two readers could read differently is served, none ends in a 5xx.

One server meets all of them at once, each on a connection of its own, each followed by a request that must be lost with
a refused one. See `raw_http` for how an answer is known to be the answer to which request.
"""

import contextlib
import http.client
import json
import socket
import threading

import numpy as np
import pytest

from tests.chaos import message_cases, raw_cases, smuggling_cases
from tests.chaos.conftest import address_of, errors_of
from tests.chaos.raw_http import Answer, Behind, MalformedAnswerError, Outcome, answers, exchange_all, faults
from tests.end_to_end.server_process import ROOT

PATIENCE_SECONDS = 40.0
CASES = {case.name: case for cases in (raw_cases, smuggling_cases, message_cases) for case in cases.CASES}
EXPECTED = float(np.load(ROOT / "models" / "colours" / "1" / "probe.npz")["score"][0])


@pytest.fixture(scope="module")
def outcomes(edge_server):
    """Send everything at once, and then once more, when the server knows the heads that it took."""
    return [exchange_all(address_of(edge_server), CASES.values(), PATIENCE_SECONDS) for _ in range(2)]


def test_cases_are_the_37_and_more():
    """The list has its 37 cases, no name is used twice, and every one says which section decides it."""
    assert 37 == len(raw_cases.CASES)
    assert len(CASES) == sum(len(cases.CASES) for cases in (raw_cases, smuggling_cases, message_cases))
    assert all(case.section.startswith(("9110 ", "9112 ", "9113 ")) for case in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_raw_request_gets_what_the_rfc_says(outcomes, name):
    """The status is one that the section allows, the connection ends as it must, and no other request is answered."""
    assert [[], []] == [faults(CASES[name], each[name]) for each in outcomes]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if 200 in case.verdict.statuses])
def test_served_request_was_read_whole_and_right(outcomes, name):
    """Where a score was answered, it is that of the row that was sent, whatever form the request had."""
    received = [answer for each in outcomes for answer in answers_of(each[name], name)]
    served = [answer for answer in received if answer.status == 200 and b"score" in answer.body]
    assert [pytest.approx([EXPECTED], rel=1e-5)] * len(served) == [json.loads(each.body)["score"] for each in served]


def answers_of(outcome, name):
    """Return the answers, none if they cannot be read (which the test before tells)."""
    try:
        return answers(outcome.received, first_is_head=CASES[name].data.startswith(b"HEAD "))
    except MalformedAnswerError:
        return []


def test_server_is_well_after_all_of_them(edge_server, outcomes):
    """It lives, answers another client exactly, and has no error in its log."""
    assert [len(CASES)] * 2 == [len(each) for each in outcomes]
    ok = CASES["ok"]
    after = exchange_all(address_of(edge_server), [ok], PATIENCE_SECONDS)["ok"]
    assert [] == faults(ok, after)
    assert [] == errors_of(edge_server)


def test_client_that_sends_everything_first_reads_its_refusal(edge_server):
    """Who sends two MiB to a limit of one before looking at the answer finds a whole 413, not a reset connection."""
    connection = http.client.HTTPConnection(*address_of(edge_server), timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/score", bytes(2 * raw_cases.MAX_BODY_BYTES))
        response = connection.getresponse()
        assert (413, "INVALID_ARGUMENT") == (response.status, json.loads(response.read())["error"]["code"])
        assert "close" == response.headers["Connection"]


class NaiveServer(threading.Thread):
    """Answers 200 at once to whatever ends with an empty line, as if requests had no bodies; never closes."""

    def __init__(self):
        super().__init__(name="naive")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0.05)
        self.stopping = threading.Event()

    def run(self):
        """Serve one connection after the other, each until nothing has come for a moment."""
        while not self.stopping.is_set():
            try:
                connection, _ = self.listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(0.05)
                self.answer(connection)

    def answer(self, connection):
        """Answer everything on one connection."""
        data = b""
        try:
            while received := connection.recv(1 << 20):
                data += received
                *heads, data = data.split(b"\r\n\r\n")
                for head in heads:
                    number = head.partition(b"X-Request-ID: ")[2].partition(b"\r\n")[0]
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Request-ID: %s\r\nContent-Length: 0\r\n\r\n" % number)
        except OSError:
            return


@pytest.fixture
def naive():
    """Return a started naive server."""
    server = NaiveServer()
    server.start()
    yield server
    server.stopping.set()
    server.join(20)
    server.listener.close()


def test_checker_finds_a_server_that_serves_what_is_smuggled(naive):
    """Of a server that reads no framing at all, every case that must be refused is told as a fault."""
    refused = [case for case in raw_cases.CASES if case.verdict.behind is Behind.LOST and len(case.data) < 10_000]
    found = exchange_all(naive.listener.getsockname()[:2], refused, PATIENCE_SECONDS)
    silent_is_right = {"short body", "TLS hello", "bare LF in the head"}
    for case in refused:
        if case.name not in silent_is_right:
            assert [] != faults(case, found[case.name]), case.name
    said = faults(CASES["smuggled prefix"], found["smuggled prefix"])
    assert "answered requests behind: ['', 'smuggled', 'behind']" in said


OK = b"HTTP/1.1 200 OK\r\nX-Request-ID: first\r\nContent-Length: 2\r\n\r\nhi"
OK_BEHIND = OK.replace(b"first", b"behind")
CLOSED = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
LATER = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("name", "received", "fault"),
    [
        ("ok", OK, "answered [] behind"),
        ("ok", OK + OK_BEHIND.replace(b"200", b"404"), "answered ['behind'] behind"),
        ("ok", OK.replace(b"200", b"500") + OK_BEHIND, "answered 500"),
        ("ok", OK_BEHIND + OK_BEHIND, "the first answer is not to the first request"),
        ("ok", LATER + OK + OK_BEHIND, "1 interim answers"),
        ("ok", OK[:-1], "malformed answer"),
        ("ok", OK.replace(b"Content-Length", b"Content-Size"), "malformed answer"),
        ("ok", b"", "no answer"),
        ("CL and TE", OK.replace(b"200", b"400"), "did not say Connection: close"),
        ("CL and TE", CLOSED.replace(b"200", b"400") + OK_BEHIND, "answered requests behind: ['behind']"),
        ("two CL, same", OK, "closed without having said so"),
        ("Expect", OK + OK_BEHIND, "0 interim answers"),
        ("method HEAD", OK + OK_BEHIND, "malformed answer"),
    ],
)
def test_checker_tells_what_is_wrong_with_an_answer(name, received, fault):
    """Each way in which a server can do wrong is told in its sentence."""
    found = faults(CASES[name], Outcome(bytearray(received), is_closed=True))
    assert any(fault in said for said in found), found


def test_checker_finds_nothing_wrong_with_right_answers():
    """Right answers have no faults; an open connection is one."""
    right = {"ok": OK + OK_BEHIND, "CL and TE": CLOSED.replace(b"200", b"400"), "Expect": LATER + OK + OK_BEHIND}
    right |= {"garbage": b"", "two CL, same": OK + OK_BEHIND, "underscore field": CLOSED.replace(b"200", b"400")}
    for name, received in right.items():
        assert [] == faults(CASES[name], Outcome(bytearray(received), is_closed=True))
        assert ["the connection was still open at the end"] == faults(CASES[name], Outcome(bytearray(received)))
    assert [Answer(200, {"x-request-id": "first", "content-length": "2"}, b"hi")] == answers(OK)
