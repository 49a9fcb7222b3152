"""What the connections of an HTTP server share: the application, the threads that answer, and the room that there is.

Above: `server`. Below: `threads`, `gathering`, `refusals`, and the `connection`s, which ask it.
"""

import asyncio
import contextlib
import functools
import heapq
import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import structlog

from service import apart
from service.answered import AnsweredRequest
from service.crowding import Crowd
from service.errors import InternalError, InvalidArgumentError, ResourceExhaustedError, ScoringError
from service.rest import deadlines, wsgi
from service.rest.acceptor import Shares
from service.rest.connection import Connection
from service.rest.deadlines import Patience
from service.rest.gathering import MOST_TOGETHER, Answered, Begin, Member, answer_together, is_small
from service.rest.known_heads import KnownHeads
from service.rest.refusals import no_room_for, refuse
from service.rest.request import Request
from service.rest.request_reader import MalformedError
from service.rest.threads import Threads
from service.rest.wsgi import Answer
from service.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_Gathered = tuple[Request, Connection, float, Callable[[Answer], None]]
_PROBES = frozenset({b"/healthz", b"/readyz", b"/metrics", b"/monitoring/prometheus/metrics"})
"""Paths of operators, who must have their answer most of all when there are many requests."""
_GATHER_SECONDS = 0.004
_RECEIVED_BYTES = 256 << 10
_TIMEOUT_HEADER = deadlines.HEADER.lower().encode("ascii")
_HELD_BODIES = 4
_MIN_HELD_BYTES = 64 << 20
_DESCRIPTORS_PER_CONNECTION = 2
"""One for the connection and one for everything else that the process opens."""


class ServerEdge:
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
        self._apart = apart.of_process()
        self._is_gathering = False
        self._is_refusing = False  # the last request that came
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
        self._is_refusing |= isinstance(error, ResourceExhaustedError)
        if isinstance(error, ResourceExhaustedError) and not self._is_gathering and self.loop is not None:
            self._is_gathering = True
            self.loop.call_soon(self._gather)
            self._apart.refused()
        answer, answered = refuse(error, request, client)
        self._count(answered)
        return answer

    def refuse_whole(self, data: bytes | memoryview, client: str) -> bytes | None:
        """See `shared.Edge`: without a turn of its own, for a crowd whose bodies are small."""
        if not self._is_refusing or self.is_closing:
            return None
        found = self.known_heads.find(data)
        if found is None or found[1] + cast(int, found[0].length) != len(data):
            return None
        request = Request(found[0], found[0].keep_alive)
        try:
            self.admit(request)
        except ScoringError as error:
            return wsgi.write(self.refuse(error, request, client), request, closes=False)
        self._is_refusing = False
        return None

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
        self._apart.look()

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


def connection_limit(wanted: int) -> int:
    """Raise the limit of descriptors as far as the system allows; return how many connections they are enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = min(hard, _DESCRIPTORS_PER_CONNECTION * wanted) if hard != resource.RLIM_INFINITY else 2 * wanted
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        soft = needed
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // _DESCRIPTORS_PER_CONNECTION))
