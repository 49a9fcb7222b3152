"""One worker as the commander sees it: a process, what is said to it and heard of it, and how it ended.

Above: `commander`. Below: `channel`, `messages`. Each has threads of its own that send, hear and
wait, so that nobody else waits for a worker that does not read.
"""

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.fleet.channel import Channel

_PROGRAM = "from service.fleet.member import main; main()"
_ROOT = Path(__file__).parents[2]
_FAREWELL_SECONDS = 2.0
_LAST_WORDS_SECONDS = 0.5
_STANDARD_ERROR = 2


class WorkerProcess:
    """A worker that runs.

    Args:
        slot: its place, from 0.
        hear: called with this object and each message, on a thread of its own.
        ended: called once with this object when the process has ended and everything it said was heard.

    Attributes (the commander's, under its lock):
        joined_seconds: monotonic time at which it began to serve; None before.
        received: number of the newest state that it has.
        is_late: whether it was waited for in vain.
        num_silent_ticks: looks of the commander since it was last heard.
        counted: newest ticket that it answered.
        reason: why it was told to end; empty where it was not.
        kill_seconds: monotonic time at which it is killed.

    Raises:
        OSError: the system gives no process now.

    Thread safety: every method may be called from any thread. The system kills the process when the *thread* that made
    this object ends.
    """

    def __init__(
        self,
        slot: int,
        hear: Callable[["WorkerProcess", Any], None],
        ended: Callable[["WorkerProcess"], None],
    ) -> None:
        self.slot = slot
        self.joined_seconds: float | None = None
        self.received = -1
        self.is_late = self.is_gone = False
        self.finished = False
        self.num_silent_ticks = 0
        self.counted = 0
        self.reason = ""
        self.kill_seconds: float | None = None
        self._hear = hear
        self._ended = ended
        self._queueing = threading.Lock()
        self._is_over = False  # nothing is said to it any more
        self._has_heard_all = threading.Event()
        self._channel, theirs = Channel.pair()
        self._words: queue.SimpleQueue[tuple[object, list[int]] | None] = queue.SimpleQueue()
        try:
            with theirs:
                path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
                self._child = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                    [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), str(os.getpid())],
                    env=os.environ | {"PYTHONPATH": path},
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=_STANDARD_ERROR,  # said, it is inherited even where it is one that leads nowhere
                    start_new_session=True,  # Ctrl-C is for the commander, who tells it
                )
        except OSError:
            self._channel.close()
            raise
        self._threads = [
            threading.Thread(target=target, name=f"worker-{slot}-{name}", daemon=True)
            for target, name in ((self._send_all, "send"), (self._hear_all, "hear"), (self._watch, "watch"))
        ]

    def start(self) -> None:
        """Let it be heard and spoken to."""
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def code(self) -> int | None:
        """Its exit code, negative for the signal that ended it; None while it runs."""
        return self._child.returncode

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Let a message be sent soon; descriptors are the caller's to close."""
        with self._queueing:
            if not self._is_over:
                self._words.put((message, [os.dup(descriptor) for descriptor in descriptors]))

    def kill(self) -> None:
        """End it whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for its threads, which end with it; return whether they have."""
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _send_all(self) -> None:
        is_gone = False
        while (words := self._words.get()) is not None:
            message, descriptors = words
            try:
                if not is_gone:
                    self._channel.send(message, descriptors)
            except OSError:
                is_gone = True
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _watch(self) -> None:
        """End the channel with the process: one that it started may be left, and hold the other end open."""
        self._child.wait()
        if not self._has_heard_all.wait(_LAST_WORDS_SECONDS):
            self._channel.end()

    def _hear_all(self) -> None:
        try:
            while True:
                message, _ = self._channel.receive()
                self._hear(self, message)
        except EOFError:
            pass
        finally:
            self._has_heard_all.set()
            self._channel.end()
            try:
                self._child.wait(_FAREWELL_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                self._child.wait()
            with self._queueing:
                self._is_over = True
                self._words.put(None)
            self._threads[0].join()
            self._channel.close()
            self._ended(self)
