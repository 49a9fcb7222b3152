"""How much may be at once: requests that wait for a thread, and bytes that are kept for clients.

Above: `connection`, which asks before it reads a body. Below: `errors`.
"""

import dataclasses

from service.errors import Refusal, ResourceExhaustedError

OPERATIONS = frozenset({b"/healthz", b"/readyz", b"/metrics", b"/monitoring/prometheus/metrics"})
"""Paths of probes, which must have their answer most of all when there are many requests."""


@dataclasses.dataclass
class Crowd:
    """What the connections of one server hold together.

    Args:
        max_requests: whole requests that may wait for a thread or have one.
        max_held_bytes: size of the bodies that were read and the answers that were not.

    Thread safety: for one thread, the one that reads the connections.
    """

    max_requests: int
    max_held_bytes: int
    num_requests: int = 0
    num_held_bytes: int = 0

    def check(self) -> None:
        """Refuse what comes while there is no room for it.

        Raises:
            ResourceExhaustedError: as many requests as may wait already, or clients hold as many bytes as they may.
        """
        if self.num_requests >= self.max_requests:
            message = "too many requests wait for their turn. Try again in a second, or ask another server."
            raise ResourceExhaustedError(message, refusal=Refusal.TOO_MANY_WAITING)
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
            raise ResourceExhaustedError(message, refusal=Refusal.TOO_MANY_WAITING)
