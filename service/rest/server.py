"""The HTTP server: an event loop on a thread of its own that reads and writes, and threads that answer.

Above: `worker`, which gives it the application. Below: `edge`, `connection`, `acceptor`. It can be bound first, run
beside others, and drained.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from service import ports
from service.answered import AnsweredRequest
from service.rest.acceptor import MOST_AT_ONCE, Acceptor, Shares
from service.rest.connection import Connection
from service.rest.edge import ServerEdge
from service.rest.gathering import Begin
from service.rest.wsgi import Place
from service.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_BACKLOG = 1024
_LOOK_SECONDS = 0.5
_DRAIN_POLL_SECONDS = 0.02
_GOODBYE_SECONDS = 0.1


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
        self._edge = ServerEdge(app, settings, check_room, tell, begin)
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


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _log_defect(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    structlog.get_logger().error(
        "the HTTP loop", problem=str(context.get("message", "")), exc_info=context.get("exception")
    )
