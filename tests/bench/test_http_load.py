"""The generator of HTTP load against servers in closed form: each outcome is counted as what it was."""

import contextlib
import gc
import socket
import threading

import pytest

from bench.http_load import Generator
from bench.load import Job, Phase

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\ncontent-length: 0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NUM_ROWS, DIM = 32, 64
BODY_BYTES = 4 * NUM_ROWS * DIM


class Scripted(threading.Thread):
    """Answers the requests of each connection one after the other as a script says.

    Args:
        script: what becomes of each request, over and over: bytes to send, None to close, "" to say nothing.
        reads_body: whether it reads the body before it answers.
    """

    def __init__(self, script, *, reads_body=True):
        super().__init__(name="scripted")
        self.script, self.reads_body = script, reads_body
        self.num_requests = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "{}:{}".format(*self.listener.getsockname())
        self.connections = []

    def run(self):
        """Serve every connection on a thread of its own, until the listener is closed."""
        threads = []
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threads.append(threading.Thread(target=self.serve, args=(connection,)))
                threads[-1].start()
        for thread in threads:
            thread.join(10)

    def serve(self, connection):
        """Answer one connection's requests."""
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                fields = [line]
                while (field := stream.readline()).strip():
                    fields.append(field)
                expects = any(field.startswith(b"Expect") for field in fields)
                word = self.script[self.num_requests % len(self.script)]
                self.num_requests += 1
                if expects and word == OK:
                    connection.sendall(CONTINUE)
                if self.reads_body and not (expects and word != OK):
                    assert BODY_BYTES == len(stream.read(BODY_BYTES))
                if word is None:
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                connection.sendall(word or b"")

    def stop(self):
        """End it."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.join(10)


@pytest.fixture
def drive():
    """Return a function that runs a job of these phases against a script and returns their documents."""
    servers = []

    def run(script, *phases, reads_body=True, **options):
        servers.append(Scripted(script, reads_body=reads_body))
        servers[-1].start()
        grace_seconds = 0.3 if "" in script else 10.0  # for answers that never come, and for those that are late
        job = Job(servers[-1].address, "m", NUM_ROWS, DIM, 1.0, phases, grace_seconds=grace_seconds, **options)
        return [tally.document(1.0) for tally in Generator(job).run()]

    yield run
    gc.enable()  # a generator, which has a process of its own, does without
    for server in servers:
        server.stop()


def test_closed_loop_asks_again_when_it_is_answered(drive):
    """Three callers of a server that always answers: all are OK, on three connections, and their bodies are equal."""
    (document,) = drive([OK], Phase("p", 0.5, None, 3))
    assert {"ok"} == set(document["counts"])
    assert document["num_sent"] == document["counts"]["ok"] > 3
    assert (0, 0, 1) == (document["num_missed"], document["num_reconnects"], document["num_distinct_answers"])


def test_open_loop_offers_its_rate_whatever_becomes_of_the_requests(drive):
    """Two hundred a second for a quarter of a second are fifty, refused ones counted apart, with Retry-After."""
    (document,) = drive([OK, REFUSED], Phase("p", 0.25, 200.0))
    assert 50 == document["num_sent"] + document["num_missed"]
    assert document["num_sent"] == sum(document["counts"].values())
    assert {"ok", "429"} == set(document["counts"])
    assert 0 == document["num_without_retry_after"]


@pytest.mark.parametrize(
    ("script", "outcome"),
    [([None], "reset"), ([""], "hung"), ([b"HTTP/1.1 504 Late\r\nContent-Length: 0\r\n\r\n"], "504")],
)
def test_what_is_no_answer_is_told(drive, script, outcome):
    """A connection that is closed is a reset, silence hangs, and a late answer has its own status."""
    (document,) = drive(script, Phase("p", 0.1, 50.0))
    assert {outcome: document["num_sent"]} == document["counts"]


def test_refusal_without_retry_after_and_other_bodies_are_told(drive):
    """A 429 that does not say when to come again is counted; so are two answers that differ."""
    words = [REFUSED.replace(b"Retry-After: 1\r\n", b""), OK, OK.replace(b"body", b"BODY")]
    (document,) = drive(words, Phase("p", 0.5, None, 1))
    assert document["num_without_retry_after"] == document["counts"]["429"] > 0
    assert 2 == document["num_distinct_answers"]


def test_more_than_the_callers_can_hold_is_missed(drive):
    """Of requests that are never answered, those beyond the number of callers are not sent, and counted."""
    (document,) = drive([""], Phase("p", 0.1, 100.0), max_callers=4)
    assert (4, 6) == (document["num_sent"], document["num_missed"])


def test_phases_follow_each_other_and_keep_their_own(drive):
    """Each phase has the outcomes of the requests that it sent, and its samples where it keeps them."""
    first, second = drive([OK], Phase("a", 0.1, 50.0), Phase("b", 0.1, 100.0, keeps_samples=True))
    assert (5, 10) == (first["num_sent"] + first["num_missed"], second["num_sent"] + second["num_missed"])
    assert ([], second["num_sent"]) == (first["samples"], len(second["samples"]))


def test_clients_that_ask_first_send_a_body_only_when_told_to(drive):
    """With Expect, the body follows `100 Continue` and is kept back where the answer is a refusal."""
    (document,) = drive([OK, REFUSED], Phase("p", 0.5, None, 2), expects=True)
    assert document["counts"]["ok"] > 1
    assert document["counts"]["429"] > 1
    assert {"ok", "429"} == set(document["counts"])
