"""A socket between the commander and a worker: whole objects, and descriptors with them.

Above: `commander`, `member`. Below: nothing.
"""

import contextlib
import os
import pickle
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any

_HEAD = struct.Struct("!QB")
_MOST_DESCRIPTORS = 4
_PIECE_BYTES = 1 << 20


class Channel:
    """Sends and receives objects.

    Args:
        connection: a connected stream socket of this machine; owned from now on.

    Thread safety: `send` may be called from any thread; `receive` and `close` from one at a time; `end` from any.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    @classmethod
    def pair(cls) -> tuple["Channel", socket.socket]:
        """Return our end, and the socket of the other one."""
        ours, theirs = socket.socketpair()
        return cls(ours), theirs

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send an object; waits where the other end does not read.

        Raises:
            OSError: the other end is gone.
        """
        words = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        head = _HEAD.pack(len(words), len(descriptors))
        with self._sending:
            if descriptors:
                socket.send_fds(self._connection, [head], list(descriptors))
            else:
                self._connection.sendall(head)
            self._connection.sendall(words)

    def receive(self) -> tuple[Any, list[int]]:
        """Return the next object and the descriptors that came with it.

        Raises:
            EOFError: there is none any more.
        """
        try:
            head, descriptors, _, _ = socket.recv_fds(self._connection, _HEAD.size, _MOST_DESCRIPTORS)
            head += self._exactly(_HEAD.size - len(head)) if head else b""
            if not head:
                raise EOFError
            num_bytes, num_descriptors = _HEAD.unpack(head)
            words = self._exactly(num_bytes)
        except OSError as error:
            raise EOFError from error
        if len(descriptors) != num_descriptors:
            for descriptor in descriptors:
                os.close(descriptor)
            raise EOFError
        return pickle.loads(words), list(descriptors)  # noqa: S301  (from our own program)

    def end(self) -> None:
        """Let who waits in `receive`, here or there, have EOFError."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket; nobody may be in `receive` here."""
        self._connection.close()

    def _exactly(self, num_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < num_bytes:
            piece = self._connection.recv(min(_PIECE_BYTES, num_bytes - len(data)))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)
