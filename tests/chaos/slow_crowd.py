"""Clients that hold connections without using them: they send too little, too slowly or nothing, or read no answer.

One thread keeps all of them: a connection that the server ends is opened again, so that their number stays.
"""

import dataclasses
import select
import socket
import threading
import time

import numpy as np

HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\n"
DRIP_SECONDS = 1.0
SMALL_BUFFER_BYTES = 4096
LARGE_ROWS = 1500
NUM_PIPELINED = 250


@dataclasses.dataclass(frozen=True)
class Kind:
    """What such a client does.

    Args:
        data: what it sends at once.
        drip: what it sends a byte of every second after that, over and over; nothing if empty.
        reads: whether it reads; who does not has a small buffer.
    """

    data: bytes = b""
    drip: bytes = b""
    reads: bool = True


def _large_request():
    body = np.full((LARGE_ROWS, 3), 128.0, "<f4").tobytes()
    return HEAD + b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % len(body) + body


KINDS = {
    "slow head": Kind(HEAD + b"X-a: "),
    "slow body": Kind(HEAD + b"Content-Length: 100\r\n\r\n" + b"{" * 4),
    "idle": Kind(),
    "dripping head": Kind(HEAD, b"X-a: bcdefg\r\n"),
    "dripping body": Kind(HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "dripping chunks": Kind(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "slow reader": Kind(_large_request(), reads=False),
    "pipelining": Kind(b"GET /page/plot.js HTTP/1.1\r\nHost: x\r\n\r\n" * NUM_PIPELINED, reads=False),
}


class _Member:
    """One connection."""

    def __init__(self, address, kind):
        self.kind = kind
        self.num_drips = 0
        self.pending = memoryview(kind.data)
        self.socket = socket.socket()
        if not kind.reads:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        self.socket.connect(address)
        self.socket.setblocking(False)

    def push(self):
        """Send what the kernel takes; return whether the connection is still there."""
        try:
            self.pending = self.pending[self.socket.send(self.pending) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def drip(self):
        """Send one more byte; return whether the connection is still there."""
        drip = self.kind.drip
        if self.pending or not drip:
            return True
        self.pending = memoryview(drip[self.num_drips % len(drip) :][:1])
        self.num_drips += 1
        return self.push()

    def is_over(self):
        """Whether the server has closed it; an answer that came is read and thrown away."""
        try:
            return not self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            return True


class Crowd(threading.Thread):
    """So many connections of each kind, held from `start` until `stopping` is set.

    Args:
        address: host and port.
        sizes: kind's name -> number.
    """

    def __init__(self, address, sizes):
        super().__init__(name="crowd")
        self.address, self.sizes = address, sizes
        self.num_reopened = 0
        self.failure = None
        self.is_complete = threading.Event()
        self.stopping = threading.Event()
        self._members = {}
        self._epoll = select.epoll()

    def run(self):
        """Open all, keep them, close them."""
        try:
            for name, size in self.sizes.items():
                for _ in range(size):
                    self._open(KINDS[name])
            self.is_complete.set()
            self._keep()
        except OSError as error:
            self.failure = error
        finally:
            self.is_complete.set()
            for member in self._members.values():
                member.socket.close()
            self._epoll.close()

    def _keep(self):
        next_drip = time.monotonic() + DRIP_SECONDS
        while not self.stopping.is_set():
            for number, events in self._epoll.poll(0.1):
                member = self._members[number]
                is_there = member.push() if events & select.EPOLLOUT and member.pending else True
                is_hung_up = events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
                if not is_there or is_hung_up or (events & select.EPOLLIN and member.is_over()):
                    self._reopen(number)
                elif events & select.EPOLLOUT and not member.pending:
                    self._epoll.modify(number, self._events(member))
            if time.monotonic() >= next_drip:
                next_drip += DRIP_SECONDS
                for number, member in list(self._members.items()):
                    if not member.drip():
                        self._reopen(number)

    def _reopen(self, number):
        member = self._members.pop(number)
        member.socket.close()
        self.num_reopened += 1
        self._open(member.kind)

    def _open(self, kind):
        member = _Member(self.address, kind)
        if member.pending:
            member.push()
        self._members[member.socket.fileno()] = member
        self._epoll.register(member.socket.fileno(), self._events(member))

    @staticmethod
    def _events(member):
        reading = select.EPOLLIN if member.kind.reads else 0
        return select.EPOLLRDHUP | reading | (select.EPOLLOUT if member.pending else 0)
