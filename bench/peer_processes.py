"""A peer's server as a process of a bounded life: started, waited for, ended with all that it has started.

Above: `peers`. Below: `processors`.
"""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.peer_environment import MissingPeerError
from bench.processors import SERVER_CORE, family, pinned
from bench.provenance import ROOT

LIFE_SECONDS = 600
"""After so long a server ends by itself, whatever became of who started it."""

_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_SHOWN = 600


def free_port() -> int:
    """Return a port of the loopback address that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def peer_serving(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, is_ready: Callable[[], bool]
) -> Iterator[int]:
    """Run a server on its core until the block ends; its process id.

    Args:
        words: the command.
        environment: variables that it has beside PATH and HOME.
        folder: where it runs, and puts what it writes.
        is_ready: whether it answers now.

    Raises:
        MissingPeerError: it ended, or does not answer.
    """
    with tempfile.TemporaryFile() as log:
        with pinned(SERVER_CORE):
            process = subprocess.Popen(  # noqa: S603  (our own command)
                ["/usr/bin/timeout", f"--kill-after={_STOP_SECONDS}", str(LIFE_SECONDS), *words],
                cwd=folder,
                env=_variables(environment, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise MissingPeerError(f"its server does not answer: {_tail(log.fileno())}")
                time.sleep(_LOOK_SECONDS)
            yield process.pid
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it has started: first politely, then what is left."""
    members = family(process.pid) - {process.pid}
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    _tell(members, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS / 2
    while time.monotonic() < deadline and any(map(lives, members)):
        time.sleep(_LOOK_SECONDS)
    _tell({process.pid, *members}, signal.SIGKILL)
    process.wait(_STOP_SECONDS)


def _tell(pids: set[int], word: signal.Signals) -> None:
    for pid in filter(lives, pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, word)


def lives(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _variables(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
        **environment,
    }


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, _SHOWN, max(0, size - _SHOWN)).decode(errors="replace")
