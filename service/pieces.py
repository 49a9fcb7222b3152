"""Requests, the pieces of them that stand together in a batch, and the way there and back.

Above: `fair_queue`, `batcher`. Below: `caller`, `batch_statistics`.
"""

import dataclasses
import queue
import threading
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from service.batch_statistics import Depth
from service.caller import Caller

Outputs = dict[str, NDArray[np.float32]]


class Request:
    """The rows of one request on their way.

    Args:
        rows: float32 [n, dim].
        caller: who waits for them.
        now_seconds: monotonic time at which they came.
        ended: where the request is put when its answer is there, for one who waits for several; None: somebody waits
            for this one alone, by `ready`.
    """

    def __init__(
        self,
        rows: NDArray[np.float32],
        caller: Caller,
        now_seconds: float,
        ended: "queue.SimpleQueue[Request] | None" = None,
    ) -> None:
        self.rows = rows
        self.caller = caller
        self.num_rows = rows.shape[0]
        self.submitted_seconds = now_seconds
        self.num_taken = 0
        self.num_done = 0
        self.is_alone = False
        """Whether it is computed in batches of its own, because a batch that it was in failed."""
        self.was_held_by_dead_thread = False
        self.outputs: Outputs = {}
        self.error: Exception | None = None
        self.is_over = False
        self._ended = ended
        self.ready = threading.Lock()
        """Held until the answer is there."""
        self.ready.acquire()

    def announce(self) -> None:
        """Tell who waits that the answer is there."""
        if self._ended is None:
            self.ready.release()
        else:
            self._ended.put(self)

    def outcome(self) -> Outputs:
        """Return the outputs when the answer is there, or raise what came instead of them; for once.

        Raises:
            ScoringError: as `Batcher.submit`.
            Exception: what the engine raised on the rows.
        """
        error, self.error = self.error, None
        if error is None:
            return self.outputs
        try:
            raise error
        finally:
            del error  # else its traceback and this frame would keep each other, and the rows, alive

    def note_wait(self, now_seconds: float) -> float:
        """Note for the caller, and return, how long it waited until its first row is computed: now."""
        self.caller.queue_seconds = now_seconds - self.submitted_seconds
        return self.caller.queue_seconds

    def note_computed(self, now_seconds: float) -> None:
        """Note for the caller how long its rows were computed."""
        self.caller.compute_seconds = now_seconds - self.submitted_seconds - (self.caller.queue_seconds or 0.0)


def depth_of(requests: Collection[Request], now_seconds: float) -> Depth:
    """Return how much a collection of requests is, which others may be changing."""
    try:
        copied = tuple(requests)
    except RuntimeError:  # one came or went in the middle of the copy
        return Depth(0, len(requests), 0.0)
    rows = sum(request.num_rows for request in copied)
    oldest_seconds = max((now_seconds - request.submitted_seconds for request in copied), default=0.0)
    return Depth(rows, len(copied), oldest_seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Rows `start` to `stop` of a request, which stand together in one batch."""

    request: Request
    start: int
    stop: int


def join(pieces: Sequence[Piece]) -> NDArray[np.float32]:
    """Return the rows of a batch, float32 [n, dim]; those of a single piece are not copied."""
    rows = [piece.request.rows[piece.start : piece.stop] for piece in pieces]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def split(pieces: Sequence[Piece], outputs: Outputs) -> list[tuple[Piece, Outputs]]:
    """Return each piece of a batch with its own part of the batch's outputs, views of them.

    Raises:
        ValueError: an output has more or fewer rows than the batch.
    """
    stops = np.cumsum([piece.stop - piece.start for piece in pieces]).tolist()
    for name, values in outputs.items():
        if values.shape[0] != stops[-1]:
            message = f"the engine answered {values.shape[0]} rows of {name}, expected {stops[-1]}"
            raise ValueError(message)
    return [
        (piece, {name: values[start:stop] for name, values in outputs.items()})
        for piece, start, stop in zip(pieces, [0, *stops], stops, strict=False)
    ]


def keep(piece: Piece, outputs: Outputs) -> None:
    """Put the outputs of a piece in their place among the request's; twice does no harm."""
    request = piece.request
    if piece.stop - piece.start == request.num_rows:
        request.outputs = outputs
    else:
        for name, values in outputs.items():
            if name not in request.outputs:
                request.outputs[name] = np.empty((request.num_rows, *values.shape[1:]), values.dtype)
            request.outputs[name][piece.start : piece.stop] = values
    request.num_done = piece.stop
