"""How much may be at once: requests that wait for a thread, how long they will, and bytes that are kept for clients.

Above: the transports, `rest` and `rpc`, which ask before they read or compute anything. Below: `errors`.
"""

import dataclasses
import math

from service.errors import Refusal, ResourceExhaustedError

_SMOOTHING = 0.1
_SHARE_OF_TIME = 0.5
_REQUEST_UNITS = 1024


@dataclasses.dataclass
class Crowd:
    """The requests of one protocol that are at a server together, and how long what waits will take.

    Work is counted in bytes of bodies, and a little for each request. While there is work, the time from one answer to
    the next, over the work of the one that it answers, says how fast it is done; what waits, at that speed, is how long
    a newcomer would wait. One that would not be answered in half of its time is refused at once: let in, it would take
    the place of one that can be, and probably be computed in vain.

    Args:
        max_requests: whole requests that may wait for a thread or have one.
        max_held_bytes: size of the bodies that were read and the answers that were not.

    Thread safety: none; for one thread, or under the owner's lock.
    """

    max_requests: int
    max_held_bytes: int
    num_requests: int = 0
    num_held_bytes: int = 0
    num_units: int = 0
    """Work of the whole requests that have no answer yet."""
    seconds_per_unit: float = 0.0
    _since_seconds: float = math.inf

    @property
    def wait_seconds(self) -> float:
        """How long what is here already will take."""
        return self.num_units * self.seconds_per_unit

    def enter(self, num_bytes: int, now_seconds: float) -> None:
        """Count a whole request in."""
        if not self.num_requests:
            self._since_seconds = now_seconds
        self.num_requests += 1
        self.num_units += _REQUEST_UNITS + num_bytes

    def leave(self, num_bytes: int, now_seconds: float) -> None:
        """Count a request out that has its answer."""
        units = _REQUEST_UNITS + num_bytes
        self.num_requests -= 1
        self.num_units -= units
        measured = (now_seconds - self._since_seconds) / units
        self.seconds_per_unit += _SMOOTHING * (measured - self.seconds_per_unit)
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
                f"what waits will take about {self.wait_seconds:.2g} s, more than half of the {timeout_seconds:g} s "
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
