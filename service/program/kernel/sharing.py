"""How many threads may share a large call: no more compute at once than the process has processors for.

Above: `compiled`. A call that is too small to share never comes here.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator


def num_processors() -> int:
    """Return how many processors the calling thread may use: those that it is pinned to, or all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Sharing:
    """Counts the threads of large calls, so that those of one call do not take the processors of another.

    Args:
        limit: tells how many threads may compute at once, asked anew for each call.

    Thread safety: any number of threads may call `threads`.
    """

    def __init__(self, limit: Callable[[], int] = num_processors) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._num_busy = 0

    @contextlib.contextmanager
    def threads(self, most: int) -> Iterator[int]:
        """Yield how many threads may compute in the block, at least one: the caller's own.

        Args:
            most: threads that are worth their start, the caller's included.
        """
        with self._lock:
            number = max(1, min(most, self._limit() - self._num_busy))
            self._num_busy += number
        try:
            yield number
        finally:
            with self._lock:
                self._num_busy -= number
