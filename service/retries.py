"""When a version that did not load is tried again: after a growing pause, or once its files are others.

Above: `watcher`. Below: nothing. Pure: the time is a parameter.
"""

import dataclasses
import math

_FIRST_PAUSE_SECONDS = 1.0
_LAST_PAUSE_SECONDS = 60.0

Fingerprint = tuple[object, ...]
"""Of a version's files; another one means that they changed."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    fingerprint: Fingerprint
    retry_at_seconds: float
    num_attempts: int


class Retries:
    """What is remembered of the versions that did not load.

    Guarantees: a refused version is tried again only with other files. Any other failure is tried again after 1, 2, 4
    and so on up to 60 seconds, and after no less time than it took: a load that hangs is not there most of the time.

    Thread safety: for one thread at a time.
    """

    def __init__(self) -> None:
        self._failures: dict[tuple[str, int], _Failure] = {}

    def may_try(self, key: tuple[str, int], fingerprint: Fingerprint, now_seconds: float) -> bool:
        """Whether a version with these files is worth a load now.

        Args:
            key: model and version.
            fingerprint: of its files now.
            now_seconds: monotonic.
        """
        failure = self._failures.get(key)
        return failure is None or failure.fingerprint != fingerprint or now_seconds >= failure.retry_at_seconds

    def note_refusal(self, key: tuple[str, int], fingerprint: Fingerprint) -> None:
        """Remember that a version with these files must not be served."""
        self._failures[key] = _Failure(fingerprint, math.inf, 1)

    def note_failure(
        self, key: tuple[str, int], fingerprint: Fingerprint, now_seconds: float, took_seconds: float
    ) -> float:
        """Remember that a version failed in a way that is no verdict; return the pause until it is tried again.

        Args:
            key: model and version.
            fingerprint: of its files when the load began.
            now_seconds: monotonic.
            took_seconds: how long the load took.
        """
        before = self._failures.get(key)
        attempts = before.num_attempts + 1 if before and before.fingerprint == fingerprint else 1
        pause = max(took_seconds, min(_FIRST_PAUSE_SECONDS * 2.0 ** (attempts - 1), _LAST_PAUSE_SECONDS))
        self._failures[key] = _Failure(fingerprint, now_seconds + pause, attempts)
        return pause

    def forget(self, key: tuple[str, int]) -> None:
        """Forget a version: it loads, or is gone."""
        self._failures.pop(key, None)
