"""More requests than threads: how many may wait for one, and what those read that are one too many.

Above: `server`, whose channels and threads use it, and `app`, which answers. Below: waitress.
"""

import time
from collections.abc import Mapping
from typing import Any, cast

from waitress.task import ThreadedTaskDispatcher

MESSAGE = "too many requests wait for their turn. Try again in a second, or ask another server."

_ARRIVAL = "convex_scoring.arrival_seconds"
_ONE_TOO_MANY = "convex_scoring.one_too_many"
_OPERATIONS = frozenset({"/healthz", "/readyz", "/metrics", "/monitoring/prometheus/metrics"})


def arrival_seconds(environment: Mapping[str, Any]) -> float | None:
    """Return the monotonic time at which the request was read whole; None under a server that does not say."""
    return environment.get(_ARRIVAL)


def is_one_too_many(environment: Mapping[str, Any]) -> bool:
    """Whether the request came while as many waited as may."""
    return bool(environment.get(_ONE_TOO_MANY))


class Dispatcher(ThreadedTaskDispatcher):
    """Waitress' threads with a bounded queue in front of them, and one thread beside it that is never behind it.

    A request that is one too many is answered by the thread beside, at once; so are the probes of operators, which
    must have their answer most of all when there are many requests. A connection that has not read its last answers
    waits like any other, whatever it asks: who writes to it may be kept.

    Args:
        max_waiting_requests: requests that may wait for a thread.
    """

    def __init__(self, max_waiting_requests: int) -> None:
        super().__init__()
        self._max_waiting_requests = max_waiting_requests
        self._beside = ThreadedTaskDispatcher()

    def set_thread_count(self, count: int) -> None:
        """Start or stop the threads."""
        super().set_thread_count(count)
        self._beside.set_thread_count(1 if count else 0)

    def add_task(self, task: Any) -> None:
        """Let the first request of a channel wait for a thread."""
        request = task.requests[0]
        request.arrival_seconds = time.monotonic()
        is_short = request.error is not None or request.path in _OPERATIONS
        with self.lock:
            num_idle = len(self.threads) - self.stop_count - self.active_count
            request.is_one_too_many = not is_short and len(self.queue) - num_idle >= self._max_waiting_requests
            if not (is_short or request.is_one_too_many) or task.total_outbufs_len:
                self.queue.append(task)  # and no warning for each that waits, as waitress itself would write
                self.queue_cv.notify()
                return
        self._beside.add_task(task)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> None:  # type: ignore[override]  # bool in waitress
        """End the threads."""
        for end in (self._beside.shutdown, super().shutdown):
            cast(Any, end)(cancel_pending, timeout)  # the stubs allow whole seconds alone


def describe(request: Any, environment: dict[str, Any]) -> dict[str, Any]:
    """Write into a WSGI environment what `Dispatcher` noted about its request; return it."""
    environment[_ARRIVAL] = request.arrival_seconds
    environment[_ONE_TOO_MANY] = request.is_one_too_many
    return environment
