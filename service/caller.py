"""Who waits for an answer: until when, and whether still.

Above: the transports, which make a caller of each request. Below: nothing; the batcher asks it.
"""

import math
from collections.abc import Callable, Hashable


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
