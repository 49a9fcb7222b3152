"""More requests than threads: a bounded number waits, one more is refused at once, probes are never behind them."""

import contextlib
import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.crowding import Crowd
from service.errors import Refusal, ResourceExhaustedError
from service.rest.app import create_app
from service.rest.native import room_check
from service.rest.server import HttpServer
from tests.service.quadratic_versions import make_service

BODY = b'{"instances": [[1, 2, 3]]}'
SECONDS = 20.0


@pytest.fixture
def service():
    """Return a service whose one HTTP thread may keep two requests waiting."""
    return make_service(rest_port=0, http_threads=1, max_waiting_requests=2)


@pytest.fixture
def server(service):
    """Return a started server of the service's one version."""
    service.publish("m", 1)
    app = create_app(service.scorer, service.registry, service.metrics, service.settings)
    server = HttpServer(
        app, service.settings, check_room=room_check(service.scorer), tell=service.metrics.count_request
    )
    server.start()
    yield server
    assert server.stop(SECONDS)
    service.registry.close()


def ask(server, method, path, body=None, **headers):
    """Return status, headers and JSON of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        data = response.read()
        return response.status, response.headers, json.loads(data) if data[:1] == b"{" else data
    finally:
        connection.close()


@pytest.fixture
def full(service, server, wait_until):
    """Return the server while three requests are there, which leave room for none and are answered in the end."""
    with service.registry.acquire("m") as live:
        engine = live.engine
    engine.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        try:
            kept = [pool.submit(ask, server, "POST", "/score", BODY) for _ in range(3)]
            wait_until(lambda: server._edge.crowd.num_requests == 3)
            yield server
        finally:
            engine.gate.set()
        assert [200] * 3 == [future.result(SECONDS)[0] for future in kept]


def raw_request(request_id, body=BODY):
    """Return the bytes of a request to score."""
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nX-Request-ID: {request_id}\r\n\r\n"
    return head.encode() + body


@contextlib.contextmanager
def connected(server):
    """Give `ask(data, count)`: send the data and return status, headers and JSON of so many answers."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as client,
        client.makefile("rb") as answers,
    ):

        def ask_again(data, count=1):
            client.sendall(data)
            return [read_answer(answers) for _ in range(count)]

        yield ask_again


def read_answer(answers):
    """Return the next answer of a stream."""
    status = int(answers.readline().split()[1])
    headers = dict(http.client.parse_headers(answers))
    return status, headers, json.loads(answers.read(int(headers["Content-Length"])))


def test_refusal_is_the_same_however_its_request_arrives(full, service):
    """Whole, whole again, in two pieces or two at once: the same 429, each counted, and the connection goes on."""
    taken = []
    refuse_whole = full._edge.refuse_whole

    def note(data, client):
        answer = refuse_whole(data, client)
        taken.append(answer is not None)
        return answer

    full._edge.refuse_whole = note
    whole, answers = raw_request("same"), []
    with connected(full) as ask_again:
        for sent in (whole, whole, whole[:-5], whole[-5:], whole + whole, whole):
            answers += ask_again(sent, sent.count(b"POST"))
    assert [False, True, False, False, True] == taken
    assert 6 == len(answers)
    dates = [headers.pop("Date") for _, headers, _ in answers]
    assert all(date.endswith("GMT") for date in dates)
    assert answers[0][0] == 429
    assert [answers[0]] * 6 == answers
    assert {("", "rest", Refusal.TOO_MANY_WAITING): 6} == service.metrics._refusals


def test_request_after_refused_ones_is_answered_where_there_is_room_again(full, service, wait_until):
    """The connection reads on after a refusal in one piece: the next request is scored."""
    with connected(full) as ask_again:
        assert [429] * 3 == [ask_again(raw_request("a"))[0][0] for _ in range(3)]
        with service.registry.acquire("m") as live:
            live.engine.gate.set()
        wait_until(lambda: full._edge.crowd.num_requests == 0)
        ((status, _, answer),) = ask_again(raw_request("a"))
    assert 200 == status
    assert "score" in answer


def test_requests_beyond_the_bound_are_refused_while_the_others_wait(service, server, wait_until):
    """With its one thread held and two waiting, the next are 429 and every probe answers; then all three are scored."""
    with service.registry.acquire("m") as live:
        engine = live.engine
    engine.gate.clear()
    crowd = server._edge.crowd
    with ThreadPoolExecutor(3) as pool:
        try:
            kept = [pool.submit(ask, server, "POST", "/score", BODY)]
            wait_until(lambda: engine.calls)
            for number in (1, 2):
                kept.append(pool.submit(ask, server, "POST", "/score", BODY))
                wait_until(lambda number=number: crowd.num_requests == 1 + number)
            refused = [ask(server, "POST", "/score", BODY) for _ in range(3)]
            probes = [ask(server, "GET", path)[0] for path in ("/healthz", "/metrics", "/readyz")]
            malformed = ask(server, "POST", "/score", b"x", Transfer_Encoding="nonsense")[0]
        finally:
            engine.gate.set()
        answers = [future.result(SECONDS) for future in kept]
    assert [(429, "1")] * 3 == [(status, headers["Retry-After"]) for status, headers, _ in refused]
    assert {"RESOURCE_EXHAUSTED"} == {body["error"]["code"] for _, _, body in refused}
    assert [200, 200, 503] == probes  # nobody scanned a folder: not ready
    assert 501 == malformed
    assert [(200, [7.0])] * 3 == [(status, body["score"]) for status, _, body in answers]
    assert 3 == len(engine.calls)


def test_probes_are_answered_while_a_client_reads_none_of_its_own(server, wait_until):
    """Who pipelines probes and reads nothing keeps a thread that scores, not the one that answers every probe."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        wait_until(lambda: server._edge.crowd.num_held_bytes > 1 << 16)
        statuses = [ask(server, "GET", "/healthz")[0] for _ in range(3)]
    assert [200] * 3 == statuses


def test_request_that_waited_too_long_for_its_thread_is_not_computed(service, server, wait_until):
    """Its deadline runs from its arrival, so that behind a held thread it passes unread."""
    with service.registry.acquire("m") as live:
        engine = live.engine
    engine.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        try:
            held = pool.submit(ask, server, "POST", "/score", BODY)
            wait_until(lambda: engine.calls)
            late = pool.submit(ask, server, "POST", "/score", BODY, X_Request_Timeout="0.000001")
            wait_until(lambda: server._edge.crowd.num_requests == 2)
        finally:
            engine.gate.set()
        assert (504, "DEADLINE_EXCEEDED") == (late.result(SECONDS)[0], late.result(SECONDS)[2]["error"]["code"])
        assert 200 == held.result(SECONDS)[0]
    assert 1 == len(engine.calls)


def test_crowd_learns_how_long_what_waits_will_take():
    """Requests of 1,024 bytes that take 0.2 s each: ten of them wait two seconds, and who has five is refused."""
    crowd = Crowd(1000, 1 << 20)
    now = 100.0
    for _ in range(60):
        crowd.enter(1024)
        now += 0.2
        crowd.leave(1024, now - 0.2, now)
        now += 5.0  # an idle time says nothing
    for _ in range(10):
        crowd.enter(1024)
    assert 2.0 == pytest.approx(crowd.wait_seconds, rel=0.01)
    crowd.check(7.0)
    with pytest.raises(ResourceExhaustedError, match="more than a third of the 5 s") as caught:
        crowd.check(5.0)
    assert (crowd.wait_seconds, Refusal.TOO_MANY_WAITING) == (caught.value.retry_after_seconds, caught.value.refusal)


def test_crowd_counts_the_time_between_answers_while_there_is_work():
    """Four at once, answered one a second, are a second each, not two and a half."""
    crowd = Crowd(1000, 1 << 20)
    for burst in range(30):
        for _ in range(4):
            crowd.enter(0)
        for number in range(1, 5):
            crowd.leave(0, 10.0 * burst, 10.0 * burst + number)
    crowd.enter(0)
    assert 1.0 == pytest.approx(crowd.wait_seconds, rel=0.01)


def test_crowd_lets_small_requests_in_beside_large_ones_that_take_long():
    """Two bodies of 8 MB that take 3 s each keep a thread each, not who asks for a millisecond beside them."""
    crowd = Crowd(1000, 1 << 30)
    now = 0.0
    for _ in range(100):
        crowd.enter(27)
        now += 0.001
        crowd.leave(27, now - 0.001, now)
        now += 0.01
    started = now
    for _ in range(2):
        crowd.enter(8_000_000)
    for _ in range(270):
        crowd.check(1.0)
        crowd.enter(27)
        now += 0.001
        crowd.leave(27, now - 0.001, now)
        now += 0.01
    for _ in range(2):
        crowd.leave(8_000_000, started, now)
    assert 0.001 == pytest.approx(crowd.seconds_per_request, rel=0.1)


def test_crowd_takes_no_short_request_for_the_cause_of_a_long_silence():
    """Beside one that is computed for a minute, one that comes and has its answer in a millisecond cost no more."""
    crowd = Crowd(1000, 1 << 30)
    crowd.enter(0)
    for number in range(20):
        crowd.enter(0)
        crowd.leave(0, 60.0 + number, 60.001 + number)
    assert 0.001 == pytest.approx(crowd.seconds_per_request, rel=0.2)


def test_crowd_learns_what_a_request_costs_and_what_its_bytes_cost():
    """Of small and large ones mixed, answered one after the other: 5 ms each and 100 ms a megabyte."""
    crowd = Crowd(1000, 1 << 30)
    now = 0.0
    for number in range(1000):
        num_bytes = 2_000_000 if number % 10 == 0 else 20
        crowd.enter(num_bytes)
        started, now = now, now + 0.005 + 1e-7 * num_bytes
        crowd.leave(num_bytes, started, now)
    assert 0.005 == pytest.approx(crowd.seconds_per_request, rel=0.02)
    assert 1e-7 == pytest.approx(crowd.seconds_per_byte, rel=0.02)


def test_crowd_lets_a_request_in_while_at_most_one_is_there():
    """However slow it was, the next answer is worth a try; else one stall would refuse everybody for ever."""
    crowd = Crowd(1000, 1 << 20)
    crowd.enter(0)
    crowd.leave(0, 0.0, 1e6)
    crowd.check(0.001)
    crowd.enter(0)
    crowd.check(0.001)
    crowd.enter(0)
    with pytest.raises(ResourceExhaustedError):
        crowd.check(0.001)


def test_crowd_refuses_by_number_and_by_bytes():
    """As many requests as may be, or more bytes than may be held; what left makes room."""
    crowd = Crowd(2, 100)
    crowd.enter(0)
    crowd.check()
    crowd.enter(0)
    with pytest.raises(ResourceExhaustedError, match="too many requests"):
        crowd.check()
    crowd.leave(0, 0.0, 0.0)
    crowd.num_held_bytes = 100
    crowd.check()
    crowd.num_held_bytes = 101
    with pytest.raises(ResourceExhaustedError, match="hold 101 bytes"):
        crowd.check()
