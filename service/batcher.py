"""Rows of many requests to one batch, and the answers back to their owners.

Above: `model_version`, which has one for each set of outputs. Below: `fair_queue` (whose turn it is), `admission` (how
much may wait), `caller` (who waits, and until when).
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import structlog
from numpy.typing import NDArray

from service import apart
from service.admission import Room
from service.batch_statistics import BatchStatistics, Depth
from service.caller import Caller, closed, drop_reason
from service.errors import InternalError, ScoringError
from service.fair_queue import FairQueue, Limits
from service.pieces import Outputs, Piece, Request, depth_of, join, keep, split
from service.pulse import Pulse

Run = Callable[[NDArray[np.float32]], Outputs]

WATCH_SECONDS = 0.1
"""Longest time until a waiting request looks whether the batch thread still lives."""

_USUAL_LIMITS = Limits()
_IDLE_SECONDS = 5.0
_CALM_BATCHES = 3
_SMOOTHING = 0.1


class Batcher:
    """Computes the rows of many requests together: natural batching, without a timer.

    A thread takes what waits the moment it is free; what comes meanwhile is its next batch. While requests come one at
    a time there is no thread in between: each is computed on its caller's.

    Guarantees: every row is answered once, in order, to its owner. A failure of the engine ends only the request whose
    rows caused it: the requests of a batch that failed are computed again, each alone. Rows whose deadline has passed,
    or whose caller went away, when their turn comes are never computed. A dead batch thread is replaced, and what it
    held is computed again, each request alone and at most once; the waiting requests watch over it, so that nobody
    waits without bound while the engine comes back. One that does not is told of by `pulse`.

    Args:
        run: float32 [n, dim] -> output name -> float32 array of n rows. Called by one thread at a time.
        room: bounds what waits; shared with the version's other batchers.
        limits: sizes of batches.
        statistics: counts.
        clock: monotonic seconds.
        name: of the thread.

    Thread safety: every method may be called from any thread.
    """

    def __init__(
        self,
        run: Run,
        room: Room,
        *,
        limits: Limits = _USUAL_LIMITS,
        statistics: BatchStatistics | None = None,
        clock: Callable[[], float] = time.monotonic,
        name: str = "batcher",
    ) -> None:
        self._statistics = statistics or BatchStatistics()
        self._run = self._statistics.timed(run)
        self._room = room
        self._share = room.open_share()
        self._limits = limits
        self._clock = clock
        self._name = name
        self.pulse = Pulse(name, clock)
        self._apart = apart.of_process()
        self._lock = threading.Lock()
        self._queue = FairQueue(limits.max_batch_rows, limits.turn_rows)
        self._open: dict[Request, None] = {}  # all that were let in and are not answered
        self._batch: list[Piece] = []  # what the thread computes
        self._here: Request | None = None  # what a caller computes on its own thread
        self._num_calm_batches = _CALM_BATCHES  # since two requests met
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_woken = False
        self._statistics.watch(self.depth)

    # ---------------------------------------------------------------------------------------- on the caller's thread
    def submit(self, rows: NDArray[np.float32], caller: Caller) -> Outputs:
        """Return the outputs of `rows`; blocks until they are there, the deadline passes or the caller goes away.

        Args:
            rows: float32 [n, dim]; not to be changed meanwhile.
            caller: until when, and for whom.

        Raises:
            ResourceExhaustedError: the queue is full.
            DeadlineExceededError: the deadline passed first; not once the rows are computed on the caller's own thread,
                which is the engine's until they are done.
            CancelledError: the caller went away first; likewise.
            UnavailableError: the version has left.
            Exception: what the engine raised on these rows.
        """
        if rows.shape[0] == 0:
            return self._run(rows)
        request = Request(rows, caller, self._clock())
        with self._lock:
            self._let_in(request)
            runs_here = self._may_run_here(request)
            if runs_here:
                self._here = request
                self.pulse.begin(request.submitted_seconds)
            else:
                self._queue.add(request)
                self._call_thread()
        return self._run_here(request) if runs_here else self._wait(request)

    def _let_in(self, request: Request) -> None:
        late = request.caller.lateness(self._clock())
        if self._is_closed or late is not None:
            self._statistics.count_dropped(drop_reason(late), request.num_rows)
            raise late or closed()
        self._room.enter(self._share, request.num_rows, request.rows.nbytes)
        self._open[request] = None

    def _may_run_here(self, request: Request) -> bool:
        return (
            self._num_calm_batches >= _CALM_BATCHES
            and len(self._open) == 1
            and not self._batch
            and request.num_rows <= self._limits.max_batch_rows
        )

    def _run_here(self, request: Request) -> Outputs:
        """Compute a request that came alone."""
        try:
            self._statistics.count_batch(request.num_rows, (0.0,))
            request.note_wait(request.submitted_seconds)
            return self._run(request.rows)
        except BaseException as err:
            self._statistics.count_failed_batch()
            if isinstance(err, Exception | KeyboardInterrupt):
                raise
            # A transport's border passes it on, and its caller would wait for ever.
            raise InternalError(f"the engine ended with {type(err).__name__}") from err
        finally:
            with self._lock:
                self._here = None
                self.pulse.end()
                self._note_time(request.num_rows, request.submitted_seconds)
                self._end(request)
                if self._queue:
                    self._num_calm_batches = 0
                    self._call_thread()

    def _wait(self, request: Request) -> Outputs:
        request.caller.on_cancel(lambda: self._give_up(request))
        while not request.is_over:
            remaining = request.caller.deadline_seconds - self._clock()
            if request.ready.acquire(timeout=max(0.0, min(remaining, WATCH_SECONDS))):
                break
            if remaining <= 0.0:
                self._give_up(request)
            else:
                self._watch()
        request.caller.on_cancel(None)
        return request.outcome()

    def begin(self, rows: NDArray[np.float32], caller: Caller, ended: "queue.SimpleQueue[Request]") -> Request:
        """Let `rows` wait for their turn and return at once; the request is put into `ended` when its answer is there.

        Whoever waits for it calls `look` every `WATCH_SECONDS`, and as soon as the deadline has passed, as `submit`
        does for its own caller; then the request's `outcome`.

        Args:
            rows: float32 [n, dim], at least one; not to be changed meanwhile.
            caller: until when, and for whom; one that goes away is noticed when its rows have their turn.
            ended: of the requests that are waited for together.

        Raises:
            ResourceExhaustedError: the queue is full.
            DeadlineExceededError: the deadline has passed.
            UnavailableError: the version has left.
        """
        request = Request(rows, caller, self._clock(), ended)
        with self._lock:
            self._let_in(request)
            self._queue.add(request)
            self._call_thread()
        return request

    def look(self, request: Request) -> None:
        """Give a request up whose deadline has passed; else see to it that the batch thread lives."""
        if request.caller.lateness(self._clock()) is None:
            self._watch()
        else:
            self._give_up(request)

    def _give_up(self, request: Request) -> None:
        """Answer a request for which nobody waits; nothing happens to one that has its answer."""
        with self._lock:
            late = request.caller.lateness(self._clock())
            if late is not None and request in self._open:
                self._drop(request, late)

    def _watch(self) -> None:
        """Replace the batch thread if it is dead; called by whoever waits."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._replace_thread()

    def refuse_waiting(self) -> None:
        """Refuse what waits and what comes, and do not wait for the batch that is computed."""
        with self._lock:
            self._is_closed = True
            computed = {piece.request for piece in self._batch}
            for request in [request for request in self._queue if request not in computed]:
                self._drop(request, closed())

    def close(self, timeout_seconds: float = 1.0) -> bool:
        """Refuse what waits and what comes, finish the batch that is computed, end the thread.

        Args:
            timeout_seconds: longest wait for the thread.

        Returns:
            Whether the thread has ended.
        """
        self.refuse_waiting()
        thread = self._thread
        self._wakes.put(None)
        if thread is not None:
            thread.join(timeout_seconds)
        self._statistics.forget(self.depth)
        return thread is None or not thread.is_alive()

    def depth(self) -> Depth:
        """Return what waits or is computed now. Takes no lock: for those who look on."""
        return depth_of(self._open, self._clock())

    # ------------------------------------------------------------------------------------------------- batch thread
    def _work(self) -> None:
        try:
            while self._step():
                pass
        except BaseException as error:  # noqa: BLE001  # the batch thread's border: log, and let a successor answer
            structlog.get_logger().error("the batch thread died; it is replaced", batcher=self._name, exc_info=error)
        with self._lock:
            if threading.current_thread() is self._thread and not self._is_ended():
                self._replace_thread()

    def _step(self) -> bool:
        pieces = self._take()
        if pieces:
            with self._apart.computing():
                self._compute(pieces)
        elif self._is_ended():
            return False
        else:
            with contextlib.suppress(queue.Empty):
                self._wakes.get(timeout=_IDLE_SECONDS)
        return True

    def _is_ended(self) -> bool:
        return self._is_closed and not self._queue and not self._batch

    def _take(self) -> list[Piece]:
        with self._lock:
            self._is_woken = False
            if self._here is not None:
                return []  # its caller wakes us
            now = self._clock()
            pieces = self._batch = self._queue.take(self._is_wanted)
            self._num_calm_batches = self._num_calm_batches + 1 if len(self._open) <= 1 else 0
        if pieces:
            self.pulse.begin(now)
            waits = [piece.request.note_wait(now) for piece in pieces if piece.start == 0]
            self._statistics.count_batch(sum(piece.stop - piece.start for piece in pieces), waits)
        return pieces

    def _is_wanted(self, request: Request) -> bool:
        late = request.caller.lateness(self._clock())
        if late is not None:
            self._drop(request, late)
        return late is None

    def _compute(self, pieces: list[Piece]) -> None:
        rows = join(pieces)
        started = self._clock()
        try:
            parts = split(pieces, self._run(rows))
        except Exception as error:  # noqa: BLE001  # the batch thread's border: the owner of the row raises it
            with self._lock:
                self._fail(pieces, error)
                self._batch = []
                self.pulse.end()
            return
        with self._lock:
            self._note_time(rows.shape[0], started)
            self._deliver(parts)
            self._batch = []
            self.pulse.end()

    # ----------------------------------------------------------------------------------------------- under the lock
    def _deliver(self, parts: Iterable[tuple[Piece, Outputs]]) -> None:
        for piece, outputs in parts:
            request = piece.request
            if request in self._open:
                keep(piece, outputs)
                if request.num_done == request.num_rows:
                    self._end(request)

    def _fail(self, pieces: list[Piece], error: Exception) -> None:
        self._statistics.count_failed_batch()
        owners = {piece.request: None for piece in pieces}
        requests = [request for request in owners if request in self._open]
        if len(owners) == 1:  # not `requests`: the guilty one may have been dropped meanwhile
            for request in requests:
                self._end(request, error)
            return
        structlog.get_logger().warning(
            "a batch failed; its requests are computed one by one",
            batcher=self._name,
            num_requests=len(requests),
            exc_info=error,
        )
        self._put_back(requests)

    def _put_back(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._queue.remove(request)
            request.num_taken = request.num_done
            request.is_alone = True
            self._queue.add(request)

    def _replace_thread(self) -> None:
        """Start a successor, and make everything again from what is not answered: it may have died anywhere."""
        if self._thread is not None:
            self._statistics.count_thread_replaced()
            self.pulse.die()
            self._thread = None
        if self._here is None:
            self.pulse.end()
        held, self._batch = {piece.request for piece in self._batch}, []
        self._open = {request: None for request in self._open if not request.is_over}
        self._queue.clear()
        for request in [request for request in self._open if request is not self._here]:
            if request in held and request.was_held_by_dead_thread:
                self._end(request, InternalError("the batch thread died twice with this request"))
            elif self._is_closed:
                self._drop(request, closed())
            else:
                if request in held:
                    request.is_alone = request.was_held_by_dead_thread = True
                request.num_taken = request.num_done
                self._queue.add(request)
        self._share.num_rows = sum(request.num_rows for request in self._open)
        self._share.num_bytes = sum(request.rows.nbytes for request in self._open)
        if self._queue:
            self._call_thread()

    def _call_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                structlog.get_logger().exception("no batch thread can be started now", batcher=self._name)
                return  # who waits tries again
            self._thread = thread
        elif not self._is_woken and not self._batch and self._here is None:
            self._is_woken = True
            self._wakes.put(None)

    def _drop(self, request: Request, error: ScoringError) -> None:
        self._statistics.count_dropped(drop_reason(error), request.num_rows - request.num_taken)
        self._end(request, error)

    def _end(self, request: Request, error: Exception | None = None) -> None:
        """Answer a request, once."""
        request.error = error
        if error is None:
            request.note_computed(self._clock())
        request.is_over = True
        del self._open[request]
        self._queue.remove(request)  # one that failed may have rows that were not taken
        self._share.num_rows -= request.num_rows
        self._share.num_bytes -= request.rows.nbytes
        request.announce()

    def _note_time(self, num_rows: int, started_seconds: float) -> None:
        seconds = (self._clock() - started_seconds) / num_rows
        self._share.seconds_per_row += _SMOOTHING * (seconds - self._share.seconds_per_row)
