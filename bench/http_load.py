"""A load of HTTP requests that costs little itself: `python -m bench.http_load`, a job in, its phases' results out.

One thread, non-blocking sockets that are kept alive, requests that were built beforehand. Of an answer only the status,
the length and three more fields are read; the bodies of the answers are compared by their checksums.
"""

import gc
import re
import select
import socket
import time
import zlib

from bench import load
from bench.load import HUNG, OK, RESET, Job, Phase, Tally

_BUFFER = bytearray(1 << 18)
_VIEW = memoryview(_BUFFER)
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)")
_POLL_SECONDS = 0.05
_CONTINUE = 100


class _Caller:
    """One connection: at most one request is open on it."""

    __slots__ = ("checksum", "head", "is_closing", "left", "pending", "sent", "socket", "status", "tally")

    def __init__(self, socket_: socket.socket) -> None:
        self.socket = socket_
        self.tally: Tally | None = None
        self.clear()

    def clear(self) -> None:
        self.pending: memoryview | None = None  # of the request, what is not sent yet
        self.head = b""
        self.status = 0  # 0: no whole head yet
        self.left = 0  # bytes of the answer's body that are to come
        self.checksum = 0
        self.is_closing = False
        self.sent = 0.0


class Generator:
    """Runs a job.

    Args:
        job: what to do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        host, _, port = job.address.rpartition(":")
        self._address = (host, int(port))
        body = load.body_of(job)
        path = job.path or f"/models/{job.model}/score"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {job.address}\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: {job.content_type}\r\nAccept: {job.content_type}\r\n"
            f"X-Request-Timeout: {job.timeout_seconds:g}\r\n"
        ).encode()
        self._body = memoryview(body)
        self._first = memoryview(head + b"Expect: 100-continue\r\n\r\n" if job.expects else head + b"\r\n" + body)
        self._epoll = select.epoll()
        self._callers: dict[int, _Caller] = {}
        self._idle: list[_Caller] = []
        self._num_open = 0
        self._current = Tally(Phase("none", 0.0), 0.0)
        self._is_closed_loop = False

    def run(self) -> list[Tally]:
        """Send everything and return what came of each phase."""
        gc.disable()
        tallies = [self._run_phase(phase) for phase in self._job.phases]
        self._is_closed_loop = False
        deadline = time.monotonic() + self._job.grace_seconds
        while self._num_open and time.monotonic() < deadline:
            self._poll(_POLL_SECONDS)
        for caller in list(self._callers.values()):
            if caller.tally is not None:
                caller.tally.note(HUNG, caller.sent, time.monotonic())
            caller.socket.close()
        self._epoll.close()
        return tallies

    def _run_phase(self, phase: Phase) -> Tally:
        started = time.monotonic()
        tally = self._current = Tally(phase, started)
        self._is_closed_loop = phase.rate is None
        end = started + phase.seconds
        if phase.rate is None:
            for _ in range(phase.num_callers):
                self._ask()
            while time.monotonic() < end:
                self._poll(_POLL_SECONDS)
        else:
            self._run_open(1.0 / phase.rate, started, end)
        tally.stop(time.monotonic())
        return tally

    def _run_open(self, interval: float, started: float, end: float) -> None:
        num_due = 0
        while (now := time.monotonic()) < end:
            due = started + num_due * interval
            while due <= now:
                self._ask()
                num_due += 1
                due = started + num_due * interval
            self._poll(max(0.0, min(due, end) - time.monotonic()))

    # ------------------------------------------------------------------------------------------------- one request
    def _ask(self) -> None:
        """Send a request on a connection that is free, or on a new one."""
        tally = self._current
        if self._idle:
            caller = self._idle.pop()  # the last one used: the others may be closed as idle
        elif len(self._callers) < self._job.max_callers:
            caller = self._connect()
        else:
            tally.num_missed += 1
            return
        caller.tally = tally
        caller.sent = time.monotonic()
        tally.num_sent += 1
        self._num_open += 1
        self._send(caller, self._first)

    def _connect(self) -> _Caller:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect_ex(self._address)
        caller = _Caller(connection)
        self._callers[connection.fileno()] = caller
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        return caller

    def _send(self, caller: _Caller, data: memoryview) -> None:
        try:
            num_sent = caller.socket.send(data)
        except BlockingIOError:
            num_sent = 0
        except OSError:  # it was closed: an answer may be there to read, or the end
            caller.pending = None
            caller.is_closing = True
            self._epoll.modify(caller.socket.fileno(), select.EPOLLIN)
            return
        had_pending, caller.pending = caller.pending is not None, data[num_sent:] if num_sent < len(data) else None
        if had_pending != (caller.pending is not None):
            events = select.EPOLLIN | (select.EPOLLOUT if caller.pending is not None else 0)
            self._epoll.modify(caller.socket.fileno(), events)

    def _poll(self, seconds: float) -> None:
        for number, events in self._epoll.poll(seconds):
            caller = self._callers.get(number)
            if caller is None:
                continue
            if events & select.EPOLLOUT and caller.pending is not None:
                self._send(caller, caller.pending)
                self._end_if_over(caller)
            if events & ~select.EPOLLOUT:
                self._receive(caller)

    def _receive(self, caller: _Caller) -> None:
        try:
            num_bytes = caller.socket.recv_into(_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            num_bytes = 0
        if num_bytes == 0:
            self._end(caller, RESET)
        elif caller.status:
            self._take(caller, _VIEW[:num_bytes])
        else:
            self._read_head(caller, caller.head + _VIEW[:num_bytes])

    def _read_head(self, caller: _Caller, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            caller.head = data
            return
        head, caller.head = data[:end].lower(), b""
        status = int(head[9:12])
        if status == _CONTINUE:
            self._send(caller, self._body)
            if len(data) > end + 4:
                self._read_head(caller, data[end + 4 :])
            return
        length = _LENGTH.search(head)
        caller.status = status
        caller.left = int(length[1]) if length else 0
        caller.is_closing |= b"\r\nconnection: close" in head
        if status == 429 and caller.tally is not None and b"\r\nretry-after: " not in head:
            caller.tally.num_without_retry_after += 1
        self._take(caller, memoryview(data)[end + 4 :])

    def _take(self, caller: _Caller, body: memoryview) -> None:
        caller.left -= len(body)
        if caller.status == 200:
            caller.checksum = zlib.crc32(body, caller.checksum)
        self._end_if_over(caller)

    def _end_if_over(self, caller: _Caller) -> None:
        if caller.status and caller.left <= 0 and (caller.pending is None or caller.is_closing):
            self._end(caller, OK if caller.status == 200 else str(caller.status))

    def _end(self, caller: _Caller, outcome: str) -> None:
        """Count what became of the request, and free its connection, or take a new one."""
        tally, caller.tally = caller.tally, None
        if caller.is_closing or outcome == RESET or tally is None:
            del self._callers[caller.socket.fileno()]
            caller.socket.close()
            self._current.num_reconnects += 1
        else:
            self._idle.append(caller)
        if tally is None:  # the server closed an idle connection
            self._idle.remove(caller)
            return
        tally.note(outcome, caller.sent, time.monotonic())
        if outcome == OK:
            self._current.num_ok_meanwhile += 1
            tally.answers.add(caller.checksum)
        self._num_open -= 1
        caller.clear()
        if self._is_closed_loop:
            self._ask()


if __name__ == "__main__":
    load.main(lambda job: Generator(job).run())
