"""How much time a request has: what its client says, or the server's own limit; and how much its client has.

Above: `native`, which makes a deadline of it, `server`, which refuses what could not be answered by then, `connection`.
Below: `errors`.
"""

import dataclasses
import re

from service.errors import InvalidArgumentError

HEADER = "X-Request-Timeout"
"""Header in which a client says after how many seconds it no longer waits."""

_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
_MAX_SECONDS = 86400.0


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long clients are waited for.

    Args:
        client_seconds: for a request's head; before its body must have come at 1 KiB a second; for an answer of which
            nothing is read.
        idle_seconds: for a next request.
    """

    client_seconds: float = 10.0
    idle_seconds: float = 75.0


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
