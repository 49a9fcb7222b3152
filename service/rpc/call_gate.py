"""The door for new calls: closed, it answers UNAVAILABLE, while those that are inside are finished.

Above: `server`, which installs it, and `worker`, which closes it before it stops the server.
"""

import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc

from service.errors import Refusal, UnavailableError

MAX_HELD_REFUSALS = 256
HELD_SECONDS = 0.5
"""Longest time that a refusal is held back."""

_HEALTH = "/grpc.health.v1.Health/"
_MESSAGE = "the server is about to end. Ask another one, or try again later."


class CallGate(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs, not at run time
    """Refuses calls once it is closed.

    `grpc.Server.stop` cancels the calls that have arrived and wait their turn: their callers read CANCELLED, which no
    client tries again. Behind a closed gate they read UNAVAILABLE, and the server is stopped once it is quiet. So that
    it becomes quiet though clients try again at once, a refusal is held back for a moment, on a thread of its own,
    until the server is stopped: what comes then does not arrive. Health is let through: it tells NOT_SERVING.

    Args:
        clock: monotonic seconds.

    Thread safety: every method may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_closed = threading.Event()
        self._last_arrival_seconds = -float("inf")
        self._is_over = threading.Event()
        self._pool = futures.ThreadPoolExecutor(MAX_HELD_REFUSALS, thread_name_prefix="grpc-refusals")
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse_after(self._is_over, self._pool))

    def close(self) -> None:
        """Refuse every call from now on."""
        self._is_closed.set()

    def release(self) -> None:
        """Hold no refusal back any more: the server is told to stop, and what had arrived by then is still refused."""
        self._is_over.set()

    def end(self) -> None:
        """End the threads of refusals, once the server has ended: its own thread dies of a call it cannot hand on.

        A call that had arrived when the server was told to stop reaches the gate after that.
        """
        self._pool.shutdown(wait=False)

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


def _refuse_after(is_over: threading.Event, pool: futures.ThreadPoolExecutor) -> Callable[..., Any]:
    def refuse(_data: bytes, _context: grpc.ServicerContext) -> Any:
        is_over.wait(HELD_SECONDS)
        raise UnavailableError(_MESSAGE, refusal=Refusal.DRAINING)

    refuse.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return refuse
