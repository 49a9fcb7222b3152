"""What the connections of one server share: the room for all of them, and who answers and refuses.

Above: `connection`, which asks, and `edge`, which is it. Below: `request`, `wsgi`.
"""

from typing import TYPE_CHECKING, Protocol

from service.crowding import Crowd
from service.errors import ScoringError
from service.rest.deadlines import Patience
from service.rest.known_heads import KnownHeads
from service.rest.request import Request
from service.rest.request_reader import MalformedError
from service.rest.wsgi import Answer

if TYPE_CHECKING:
    from service.rest.connection import Connection


class Edge(Protocol):
    """What the connections of one server share."""

    crowd: Crowd
    patience: Patience
    buffer: memoryview
    """What was received last."""
    max_body_bytes: int
    known_heads: KnownHeads
    is_closing: bool
    """Whether every connection ends with its next answer."""

    def admit(self, request: Request) -> None:
        """Refuse a request of which possibly only the head was read.

        Raises:
            ScoringError: it has no room.
        """

    def answer(self, request: Request, connection: "Connection", arrival_seconds: float) -> float:
        """Have a whole request answered, by a call of `connection.finish` on the loop's thread.

        Returns:
            Monotonic time from which its client does not wait.
        """

    def refuse(self, error: ScoringError | MalformedError, request: Request | None, client: str) -> Answer:
        """Return the answer to what the application never sees."""

    def refuse_whole(self, data: bytes | memoryview, client: str) -> bytes | None:
        """Return the answer to a request that came in one piece and is refused, or None for any other.

        Args:
            data: what came after the last request, and nothing else.
            client: the client's address.
        """

    def opened(self, connection: "Connection") -> None:
        """Take note of a new connection."""

    def closed(self, connection: "Connection") -> None:
        """Forget a connection."""
