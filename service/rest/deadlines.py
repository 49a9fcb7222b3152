"""How much time a request has: what its client says, or the server's own limit.

Above: `native`, which makes a deadline of it, and `server`, which refuses what could not be answered by then. Below:
`errors`.
"""

import re

from service.errors import InvalidArgumentError

HEADER = "X-Request-Timeout"
"""Header in which a client says after how many seconds it no longer waits."""

_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
_MAX_SECONDS = 86400.0


def timeout_seconds(received: str | None, default_seconds: float) -> float:
    """Return how long a client waits, in seconds.

    Args:
        received: value of the header, or None where there is none.
        default_seconds: what holds then.

    Raises:
        InvalidArgumentError: the value is not a number of seconds above 0 and at most a day.
    """
    if received is None:
        return default_seconds
    if not (_SECONDS.fullmatch(received) and 0.0 < float(received) <= _MAX_SECONDS):
        message = (
            f"{HEADER}: expected seconds above 0 and at most {_MAX_SECONDS:g}, such as 0.5, received '{received[:40]}'."
        )
        raise InvalidArgumentError(message)
    return float(received)
