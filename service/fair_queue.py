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


class FairQueue:
    """A queue in which nobody waits behind somebody's whole work, and nobody's work is begun long before it is ended.

    Clients take turns, and the requests of a client. The turn of a request that fits into a batch is all of it: were
    they all begun together, they would all end together, too late, when there is too much to do. The turn of a larger
    one is `turn_rows` rows: a request of a million rows and one of a single row that came later are in the same batch.

    Args:
        max_batch_rows: most rows of a batch.
        turn_rows: most rows of one turn of a request that is larger than a batch, while others wait too.
    """

    def __init__(self, max_batch_rows: int, turn_rows: int) -> None:
        self._max_batch_rows = max_batch_rows
        self._turn_rows = min(turn_rows, max_batch_rows)
        self._clients: OrderedDict[Hashable, OrderedDict[Request, None]] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._clients)

    def __iter__(self) -> Iterator[Request]:
        """Yield the requests that wait."""
        for requests in self._clients.values():
            yield from requests

    def add(self, request: Request) -> None:
        """Let a request wait behind its client's others."""
        self._clients.setdefault(request.caller.client, OrderedDict())[request] = None

    def remove(self, request: Request) -> None:
        """Forget a request; nothing happens to one that does not wait."""
        requests = self._clients.get(request.caller.client)
        if requests is not None and requests.pop(request, _ABSENT) is None and not requests:
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
            client, requests = next(iter(self._clients.items()))
            request = next(iter(requests))
            if not is_wanted(request):
                self.remove(request)
                continue
            if request.is_alone and pieces:
                break
            alone = request.is_alone or (len(self._clients) == 1 and len(requests) == 1)
            is_large = request.num_rows > self._max_batch_rows and not alone
            size = min(request.num_rows - request.num_taken, room, self._turn_rows if is_large else room)
            start, request.num_taken = request.num_taken, request.num_taken + size
            pieces.append(Piece(request, start, request.num_taken))
            room -= size
            self._end_turn(client, requests, request)
            if request.is_alone:
                break
        return pieces

    def _end_turn(self, client: Hashable, requests: OrderedDict[Request, None], request: Request) -> None:
        if request.num_taken == request.num_rows:
            del requests[request]
        elif request.num_rows > self._max_batch_rows:
            requests.move_to_end(request)
        if requests:
            self._clients.move_to_end(client)
        else:
            del self._clients[client]


_ABSENT = object()
