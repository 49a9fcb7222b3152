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
    """Note that the message of this thread's call has come, and refuse the call where it runs at the door.

    Raises:
        ResourceExhaustedError: there was no room for it.
    """
    hear = getattr(_door, "hear", None)
    if hear is not None:
        hear()
    error = getattr(_door, "error", None)
    if error is not None:
        raise error


class CallThreads(futures.ThreadPoolExecutor):
    """A fixed number of threads for calls, with a bounded wait in front of them.

    gRPC puts every call into the queue of an executor, without a bound: when there is too much to do each waits there
    until its caller has gone. Here a call that would wait too long goes to a few threads beside, which do nothing but
    tell it so (`raise_if_refused`).

    gRPC gives a call its thread when its head has come, and the thread waits for the message. Where every thread is
    taken, a new call ends those whose message did not come in time: else a few clients that send heads alone would keep
    everybody waiting for ever.

    Args:
        count: threads.
        max_waiting: calls that may wait for one.
        timeout_seconds: time of a call that sets no deadline.
        message_seconds: time for the message of a call that others wait for.

    Thread safety: `submit` may be called from any thread.
    """

    def __init__(self, count: int, max_waiting: int, timeout_seconds: float, message_seconds: float = 10.0) -> None:
        super().__init__(count, thread_name_prefix="grpc")
        self._beside = futures.ThreadPoolExecutor(_DOOR_THREADS, thread_name_prefix="grpc-door")
        self._crowd = Crowd(count + max_waiting, 0)
        self._count = count
        self._timeout_seconds = timeout_seconds
        self._message_seconds = message_seconds
        self._silent: dict[Any, float] = {}  # events of calls whose threads wait for a message -> since when
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> "futures.Future[_Result]":
        """Let a call wait for a thread, or for one that refuses it."""
        event = _event(args)
        timeout_seconds = _remaining_seconds(event, self._timeout_seconds)
        if self._crowd.num_requests >= self._count:
            self._end_silent()
        entered_seconds = time.monotonic()
        try:
            with self._lock:
                self._crowd.check(timeout_seconds)
                self._crowd.enter(0)
        except ResourceExhaustedError as error:
            return self._beside.submit(self._run, event, error, fn, *args, **kwargs)
        future = super().submit(self._run, event, None, fn, *args, **kwargs)
        future.add_done_callback(functools.partial(self._leave, entered_seconds))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads."""
        self._beside.shutdown(wait, cancel_futures=cancel_futures)
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _run(
        self, event: Any, error: ResourceExhaustedError | None, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any
    ) -> _Result:
        _door.error = error
        _door.hear = functools.partial(self._silent.pop, event, None)
        if event is not None:
            self._silent[event] = time.monotonic()
        try:
            return fn(*args, **kwargs)
        finally:
            _door.hear()
            _door.error = _door.hear = None

    def _end_silent(self) -> None:
        latest = time.monotonic() - self._message_seconds
        for event, since_seconds in list(self._silent.items()):
            if since_seconds < latest and self._silent.pop(event, None) is not None:
                event.call.cancel()

    def _leave(self, entered_seconds: float, _future: "futures.Future[Any]") -> None:
        with self._lock:
            self._crowd.leave(0, entered_seconds, time.monotonic())


def _event(args: tuple[Any, ...]) -> Any:
    """Return what gRPC hands over with a call: its details and the means to end it; None where there is no such thing.

    gRPC tells deadlines only to the method, which runs too late.
    """
    return next((argument for argument in args if hasattr(argument, "call_details")), None)


def _remaining_seconds(event: Any, default_seconds: float) -> float:
    """Return how long the caller still waits."""
    deadline = getattr(getattr(event, "call_details", None), "deadline", None)
    if not isinstance(deadline, float):
        return default_seconds
    remaining = deadline - time.time()
    return default_seconds if remaining > _LONGEST_SECONDS else max(0.001, remaining)
