"""Requests that wait for their rows to be computed, and the order in which they get their turns.

A data structure: no lock, no clock, no thread. Above: `batcher`, which has all three. Below: `pieces`.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator

from service.pieces import Piece, Request


@dataclasses.dataclass(frozen=True)
class Limits:
    """How large batches are.

    Args:
        max_batch_rows: most rows of one batch.
        turn_rows: most rows of one request in a batch while others wait too.
    """

    max_batch_rows: int = 256
    turn_rows: int = 32


class _Line:
    """The requests of one client: those that fit into a batch, and the larger ones."""

    def __init__(self) -> None:
        self.small: OrderedDict[Request, None] = OrderedDict()
        self.large: OrderedDict[Request, None] = OrderedDict()
        self.num_rows_since_large = 0

    def __bool__(self) -> bool:
        return bool(self.small) or bool(self.large)

    def __iter__(self) -> Iterator[Request]:
        yield from self.small
        yield from self.large

    def first(self, turn_rows: int) -> Request:
        """Return whose turn it is: a larger one's after each `turn_rows` rows of others."""
        is_turn_of_large = self.large and (not self.small or self.num_rows_since_large >= turn_rows)
        return next(iter(self.large if is_turn_of_large else self.small))

    def discard(self, request: Request) -> None:
        """Forget a request."""
        self.small.pop(request, None)
        self.large.pop(request, None)

    def note_turn(self, request: Request, num_rows: int) -> None:
        """Note that a request had its turn."""
        self.num_rows_since_large = 0 if request in self.large else self.num_rows_since_large + num_rows


class FairQueue:
    """A queue in which nobody waits behind somebody's whole work, and nobody's work is begun long before it is ended.

    Clients take turns. Of a client's requests those that fit into a batch are computed in the order in which they came,
    each whole: were they all begun together, they would all end together, too late, when there is too much to do. So
    are its larger ones, but in turns of `turn_rows` rows between the others: a request of a million rows and one of a
    single row that came later are in the same batch.

    Args:
        max_batch_rows: most rows of a batch.
        turn_rows: most rows of one turn of a request that is larger than a batch, while others than such wait too.
    """

    def __init__(self, max_batch_rows: int, turn_rows: int) -> None:
        self._max_batch_rows = max_batch_rows
        self._turn_rows = min(turn_rows, max_batch_rows)
        self._clients: OrderedDict[Hashable, _Line] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._clients)

    def __iter__(self) -> Iterator[Request]:
        """Yield the requests that wait."""
        for line in self._clients.values():
            yield from line

    def add(self, request: Request) -> None:
        """Let a request wait behind its client's others."""
        line = self._clients.setdefault(request.caller.client, _Line())
        (line.large if request.num_rows > self._max_batch_rows else line.small)[request] = None

    def remove(self, request: Request) -> None:
        """Forget a request; nothing happens to one that does not wait."""
        line = self._clients.get(request.caller.client)
        if line is not None:
            line.discard(request)
            if not line:
                del self._clients[request.caller.client]

    def clear(self) -> None:
        """Forget every request."""
        self._clients.clear()

    def take(self, is_wanted: Callable[[Request], bool]) -> list[Piece]:
        """Return the next batch: pieces of at most `max_batch_rows` rows together, those of a request in order.

        Args:
            is_wanted: asked before each turn of a request; one that nobody wants any more is forgotten.
        """
        pieces: list[Piece] = []
        room = self._max_batch_rows
        while room > 0 and self._clients:
            client, line = next(iter(self._clients.items()))
            request = line.first(self._turn_rows)
            if not is_wanted(request):
                self.remove(request)
                continue
            if request.is_alone and pieces:
                break
            size = min(request.num_rows - request.num_taken, room, self._longest_turn(line, request))
            start, request.num_taken = request.num_taken, request.num_taken + size
            pieces.append(Piece(request, start, request.num_taken))
            room -= size
            self._end_turn(client, line, request, size)
            if request.is_alone:
                break
        return pieces

    def _longest_turn(self, line: _Line, request: Request) -> int:
        is_between_others = request in line.large and (line.small or len(self._clients) > 1) and not request.is_alone
        return self._turn_rows if is_between_others else self._max_batch_rows

    def _end_turn(self, client: Hashable, line: _Line, request: Request, num_rows: int) -> None:
        line.note_turn(request, num_rows)
        if request.num_taken == request.num_rows:
            line.discard(request)
        if line:
            self._clients.move_to_end(client)
        else:
            del self._clients[client]
