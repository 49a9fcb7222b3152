"""Threads that compute and the thread that refuses on processors of their own, for as long as requests are refused.

Above: `rest.edge`, whose loop refuses, and `batcher`. Below: nothing. Left to itself the system puts the loop, woken
thousands of times a second, now here and now there beside a thread that computes, whose processor it then shares while
another one is idle: of two processors such a thread was measured to have one for .83 of the time, and for .90 apart.
"""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator

CALM_SECONDS = 1.0
"""So long after the last refusal every thread may run everywhere again."""

_SHARE_OF_REFUSALS = 4

Place = Callable[[Collection[int]], None]


def _place_thread(processors: Collection[int]) -> None:
    with contextlib.suppress(OSError):  # a processor was taken from us: the system places the thread
        os.sched_setaffinity(0, processors)


class Apart:
    """Two groups of processors: a quarter, at least one, for the thread that refuses, the others for computing.

    Nothing happens where there is one processor alone, where nothing is refused, and to more threads that compute at
    once than their group has processors.

    Args:
        processors: those that the process may use.
        place: lets the calling thread run on these alone.
        clock: monotonic seconds.

    Thread safety: `refused` and `look` are for the thread that refuses; `computing` may be used by any other.
    """

    def __init__(
        self,
        processors: Collection[int],
        place: Place = _place_thread,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        ordered = sorted(processors)
        num_refusing = max(1, len(ordered) // _SHARE_OF_REFUSALS)
        self._all = tuple(ordered)
        self._refusing, self._computing = self._all[-num_refusing:], self._all[:-num_refusing]
        self._place = place
        self._clock = clock
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._num_computing = 0
        self._is_apart = False
        self._calm_seconds = 0.0

    def refused(self) -> None:
        """Note that the calling thread has refused a request."""
        if self._computing:
            self._calm_seconds = self._clock() + CALM_SECONDS
            self._is_apart = True
            self._put(self._refusing)

    def look(self) -> None:
        """Let the calling thread, which refuses no more, run everywhere again; called once in a while."""
        if self._is_apart and self._clock() >= self._calm_seconds:
            self._is_apart = False
            self._put(self._all)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Let the calling thread keep to its group in the block, while requests are refused."""
        with self._lock:
            self._num_computing += 1
            fits = self._num_computing <= len(self._computing)
        try:
            self._put(self._computing if self._is_apart and fits else self._all)
            yield
        finally:
            with self._lock:
                self._num_computing -= 1

    def _put(self, processors: tuple[int, ...]) -> None:
        if getattr(self._thread, "processors", self._all) is not processors:
            self._place(processors)
            self._thread.processors = processors


@functools.cache
def of_process() -> Apart:
    """Return what all loops and batch threads of this process share: the processors that it may use when first asked.

    On a system that places threads alone it does nothing.
    """
    return Apart(os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else ())
