"""The HTTP server: waitress, embedded so that it can be bound first, run on a thread, and drained.

Above: `worker`, which gives it the application. Waitress reads whole requests on one thread before a worker thread sees
them, so that clients that send slowly cost no thread. One that sends many requests and reads no answer does hold one; a
reverse proxy belongs in front of it on an untrusted network.
"""

import socket
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import WSGITask

from service.rest.crowding import Dispatcher, describe
from service.rest.refusals import RefusalTask
from service.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_CONNECTION_LIMIT = 2000
_CHANNEL_TIMEOUT_SECONDS = 10
_CLEANUP_INTERVAL_SECONDS = 2
_BACKLOG = 1024
_RECEIVE_BYTES = 1 << 16
_POLL_SECONDS = 1.0
_DRAIN_POLL_SECONDS = 0.02


class HttpServer:
    """Serves one application on one port.

    Guarantee: a request that was read before `stop` is answered, as far as the time given allows; from `close_gently`
    on every answer says `Connection: close`, so that clients do not send their next request into a closing connection.

    Args:
        app: the application.
        settings: host, rest_port, http_threads, max_waiting_requests, max_body_bytes.

    Raises:
        OSError: the address cannot be listened on.

    Thread safety: `start`, `close_gently` and `stop` are for the owner.
    """

    def __init__(self, app: "WSGIApplication", settings: Settings) -> None:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.rest_port), family=family, backlog=_BACKLOG)
        self.port: int = listener.getsockname()[1]
        self._sockets: dict[int, Any] = {}
        dispatcher = Dispatcher(settings.max_waiting_requests)
        dispatcher.set_thread_count(settings.http_threads)  # waitress does it only for a dispatcher of its own
        # Any: the stubs give the class of one channel to the mapping of all, and int to the trigger.
        self._server = cast(
            Any,
            create_server(
                app,
                map=self._sockets,
                _dispatcher=dispatcher,
                sockets=[listener],
                threads=settings.http_threads,
                connection_limit=_CONNECTION_LIMIT,
                channel_timeout=_CHANNEL_TIMEOUT_SECONDS,
                cleanup_interval=_CLEANUP_INTERVAL_SECONDS,
                max_request_body_size=settings.max_body_bytes + 1,  # waitress refuses from this size on
                recv_bytes=_RECEIVE_BYTES,
                backlog=_BACKLOG,
                asyncore_use_poll=True,  # select() stops at descriptor 1024
                log_socket_errors=False,  # clients that go away are no news
                ident=None,
            ),
        )
        self._is_closing = threading.Event()
        self._server.channel_class = _channel_class(self._is_closing)
        self._is_stopping = threading.Event()
        self._deadline_seconds = 0.0
        self._is_finished: bool | None = None  # None until it was stopped
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Accept connections from now on; those that came since the port was bound are served too."""
        self._thread.start()

    def close_gently(self) -> None:
        """Go on accepting and answering, and close every connection after its next answer."""
        self._is_closing.set()

    def stop(self, timeout_seconds: float) -> bool:
        """Stop accepting, finish what was accepted, close; return whether everything was finished in time."""
        if self._is_stopping.is_set():
            return bool(self._is_finished)
        self.close_gently()
        self._deadline_seconds = time.monotonic() + timeout_seconds
        self._is_stopping.set()
        if self._thread.is_alive():
            self._server.pull_trigger()
            self._thread.join(timeout_seconds + 1.0)
        else:
            self._close()
        return bool(self._is_finished)

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            self._poll(_POLL_SECONDS)
        for _ in range(3):  # what the kernel has already accepted for us is ours
            self._poll(0.0)
        wasyncore.dispatcher.close(self._server)  # the listener alone; the trigger still wakes this loop
        while self._busy() and time.monotonic() < self._deadline_seconds:
            self._poll(_DRAIN_POLL_SECONDS)
        self._close()

    def _poll(self, timeout_seconds: float) -> None:
        wasyncore.loop(timeout=timeout_seconds, use_poll=True, map=self._sockets, count=1)

    def _busy(self) -> bool:
        """Whether a connection still has a request in it; those that have none are told to close."""
        channels = list(self._server.active_channels.values())
        for channel in channels:
            if not channel.requests and channel.request is None and not channel.total_outbufs_len:
                channel.will_close = True
        return bool(channels)

    def _close(self) -> None:
        self._is_finished = not self._busy()
        remaining = max(0.0, self._deadline_seconds - time.monotonic())
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=remaining + 0.25)
        wasyncore.close_all(self._sockets, ignore_all=True)
        self._server.trigger.close()


def _channel_class(is_closing: threading.Event) -> type[HTTPChannel]:
    """Return waitress' channel, whose answers say `Connection: close` once `is_closing` is set."""

    class ClosingTask(WSGITask):
        def build_response_header(self) -> bytes:
            if is_closing.is_set():
                self.set_close_on_finish()
            return super().build_response_header()

        def get_environment(self) -> dict[str, Any]:
            return describe(self.request, super().get_environment())

    class ClosingChannel(HTTPChannel):
        task_class = ClosingTask
        error_task_class = RefusalTask

        def send_continue(self) -> None:
            # Asked whether to send a body, waitress says yes even to one that it has refused, and never answers.
            if self.request is not None and self.request.error is None:
                super().send_continue()

    return ClosingChannel
