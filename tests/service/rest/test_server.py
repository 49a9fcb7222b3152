"""The HTTP server around any application: binding, limits, and a stop that loses no accepted request."""

import contextlib
import http.client
import resource
import socket
import threading

import pytest
from structlog.testing import capture_logs

from service.errors import Refusal
from service.rest.edge import connection_limit
from service.rest.server import HttpServer
from service.rest.wsgi import Place
from service.settings import Settings

SETTINGS = Settings(rest_port=0, http_threads=2, max_body_bytes=2048)


class Application:
    """Echoes the body; holds requests up while its gate is closed."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, environ, start_response):
        """Answer one request."""
        body = environ["wsgi.input"].read()
        self.entered.set()
        self.gate.wait(10)
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture
def app():
    """Return the application."""
    return Application()


@pytest.fixture
def server(app):
    """Return a started server."""
    server = HttpServer(app, SETTINGS)
    server.start()
    yield server
    server.stop(5.0)


def post(connection, body):
    """Send a body and return status, headers and answer."""
    connection.request("POST", "/", body)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


@pytest.fixture
def connection(server):
    """Return a connection that is closed afterwards."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    yield connection
    connection.close()


def test_server_answers_on_the_port_that_it_got(connection):
    """Port 0 becomes a real port; a connection is kept alive for the next request; no software is named."""
    for body in (b"one", b"two"):
        status, headers, answer = post(connection, body)
        assert (200, body) == (status, answer)
        assert headers["Server"] is None
        assert headers["Connection"] is None


@pytest.mark.parametrize(("size", "expected"), [(2048, 200), (2049, 413)])
def test_server_refuses_a_body_over_the_limit(connection, size, expected):
    """A body of exactly the limit passes, one byte more is 413."""
    status, _, _ = post(connection, b"x" * size)
    assert expected == status


def test_server_raises_when_the_port_is_in_use(server, app):
    """A second server on the port is an error at once, not a second listener."""
    with pytest.raises(OSError, match="in use"):
        HttpServer(app, Settings(rest_port=server.port))


def test_close_gently_answers_and_closes_the_connection(server, connection):
    """While closing gently, requests are answered and told that the connection ends with the answer."""
    assert post(connection, b"before")[1]["Connection"] is None
    server.close_gently()
    status, headers, answer = post(connection, b"after")
    assert (200, b"after", "close") == (status, answer, headers["Connection"])


def test_stop_finishes_an_accepted_request(server, app, connection):
    """A request that is being computed when the stop comes is answered; after it nobody is listening."""
    app.gate.clear()
    connection.request("POST", "/", b"slow")
    assert app.entered.wait(10)
    results = []
    stopper = threading.Thread(target=lambda: results.append(server.stop(10.0)))
    stopper.start()
    app.gate.set()
    assert b"slow" == connection.getresponse().read()
    stopper.join(10)
    assert [True] == results
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_stop_gives_up_in_time_on_a_request_that_does_not_end(server, app, connection):
    """A request that outlasts the time given is cut off, and the stop says so."""
    app.gate.clear()
    connection.request("POST", "/", b"stuck")
    assert app.entered.wait(10)
    assert server.stop(0.2) is False
    app.gate.set()


def test_stop_does_not_wait_for_idle_connections(server, connection):
    """An open connection without a request in it is closed at once."""
    post(connection, b"one")
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as idle:
        assert server.stop(30.0) is True
        assert b"" == idle.recv(1)


def test_stop_before_start_frees_the_port(app):
    """A server that was bound and never started leaves neither threads nor a listener."""
    server = HttpServer(app, SETTINGS)
    assert server.stop(1.0) is True
    with socket.create_server(("127.0.0.1", server.port)) as again:
        assert again.getsockname()[1] == server.port


def test_slow_clients_take_no_thread(server, connection):
    """Forty clients that sent half a request do not keep two threads from answering another one."""
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(40)]
    for client in slow:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    assert 200 == post(connection, b"quick")[0]
    for client in slow:
        client.close()


def connect(server):
    """Return a bare connection."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def receive(client):
    """Return everything until the server closes."""
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


@pytest.mark.parametrize(
    ("half", "patience", "answer"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", "client_timeout_seconds", b"HTTP/1.1 408 "),
        (b"POST / HT", "client_timeout_seconds", b"HTTP/1.1 408 "),
        (b"", "idle_timeout_seconds", b""),
    ],
    ids=["body", "head", "nothing"],
)
def test_server_loses_patience_with_half_a_request(app, half, patience, answer):
    """A body that stops, a head that stops and a connection that never asks end in 408, 408 and silence."""
    server = HttpServer(app, Settings(rest_port=0, **{patience: 0.05}))
    server.start()
    try:
        with connect(server) as client:
            client.sendall(half)
            received = receive(client)
        assert (answer, bool(answer)) == (received[: len(answer)], bool(received))
    finally:
        assert server.stop(5.0)
    assert not app.entered.is_set()


def test_server_ends_the_idlest_connection_when_one_too_many_comes(app, wait_until):
    """Of three that may be, the one that was idle longest goes; the newcomer is served."""
    server = HttpServer(app, Settings(rest_port=0, max_connections=3))
    server.start()
    clients = []
    try:
        for number in range(3):
            clients.append(connect(server))
            wait_until(lambda number=number: len(server._edge.connections) == number + 1)
        with connect(server) as newcomer:
            newcomer.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
            assert receive(newcomer).endswith(b"\r\n\r\nhi")
        assert b"" == clients[0].recv(1)
    finally:
        for client in clients:
            client.close()
        assert server.stop(5.0)


def test_server_answers_500_when_the_application_breaks():
    """An application that raises is INTERNAL to its caller, told, and the thread goes on to the next request."""
    answered = []

    def broken(_environ, _start_response):
        raise SystemExit

    server = HttpServer(broken, Settings(rest_port=0, http_threads=1), tell=answered.append)
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        with capture_logs() as logs:
            assert [500, 500] == [post(connection, b"x")[0] for _ in range(2)]
    finally:
        connection.close()
        assert server.stop(5.0)
    assert ["INTERNAL", "INTERNAL"] == [one.code for one in answered]
    assert ["error", "error"] == [line["log_level"] for line in logs]


def test_stop_waits_for_a_request_that_is_still_sent(server):
    """Half of it was read before the stop: the other half may come, and is answered."""
    with connect(server) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nha")
        with connect(server) as other:  # once it is answered, the half was read too
            other.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
            receive(other)
        results = []
        stopper = threading.Thread(target=lambda: results.append(server.stop(10.0)))
        stopper.start()
        client.sendall(b"lf")
        assert receive(client).endswith(b"half")
        stopper.join(10)
    assert [True] == results


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "raised", "expected"),
    [
        (1024, 1 << 20, 4096, 8192, 4096),
        (1024, 2048, 4096, 2048, 1024),
        (1 << 20, 1 << 20, 4096, None, 4096),
        (256, resource.RLIM_INFINITY, 100, None, 100),
        (16, 16, 100, None, 8),
    ],
)
def test_connection_limit_follows_the_descriptors_that_there_are(monkeypatch, soft, hard, wanted, raised, expected):
    """The soft limit is raised as far as it may be; fewer connections are kept where that is not enough."""
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, pair: limits.append(pair))
    assert expected == connection_limit(wanted)
    assert ([] if raised is None else [(raised, hard)]) == limits


def test_connection_that_is_one_too_many_is_told(wait_until):
    """While no connection is idle a newcomer is closed unheard, and counted as refused."""
    told = []
    server = HttpServer(lambda *_: [], Settings(rest_port=0, max_connections=1), tell=told.append)
    server.start()
    try:
        with connect(server) as busy:
            busy.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            wait_until(lambda: [False] == [connection.is_idle for connection in list(server._edge.connections)])
            with connect(server) as newcomer, contextlib.suppress(ConnectionResetError):
                assert b"" == newcomer.recv(1)
            wait_until(lambda: server.load == (1, 0))
    finally:
        assert server.stop(5.0)
    assert [("RESOURCE_EXHAUSTED", Refusal.CONNECTION_LIMIT, "127.0.0.1")] == [
        (answered.code, answered.refusal, answered.peer) for answered in told
    ]


class Visitor:
    """A connection as far as the edge knows it; asyncio tells of its end later."""

    def __init__(self, since_seconds=0.0, is_idle=True, num_unread_bytes=0):
        self.place = Place("127.0.0.1", 1, "10.0.0.9")
        self.num_unread_bytes = num_unread_bytes
        self.since_seconds, self.is_idle = since_seconds, is_idle
        self.is_aborted = False
        self.looks = []

    def abort(self):
        """Note it."""
        assert not self.is_aborted
        self.is_aborted = True

    def look(self, now_seconds):
        """Note it."""
        self.looks.append(now_seconds)


def test_edge_makes_room_at_once_when_many_connections_come_together(server):
    """Of 64 idle ones and 64 newcomers in one round of the loop no more than the bound are kept, the oldest going."""
    edge = server._edge
    edge._max_connections = 64
    visitors = [Visitor(float(number)) for number in range(128)]
    for visitor in visitors:
        edge.opened(visitor)
        assert len(edge.connections) <= 64
    assert [True] * 64 == [visitor.is_aborted for visitor in visitors[:64]]
    assert not visitors[-1].is_aborted
    edge.connections.clear()


def test_server_takes_in_many_connections_with_each_look(server, wait_until):
    """Of 64 that came while the loop was busy, a probe's among them, the last waits for a few looks and not for 64."""
    edge, came, looks = server._edge, threading.Event(), []

    def look():
        looks.append(len(edge.connections))
        if looks[-1] < 64 and len(looks) < 640:
            edge.loop.call_soon(look)

    edge.loop.call_soon_threadsafe(came.wait, 10)
    with contextlib.ExitStack() as opened:
        for _ in range(64):
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        edge.loop.call_soon_threadsafe(look)
        came.set()
        wait_until(lambda: len(edge.connections) == 64)
        assert len(looks) <= 16


def test_edge_looks_at_every_connection_though_one_breaks(server):
    """A defect within one connection costs that one; the loop goes on."""
    visitors = [Visitor() for _ in range(3)]
    broken = Visitor()
    broken.look = lambda _now: 1 / 0
    server._edge.connections.update([broken, *visitors])
    with capture_logs() as logs:
        server._edge.look(7.0)
    assert (True, [[7.0]] * 3) == (broken.is_aborted, [visitor.looks for visitor in visitors])
    assert ["error"] == [line["log_level"] for line in logs]
    server._edge.connections.difference_update([broken, *visitors])


def test_edge_takes_its_memory_back_from_who_reads_slowest_of_most(server):
    """While clients hold more than they may, one goes at each look, the largest first, and never one that is new."""
    edge = server._edge
    visitors = [Visitor(num_unread_bytes=number) for number in (0, 5, 9, 7, 0)]
    edge.connections.update(visitors)
    edge.crowd.num_held_bytes = edge.crowd.max_held_bytes
    edge.look(1.0)
    assert not any(visitor.is_aborted for visitor in visitors)
    edge.crowd.num_held_bytes += 1
    for gone in (2, 3, 1):
        edge.look(1.0)
        assert visitors[gone].is_aborted
        edge.closed(visitors[gone])
    edge.look(1.0)
    assert 3 == sum(visitor.is_aborted for visitor in visitors)
    edge.crowd.num_held_bytes = 0
    edge.connections.difference_update(visitors)


def test_server_answers_although_a_request_cannot_be_counted():
    """Whoever counts raises: refusals and defects are answered all the same, and no thread is lost."""

    def fail(_answered):
        raise OSError

    def broken(_environ, _start_response):
        raise ValueError

    server = HttpServer(broken, Settings(rest_port=0, http_threads=1), tell=fail)
    server.start()
    try:
        with capture_logs():
            for line, status in ((b"BREW / HTTP/1.1", 501), (b"GET / HTTP/1.1", 500), (b"GET / HTTP/1.1", 500)):
                with connect(server) as client:
                    client.sendall(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
                    assert receive(client).startswith(b"HTTP/1.1 %d " % status)
    finally:
        assert server.stop(5.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_server_on_every_address_takes_both_families(app, host):
    """Where the system has IPv6, `::` is reached by IPv4 too, as gRPC's port is."""
    if not socket.has_dualstack_ipv6():
        return
    server = HttpServer(app, Settings(rest_port=0, host="::"))
    server.start()
    connection = http.client.HTTPConnection(host, server.port, timeout=10)
    try:
        assert (200, b"x") == post(connection, b"x")[::2]
    finally:
        connection.close()
        assert server.stop(5.0)
