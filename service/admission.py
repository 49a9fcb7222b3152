"""How much may wait: the room that the batchers of one version share, in rows and in bytes.

Above: `batcher`, which enters and leaves. Below: `errors`.
"""

import dataclasses
import math
import threading

from service.errors import ResourceExhaustedError


@dataclasses.dataclass
class Share:
    """What one batcher holds of the room.

    Args:
        num_rows: rows that wait or are computed.
        num_bytes: their size.
        seconds_per_row: time that a row took lately.
    """

    num_rows: int = 0
    num_bytes: int = 0
    seconds_per_row: float = 0.0


class Room:
    """Bounds what waits, and decides in constant time.

    A request is let in while there is room for it, and whatever its size where nothing waits: else one larger than the
    room would never be answered.

    Args:
        max_rows: most rows.
        max_bytes: most bytes of their float32.
        model: whose rows they are, for who counts the refusals.

    Thread safety: every method may be called from any thread. A share is written under its owner's lock.
    """

    def __init__(self, max_rows: int, max_bytes: int, *, model: str = "") -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._model = model
        self._shares: list[Share] = []
        self._lock = threading.Lock()

    def open_share(self) -> Share:
        """Return a new share of the room, empty."""
        share = Share()
        with self._lock:
            self._shares.append(share)
        return share

    @property
    def num_rows(self) -> int:
        """Rows that wait or are computed now."""
        return sum([share.num_rows for share in self._shares])

    def enter(self, share: Share, num_rows: int, num_bytes: int) -> None:
        """Take room for a request; the owner of the share gives it back by writing the share.

        Raises:
            ResourceExhaustedError: there is none.
        """
        with self._lock:
            self._check(num_rows, num_bytes)
            share.num_rows += num_rows
            share.num_bytes += num_bytes

    def has_room(self, num_rows: int = 1, num_bytes: int = 1) -> bool:
        """Whether so much would be let in now; asking counts nothing."""
        held_rows = self.num_rows
        if held_rows == 0:
            return True
        return held_rows + num_rows <= self._max_rows and self._num_bytes + num_bytes <= self._max_bytes

    def check(self) -> None:
        """Refuse what comes while not even one row has room: before a body is decoded.

        Raises:
            ResourceExhaustedError: there is none.
        """
        self._check(1, 1)

    @property
    def _num_bytes(self) -> int:
        return sum([share.num_bytes for share in self._shares])

    def _check(self, num_rows: int, num_bytes: int) -> None:
        if self.has_room(num_rows, num_bytes):
            return
        held_rows, held_bytes = self.num_rows, self._num_bytes
        seconds = sum(share.num_rows * share.seconds_per_row for share in self._shares)
        message = (
            f"the queue is full: {held_rows} rows ({held_bytes} bytes) wait, at most {self._max_rows} rows "
            f"({self._max_bytes} bytes) may. Try again in {max(1, math.ceil(seconds))} s."
        )
        raise ResourceExhaustedError(message, seconds, model=self._model)
