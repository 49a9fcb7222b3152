"""Taking connections from a socket that several processes listen on, each process its share of them.

Above: `server`, where its port is shared. Below: nothing. Whoever is woken first would take all that wait there: of
64 connections that come at once one process of two was measured to have had 61, and they stay where they are for as
long as they live.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

import structlog

PAUSE_SECONDS = 0.002
MOST_PAUSES = 5
"""So often in a row a connection is left to the others; then it is taken: they may be busy, or stand still."""

MOST_AT_ONCE = 16
"""Connections that come in with one look of the loop, at most."""

_BREATH_SECONDS = 0.2


class Shares(Protocol):
    """What is known of the connections of all processes."""

    def tell(self, num_connections: int) -> None:
        """Tell how many are open here."""

    def is_my_turn(self) -> bool:
        """Whether no other process has fewer."""


class Acceptor:
    """Accepts connections, each unless another process has fewer: then it is left to the others.

    A connection that nobody with fewer takes within 10 ms is taken all the same.

    Args:
        loop: that accepts.
        listener: the shared socket, which listens; closed by `close`.
        shares: what the processes have.
        take: called with each accepted socket.

    Thread safety: for the loop's thread alone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        shares: Shares,
        take: Callable[[socket.socket], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._shares = shares
        self._take = take
        self._num_pauses = 0
        self._waiting: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        loop.add_reader(listener.fileno(), self._look)

    def close(self) -> None:
        """Take what waits, and listen no more in this process."""
        if self._waiting is not None:
            self._waiting.cancel()
        else:
            self._loop.remove_reader(self._listener.fileno())
        while self._accept():
            pass
        self._listener.close()

    def _look(self) -> None:
        if self._num_pauses < MOST_PAUSES and not self._shares.is_my_turn():
            self._num_pauses += 1
            self._pause(PAUSE_SECONDS)
            return
        self._num_pauses = 0
        for _ in range(MOST_AT_ONCE):
            if not (self._accept() and self._shares.is_my_turn()):
                return

    def _accept(self) -> bool:
        """Take one connection; return whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError):  # another process was faster
            return False
        except ConnectionAbortedError:  # the client was faster
            return True
        except OSError as error:  # no descriptor, or no memory, for now
            structlog.get_logger().error("a connection cannot be accepted now", why=error.strerror)
            if self._waiting is None:
                self._pause(_BREATH_SECONDS)
            return False
        connection.setblocking(False)
        self._take(connection)
        return True

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._waiting = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._waiting = None
        self._loop.add_reader(self._listener.fileno(), self._look)
