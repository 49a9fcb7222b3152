"""Reading from a pipe whose writer may crash, hang, or write anything: bounded in time and in size.

Above: `process`. Below: nothing.
"""

import os
import select
import struct
import time

_PIECE_BYTES = 1 << 20


def read_message(pipe: int, head: struct.Struct, *, most_bytes: int, deadline_seconds: float) -> bytearray:
    """Return what follows a head that says how long it is.

    Args:
        pipe: descriptor of the reading end.
        head: one number, the length.
        most_bytes: the longest message that is read.
        deadline_seconds: of `time.monotonic`, for all of it.

    Raises:
        EOFError: the writer ended before the message did.
        ValueError: it is longer.
        TimeoutError: it is not whole in time.
    """
    (length,) = head.unpack(_read(pipe, head.size, deadline_seconds))
    if length > most_bytes:
        message = f"a message of {length} bytes, expected at most {most_bytes}"
        raise ValueError(message)
    return _read(pipe, length, deadline_seconds)


def read_first(pipe: int, deadline_seconds: float) -> bytes:
    """Return what is written first; nothing if that is the end.

    Raises:
        TimeoutError: neither happened in time.
    """
    _wait(pipe, deadline_seconds)
    return os.read(pipe, _PIECE_BYTES)


def _read(pipe: int, num_bytes: int, deadline_seconds: float) -> bytearray:
    """Return so many bytes; memory grows with what has come, not with what was promised."""
    data = bytearray()
    while len(data) < num_bytes:
        _wait(pipe, deadline_seconds)
        piece = os.read(pipe, min(_PIECE_BYTES, num_bytes - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return data


def _wait(pipe: int, deadline_seconds: float) -> None:
    events = select.poll()
    events.register(pipe, select.POLLIN)
    if not events.poll(max(0.0, deadline_seconds - time.monotonic()) * 1000.0):
        raise TimeoutError
