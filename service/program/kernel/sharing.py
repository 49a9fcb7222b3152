"""Threads that share one large call: no more compute at once than the process has processors for.

Above: `compiled`. A call that is too small to share never comes here.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def num_processors() -> int:
    """Return how many processors the calling thread may use: those that it is pinned to, or all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Sharing:
    """Lets several threads do one piece of work, as many as are free.

    Threads are started for each piece and end with it: that takes 0.1 ms, leaves nothing behind, and needs no care when
    the process forks.

    Args:
        limit: tells how many threads may compute at once, asked anew for each piece of work.

    Thread safety: `run` may be called by any number of threads; each counts as one that computes.
    """

    def __init__(self, limit: Callable[[], int] = num_processors) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._num_busy = 0

    def run(self, work: Callable[[int], None], most: int) -> None:
        """Call `work` on this thread and at the same time on as many others as are free; return when all have ended.

        Args:
            work: does what is left to do, in pieces that it takes one after the other; told how many threads do it.
            most: threads that are worth their start, this one included.
        """
        with self._lock:
            others = max(0, min(most, self._limit() - self._num_busy) - 1)
            self._num_busy += 1 + others
        try:
            if others == 0:
                work(1)
                return
            with ThreadPoolExecutor(others, "kernel") as pool:
                started = [pool.submit(work, 1 + others) for _ in range(others)]
                work(1 + others)
            for each in started:
                each.result()
        finally:
            with self._lock:
                self._num_busy -= 1 + others
