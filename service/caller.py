"""Who waits for an answer: until when, and whether still.

Above: the transports, which make a caller of each request, and the batcher, which asks it. Below: `errors`.
"""

import math
from collections.abc import Callable, Hashable

from service.errors import CancelledError, DeadlineExceededError, ScoringError, UnavailableError


class Caller:
    """The one who waits for the answer of one request.

    Args:
        deadline_seconds: monotonic time from which nobody waits any more; infinity where there is no deadline.
        client: whom to be fair to: requests of one client share its turns. Any hashable value.

    Thread safety: `cancel` may be called from any thread, any number of times; the rest is for the request's thread.
    """

    def __init__(self, deadline_seconds: float = math.inf, client: Hashable = None) -> None:
        self.deadline_seconds = deadline_seconds
        self.client = client
        self.queue_seconds: float | None = None
        """Time until the first row was computed, noted by the batcher; None until it is."""
        self.compute_seconds: float | None = None
        """Time from then on until the answer was there, noted by the batcher; None until it is."""
        self._is_cancelled = False
        self._tell: Callable[[], None] | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller went away."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Note that the caller went away, and tell who asked to be told."""
        self._is_cancelled = True
        tell = self._tell
        if tell is not None:
            tell()

    def on_cancel(self, tell: Callable[[], None] | None) -> None:
        """Call `tell` when the caller goes away, at once where it has gone already, possibly twice; None: nobody."""
        self._tell = tell
        if self._is_cancelled and tell is not None:
            tell()

    def lateness(self, now_seconds: float) -> ScoringError | None:
        """Return why nobody waits any more at a monotonic time; None while somebody does."""
        if now_seconds >= self.deadline_seconds:
            return DeadlineExceededError("the deadline passed before the rows were computed. Allow more time.")
        return CancelledError("the caller went away.") if self._is_cancelled else None


def closed() -> UnavailableError:
    """Return what those read who wait for a version that leaves."""
    return UnavailableError("the version that was asked is no longer served. Try again.")


def drop_reason(error: ScoringError | None) -> str:
    """Return under which of `DROP_REASONS` rows are counted that are dropped with an error; None: as `closed`."""
    if isinstance(error, DeadlineExceededError):
        return "deadline"
    return "cancelled" if isinstance(error, CancelledError) else "closed"
