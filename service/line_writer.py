"""Lines that are written by a thread of their own, so that nobody waits for whoever reads them.

Above: `logs`. Below: nothing.
"""

import os
import select
import threading
from collections.abc import Callable

MAX_LINES = 10_000
MAX_BYTES = 8 << 20
_PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 0.1


class LineWriter:
    """A file of text whose `write` never waits: what does not fit is lost, and counted.

    A log is a pipe as often as not. Once it is full (`docker logs` hangs, a terminal is stopped with Ctrl-S) a write to
    it waits for ever, and every request that logs would wait with it.

    Args:
        descriptor: what is written to; closed by `close`.
        max_lines: lines that may wait to be written.
        max_bytes: their size.
        tell_lost: called, on the writing thread, with the number of lines lost once lines can be written again.

    Thread safety: every method may be called from any thread.
    """

    encoding = "utf-8"

    def __init__(
        self,
        descriptor: int,
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
        tell_lost: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._descriptor = descriptor
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._tell_lost = tell_lost
        self._lock = threading.RLock()  # a destructor that logs may come in between
        self._lines: list[bytes | Callable[[], bytes]] = []
        self._num_new_bytes = 0  # of the lines
        self._num_bytes = 0  # of those that are being written, too
        self._num_lost = 0
        self._num_told = 0
        self._is_closing = False
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    @property
    def num_lost(self) -> int:
        """Lines that were lost so far."""
        return self._num_lost

    def write(self, text: str) -> int:
        """Let a line be written soon, or lose it; returns at once."""
        line = text.encode("utf-8", "backslashreplace")
        self._add(line, len(line))
        return len(text)

    def write_later(self, form: Callable[[], bytes], num_bytes: int) -> None:
        """Let a line be formed and written soon, or lose it; returns at once.

        Many lines that are formed one after the other cost a fraction of what each would in the midst of a request.

        Args:
            form: returns the line, its end included; called on the writing thread.
            num_bytes: about what it holds until then, and will be.
        """
        self._add(form, num_bytes)

    def _add(self, line: bytes | Callable[[], bytes], num_bytes: int) -> None:
        with self._lock:
            has_room = len(self._lines) < self._max_lines and self._num_bytes + num_bytes <= self._max_bytes
            if has_room and not self._is_closing:
                self._lines.append(line)
                self._num_new_bytes += num_bytes
                self._num_bytes += num_bytes
                is_first = len(self._lines) == 1
            else:
                self._num_lost += 1
                is_first = False
        if is_first:
            self._news.set()

    def flush(self) -> None:
        """Do nothing: lines are written as soon as they can be."""

    def isatty(self) -> bool:
        """Whether somebody watches."""
        return os.isatty(self._descriptor)

    def close(self, timeout_seconds: float = 1.0) -> bool:
        """Write what waits and end; return whether that was done in time."""
        with self._lock:
            self._is_closing = True
        self._closing.set()
        self._news.set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            while True:
                self._news.wait()
                self._news.clear()
                is_last = self._is_closing
                self._write_what_waits()
                if is_last:
                    return
                self._closing.wait(_PAUSE_SECONDS)  # what comes meanwhile is one write
        finally:
            os.close(self._descriptor)

    def _write_what_waits(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            num_bytes, self._num_new_bytes = self._num_new_bytes, 0
        is_written = self._put(b"".join(line if isinstance(line, bytes) else line() for line in lines))
        with self._lock:
            self._num_bytes -= num_bytes
            self._num_lost += 0 if is_written else len(lines)
        newly_lost = self._num_lost - self._num_told
        if lines and is_written and newly_lost:
            self._num_told += newly_lost
            self._tell_lost(newly_lost)

    def _put(self, data: bytes) -> bool:
        """Write all of it, waiting as long as it takes; return False where nobody can ever read it."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody else's flag on a descriptor that is shared
                if self._closing.is_set():
                    return False
                _wait_until_writable(self._descriptor)
            except OSError:  # the reader is gone, or the disk is full
                return False
        return True


def _wait_until_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll(1000 * _PATIENCE_SECONDS)
