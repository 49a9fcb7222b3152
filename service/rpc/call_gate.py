"""The door for new calls: closed, it answers UNAVAILABLE, while those that are inside are finished.

Above: `server`, which installs it, and `worker`, which closes it before it stops the server.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from service.errors import Refusal, UnavailableError

_HEALTH = "/grpc.health.v1.Health/"
_MESSAGE = "the server is about to end. Ask another one, or try again later."


class CallGate(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs, not at run time
    """Refuses calls once it is closed.

    `grpc.Server.stop` cancels the calls that have arrived and wait their turn: their callers read CANCELLED, which no
    client tries again. Behind a closed gate they read UNAVAILABLE, and the server is stopped once it is quiet. Health
    is let through: it tells NOT_SERVING.

    Args:
        clock: monotonic seconds.

    Thread safety: every method may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_closed = threading.Event()
        self._last_arrival_seconds = -float("inf")
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    def close(self) -> None:
        """Refuse every call from now on."""
        self._is_closed.set()

    def wait_until_quiet(self, quiet_seconds: float, timeout_seconds: float) -> bool:
        """Wait until no call has arrived for `quiet_seconds`; return whether that came within the time."""
        deadline = self._clock() + timeout_seconds
        pause = threading.Event()
        while True:
            remaining = self._last_arrival_seconds + quiet_seconds - self._clock()
            if remaining <= 0.0:
                return True
            if self._clock() + remaining > deadline:
                return False
            pause.wait(remaining)

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the handler of a call, or, once closed, one that refuses it."""
        if handler_call_details.method.startswith(_HEALTH):
            return continuation(handler_call_details)
        self._last_arrival_seconds = self._clock()
        return self._refusal if self._is_closed.is_set() else continuation(handler_call_details)


def _refuse(_data: bytes, _context: grpc.ServicerContext) -> Any:
    raise UnavailableError(_MESSAGE, refusal=Refusal.DRAINING)
