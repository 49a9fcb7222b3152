"""Threads that answer requests, one after the other.

Above: `server`. Below: nothing; how many tasks may wait is decided before, by `crowding`.
"""

import collections
import threading
import time
from collections.abc import Callable

Task = Callable[[], None]


class _Idle:
    """A thread that waits for a task."""

    __slots__ = ("is_called", "task")

    def __init__(self) -> None:
        self.task: Task | None = None
        self.is_called = threading.Lock()  # held while it waits
        self.is_called.acquire()


class Threads:
    """A fixed number of threads that run tasks in the order in which they came.

    The thread that was idle for the shortest time is called first: its stack and what it worked with are still in the
    processor's cache. While little is asked, few of the threads ever run.

    Args:
        count: how many.
        name: of each.

    Thread safety: `run` may be called from any thread; `start` and `stop` are for the owner.
    """

    def __init__(self, count: int, name: str) -> None:
        self._lock = threading.Lock()
        self._tasks: collections.deque[Task] = collections.deque()  # for which no thread is idle
        self._idle: list[_Idle] = []
        self._is_stopping = False
        # Daemons: one that an engine never lets go must not keep the process from ending.
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(count)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def run(self, task: Task) -> None:
        """Let a task wait for its thread. It raises nothing."""
        with self._lock:
            if not self._idle:
                self._tasks.append(task)
                return
            called = self._idle.pop()
        called.task = task
        called.is_called.release()

    def stop(self, timeout_seconds: float) -> bool:
        """Run what waits, end the threads; return whether they have ended."""
        deadline = time.monotonic() + timeout_seconds
        with self._lock:
            self._is_stopping = True
            idle, self._idle = self._idle, []
        for called in idle:
            called.is_called.release()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        me = _Idle()
        while (task := self._next(me)) is not None:
            task()
            del task  # else the last request would be kept while the thread waits

    def _next(self, me: _Idle) -> Task | None:
        """Return a task, as soon as there is one; None where none will come."""
        with self._lock:
            if self._tasks:
                return self._tasks.popleft()
            if self._is_stopping:
                return None
            self._idle.append(me)
        me.is_called.acquire()
        task, me.task = me.task, None
        return task
