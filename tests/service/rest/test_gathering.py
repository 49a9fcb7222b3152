"""Requests that are answered together: as the application answers each alone, and none at another one's cost."""

import contextlib
import http.client
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from structlog.testing import capture_logs

from service.errors import InternalError
from service.rest import failures, wsgi
from service.rest.app import SCORE_ROUTES, create_app
from service.rest.gathering import SMALL_BYTES, SMALL_PLAIN_BYTES, Member, answer_together, is_small
from service.rest.request import Head, Request
from service.rest.server import HttpServer
from service.rest.wsgi import Answer, Place
from tests.service.quadratic_versions import QuadraticEngine, make_service
from tests.service.samples import total

PLACE = Place("127.0.0.1", 8501, "10.0.0.9")
ROWS = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, -0.0]], dtype=np.float32)
BODY = b'{"instances": [[1, 2, 3], [-1, 0.5, -0.0]]}'
OCTETS, NPY, CSV = "application/octet-stream", "application/x-npy", "text/csv"
SECONDS = 20.0


def npy(array):
    """Return an array as NumPy writes it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def request(body=BODY, target="/models/m/score", method="POST", **headers):
    """Return a whole request; `Content_Type="..."` is the header of that name."""
    named = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    head = Head(method, target.encode(), "1.1", [(b"host", b"x"), *named], True, len(body))
    return Request(head, True, body, len(body), is_complete=True)


CORPUS = {
    "JSON": request(),
    "default model": request(target="/score"),
    "score alone": request(b'{"instances": [[1, 2, 3]], "outputs": ["score"]}'),
    "by name": request(b'{"instances": [{"radius": 1, "area": 3, "texture": 2}]}'),
    "version 1": request(target="/models/m/score?version=1"),
    "label": request(b'{"instances": [[1, 2, 3]], "label": "stable"}'),
    "no instance": request(b'{"instances": []}'),
    "octets": request(ROWS.tobytes(), Content_Type=OCTETS, Accept=OCTETS),
    "npy": request(npy(ROWS), Content_Type=NPY, Accept=NPY),
    "CSV": request(b"1,2,3\n", Content_Type=CSV, Accept=CSV),
    "octets to JSON": request(ROWS.tobytes(), Content_Type=OCTETS),
    "own id": request(X_Request_ID="mine"),
    "other content": request(Content_Type="text/html"),
    "no JSON": request(b"[[1, 2, 3]"),
    "unknown field": request(b'{"instance": [[1, 2, 3]]}'),
    "a word": request(b'{"instances": [[1, "2", 3]]}'),
    "too wide": request(b'{"instances": [[1, 2, 3, 4]]}'),
    "NaN": request(np.full((1, 3), np.nan, np.float32).tobytes(), Content_Type=OCTETS),
    "overflow": request(b'{"instances": [[3e38, 3e38, 3e38]]}'),
    "half a row": request(b"12345", Content_Type=OCTETS),
    "too many rows": request(b'{"instances": [[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]]}'),
    "unknown model": request(target="/models/none/score"),
    "unknown version": request(target="/score?version=9"),
    "unknown label": request(target="/score?label=nightly"),
    "unknown output": request(target="/score?outputs=slope"),
    "unknown parameter": request(target="/score?versoin=1"),
    "contradiction": request(b'{"instances": [[1, 2, 3]], "version": 1}', target="/score?version=2"),
    "bad timeout": request(X_Request_Timeout="soon"),
}


@pytest.fixture
def service():
    """Return a service with versions 1 and 2 of the model m, both live, labels on them, and small limits."""
    service = make_service(max_request_rows=4)
    service.publish("m", 1)
    service.publish("m", 2)
    service.registry.set_labels("m", {"stable": 1, "canary": 2})
    service.registry.scanned()
    yield service
    service.registry.close()


@pytest.fixture
def app(service):
    """Return the application."""
    return create_app(service.scorer, service.registry, service.metrics, service.settings)


class Together:
    """Answers requests together on a thread of its own, and keeps the answers as they come."""

    def __init__(self, app, requests):
        self.answers: dict[int, Answer] = {}
        self.deliveries: list[int] = []
        self.errors: list[BaseException] = []
        self.members = [
            Member(request, PLACE, time.monotonic(), self.fail, number) for number, request in enumerate(requests)
        ]
        begin = app.extensions[SCORE_ROUTES].begin
        self.thread = threading.Thread(target=answer_together, args=(begin, self.members, self.deliver))
        self.thread.start()

    def fail(self, error):
        """Return the answer to a defect."""
        self.errors.append(error)
        return Answer.of(*failures.refusal(InternalError(""), "defect"))

    def deliver(self, answered):
        """Take answers."""
        self.deliveries.append(len(answered))
        self.answers |= {member.finish: answer for member, answer in answered}

    def end(self):
        """Return the answers in the order of the requests."""
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        return [self.answers[number] for number in range(len(self.members))]


def told(answer, but=()):
    """Return what an answer says, without what is new each time."""
    headers = {name: value for name, value in answer.headers if name not in but}
    body = json.loads(answer.body) if headers["Content-Type"] == "application/json" else answer.body
    if isinstance(body, dict) and "error" in body and "X-Request-ID" in but:
        del body["error"]["request_id"]
        headers.pop("Content-Length")
    return answer.status, headers, body


def test_every_request_of_a_corpus_is_answered_as_by_the_application(service, app):
    """Status, headers and body of each are those that the application gives it alone, and each is counted once."""
    requests = list(CORPUS.values())
    alone = [wsgi.call(app, one, PLACE, time.monotonic()) for one in requests]
    before = service.metrics.render()
    together = Together(app, requests).end()
    for name, one, expected, received in zip(CORPUS, requests, alone, together, strict=True):
        new = () if one.header(b"x-request-id") else ("X-Request-ID",)
        assert (name, told(expected, new)) == (name, told(received, new))
    assert {"200", "400", "404", "413", "415"} == {answer.status[:3] for answer in together}
    counted = "convex_requests_total"
    assert 2 * total(before, counted) == total(service.metrics.render(), counted) == 2 * len(requests)
    assert 0 == total(service.metrics.render(), "convex_requests_in_flight")


def test_single_rows_of_many_are_computed_in_few_batches(service, app, wait_until):
    """Sixty requests of one row wait while the engine computes, and each has the answer to its own row."""
    rows = np.arange(180, dtype=np.float32).reshape(60, 3)
    service.registry.set_labels("m", {})
    with service.registry.acquire("m") as live:
        live.engine.gate.clear()
    together = Together(app, [request(row.tobytes(), Content_Type=OCTETS, Accept=OCTETS) for row in rows])
    try:
        wait_until(lambda: 60 == total(service.metrics.render(), "convex_requests_in_flight"), SECONDS)
    finally:
        live.engine.gate.set()
    answers = together.end()
    for row, answer in zip(rows, answers, strict=True):
        received = np.frombuffer(answer.body, np.float32)
        np.testing.assert_array_equal([np.square(row).sum(), *(2 * row)], received)
    with service.registry.acquire("m") as live:
        sizes = [size for size, _ in live.engine.calls]
    assert 60 == sum(sizes)
    assert 30 > len(sizes)


def test_held_engine_of_one_model_keeps_no_other_waiting(service, app, wait_until):
    """What is not held is delivered while the engine of another model in the group does not let go."""
    engine = QuadraticEngine(3)
    engine.gate.clear()
    service.publish("slow", 1, engine=engine)
    together = Together(app, [request(target="/models/slow/score"), request(), request(b"{}"), request()])
    try:
        wait_until(lambda: {1, 2, 3} == set(together.answers), SECONDS)
    finally:
        engine.gate.set()
    assert ["200 OK", "200 OK", "400 Bad Request", "200 OK"] == [answer.status for answer in together.end()]


def test_deadline_of_one_is_told_while_another_waits_on(service, app, wait_until):
    """A request whose time is over has its 504 while the engine computes for one that has more time."""
    engine = QuadraticEngine(3)
    engine.gate.clear()
    service.publish("slow", 1, engine=engine)
    target = "/models/slow/score"
    together = Together(app, [request(target=target), request(target=target, X_Request_Timeout="0.05")])
    try:
        wait_until(lambda: 1 in together.answers, SECONDS)
        assert 0 not in together.answers
    finally:
        engine.gate.set()
    assert ["200", "504"] == [answer.status[:3] for answer in together.end()]


def test_requests_are_answered_when_the_batch_thread_dies(service, app):
    """A thread that dies with them is replaced; what it held is computed again."""

    class Deadly(QuadraticEngine):
        """Ends the thread of its first call."""

        def run(self, rows, outputs):
            """Die, or answer."""
            if not self.calls:
                self.calls.append((0, ()))
                raise SystemExit
            return super().run(rows, outputs)

    service.publish("mortal", 1, engine=Deadly(1))
    with capture_logs() as logs:
        answers = Together(app, [request(target="/models/mortal/score")] * 3).end()
    assert ["200 OK"] * 3 == [answer.status for answer in answers]
    assert ["the batch thread died; it is replaced"] == [line["event"] for line in logs]


def test_request_that_ended_unannounced_is_answered_all_the_same(app, monkeypatch):
    """One whose answer is there, but whose batch thread died before it could say so, is found by whoever waits."""
    monkeypatch.setattr("service.pieces.Request.announce", lambda _request: None)
    assert ["200 OK"] * 2 == [answer.status for answer in Together(app, [request(), request()]).end()]


@pytest.mark.parametrize("stage", ["begin", "end"])
def test_defect_ends_its_own_request_alone(service, app, monkeypatch, stage):
    """An exception that nobody foresaw, before the rows wait or after, is INTERNAL for its request alone."""
    with service.registry.acquire("m") as live:
        if stage == "begin":
            monkeypatch.setattr(live, "begin", lambda *_, **__: 1 / 0)
        else:
            live.engine.failure = ZeroDivisionError("defect")
    with capture_logs():
        together = Together(app, [request(), request(target="/score?version=1"), request(b"{}")])
        answers = together.end()
    assert ["500", "200", "400"] == [answer.status[:3] for answer in answers]
    assert [] == together.errors
    assert b"defect" not in answers[0].body


def test_what_escapes_the_routes_is_answered_by_the_server(app, monkeypatch):
    """Even where the routes themselves fail, each request has an answer, and the others theirs."""
    good = app.extensions[SCORE_ROUTES].begin

    class Broken:
        """Routes that fail on one request."""

        def begin(self, environ, ended):
            """Fail, or answer."""
            if environ.get("HTTP_X_REQUEST_ID") == "bad":
                raise MemoryError
            return good(environ, ended)

    monkeypatch.setitem(app.extensions, SCORE_ROUTES, Broken())
    together = Together(app, [request(), request(X_Request_ID="bad")])
    assert ["200", "500"] == [answer.status[:3] for answer in together.end()]
    assert [MemoryError] == [type(error) for error in together.errors]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (request(), True),
        (request(target="/score"), True),
        (request(b"x" * SMALL_BYTES), True),
        (request(b"x" * (SMALL_BYTES + 1)), False),
        (request(b"x" * SMALL_PLAIN_BYTES, Content_Type=OCTETS), True),
        (request(b"x" * (SMALL_PLAIN_BYTES + 1), Content_Type=OCTETS), False),
        (request(b""), False),
        (request(method="GET"), False),
        (request(target="/models"), False),
        (request(target="/models/a/b/score"), False),
        (request(target="/models/%6d/score"), False),
        (request(Content_Encoding="gzip"), False),
    ],
)
def test_only_small_plain_requests_for_scores_are_gathered(one, expected):
    """What is large, compressed, empty or not a POST to a scoring route has a thread of its own."""
    assert expected is is_small(one)


def test_requests_of_one_round_are_answered_by_one_thread(app):
    """What came while the loop was busy is begun on one thread, and every client has the answer to its own row."""
    routes, threads = app.extensions[SCORE_ROUTES], []

    def begin(environ, ended):
        threads.append(threading.current_thread())
        return routes.begin(environ, ended)

    server = HttpServer(app, make_service(rest_port=0).settings, begin=begin)
    server.start()
    rows = [[float(number), 0.0, 1.0] for number in range(8)]
    with contextlib.ExitStack() as held, ThreadPoolExecutor(8) as pool:
        held.callback(server.stop, SECONDS)
        clients = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS) for _ in rows]
        for client in clients:
            held.callback(client.close)
            client.request("GET", "/healthz")
            assert b"" != client.getresponse().read()
        is_free = threading.Event()
        server._loop.call_soon_threadsafe(is_free.wait, SECONDS)
        for client, row in zip(clients, rows, strict=True):
            client.request("POST", "/score", json.dumps({"instances": [row], "outputs": ["score"]}))
        is_free.set()
        answers = list(pool.map(lambda client: json.loads(client.getresponse().read()), clients))
    assert [[row[0] ** 2 + 1.0] for row in rows] == [answer["score"] for answer in answers]
    assert 8 == len(threads)
    assert 1 == len(set(threads))
