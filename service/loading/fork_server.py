"""The process that has imported TensorFlow, and forks one for each load: this is what runs over there.

Above: `process`, which starts it and hands it orders. Below: `loader`, which does the work in each fork, and
`bounds`, which confines it. This process itself reads no version and starts no thread: nothing that a version
does to the process that loads it is there when the next one is loaded, and any number of loads can run side by side.
"""

import contextlib
import dataclasses
import json
import math
import os
import pickle
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

from service.errors import VersionRefusedError
from service.garbage import GarbageCollection, uncollected
from service.loader import LoadedVersion, load, prepare, warm_up
from service.loading import bounds
from service.loading.child import GENTLY

ORDER_HEAD = struct.Struct("!I")
"""Length of an order; with it come the descriptors of the answer and of the report."""
ANSWER_HEAD = struct.Struct("!Q")
"""Length of an answer."""

_MIB = 1 << 20
_NUM_PIPES = 2


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be loaded.

    Args:
        folder: `models/<model>/<version>`.
        model: the model's name.
        version: the version's number.
        allow_uncertified: as of `loader.load`.
        gently: whether to stand back behind whoever else wants the processor.
    """

    folder: Path
    model: str
    version: int
    allow_uncertified: bool = False
    gently: bool = False


@dataclasses.dataclass(frozen=True)
class LoadFailure:
    """An exception of a load that is no verdict, as text: its class may exist over there only.

    Args:
        told: for everybody to read: no path.
        details: its traceback.
    """

    told: str
    details: str = ""


@dataclasses.dataclass
class _Load:
    """A fork that runs.

    Args:
        report: descriptor that its end is written to, and that nobody reads any more once it is given up.
        scratch: its temporary files.
        memory: bytes that it may take.
        late_seconds: monotonic; from then on it takes long. Infinite once it was made to stand back.
    """

    report: int
    scratch: str
    memory: int
    late_seconds: float


def main() -> None:
    """Be the child: `DESCRIPTOR SCRATCH [gently]`; answer orders until nobody is there to give any."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all; the server says when it is over
        signal.signal(number, signal.SIG_IGN)
    orders, scratch = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    bounds.stand_before_server()
    if GENTLY in sys.argv:  # the import of TensorFlow too
        bounds.stand_back()
    sees_gpu, failure = False, None
    try:
        with uncollected():
            warm_up()
        sees_gpu = _see_gpu()
    except Exception as error:  # noqa: BLE001  # TensorFlow is not there, or not whole: nobody reads our standard error
        failure = LoadFailure(f"TensorFlow cannot be used ({type(error).__name__})", traceback.format_exc())
    GarbageCollection()()  # what stays as it is stays shared with the forks
    try:
        ForkServer(orders, scratch, sees_gpu=sees_gpu, failure=failure).run()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(0)  # what Python and TensorFlow would tidy up goes with the process


class ForkServer:
    """Forks a process for each order and tells how each ended.

    Guarantees: it ends, with all forks and their files, when the server closes its end of the socket or is gone; a fork
    ends when nobody reads its report any more.

    Args:
        orders: a socket; each order is its length with two descriptors, for answer and report, and its pickle.
        scratch: folder for temporary files.
        sees_gpu: told with every answer.
        failure: why nothing can be loaded: the answer to the first order, after which `run` ends; None: all is well.
    """

    def __init__(self, orders: socket.socket, scratch: str, *, sees_gpu: bool, failure: LoadFailure | None) -> None:
        self._orders = orders
        self._scratch = scratch
        self._sees_gpu = sees_gpu
        self._failure = failure
        self._loads: dict[int, _Load] = {}
        self._events = select.poll()
        self._woken, self._waker = os.pipe()

    def run(self) -> None:
        """Answer orders until there can be no more."""
        for descriptor in (self._woken, self._waker):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that the end of a fork wakes `poll`
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._events.register(self._orders, select.POLLIN)
        self._events.register(self._woken, select.POLLIN)
        try:
            while self._turn():
                self._reap()
        finally:
            for process in self._loads:
                os.kill(process, signal.SIGKILL)
            for process in self._loads:
                os.waitpid(process, 0)

    def _turn(self) -> bool:
        """Wait for something to happen and follow it; return whether to go on."""
        for descriptor, _ in self._events.poll(self._stand_back()):
            if descriptor == self._woken:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 1 << 16)
            elif descriptor == self._orders.fileno():
                if not self._take():
                    return False
            else:  # it is given up
                for process, begun in self._loads.items():
                    if begun.report == descriptor:
                        os.kill(process, signal.SIGKILL)
                        self._events.unregister(descriptor)
        return True

    def _stand_back(self) -> float | None:
        """Let the loads that take long stand back; return the milliseconds until the next one will, None for none."""
        now = time.monotonic()
        for process, begun in self._loads.items():
            if begun.late_seconds <= now:
                bounds.stand_back(bounds.LAST_NICENESS, process)
                begun.late_seconds = math.inf
        next_seconds = min((begun.late_seconds for begun in self._loads.values()), default=math.inf)
        return None if math.isinf(next_seconds) else math.ceil((next_seconds - now) * 1000.0)

    def _take(self) -> bool:
        """Begin the load of the next order; return whether there was one, and may be another."""
        try:
            head, descriptors, _, _ = socket.recv_fds(self._orders, ORDER_HEAD.size, _NUM_PIPES)
            if len(head) < ORDER_HEAD.size or len(descriptors) < _NUM_PIPES:
                return False
            order: Order = pickle.loads(_exactly(self._orders, *ORDER_HEAD.unpack(head)))  # noqa: S301  (from the server)
        except (EOFError, ConnectionError):
            return False
        answer, report = descriptors
        if self._failure is not None:
            _send(answer, (False, self._failure))
            return False
        if order.gently:  # to fork a large process takes milliseconds as well
            bounds.stand_back()
        self._fork(order, answer, report)
        os.close(answer)
        return True

    def _fork(self, order: Order, answer: int, report: int) -> None:
        promised = sum(max(0, each.memory - bounds.resident_bytes(process)) for process, each in self._loads.items())
        memory = bounds.memory_bytes(bounds.spare_bytes(), promised)
        scratch = tempfile.mkdtemp(dir=self._scratch)
        parent = os.getpid()
        try:
            process = os.fork()
        except OSError as error:  # no process, or no memory for one, now
            _send(answer, (self._sees_gpu, LoadFailure(f"no process can be started now ({error.strerror})")))
            os.close(report)
            os.rmdir(scratch)
            return
        if process == 0:
            os.close(report)  # whose end is the end of this process' parent, then
            self._be_a_load(order, answer, scratch, memory, parent)
        self._loads[process] = _Load(report, scratch, memory, time.monotonic() + bounds.PATIENCE_SECONDS)
        self._events.register(report, 0)  # no event but that nobody reads it, of which poll always tells

    def _be_a_load(self, order: Order, answer: int, scratch: str, memory: int, parent: int) -> NoReturn:
        """Load, answer and end, whatever happens: nothing here returns into the process that was forked."""
        code = 1
        try:
            bounds.die_with(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._orders.close()
            for descriptor in (self._woken, self._waker, *(each.report for each in self._loads.values())):
                os.close(descriptor)
            bounds.confine(memory)
            tempfile.tempdir = scratch
            _send(answer, (self._sees_gpu, _answer(order, memory)))
            code = 0
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Tell how each fork ended that has, and remove its files."""
        while self._loads:
            process, status, usage = os.wait4(-1, os.WNOHANG)
            if process == 0:
                return
            ended = self._loads.pop(process)
            code = os.waitstatus_to_exitcode(status)
            taken = max(0, (usage.ru_maxrss << 10) - bounds.resident_bytes(os.getpid()))
            report = {"code": code, "taken_bytes": taken, "most_bytes": ended.memory}
            with contextlib.suppress(OSError, KeyError):
                self._events.unregister(ended.report)
            with contextlib.suppress(BrokenPipeError):
                os.write(ended.report, json.dumps(report).encode())
            os.close(ended.report)
            shutil.rmtree(ended.scratch, ignore_errors=True)


def _see_gpu() -> bool:
    """Whether TensorFlow sees a GPU: asked in a fork, for a process that has used one cannot be forked any more.

    From then on neither this process nor its forks see it.

    Raises:
        RuntimeError: TensorFlow cannot be set up.
    """
    process = os.fork()
    if process == 0:
        code = 2
        try:
            code = int(prepare())
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code not in {0, 1}:
        message = f"it cannot be set up: a process that tried ended with {code}"
        raise RuntimeError(message)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    return code == 1


def _answer(order: Order, memory: int) -> LoadedVersion | VersionRefusedError | LoadFailure:
    try:
        prepare()
        return load(order.folder, model=order.model, version=order.version, allow_uncertified=order.allow_uncertified)
    except VersionRefusedError as refusal:
        return VersionRefusedError(refusal.rule, refusal.reason)
    except MemoryError:
        return LoadFailure(f"it needs more than the {memory // _MIB} MiB of memory that a load may take now")
    except Exception as error:  # noqa: BLE001  # the border of the process: TensorFlow raises nine kinds on damaged files
        said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
        return LoadFailure(type(error).__name__ + (f" ({said})" if said else ""), traceback.format_exc())


def _send(answer: int, content: object) -> None:
    """Write an answer; without a reader this ends quietly."""
    with contextlib.suppress(BrokenPipeError), os.fdopen(answer, "wb", closefd=False) as pipe:
        data = pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
        pipe.write(ANSWER_HEAD.pack(len(data)))
        pipe.write(data)


def _exactly(source: socket.socket, num_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < num_bytes:
        piece = source.recv(num_bytes - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
