"""Threads that answer requests, one after the other.

Above: `server`. Below: nothing; how many tasks may wait is decided before, by `crowding`.
"""

import queue
import threading
import time
from collections.abc import Callable

Task = Callable[[], None]


class Threads:
    """A fixed number of threads that run tasks in the order in which they came.

    Args:
        count: how many.
        name: of each.

    Thread safety: `run` may be called from any thread; `start` and `stop` are for the owner.
    """

    def __init__(self, count: int, name: str) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        # Daemons: one that an engine never lets go must not keep the process from ending.
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(count)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def run(self, task: Task) -> None:
        """Let a task wait for its thread. It raises nothing."""
        self._tasks.put(task)

    def stop(self, timeout_seconds: float) -> bool:
        """Run what waits, end the threads; return whether they have ended."""
        deadline = time.monotonic() + timeout_seconds
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # else the last request would be kept while the thread waits
