"""One client's connection: requests in, answers out in their order, and how long each may take.

Above: `server`, whose loop calls it. Below: `shared`, `request_reader`, `wsgi`.
"""

import asyncio
import collections
import dataclasses
import http
import math
import time
from typing import cast

from service.errors import DeadlineExceededError, ScoringError
from service.rest.request import Request
from service.rest.request_reader import MalformedError, RequestReader
from service.rest.shared import Edge
from service.rest.wsgi import Answer, Place, write

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_LINGER_SECONDS = 2.0
_LONGEST_LINGER_SECONDS = 30.0
_LAST_WAIT_SECONDS = 2.0  # for more of half a request, while the server stops
_GRACE_SECONDS = 0.5
_MIN_BYTES_PER_SECOND = 1024.0
_SMALL_BYTES = 1 << 16
_PIECE_BYTES = 1 << 13
"""So much at most is parsed beyond the present body: a piece of tiny requests takes many times its size as requests."""


@dataclasses.dataclass(eq=False)
class _Turn:
    """A request, or bytes that are none, whose answer is due; its own where it is refused."""

    request: Request | None
    since_seconds: float
    answer: Answer | None = None
    closes: bool = False
    is_new: bool = True
    """Whether its head came with the bytes that are looked at now."""


class Connection(asyncio.BufferedProtocol):
    """Reads requests, has them answered one at a time, writes the answers in order.

    While one is answered nothing more is read, so that the kernel holds back a client that pipelines. Nothing here
    blocks, and a connection costs no thread, however slowly its client sends or reads. A connection ends with its
    server's FIN and then waits for the client's, throwing away what it still sends, so that no answer is lost to a
    reset.

    Args:
        edge: what the connections share.
        place: the server's address.

    Thread safety: for the loop's thread alone.
    """

    def __init__(self, edge: Edge, place: Place) -> None:
        self._edge = edge
        self.place = place
        self._reader = RequestReader(self._take_head, self._take_whole, edge.max_body_bytes, edge.known_heads)
        self._unparsed: bytes | memoryview = b""  # what came and waits until the requests before it have their answers
        self._turns: collections.deque[_Turn] = collections.deque()
        self._is_computing = False  # the first of them
        self._is_deaf = False  # what comes is thrown away
        self._is_ending = False  # our FIN is sent, or will be after what is written
        self._has_fin = False  # the client's
        self._is_lost = False
        self._is_reading = True
        self._num_held_bytes = self._num_unread_bytes = 0
        self._since_seconds = self._heard_seconds = time.monotonic()  # of what is waited for; of the last bytes
        self._deadline_seconds = math.inf  # of what is computed
        self._answer_seconds = self._end_seconds = 0.0  # when the last answer was written; when our FIN was sent

    @property
    def is_idle(self) -> bool:
        """Whether the client has no answer to expect, or to read, and has not sent a whole head."""
        return self._is_quiet and self._reader.request is None

    @property
    def is_done(self) -> bool:
        """Whether nothing would be lost if it ended now."""
        return self._is_quiet and (self._is_deaf or self._reader.is_between_requests)

    @property
    def since_seconds(self) -> float:
        """Monotonic time since which the client is waited for."""
        return self._since_seconds

    @property
    def num_unread_bytes(self) -> int:
        """What its client has left unread of its answers for longer than it is waited for a head."""
        is_new = time.monotonic() - self._answer_seconds < self._edge.patience.client_seconds
        return 0 if is_new else self._transport.get_write_buffer_size()

    @property
    def _is_quiet(self) -> bool:
        return not self._turns and not self._transport.get_write_buffer_size()

    # ---------------------------------------------------------------------------------------------- asyncio's calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.place = dataclasses.replace(self.place, client=str(peer[0]) if peer else "")
        self._edge.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        """Return where to put what comes; all connections share it, and leave nothing in it."""
        return self._edge.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Read what came."""
        self.data_received(self._edge.buffer[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """Read."""
        now = self._heard_seconds = time.monotonic()
        if self._is_deaf:
            if now - self._end_seconds < _LONGEST_LINGER_SECONDS:
                self._since_seconds = now
            return
        if self._reader.is_between_requests:
            self._since_seconds = now
            if not self._unparsed and self.is_done and self._refuse_whole(data):
                return
        self._unparsed = bytes(self._unparsed) + data if self._unparsed else data
        self._proceed()
        self._unparsed = bytes(self._unparsed)  # what is left of a buffer that others will use

    def eof_received(self) -> bool:
        """Let a client that sends no more still have its answers."""
        self._is_deaf = self._has_fin = True
        if self._turns and self._turns[-1].answer is None and not cast(Request, self._turns[-1].request).is_complete:
            self._turns.pop()  # it will never be whole
        if self._turns:
            self._turns[-1].closes = True
            self._proceed()
        return bool(self._turns)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Forget everything; an answer that is still computed will be thrown away."""
        self._is_deaf = self._is_lost = True
        self._turns.clear()
        self._edge.crowd.num_held_bytes -= self._num_held_bytes
        self._edge.closed(self)

    def resume_writing(self) -> None:
        """Go on with the next request."""
        self._proceed()

    # ------------------------------------------------------------------------------------------- the reader's calls
    def _take_head(self, request: Request) -> None:
        turn = _Turn(request, time.monotonic())
        self._turns.append(turn)
        try:
            self._edge.admit(request)
        except ScoringError as error:
            self._refuse(turn, error)

    def _take_whole(self, request: Request) -> None:
        self._since_seconds = time.monotonic()
        for turn in reversed(self._turns):  # it is the last, unless it was refused and is answered already
            if turn.request is request:
                turn.since_seconds = self._since_seconds
                return

    # ----------------------------------------------------------------------------------------------- the edge's calls
    def finish(self, answer: Answer) -> None:
        """Write the answer to the request that is computed, if somebody still waits for it."""
        if self._is_computing and not self._is_lost:
            self._is_computing = False
            self._turns[0].answer = answer
            self._proceed()

    def look(self, now_seconds: float) -> None:
        """Lose patience with a client that sends or reads too slowly, or an engine; called once in a while."""
        size = self._transport.get_write_buffer_size()
        if self._transport.is_closing() and not size:  # with a rest to write it closes after it, or never
            return
        if self._is_computing:
            if now_seconds > self._deadline_seconds + _GRACE_SECONDS:
                self._give_up()
            return
        self._count_held_bytes()
        waited = now_seconds - self._since_seconds
        if size and size != self._num_unread_bytes:
            self._num_unread_bytes = size
            self._since_seconds = now_seconds
        elif size and waited > self._edge.patience.client_seconds:
            self._transport.abort()
        elif not size and waited > self._allowed_seconds():
            self._lose_patience()

    def hurry(self, now_seconds: float) -> None:
        """Refuse a request of which only a part has come, and for a while nothing more: the server is to end."""
        is_owed = not self.is_done and (self._is_quiet or not self._has_whole_request())
        if is_owed and now_seconds - self._heard_seconds > _LAST_WAIT_SECONDS:
            self._lose_patience()

    def end(self) -> None:
        """Close the connection, once what was written is sent."""
        if self._is_ending or self._transport.is_closing():
            return
        self._is_deaf = self._is_ending = True
        self._since_seconds = self._end_seconds = time.monotonic()
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection: nobody is there
            self._transport.abort()
            return
        self._resume_reading()  # until the client's FIN: it is thrown away

    def abort(self) -> None:
        """Close the connection now."""
        self._transport.abort()

    # ------------------------------------------------------------------------------------------------------- within
    def _proceed(self) -> None:
        """Write what is ready, have computed what is whole, and read on where nothing is due."""
        self._take_turns()
        while self._unparsed and not self._is_held_up():
            self._parse()
            self._take_turns()
        for turn in self._turns:
            turn.is_new = False
        self._count_held_bytes()
        if self._is_held_up():
            self._pause_reading()
        else:
            self._resume_reading()

    def _take_turns(self) -> None:
        while self._turns and not self._is_held_up():
            turn = self._turns[0]
            if turn.answer is None and not self._begin(turn):
                break
            if turn.answer is not None:
                self._turns.popleft()
                if self._write(turn.answer, turn):
                    break

    def _parse(self) -> None:
        piece, self._unparsed = self._unparsed, b""
        if len(piece) > _PIECE_BYTES:
            size = max(self._reader.missing_bytes(piece), _PIECE_BYTES)
            piece, self._unparsed = piece[:size], piece[size:]
        try:
            self._reader.feed(piece)
        except MalformedError as error:
            self._unparsed = b""
            self._refuse_rest(error)

    def _begin(self, turn: _Turn) -> bool:
        """Have a turn's request computed, or refused; return whether there is something to write."""
        request = cast(Request, turn.request)
        try:
            if request.is_complete:
                if not turn.is_new:  # else it was admitted a moment ago
                    self._edge.admit(request)
            elif len(request.body) > _SMALL_BYTES:
                self._count_held_bytes()
                self._edge.crowd.check_bytes()
        except ScoringError as error:
            self._refuse(turn, error)
            return True
        if request.is_complete:
            self._is_computing = True
            self._deadline_seconds = self._edge.answer(request, self, turn.since_seconds)
        elif request.expects_continue and not request.is_continued:
            request.is_continued = True
            self._transport.write(CONTINUE)
        return False

    def _write(self, answer: Answer, turn: _Turn) -> bool:
        """Write an answer; return whether the connection ends with it."""
        request = turn.request
        closes = turn.closes or request is None or not request.keep_alive
        closes = closes or (self._edge.is_closing and not self._has_whole_request() and not self._unparsed)
        self._since_seconds = self._answer_seconds = time.monotonic()
        self._transport.write(write(answer, request, closes=closes))
        if closes:
            self._turns.clear()
            self._unparsed = b""
            if self._has_fin:
                self._transport.close()
            else:
                self.end()
        return closes

    def _refuse(self, turn: _Turn, error: ScoringError | MalformedError) -> None:
        request = turn.request
        turn.answer = self._edge.refuse(error, request, self.place.client)
        if request is not None:
            # Who waits for a word may send the body or not: what comes next could not be told apart.
            turn.closes |= request.expects_continue and not request.is_continued and not request.is_complete
            request.discard()

    def _refuse_whole(self, data: bytes | memoryview) -> bool:
        """Refuse a request that came alone and whole, if there is no room for it: nothing of it need be kept."""
        answer = self._edge.refuse_whole(data, self.place.client)
        if answer is not None:
            self._answer_seconds = self._since_seconds
            self._transport.write(answer)
        return answer is not None

    def _refuse_rest(self, error: MalformedError) -> None:
        """Refuse the request that is being read, and end the connection after the answers that are due."""
        request = self._reader.request
        if request is not None and (not self._turns or self._turns[-1].request is not request):
            self.end()  # it was refused and answered before
            return
        turn = self._turns[-1] if request is not None else _Turn(None, time.monotonic())
        if request is None:
            self._turns.append(turn)
        if turn.answer is None:
            self._refuse(turn, error)
        turn.closes = self._is_deaf = True

    def _give_up(self) -> None:
        """Answer in the place of a thread that does not: its engine hangs, or computes on behind the deadline."""
        turn = self._turns[0]
        message = "the deadline passed, and whoever computes does not let go. Allow more time, or ask another server."
        self._refuse(turn, DeadlineExceededError(message))
        cast(Request, turn.request).is_given_up = True
        self._is_computing = False
        turn.closes = True
        self._proceed()

    def _allowed_seconds(self) -> float:
        """Return how long the client may take for what it owes: its FIN, a body, a head or a next request."""
        patience = self._edge.patience
        if self._is_ending:
            return _LINGER_SECONDS
        if self._reader.request is not None:
            return patience.client_seconds + self._reader.request.num_body_bytes / _MIN_BYTES_PER_SECOND
        return patience.idle_seconds if self._reader.is_between_requests else patience.client_seconds

    def _lose_patience(self) -> None:
        if self._is_ending:
            self._transport.abort()
        elif self._reader.is_between_requests:
            self.end()
        else:
            self._refuse_rest(
                MalformedError(http.HTTPStatus.REQUEST_TIMEOUT, "the request came too slowly. Send it again.")
            )
            self._proceed()

    def _has_whole_request(self) -> bool:
        return bool(self._turns) and (self._turns[0].request is None or self._turns[0].request.is_complete)

    def _is_held_up(self) -> bool:
        """Whether nothing more can be begun: a request is computed, or the client leaves too much unread."""
        return self._is_computing or self._transport.get_write_buffer_size() > _SMALL_BYTES

    def _count_held_bytes(self) -> None:
        held = len(self._unparsed) + self._transport.get_write_buffer_size()
        held += sum([len(turn.request.body) for turn in self._turns if turn.request is not None])
        self._edge.crowd.num_held_bytes += held - self._num_held_bytes
        self._num_held_bytes = held

    def _pause_reading(self) -> None:
        if self._is_reading and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._is_reading and not self._has_fin and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()
