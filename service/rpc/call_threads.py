"""The threads that answer calls, and the door in front of them.

Above: `server`, whose gRPC server submits every call here. Below: `crowding`, which says whether one has room.
"""

import functools
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

from service.crowding import Crowd
from service.errors import ResourceExhaustedError

_Result = TypeVar("_Result")

_DOOR_THREADS = 4
_LONGEST_SECONDS = 1e9

_door = threading.local()


def raise_if_refused() -> None:
    """Refuse the call that this thread answers, where it runs at the door.

    Raises:
        ResourceExhaustedError: there was no room for it.
    """
    error = getattr(_door, "error", None)
    if error is not None:
        raise error


class CallThreads(futures.ThreadPoolExecutor):
    """A fixed number of threads for calls, with a bounded wait in front of them.

    gRPC puts every call into the queue of an executor, without a bound: when there is too much to do each waits there
    until its caller has gone. Here a call that would wait too long goes to a few threads beside, which do nothing but
    tell it so (`raise_if_refused`).

    Args:
        count: threads.
        max_waiting: calls that may wait for one.
        timeout_seconds: time of a call that sets no deadline.

    Thread safety: `submit` may be called from any thread.
    """

    def __init__(self, count: int, max_waiting: int, timeout_seconds: float) -> None:
        super().__init__(count, thread_name_prefix="grpc")
        self._beside = futures.ThreadPoolExecutor(_DOOR_THREADS, thread_name_prefix="grpc-door")
        self._crowd = Crowd(count + max_waiting, 0)
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> "futures.Future[_Result]":
        """Let a call wait for a thread, or for one that refuses it."""
        timeout_seconds = _remaining_seconds(args, self._timeout_seconds)
        entered_seconds = time.monotonic()
        try:
            with self._lock:
                self._crowd.check(timeout_seconds)
                self._crowd.enter(0)
        except ResourceExhaustedError as error:
            return self._beside.submit(_run_refused, error, fn, args, kwargs)
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(functools.partial(self._leave, entered_seconds))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads."""
        self._beside.shutdown(wait, cancel_futures=cancel_futures)
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _leave(self, entered_seconds: float, _future: "futures.Future[Any]") -> None:
        with self._lock:
            self._crowd.leave(0, entered_seconds, time.monotonic())


def _run_refused(
    error: ResourceExhaustedError, fn: Callable[..., _Result], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> _Result:
    _door.error = error
    try:
        return fn(*args, **kwargs)
    finally:
        _door.error = None


def _remaining_seconds(args: tuple[Any, ...], default_seconds: float) -> float:
    """Return how long the caller still waits.

    gRPC tells it only to the method, which runs too late; but the event that stands among the arguments has it.
    """
    for argument in args:
        deadline = getattr(getattr(argument, "call_details", None), "deadline", None)
        if isinstance(deadline, float):
            remaining = deadline - time.time()
            return default_seconds if remaining > _LONGEST_SECONDS else max(0.001, remaining)
    return default_seconds
