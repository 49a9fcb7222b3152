"""One connection without a socket: order, pauses, refusals at the head, bytes held, patience lost."""

import time

import pytest

from service.crowding import Crowd
from service.errors import DeadlineExceededError, ResourceExhaustedError
from service.rest.connection import CONTINUE, Connection
from service.rest.deadlines import Patience
from service.rest.known_heads import KnownHeads
from service.rest.wsgi import Answer, Place

LIMIT = 1 << 20
TIMEOUT_SECONDS = 30.0
PATIENCE = Patience(client_seconds=10.0, idle_seconds=75.0)
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HEAD = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
POST = HEAD + b"\r\n12345"
EXPECTING = HEAD + b"Expect: 100-continue\r\n\r\n"


class Transport:
    """Keeps what is written; its client reads when told to."""

    def __init__(self):
        self.written = b""
        self.unread = 0
        self.reading = True
        self.is_reading_client = True
        self.ended = self.closed = self.aborted = False

    def get_extra_info(self, _name):
        """Return the client's address."""
        return ("10.0.0.9", 1)

    def write(self, data):
        """Send."""
        assert not self.ended, "written after the end"
        self.written += data
        if not self.is_reading_client:
            self.unread += len(data)

    def get_write_buffer_size(self):
        """Return what is not sent."""
        return self.unread

    def write_eof(self):
        """Send FIN."""
        self.ended = True

    def close(self):
        """Close when all is sent."""
        self.closed = True

    def abort(self):
        """Close now."""
        self.aborted = True

    def is_closing(self):
        """Whether it was closed."""
        return self.closed or self.aborted

    def pause_reading(self):
        """Stop reading."""
        self.reading = False

    def resume_reading(self):
        """Read on."""
        self.reading = True

    def statuses(self):
        """Return the statuses that were written."""
        return [int(part[:3]) for part in self.written.split(b"HTTP/1.1 ")[1:]]


class Edge:
    """Keeps the requests that are to be answered; refuses when told to."""

    def __init__(self):
        self.crowd = Crowd(100, 4 * LIMIT)
        self.patience = PATIENCE
        self.max_body_bytes = LIMIT
        self.known_heads = KnownHeads()
        self.is_closing = False
        self.is_full = False
        self.asked = []
        self.connections = set()

    def admit(self, _request):
        """Refuse while full."""
        if self.is_full:
            message = "full"
            raise ResourceExhaustedError(message)

    def answer(self, request, connection, arrival_seconds):
        """Keep the request."""
        assert arrival_seconds <= time.monotonic()
        self.asked.append((request, connection))
        return arrival_seconds + TIMEOUT_SECONDS

    def refuse(self, error, request, client):
        """Return an answer that tells the error."""
        assert "10.0.0.9" == client
        assert request is None or request.method in {"GET", "POST"}
        status = 504 if isinstance(error, DeadlineExceededError) else getattr(error, "status", 429)
        return Answer.of(status, [], error.message.encode())

    def refuse_whole(self, _data, client):
        """Leave every request to the connection."""
        assert "10.0.0.9" == client

    def opened(self, connection):
        """Take in."""
        self.connections.add(connection)

    def closed(self, connection):
        """Forget."""
        self.connections.discard(connection)

    def finish(self, body=b"ok"):
        """Answer the last request that was kept."""
        request, connection = self.asked[-1]
        connection.finish(Answer.of(200, [], bytes(request.body) + body))


@pytest.fixture
def edge():
    """Return what connections share; nothing may be held in the end."""
    edge = Edge()
    yield edge
    for connection in list(edge.connections):
        connection.connection_lost(None)
    assert 0 == edge.crowd.num_held_bytes


@pytest.fixture
def transport():
    """Return the connection's transport."""
    return Transport()


@pytest.fixture
def connection(edge, transport):
    """Return a connection that was just made."""
    connection = Connection(edge, Place("127.0.0.1", 8501, ""))
    connection.connection_made(transport)
    return connection


def test_connection_answers_one_at_a_time_and_in_order(edge, transport, connection):
    """Three requests in one piece are computed one after the other, and nothing more is read meanwhile."""
    connection.data_received(GET + POST + GET)
    for number in (1, 2, 3):
        assert number == len(edge.asked)
        assert not transport.reading
        edge.finish(b"%d" % number)
    assert [200, 200, 200] == transport.statuses()
    assert [b"1", b"123452", b"3"] == [
        part.partition(b"\r\n\r\n")[2] for part in transport.written.split(b"HTTP/1.1 ")[1:]
    ]
    assert transport.reading
    assert connection.is_done


def test_connection_counts_the_bytes_that_it_holds(edge, transport, connection):
    """A body counts from its first bytes to its answer, and an answer until it is read."""
    connection.data_received(HEAD + b"\r\n123")
    assert 3 == edge.crowd.num_held_bytes
    connection.data_received(b"45")
    assert 5 == edge.crowd.num_held_bytes
    transport.is_reading_client = False
    edge.finish()
    assert len(transport.written) == edge.crowd.num_held_bytes
    assert not connection.is_done
    transport.unread = 0
    connection.resume_writing()
    assert 0 == edge.crowd.num_held_bytes
    assert connection.is_done


def test_connection_parses_no_more_of_a_long_pipeline_than_it_needs(edge, transport, connection):
    """Of three thousand tiny requests in one piece few are made, the others are held as bytes; all are answered."""
    data = GET * 3_000
    connection.data_received(data)
    assert len(connection._turns) < 500
    assert len(data) - 500 * len(GET) < edge.crowd.num_held_bytes < len(data)
    for number in range(1, 3_001):
        assert number == len(edge.asked)
        edge.finish()
    assert 3_000 == len(transport.statuses())
    assert transport.reading


@pytest.mark.parametrize("size", [3_000, 300_000, 1_000_000])
def test_connection_keeps_a_large_body_whole_and_what_follows_it(edge, transport, connection, size):
    """A body and two requests behind it in one piece: nothing is lost where the piece is cut."""
    body = bytes(range(256)) * (size // 256)
    head = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.data_received(head + body[:5])
    connection.data_received(body[5:] + POST + GET)
    assert body == bytes(edge.asked[0][0].body)
    for number in (1, 2, 3):
        assert number == len(edge.asked)
        transport.unread = 0
        edge.finish()
    assert b"12345" == edge.asked[1][0].body


def test_connection_waits_for_a_client_that_does_not_read(edge, transport, connection):
    """Behind a large answer that stays unread nothing is computed; when it is read, the next request is."""
    transport.is_reading_client = False
    connection.data_received(GET + GET)
    edge.finish(b"x" * 100_000)
    assert (1, False) == (len(edge.asked), transport.reading)
    transport.unread = 0
    connection.resume_writing()
    assert 2 == len(edge.asked)


def test_refused_head_is_answered_before_its_body_which_is_thrown_away(edge, transport, connection):
    """429 stands there while the body is still on its way; then the connection serves on."""
    edge.is_full = True
    connection.data_received(HEAD + b"\r\n12")
    assert [429] == transport.statuses()
    assert 0 == edge.crowd.num_held_bytes
    edge.is_full = False
    connection.data_received(b"345" + GET)
    edge.finish()
    assert [429, 200] == transport.statuses()
    assert not transport.ended


def test_request_is_refused_at_its_turn_where_room_went_meanwhile(edge, transport, connection):
    """There was room for its head and is none for the whole: 429."""
    connection.data_received(HEAD + b"\r\n12")
    edge.is_full = True
    connection.data_received(b"345")
    assert ([429], []) == (transport.statuses(), edge.asked)


def test_client_that_asks_first_is_told_to_go_on(edge, transport, connection):
    """100 comes at once, and once; then the answer."""
    connection.data_received(EXPECTING)
    assert CONTINUE == transport.written
    connection.data_received(b"12")
    connection.data_received(b"345")
    edge.finish()
    assert [100, 200] == transport.statuses()


def test_client_that_asks_first_and_is_refused_never_reads_100(edge, transport, connection):
    """The refusal comes instead, and the connection ends: whether the body follows could not be told."""
    edge.is_full = True
    connection.data_received(EXPECTING)
    connection.data_received(GET)
    assert ([429], True) == (transport.statuses(), transport.ended)
    assert [] == edge.asked


def test_malformed_request_is_answered_after_the_sound_ones_before_it(edge, transport, connection):
    """The answer that is due comes first, then 400, then the end; what follows is not read."""
    connection.data_received(GET + b"nonsense\r\n\r\n" + GET)
    edge.finish()
    assert ([200, 400], True) == (transport.statuses(), transport.ended)
    connection.data_received(GET)
    assert 1 == len(edge.asked)


def test_malformed_chunk_ends_a_request_that_was_begun(edge, transport, connection):
    """A head whose body breaks is refused, not computed."""
    connection.data_received(b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345XX")
    assert ([400], True, []) == (transport.statuses(), transport.ended, edge.asked)


def test_malformed_rest_of_a_refused_request_ends_the_connection(edge, transport, connection):
    """It was answered 429; there is no second answer for it."""
    edge.is_full = True
    connection.data_received(b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345")
    connection.data_received(b"XX")
    assert ([429], True) == (transport.statuses(), transport.ended)


def test_last_request_ends_the_connection_after_its_answer(edge, transport, connection):
    """Connection: close is answered in kind; the server's FIN waits for the client's."""
    connection.data_received(LAST + GET)
    edge.finish()
    assert b"Connection: close" in transport.written
    assert (True, False, 1) == (transport.ended, transport.closed, len(edge.asked))
    assert connection.eof_received() is False


def test_server_that_closes_gently_ends_each_connection_after_its_answer(edge, transport, connection):
    """The answer says that it is the last."""
    edge.is_closing = True
    connection.data_received(GET)
    edge.finish()
    assert b"Connection: close" in transport.written
    assert transport.ended


def test_server_that_closes_gently_answers_what_was_pipelined_before(edge, transport, connection):
    """Three whole requests were read: three answers, of which the last one says that it is."""
    connection.data_received(GET + POST + GET)
    edge.is_closing = True
    for number in (1, 2, 3):
        assert number == len(edge.asked)
        assert b"Connection: close" not in transport.written
        edge.finish()
    assert ([200, 200, 200], 1) == (transport.statuses(), transport.written.count(b"Connection: close"))
    assert transport.ended


def test_client_that_sends_no_more_has_its_answer(edge, transport, connection):
    """A half-closed connection is answered, then closed; one that stops in a request is closed at once."""
    connection.data_received(GET + HEAD + b"\r\n12")
    assert connection.eof_received() is True
    edge.finish()
    assert ([200], True) == (transport.statuses(), transport.closed)


@pytest.mark.parametrize("data", [b"", b"GET / HT", HEAD + b"\r\n12"], ids=["nothing", "half a head", "half a body"])
def test_client_that_leaves_within_a_request_is_forgotten(connection, data):
    """There is nothing to answer."""
    if data:
        connection.data_received(data)
    assert connection.eof_received() is False


def test_answer_for_a_client_that_left_is_thrown_away(edge, transport, connection):
    """The connection was lost while its request was computed."""
    connection.data_received(GET)
    transport.closed = True
    connection.connection_lost(None)
    edge.finish()
    assert b"" == transport.written


@pytest.mark.parametrize(
    ("data", "seconds", "statuses"),
    [
        (b"", 75.0, []),
        (b"GET / HT", 10.0, [408]),
        (HEAD + b"\r\n12", 10.0 + 2 / 1024, [408]),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + b"x" * 5120, 15.0, [408]),
    ],
    ids=["idle", "half a head", "half a body", "larger half"],
)
def test_patience_ends_with_a_client_that_is_too_slow(transport, connection, data, seconds, statuses):
    """To the second: an idle connection ends silently, a request that came half is 408."""
    if data:
        connection.data_received(data)
    since = connection.since_seconds
    connection.look(since + seconds - 0.001)
    assert not transport.ended
    connection.look(since + seconds + 0.001)
    assert (statuses, True) == (transport.statuses(), transport.ended)


def test_patience_ends_with_a_client_that_does_not_read(edge, transport, connection):
    """While it reads something it has time; when it reads nothing for ten seconds the connection is cut."""
    transport.is_reading_client = False
    connection.data_received(GET)
    edge.finish(b"x" * 1000)
    now = connection.since_seconds
    for unread in (900, 800, 700):
        now += 9.0
        transport.unread = unread
        connection.look(now)
    connection.look(now + 9.9)
    assert not transport.aborted
    connection.look(now + 10.1)
    assert transport.aborted


def test_patience_ends_with_a_client_that_does_not_close(edge, transport, connection):
    """After the server's FIN it has two seconds for its own."""
    connection.data_received(LAST)
    edge.finish()
    connection.look(connection.since_seconds + 1.9)
    assert not transport.aborted
    connection.look(connection.since_seconds + 2.1)
    assert transport.aborted


def test_answer_counts_as_unread_once_its_client_had_time_to_read_it(edge, transport, connection):
    """Not at first; after ten seconds what is left of it, however steadily it is read."""
    transport.is_reading_client = False
    connection.data_received(GET)
    edge.finish(b"x" * 1000)
    assert 0 == connection.num_unread_bytes
    connection._answer_seconds -= 10.1
    transport.unread = 600
    connection.look(time.monotonic())
    assert 600 == connection.num_unread_bytes


@pytest.mark.parametrize("is_early", [True, False], ids=["before its answer", "behind its answer"])
def test_patience_ends_with_a_client_that_sends_no_more_and_does_not_read(edge, transport, connection, is_early):
    """A half-closed connection of whose answer nothing is read is cut like any other."""
    transport.is_reading_client = False
    connection.data_received(GET)
    if is_early:
        assert connection.eof_received() is True
    edge.finish(b"x" * 1000)
    if not is_early and not connection.eof_received():
        transport.close()  # as asyncio does
    assert transport.closed
    now = connection.since_seconds
    connection.look(now + 0.5)
    connection.look(now + 10.4)
    assert not transport.aborted
    connection.look(now + 10.6)
    assert transport.aborted


def test_client_that_still_sends_after_its_refusal_is_heard_out_for_a_while(transport, connection):
    """While the rest of a body that is too large comes, no reset destroys the 413; after half a minute it does."""
    connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
    assert ([413], True) == (transport.statuses(), transport.ended)
    ended = connection.since_seconds
    connection._since_seconds = ended - 1.5
    connection.data_received(b"x" * 100)
    connection.look(ended + 1.9)
    assert not transport.aborted
    connection._end_seconds = ended - 30.0
    connection._since_seconds = ended - 1.5
    connection.data_received(b"x" * 100)
    connection.look(ended + 1.9)
    assert transport.aborted


def test_request_that_is_computed_has_until_its_deadline(edge, transport, connection):
    """No speed of the client's matters; half a second behind its deadline it is 504, and an answer then is lost."""
    connection.data_received(GET)
    deadline = connection.since_seconds + TIMEOUT_SECONDS
    connection.look(deadline + 0.4)
    assert ([], False) == (transport.statuses(), transport.ended)
    connection.look(deadline + 0.6)
    assert ([504], True) == (transport.statuses(), transport.ended)
    assert edge.asked[-1][0].is_given_up
    edge.finish()
    assert [504] == transport.statuses()


@pytest.mark.parametrize("half", [HEAD + b"\r\n123", b"POST /b HT", GET[:-2]])
def test_client_that_is_silent_within_a_request_is_hurried_when_the_server_stops(transport, connection, half):
    """Two seconds without a byte of the rest are enough then: 408, and the connection ends."""
    connection.data_received(half)
    heard = connection.since_seconds
    connection.hurry(heard + 1.9)
    assert [] == transport.statuses()
    connection.hurry(heard + 2.1)
    assert ([408], True) == (transport.statuses(), transport.ended)


def test_client_that_waits_or_owes_nothing_is_not_hurried(edge, transport, connection):
    """Neither one whose request is computed, nor one that has sent nothing of a next."""
    connection.data_received(GET)
    connection.hurry(connection.since_seconds + 100.0)
    assert [] == transport.statuses()
    edge.finish()
    connection.hurry(connection.since_seconds + 100.0)
    assert ([200], False) == (transport.statuses(), transport.ended)


def test_body_is_refused_where_clients_hold_too_much_already(edge, transport, connection):
    """A large body that grows while others hold all there may be is 429 and thrown away."""
    connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + b"x" * 100_000)
    assert [] == transport.statuses()
    edge.crowd.num_held_bytes += 4 * LIMIT
    connection.data_received(b"x" * 1000)
    edge.crowd.num_held_bytes -= 4 * LIMIT
    assert [429] == transport.statuses()
    connection.data_received(b"x" * 399_000 + GET)
    edge.finish()
    assert [429, 200] == transport.statuses()


def test_idle_and_done_tell_what_would_be_lost(edge, transport, connection):
    """Idle until a head is whole, and again when the answer is read; done only between requests."""
    assert (True, True) == (connection.is_idle, connection.is_done)
    connection.data_received(b"GET / HT")
    assert (True, False) == (connection.is_idle, connection.is_done)
    connection.data_received(b"TP/1.1\r\nHost: x\r\n\r\n")
    assert (False, False) == (connection.is_idle, connection.is_done)
    transport.is_reading_client = False
    edge.finish()
    assert (False, False) == (connection.is_idle, connection.is_done)
    transport.unread = 0
    assert (True, True) == (connection.is_idle, connection.is_done)


def test_connections_keep_nothing_of_the_buffer_that_they_share(edge, transport, connection):
    """What waits behind a request that is computed is read as it came, though the buffer was used again."""
    edge.buffer = memoryview(bytearray(1 << 18))
    data = GET + POST * 1000
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))
    edge.buffer[: len(data)] = b"x" * len(data)
    for number in range(1, 1002):
        assert number == len(edge.asked)
        edge.finish()
    assert {b"12345"} == {bytes(request.body) for request, _ in edge.asked[1:]}
    assert 1001 == len(transport.statuses())
