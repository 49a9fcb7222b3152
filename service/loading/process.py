"""Processes of their own in which versions are read, proved and verified, so that requests do not feel it.

Loading is a fifth of a second of Python and TensorFlow for a small model and minutes for a large one. On a thread of
the server it would share Python's lock with every request; here it only shares the processor, at low priority. What is
more: the server needs no TensorFlow (half a gigabyte) where the program engine serves, and files that crash TensorFlow,
take all memory or never let it go end one process, in which nothing but they was loaded.

Above: `worker`, which makes live versions of what comes back. Below: `fork_server`, which is what runs over there,
`answer_pipe`, which bounds what is read of it, and `plain_data`, which lets nothing in but that.
"""

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from service.errors import LoadFailedError, VersionRefusedError
from service.loader import LoadedVersion
from service.loading import bounds, plain_data
from service.loading.answer_pipe import read_first, read_message
from service.loading.child import END_SECONDS, Child
from service.loading.fork_server import ANSWER_HEAD, ORDER_HEAD, LoadFailure, Order
from service.version_files import MAX_VERSION_BYTES

LONGEST_LOAD_SECONDS = 600.0
"""A load that takes longer is given up, and its process ended."""

_REPORT_SECONDS = 5.0
_LARGEST_ANSWER_BYTES = 3 * MAX_VERSION_BYTES
_MIB = 1 << 20


class _Running:
    """A load that was ordered: where its answer and the report of its end come from, and whether it is given up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answer, self.answer_end = os.pipe()
        self.report, self.report_end = socket.socketpair()
        self.child: Child | None = None
        self.is_given_up = False

    def close_ends(self) -> None:
        """Close what was handed over."""
        os.close(self.answer_end)
        self.report_end.close()

    def close(self) -> None:
        """Close what is read here: the process ends if it has not."""
        os.close(self.answer)
        self.report.close()


class LoadingProcess:
    """Loads versions in processes forked from one that has imported TensorFlow: started before it is needed.

    Guarantee: `load` returns what `loader.load` would return here, or raises; a program that it returns has the hash
    that was proved. Loads share nothing and do not wait for each other. None takes longer than `LONGEST_LOAD_SECONDS`
    or, beyond what its program holds, more than half of the memory that is to spare. All of them end when this process
    does, however it ends and whatever is loaded meanwhile, and leave no file behind.

    Args:
        child: started already; by default one is when it is needed.

    Thread safety: `load` may be called from several threads at once; `close` from any, also meanwhile.
    """

    def __init__(self, child: Child | None = None) -> None:
        self._lock = threading.Lock()
        self._child = child
        self._running: set[_Running] = set()
        self._is_closed = False
        self._is_gentle = False
        self._sees_gpu: bool | None = None

    def start(self) -> None:
        """Start the process where there is none, and do not wait until it has imported TensorFlow.

        Raises:
            LoadFailedError: after `close`.
            OSError: the system gives no process now.
        """
        with self._lock:
            self._living()

    def load(self, order: Order) -> LoadedVersion:
        """Return the version.

        Raises:
            VersionRefusedError: as `loader.load`.
            LoadFailedError: the process failed on it or ended, or answered with what is no version.
            OSError: no process can be started now.
        """
        answer = self._ask(order)
        if isinstance(answer, VersionRefusedError):
            raise answer
        if isinstance(answer, LoadFailure):
            raise LoadFailedError(answer.told, answer.details)
        if not isinstance(answer, LoadedVersion):
            raise LoadFailedError("its process answered with what is no version", f"a {type(answer).__name__}")
        _check_is_meant(answer, order)
        return answer

    def sees_gpu(self) -> bool:
        """Whether TensorFlow sees a GPU; known once a version was loaded."""
        return bool(self._sees_gpu)

    def close(self) -> None:
        """End the process and its loads at once: each raises LoadFailedError."""
        with self._lock:
            self._is_closed = True
            self._discard()

    def give_up(self, folder: Path) -> None:
        """Let the load of a folder raise LoadFailedError soon, if one runs."""
        with self._lock:
            for running in self._running:
                if running.folder == folder:
                    running.is_given_up = True
                    running.report.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------------------------------------------- one load
    def _ask(self, order: Order) -> Any:
        deadline = time.monotonic() + LONGEST_LOAD_SECONDS
        running = _Running(order.folder)
        try:
            self._hand_over(order, running)
            data = read_message(running.answer, ANSWER_HEAD, most_bytes=_most_bytes(), deadline_seconds=deadline)
        except TimeoutError as err:
            raise LoadFailedError(f"it took longer than {LONGEST_LOAD_SECONDS:g} s") from err
        except EOFError as err:
            raise LoadFailedError(self._ending(running)) from err
        except ValueError as err:
            raise LoadFailedError("its process answered with too much", str(err)) from err
        finally:
            with self._lock:
                self._running.discard(running)
            running.close()
        try:
            self._sees_gpu, content = plain_data.read(data)
        except Exception as err:  # a pickle that is none raises anything
            raise LoadFailedError("its process answered with what is no version", f"{err}") from err
        return content

    def _hand_over(self, order: Order, running: _Running) -> None:
        """Send an order, to a new process where there is none."""
        words = pickle.dumps(order)
        try:
            with self._lock:
                self._is_gentle |= order.gently
                running.child = child = self._living()
                self._running.add(running)
                ends = [running.answer_end, running.report_end.fileno()]
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended, so nobody answers
                    socket.send_fds(child.orders, [ORDER_HEAD.pack(len(words))], ends)
                    child.orders.sendall(words)
        finally:
            running.close_ends()

    def _ending(self, running: _Running) -> str:
        """Return how a load ended that gave no answer; where all of them ended, see to it that the next can begin."""
        if running.is_given_up:
            return "it was given up for another version"
        try:
            told = read_first(running.report.fileno(), time.monotonic() + _REPORT_SECONDS)
        except TimeoutError:
            return "its process gave no answer, and went on"
        if told:
            return _ending_of(json.loads(told))
        child = running.child
        with self._lock:
            if child is not None and child is self._child:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(END_SECONDS)
                with contextlib.suppress(OSError, LoadFailedError):
                    self._discard()
                    self._living()
        code = None if child is None else child.process.poll()
        return "the server is about to end" if self._is_closed else f"all loads ended ({_name_of(code)})"

    # --------------------------------------------------------------------------------- the process; under the lock
    def _living(self) -> Child:
        """Return the process, a new one where there is none or it has ended."""
        if self._is_closed:
            raise LoadFailedError("the server is about to end")
        if self._child is None or self._child.has_ended():
            self._discard()
            self._child = Child(gently=self._is_gentle)
        return self._child

    def _discard(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()


def _most_bytes() -> int:
    """Return how large an answer may be: what the largest version needs, and no more than half of what is to spare."""
    return min(_LARGEST_ANSWER_BYTES, bounds.memory_bytes(bounds.spare_bytes()))


def _check_is_meant(loaded: LoadedVersion, order: Order) -> None:
    """Require that what came through the pipe is the version that was ordered, with the program that was proved.

    Raises:
        LoadFailedError: it is another, or it changed on its way.
    """
    if (loaded.signature.model, loaded.signature.version) != (order.model, order.version):
        raise LoadFailedError("its process answered with another version than the one that was asked for")
    program, certificate = loaded.program, loaded.certificate
    if program is not None and certificate is not None and program.program_sha256 != certificate.program_sha256:
        raise LoadFailedError("the program that arrived is not the one that was proved")


def _ending_of(report: dict[str, int]) -> str:
    """Return what is told of a load that ended without an answer."""
    taken, most = (report[name] // _MIB for name in ("taken_bytes", "most_bytes"))
    return (
        f"its process ended while it loaded ({_name_of(report['code'])}), having taken {taken} of {most} MiB of memory"
    )


def _name_of(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
