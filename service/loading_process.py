"""A process of its own in which versions are read, proved and verified, so that requests do not feel it.

Loading is a tenth of a second of Python and TensorFlow for a small model and minutes for a large one. On a thread of
the server it would share Python's lock with every request; here it only shares the processor, at low priority. What is
more: the server needs no TensorFlow (half a gigabyte) where the program engine serves, and files that crash TensorFlow
end this process, not the server.

Above: `worker`, which makes live versions of what comes back. Below: `loader`, which does the work over there, and
`plain_data`, which lets nothing in but that.
"""

import contextlib
import dataclasses
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from service import plain_data
from service.errors import VersionRefusedError
from service.garbage import GarbageCollection
from service.loader import LoadedVersion, load, prepare

LONGEST_LOAD_SECONDS = 600.0
"""A load that takes longer is given up, and its process ended."""

MAX_GROWTH_BYTES = 64 << 20
"""TensorFlow keeps some ten kilobytes of every version that it reads; a process that grew by more is replaced."""

NICENESS = 10
"""How far loads stand back behind requests for the processor, once the first version is served (19: only if idle)."""

_PROGRAM = "from service.loading_process import main; main()"
_GENTLY = "gently"
_ROOT = Path(__file__).parents[1]
_END_SECONDS = 2.0


class LoadingProcessError(Exception):
    """The process ended, or had to be ended, before it had an answer; the next load gets a new one."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be loaded.

    Args:
        folder: `models/<model>/<version>`.
        model: the model's name.
        version: the version's number.
        allow_uncertified: as of `loader.load`.
        gently: whether to stand back behind whoever else wants the processor, from now on.
    """

    folder: Path
    model: str
    version: int
    allow_uncertified: bool = False
    gently: bool = False


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An exception of the process that is no verdict, as text: its class may exist over there only."""

    description: str


class LoadingProcess:
    """Loads versions in a child process: started before it is needed, replaced when it has died.

    Guarantee: `load` returns what `loader.load` would return here, or raises; a program that it returns has the hash
    that was proved. It never waits longer than `LONGEST_LOAD_SECONDS` for an answer. The child ends when this process
    does, however it ends and whatever is loaded meanwhile, and leaves no file behind.

    Thread safety: `start` and `load` are for one thread at a time; `close` may be called from any, also during a load.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._scratch: str | None = None  # the child's temporary files: one that is killed removes none
        self._is_closed = False
        self._is_gentle = False
        self._sees_gpu: bool | None = None

    def start(self) -> None:
        """Start the process, and do not wait until it has imported TensorFlow.

        Raises:
            LoadingProcessError: after `close`.
            OSError: the system gives no process now.
        """
        if self._is_closed:
            raise LoadingProcessError("the server is about to end")
        self._sweep()  # what a start that failed left
        self._scratch = tempfile.mkdtemp(prefix="convex-scoring-")
        ours, theirs = Pipe()
        with theirs:
            words = [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), self._scratch]
            words += [_GENTLY] if self._is_gentle else []
            path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
            self._child = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                words,
                env=os.environ | {"PYTHONPATH": path},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # TensorFlow's chatter; what matters comes through the pipe
            )
        self._connection = ours
        if self._is_closed:  # meanwhile
            self.close()

    def load(self, order: Order) -> LoadedVersion:
        """Return the version.

        Raises:
            VersionRefusedError: as `loader.load`.
            LoadingProcessError: the process failed on it or ended.
            OSError: no process can be started now.
        """
        self._is_gentle |= order.gently
        if self._child is None or self._child.poll() is not None:
            self._discard()
            self.start()
        answer = self._ask(order)
        if isinstance(answer, VersionRefusedError):
            raise answer
        if isinstance(answer, _Failure):
            raise LoadingProcessError(answer.description)
        if not isinstance(answer, LoadedVersion):
            raise LoadingProcessError(f"it answered with a {type(answer).__name__}")
        _check_is_meant(answer, order)
        return answer

    def sees_gpu(self) -> bool:
        """Whether TensorFlow sees a GPU; known once a version was loaded."""
        return bool(self._sees_gpu)

    def close(self) -> None:
        """End the process at once; a load that runs raises LoadingProcessError."""
        self._is_closed = True
        child = self._child
        if child is not None:
            _kill(child)
        self._sweep()

    def _ask(self, order: Order) -> Any:
        connection = self._connection
        if connection is None:
            raise LoadingProcessError("it was not started")
        try:
            connection.send(order)
            if not connection.poll(LONGEST_LOAD_SECONDS):
                raise LoadingProcessError(f"it took longer than {LONGEST_LOAD_SECONDS:g} s")
            self._sees_gpu, is_worn, answer = plain_data.read(connection.recv_bytes())
        except (EOFError, OSError) as err:
            raise LoadingProcessError(f"it ended while it loaded: {self._ending()}") from err
        except BaseException:  # what it had to say, or the rest of it, would be taken for the next answer
            self._discard()
            raise
        if is_worn:
            self._discard()
            with contextlib.suppress(OSError):  # no process can be started now: the next load tries again
                self.start()  # it will have imported TensorFlow by the next load
        return answer

    def _ending(self) -> str:
        code = self._discard()
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def _discard(self) -> int | None:
        """End the process whatever it does, and return how it ended."""
        child, self._child = self._child, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        code = None if child is None else _await_end(child)
        self._sweep()
        return code

    def _sweep(self) -> None:
        """Remove what a child that has ended left of its temporary files."""
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _check_is_meant(loaded: LoadedVersion, order: Order) -> None:
    """Require that what came through the pipe is the version that was ordered, with the program that was proved.

    Raises:
        LoadingProcessError: it is another, or it changed on its way.
    """
    if (loaded.signature.model, loaded.signature.version) != (order.model, order.version):
        raise LoadingProcessError("it answered with another version than the one that was asked for")
    program, certificate = loaded.program, loaded.certificate
    if program is not None and certificate is not None and program.program_sha256 != certificate.program_sha256:
        raise LoadingProcessError("the program that arrived is not the one that was proved")


def _await_end(child: "subprocess.Popen[bytes]") -> int | None:
    """Return how a child ended, which it does by itself now that nobody listens: its own code tells more."""
    try:
        return child.wait(1.0)
    except subprocess.TimeoutExpired:
        return _kill(child)


def _kill(child: "subprocess.Popen[bytes]") -> int | None:
    """End a child at once and return how it ended; None for one that a dead disk holds, which ends when it can."""
    child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_END_SECONDS)
    return child.returncode


def main() -> None:
    """Be the child: answer orders until nobody is there to give any."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all; the server says when it is over
        signal.signal(number, signal.SIG_IGN)
    descriptor, scratch = int(sys.argv[1]), sys.argv[2]
    tempfile.tempdir = scratch
    threading.Thread(target=_end_when_alone, args=(descriptor, scratch), daemon=True).start()
    if _GENTLY in sys.argv:  # the import of TensorFlow too
        stand_back()
    serve(Connection(descriptor))


def _end_when_alone(descriptor: int, scratch: str) -> None:
    """End this process once the server has closed its end of the pipe, or was killed, also in the middle of a load."""
    hang_up = select.poll()
    hang_up.register(descriptor, 0)  # no event but the hang-up, of which poll always tells
    hang_up.poll()
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def serve(connection: Connection) -> None:
    """Answer each order: whether there is a GPU, whether this process is worn, the version or why there is none.

    Args:
        connection: orders come in, answers go out; at its end this returns.
    """
    sees_gpu, failure = False, None
    try:
        sees_gpu = prepare()
    except Exception:  # noqa: BLE001  # TensorFlow is not there, or not whole: nobody reads our standard error
        failure = _Failure(traceback.format_exc())
    tidy = GarbageCollection()
    first_bytes: int | None = None
    with connection, contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            order: Order = connection.recv()
            if order.gently:
                stand_back()
            # What earlier versions left behind, not what this one needs while it is here.
            has_grown = first_bytes is not None and _resident_bytes() - first_bytes > MAX_GROWTH_BYTES
            answer = failure or _answer(order)
            connection.send((sees_gpu, has_grown or failure is not None, answer))
            del answer
            tidy()
            first_bytes = first_bytes or _resident_bytes()


def stand_back() -> None:
    """Let this process stand back by `NICENESS` at least: each of its threads, for Linux gives each its own."""
    try:
        threads = [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:  # a system that knows processes alone
        threads = [0]
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            if os.getpriority(os.PRIO_PROCESS, thread) < NICENESS:  # who stands back further may not come forward
                os.setpriority(os.PRIO_PROCESS, thread, NICENESS)


def _resident_bytes() -> int:
    """Return how much memory this process has; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _answer(order: Order) -> LoadedVersion | VersionRefusedError | _Failure:
    try:
        return load(order.folder, model=order.model, version=order.version, allow_uncertified=order.allow_uncertified)
    except VersionRefusedError as refusal:
        return VersionRefusedError(refusal.rule, refusal.reason)
    except Exception:  # noqa: BLE001  # the border of the process: TensorFlow raises nine kinds on damaged files
        return _Failure(traceback.format_exc())
