"""What batchers count: plain numbers, so that a request pays a fraction of a microsecond for them.

Above: `batcher` counts into it, `metrics` renders it. Below: nothing.
"""

import bisect
import dataclasses
import threading
import time
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

_Run = TypeVar("_Run", bound=Callable[[Any], Any])

ROW_BUCKETS = tuple(float(1 << power) for power in range(13))
"""Upper bounds of the batch sizes, in rows: 1, 2, 4 ... 4096."""

WAIT_BUCKETS_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the waiting times, in seconds."""

COMPUTE_BUCKETS_SECONDS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025),
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
"""Upper bounds of the times that a batch takes, in seconds."""

DROP_REASONS = ("deadline", "cancelled", "closed")
"""Why rows were not computed: nobody waits for them any more, the caller went away, the version left."""


class Depth(NamedTuple):
    """What waits or is computed at a moment: rows, requests, and the age of the oldest."""

    num_rows: int = 0
    num_requests: int = 0
    oldest_seconds: float = 0.0


@dataclasses.dataclass
class Distribution:
    """Counts of values by bucket.

    Args:
        bounds: upper bounds of the buckets, ascending; one more bucket takes what is above.
    """

    bounds: tuple[float, ...]
    counts: list[int] = dataclasses.field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        """Begin with nothing counted."""
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.counts)


class BatchStatistics:
    """The counts of the batchers of one version for one set of outputs.

    Thread safety: every method may be called from any thread; who reads takes no lock that a request needs.
    """

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._lock = threading.Lock()
        self.batch_rows = Distribution(ROW_BUCKETS)
        self.wait_seconds = Distribution(WAIT_BUCKETS_SECONDS)
        self.compute_seconds = Distribution(COMPUTE_BUCKETS_SECONDS)
        self._watched: tuple[Callable[[], Callable[[], Depth] | None], ...] = ()
        self.dropped_rows = dict.fromkeys(DROP_REASONS, 0)
        self.num_failed_batches = 0
        self.num_threads_replaced = 0

    def count_batch(self, num_rows: int, waits_seconds: Sequence[float]) -> None:
        """Count one batch and the time that each request whose first rows are in it had waited."""
        with self._lock:
            self.batch_rows.add(num_rows)
            for seconds in waits_seconds:
                self.wait_seconds.add(seconds)

    def timed(self, run: _Run) -> _Run:
        """Return `run`, with the time of each of its calls counted."""

        def run_timed(rows: Any) -> Any:
            started = time.perf_counter()
            try:
                return run(rows)
            finally:
                seconds = time.perf_counter() - started
                with self._lock:
                    self.compute_seconds.add(seconds)

        return run_timed  # type: ignore[return-value]  # the same form as `run`

    @property
    def depth(self) -> Depth:
        """What waits or is computed now, at all the batchers that are watched."""
        depths = [read() for read in [reference() for reference in self._watched] if read is not None]
        return Depth(
            sum(depth.num_rows for depth in depths),
            sum(depth.num_requests for depth in depths),
            max((depth.oldest_seconds for depth in depths), default=0.0),
        )

    @property
    def waiting_rows(self) -> int:
        """Rows that wait or are computed now."""
        return self.depth.num_rows

    def watch(self, read: Callable[[], Depth]) -> None:
        """Let `read` say what waits at a batcher, whenever somebody asks; it must wait for nothing itself.

        A method does not keep its object alive.
        """
        reference = weakref.WeakMethod(read) if isinstance(read, types.MethodType) else lambda: read
        with self._lock:
            self._watched = (*self._watched, reference)

    def forget(self, read: Callable[[], Depth]) -> None:
        """Ask that batcher no more; nothing happens where it is not known."""
        with self._lock:
            self._watched = tuple(reference for reference in self._watched if reference() not in {None, read})

    def count_dropped(self, reason: str, num_rows: int) -> None:
        """Count rows that were not computed, by one of `DROP_REASONS`."""
        with self._lock:
            self.dropped_rows[reason] += num_rows

    def count_failed_batch(self) -> None:
        """Count a batch that the engine failed on."""
        with self._lock:
            self.num_failed_batches += 1

    def count_thread_replaced(self) -> None:
        """Count a batch thread that died and got a successor."""
        with self._lock:
            self.num_threads_replaced += 1
