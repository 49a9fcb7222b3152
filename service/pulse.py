"""Whether what computes still lives: an engine that hangs, a batch thread that dies again and again.

Above: `batcher`, which notes what happens and has one. Below: nothing.
"""

import collections
from collections.abc import Callable

HUNG_SECONDS = 30.0
"""An engine that computes one batch for longer than this hangs; nothing but a new process helps."""

RESTLESS_SECONDS = 60.0
"""A batch thread is replaced as often as it dies; two deaths within this time are more than an accident."""


class Pulse:
    """What a batcher's engine and thread did last.

    Args:
        name: of the batcher.
        clock: monotonic seconds.

    Thread safety: `begin`, `end` and `die` are for one thread at a time; `trouble` may be called from any, and waits
    for nobody.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._began_seconds: float | None = None
        self._deaths_seconds: collections.deque[float] = collections.deque(maxlen=2)

    def begin(self, now_seconds: float) -> None:
        """Note that the engine begins to compute."""
        self._began_seconds = now_seconds

    def end(self) -> None:
        """Note that the engine computes no more."""
        self._began_seconds = None

    def die(self) -> None:
        """Note that the thread died."""
        self._deaths_seconds.append(self._clock())

    def trouble(self) -> str:
        """Return what only a new process can mend, as a sentence; empty where all is well."""
        now, began, deaths = self._clock(), self._began_seconds, tuple(self._deaths_seconds)
        if began is not None and now - began > HUNG_SECONDS:
            return f"{self._name}: the engine has computed one batch for {now - began:.0f} s"
        if len(deaths) > 1 and now - deaths[0] < RESTLESS_SECONDS:
            return f"{self._name}: its thread died twice within {RESTLESS_SECONDS:.0f} s"
        return ""
