"""How much may be at once: requests that wait for a thread, how long they will, and bytes that are kept for clients.

Above: the transports, `rest` and `rpc`, which ask before they read or compute anything. Below: `errors`.
"""

import dataclasses
import math

from service.errors import Refusal, ResourceExhaustedError

_SMOOTHING = 0.1
_SHARE_OF_TIME = 1.0 / 3.0
_LARGE_BYTES = 1 << 16
"""Size of a body in whose cost the request and its bytes have an equal part of what is learned."""


@dataclasses.dataclass
class Crowd:
    r"""The requests of one protocol that are at a server together, and how long what waits will take.

    A request is taken to cost so many seconds, and so many more for each byte of its body. What one has cost is the
    time since the answer before its own, or since it came, whichever is later; of the difference to what was expected
    a tenth is learned (normalized least mean squares, with the size in units of 64 KiB):

    .. math:: (a, b) \leftarrow (a, b) + \tfrac{1}{10} \frac{c - a - b s}{1 + s^2} (1, s)

    What waits costs, by this, as long as a newcomer would wait. One that would not be answered in a third of its time
    is refused at once: let in, it would take the place of one that can be, and perhaps be computed in vain; and once
    the crowd has gone, what waits is answered in half of that time if half as much as can be answered still comes.

    Args:
        max_requests: whole requests that may wait for a thread or have one.
        max_held_bytes: size of the bodies that were read and the answers that were not.

    Thread safety: none; for one thread, or under the owner's lock.
    """

    max_requests: int
    max_held_bytes: int
    num_requests: int = 0
    num_held_bytes: int = 0
    num_body_bytes: int = 0
    """Size of the bodies of the whole requests that have no answer yet."""
    seconds_per_request: float = 0.0
    seconds_per_byte: float = 0.0
    _since_seconds: float = -math.inf  # of the last answer

    @property
    def wait_seconds(self) -> float:
        """How long what is here already will take."""
        return self.num_requests * self.seconds_per_request + self.num_body_bytes * self.seconds_per_byte

    def enter(self, num_bytes: int) -> None:
        """Count a whole request in."""
        self.num_requests += 1
        self.num_body_bytes += num_bytes

    def leave(self, num_bytes: int, entered_seconds: float, now_seconds: float) -> None:
        """Count a request out that has its answer.

        Args:
            num_bytes: size of its body, as `enter` was told.
            entered_seconds: monotonic time at which it entered.
            now_seconds: monotonic time.
        """
        self.num_requests -= 1
        self.num_body_bytes -= num_bytes
        size = num_bytes / _LARGE_BYTES
        seconds = now_seconds - max(entered_seconds, self._since_seconds)
        expected = self.seconds_per_request + self.seconds_per_byte * num_bytes
        step = _SMOOTHING * (seconds - expected) / (1.0 + size * size)
        self.seconds_per_request = max(0.0, self.seconds_per_request + step)
        self.seconds_per_byte = max(0.0, self.seconds_per_byte + step * size / _LARGE_BYTES)
        self._since_seconds = now_seconds

    def check(self, timeout_seconds: float = math.inf) -> None:
        """Refuse what comes while there is no room for it.

        Args:
            timeout_seconds: how long its client waits.

        Raises:
            ResourceExhaustedError: as many requests as may wait already, or for too long for this one; or clients hold
                as many bytes as they may.
        """
        if self.num_requests >= self.max_requests:
            message = "too many requests wait for their turn. Try again in a second, or ask another server."
            raise self._refusal(message)
        if self.num_requests > 1 and self.wait_seconds > _SHARE_OF_TIME * timeout_seconds:
            message = (
                f"what waits will take about {self.wait_seconds:.2g} s, more than a third of the {timeout_seconds:g} s "
                "that this request has. Try again later, or ask another server."
            )
            raise self._refusal(message)
        self.check_bytes()

    def check_bytes(self) -> None:
        """Refuse what would have to be kept.

        Raises:
            ResourceExhaustedError: clients hold as many bytes as they may.
        """
        if self.num_held_bytes > self.max_held_bytes:
            message = (
                f"requests and answers on their way hold {self.num_held_bytes} bytes, more than the "
                f"{self.max_held_bytes} that may. Try again in a second, or ask another server."
            )
            raise self._refusal(message)

    def _refusal(self, message: str) -> ResourceExhaustedError:
        return ResourceExhaustedError(message, self.wait_seconds, refusal=Refusal.TOO_MANY_WAITING)
