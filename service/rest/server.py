"""The HTTP server: an event loop on a thread of its own that reads and writes, and threads that answer.

Above: `worker`, which gives it the application. Below: `connection`, `threads`. It can be bound first, run beside
others, and drained.
"""

import asyncio
import contextlib
import functools
import heapq
import resource
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import structlog
import uvloop

from service import ports
from service.answered import AnsweredRequest
from service.crowding import Crowd
from service.errors import InternalError, InvalidArgumentError, ResourceExhaustedError, ScoringError
from service.rest import deadlines, wsgi
from service.rest.acceptor import MOST_AT_ONCE, Acceptor, Shares
from service.rest.connection import Connection
from service.rest.deadlines import Patience
from service.rest.gathering import MOST_TOGETHER, Answered, Begin, Member, answer_together, is_small
from service.rest.known_heads import KnownHeads
from service.rest.refusals import no_room_for, refuse
from service.rest.request import Request
from service.rest.request_reader import MalformedError
from service.rest.threads import Threads
from service.rest.wsgi import Answer, Place
from service.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_Gathered = tuple[Request, Connection, float, Callable[[Answer], None]]
_PROBES = frozenset({b"/healthz", b"/readyz", b"/metrics", b"/monitoring/prometheus/metrics"})
"""Paths of operators, who must have their answer most of all when there are many requests."""
_GATHER_SECONDS = 0.004
_BACKLOG = 1024
_RECEIVED_BYTES = 256 << 10
_TIMEOUT_HEADER = deadlines.HEADER.lower().encode("ascii")
_LOOK_SECONDS = 0.5
_DRAIN_POLL_SECONDS = 0.02
_GOODBYE_SECONDS = 0.1
_HELD_BODIES = 4
_MIN_HELD_BYTES = 64 << 20
_DESCRIPTORS_PER_CONNECTION = 2
"""One for the connection and one for everything else that the process opens."""


class HttpServer:
    """Serves one application on one port.

    Guarantee: a request that was read before `stop` is answered, as far as the time given allows; from `close_gently`
    on every answer says `Connection: close`, so that clients do not send their next request into a closing connection.

    Args:
        app: the application.
        settings: host, rest_port, http_threads, max_waiting_requests, max_body_bytes, max_connections and how long
            clients are waited for.
        shared: the socket that it accepts from, which listens, and the shares of the processes that do; closed with it.
            None: a socket of its own.
        check_room: asked with the path of each request before its body is read; raises ResourceExhaustedError.
        tell: told of each request that the application never saw.
        begin: answers small requests for scores in stages, as the application would at once; None: it does.

    Raises:
        OSError: the address cannot be listened on.

    Thread safety: `start`, `close_gently` and `stop` are for the owner.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        settings: Settings,
        *,
        shared: tuple[socket.socket, Shares] | None = None,
        check_room: Callable[[bytes], None] = lambda _path: None,
        tell: Callable[[AnsweredRequest], None] = lambda _answered: None,
        begin: Begin | None = None,
    ) -> None:
        self._shares: Shares | None
        self._listener, self._shares = shared or (ports.listen(settings), None)
        self.port: int = self._listener.getsockname()[1]
        self._edge = _Edge(app, settings, check_room, tell, begin)
        self._place = Place(settings.host, self.port, "")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._deadline_seconds = 0.0
        self._is_finished: bool | None = None  # None until it was stopped
        self._taken: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Accept connections from now on; those that came since the port was bound are served too."""
        self._loop = self._edge.loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(_log_defect)
        self._edge.start()
        self._thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """Connections that are open, and whole requests that wait for a thread or have one. From any thread."""
        return len(self._edge.connections), self._edge.crowd.num_requests

    def close_gently(self) -> None:
        """Go on accepting and answering, and close every connection after its next answer."""
        self._edge.is_closing = True

    def stop(self, timeout_seconds: float) -> bool:
        """Stop accepting, finish what was accepted, close; return whether everything was finished in time."""
        if self._is_finished is not None:
            return self._is_finished
        self.close_gently()
        self._deadline_seconds = time.monotonic() + timeout_seconds
        self._is_finished = True
        if self._loop is None:
            self._listener.close()
            return True
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout_seconds + 1.0)
        remaining = max(0.0, self._deadline_seconds - time.monotonic())
        threads_ended = self._edge.stop(remaining + 0.25)
        return self._is_finished and threads_ended

    def _run(self) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            loop.run_until_complete(self._serve(loop))
        finally:
            loop.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        servers: Sequence[asyncio.AbstractServer | Acceptor]
        if self._shares is None:
            servers = await self._listen(loop)
        else:
            self._edge.shares = self._shares
            self._shares.tell(0)
            servers = [Acceptor(loop, self._listener, self._shares, self._take)]
        while not self._stopping.is_set():
            self._edge.look(time.monotonic())
            await _wait(self._stopping, _LOOK_SECONDS)
        for _ in range(3):  # what the kernel has already accepted for us is ours
            await asyncio.sleep(0)
        for server in servers:
            server.close()
        if self._taken:
            await asyncio.wait(self._taken)
        self._is_finished = await self._drain()
        for connection in list(self._edge.connections):
            connection.abort()
        await asyncio.sleep(0)  # the transports close in the loop's next round

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Server]:
        """Listen on as many descriptors of the port's socket as connections may come in with one look of the loop.

        libuv takes in one for each descriptor. With one descriptor, a probe's connection would wait behind hundreds of
        others for as many looks, each of which reads what hundreds of requests have sent.
        """
        listeners = [self._listener, *(self._listener.dup() for _ in range(MOST_AT_ONCE - 1))]
        return [await loop.create_server(self._connection, sock=listener, backlog=_BACKLOG) for listener in listeners]

    def _connection(self) -> Connection:
        return Connection(self._edge, self._place)

    def _take(self, accepted: socket.socket) -> None:
        """Let a connection that was accepted be one of ours, and count at once."""
        if self._loop is not None and self._shares is not None:
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._connection, accepted))
            self._taken.add(task)
            self._shares.tell(len(self._edge.connections) + len(self._taken))
            task.add_done_callback(self._taken.discard)

    async def _drain(self) -> bool:
        """Wait for what was accepted; return whether it was finished in time."""
        while True:
            now = time.monotonic()
            busy = [connection for connection in self._edge.connections if not connection.is_done]
            new = [c for c in self._edge.connections if c.is_done and now - c.since_seconds < _GOODBYE_SECONDS]
            for connection in self._edge.connections.difference(busy, new):
                connection.end()
            for connection in busy:
                connection.hurry(now)
            if not busy and (not new or now > self._deadline_seconds):
                return True
            if now > self._deadline_seconds:
                return False
            await asyncio.sleep(_DRAIN_POLL_SECONDS)


class _Edge:
    """What the connections of a server share: the application, its threads, and the room that there is."""

    def __init__(
        self,
        app: "WSGIApplication",
        settings: Settings,
        check_room: Callable[[bytes], None],
        tell: Callable[[AnsweredRequest], None],
        begin: Begin | None,
    ) -> None:
        self._app = app
        self._begin_score = begin
        self._gathered: list[_Gathered] = []  # in this round of the loop
        self._tell = tell
        self._check_room = check_room
        self._max_connections = connection_limit(settings.max_connections)
        self._threads = Threads(settings.http_threads, "http-answers")
        self._beside = Threads(1, "http-probes")
        self.crowd = Crowd(
            settings.http_threads + settings.max_waiting_requests,
            max(_MIN_HELD_BYTES, _HELD_BODIES * settings.max_body_bytes),
        )
        self.patience = Patience(settings.client_timeout_seconds, settings.idle_timeout_seconds)
        self.max_body_bytes = settings.max_body_bytes
        self.known_heads = KnownHeads()
        self._request_timeout_seconds = settings.request_timeout_seconds
        self.buffer = memoryview(bytearray(_RECEIVED_BYTES))
        self.is_closing = False
        self._is_gathering = False
        self._has_new_connection = False
        self.shares: Shares | None = None
        self.connections: set[Connection] = set()
        self.loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the threads."""
        self._threads.start()
        self._beside.start()

    def stop(self, timeout_seconds: float) -> bool:
        """End the threads; return whether they have ended."""
        ended = [threads.stop(timeout_seconds) for threads in (self._threads, self._beside)]
        return all(ended)

    def admit(self, request: Request) -> None:
        """See `connection.Edge`."""
        path = request.head.path
        if path not in _PROBES:
            self.crowd.check(self._timeout_seconds(request))
            self._check_room(path)

    def _timeout_seconds(self, request: Request) -> float:
        received = request.header(_TIMEOUT_HEADER)
        return _usual_timeout_seconds(received, self._request_timeout_seconds)

    def answer(self, request: Request, connection: Connection, arrival_seconds: float) -> float:
        """See `connection.Edge`."""
        is_probe = request.head.path in _PROBES
        if is_probe:
            finish, threads = connection.finish, self._beside
        else:
            self.crowd.enter(request.num_body_bytes)
            finish = functools.partial(self._leave, request.num_body_bytes, time.monotonic(), connection)
            threads = self._threads
        if self._begin_score is not None and not is_probe and self.loop is not None and is_small(request):
            self._gathered.append((request, connection, arrival_seconds, finish))
            if len(self._gathered) == 1:
                self.loop.call_soon(self._hand_over)
        else:
            threads.run(functools.partial(self._compute, request, connection, arrival_seconds, finish))
        return arrival_seconds + self._timeout_seconds(request)

    def _hand_over(self) -> None:
        """Have the small requests answered that have come in this round of the loop; one alone as any other."""
        gathered, self._gathered = self._gathered, []
        if len(gathered) == 1:
            self._threads.run(functools.partial(self._compute, *gathered[0]))
            return
        for start in range(0, len(gathered), MOST_TOGETHER):
            self._threads.run(functools.partial(self._compute_together, gathered[start : start + MOST_TOGETHER]))

    def _compute_together(self, gathered: "list[_Gathered]") -> None:
        members = [
            Member(request, connection.place, arrival, functools.partial(self._fail, request, connection), finish)
            for request, connection, arrival, finish in gathered
        ]
        if self._begin_score is not None:
            answer_together(self._begin_score, members, self._deliver)

    def _fail(self, request: Request, connection: Connection, error: BaseException) -> Answer:
        structlog.get_logger().error("the application ended without an answer", exc_info=error)
        return self.refuse(InternalError("internal error"), request, connection.place.client)

    def _deliver(self, answered: Answered) -> None:
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                self.loop.call_soon_threadsafe(self._finish_all, answered)

    def _finish_all(self, answered: Answered) -> None:
        for member, answer in answered:
            cast(asyncio.AbstractEventLoop, self.loop).call_soon(member.finish, answer)

    def _compute(
        self, request: Request, connection: Connection, arrival_seconds: float, finish: Callable[[Answer], None]
    ) -> None:
        try:
            answer = wsgi.call(self._app, request, connection.place, arrival_seconds)
        except BaseException as error:  # noqa: BLE001  # the transport's border: log and convert, whatever it was
            answer = self._fail(request, connection, error)
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                self.loop.call_soon_threadsafe(finish, answer)

    def _leave(self, num_bytes: int, entered_seconds: float, connection: Connection, answer: Answer) -> None:
        self.crowd.leave(num_bytes, entered_seconds, time.monotonic())
        connection.finish(answer)

    def refuse(self, error: ScoringError | MalformedError, request: Request | None, client: str) -> Answer:
        """See `connection.Edge`."""
        if isinstance(error, ResourceExhaustedError) and not self._is_gathering and self.loop is not None:
            self._is_gathering = True
            self.loop.call_soon(self._gather)
        answer, answered = refuse(error, request, client)
        self._count(answered)
        return answer

    def _gather(self) -> None:
        """Look at the connections a few hundred times a second, and not thousands, while requests are refused.

        Each look takes Python's lock for as long as what came takes, and the threads that answer wait for it, and then
        for the processor to wake them. What gathers meanwhile is refused together. New connections do not wait: the
        loop takes in a few of them with each look.
        """
        if not self._has_new_connection:
            time.sleep(_GATHER_SECONDS)
        self._is_gathering = self._has_new_connection = False

    def opened(self, connection: Connection) -> None:
        """Take a connection in; where there are too many, those that were idle longest make room."""
        if len(self.connections) >= self._max_connections:
            idle = [other for other in self.connections if other.is_idle]
            for other in heapq.nsmallest(1 + len(idle) // 16, idle, key=lambda other: other.since_seconds):
                other.abort()
                self.closed(other)  # at once: asyncio says so in the loop's next round, and more may come in this one
            if not idle:
                self._count(no_room_for(connection.place.client))
                connection.abort()
        self.connections.add(connection)
        self._has_new_connection = True
        self._tell_shares()

    def look(self, now_seconds: float) -> None:
        """Let every connection lose its patience; one that cannot is closed, and the others have their turn."""
        for connection in list(self.connections):
            try:
                connection.look(now_seconds)
            except Exception as error:  # noqa: BLE001  # the transport's border: log and go on
                structlog.get_logger().error("a connection of the HTTP loop", exc_info=error)
                connection.abort()
        self._take_back_bytes()

    def _take_back_bytes(self) -> None:
        """Where no request has room for what clients hold, end the connection that reads most slowly of most.

        One that reads a little now and then would keep its answer for hours, and a few of them everybody from theirs.
        """
        if self.crowd.num_held_bytes > self.crowd.max_held_bytes:
            slowest = max(self.connections, key=lambda connection: connection.num_unread_bytes, default=None)
            if slowest is not None and slowest.num_unread_bytes:
                slowest.abort()

    def _count(self, answered: AnsweredRequest) -> None:
        try:
            self._tell(answered)
        except Exception as error:  # noqa: BLE001  # the transport's border: what counts must not cost the answer
            structlog.get_logger().error("a request could not be counted", exc_info=error)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self._tell_shares()

    def _tell_shares(self) -> None:
        if self.shares is not None:
            self.shares.tell(len(self.connections))


@functools.lru_cache(maxsize=256)
def _usual_timeout_seconds(received: bytes, default_seconds: float) -> float:
    try:
        return deadlines.timeout_seconds(received.decode("latin-1") or None, default_seconds)
    except InvalidArgumentError:  # the application says what is wrong with it
        return default_seconds


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def connection_limit(wanted: int) -> int:
    """Raise the limit of descriptors as far as the system allows; return how many connections they are enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = min(hard, _DESCRIPTORS_PER_CONNECTION * wanted) if hard != resource.RLIM_INFINITY else 2 * wanted
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        soft = needed
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // _DESCRIPTORS_PER_CONNECTION))


def _log_defect(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    structlog.get_logger().error(
        "the HTTP loop", problem=str(context.get("message", "")), exc_info=context.get("exception")
    )
