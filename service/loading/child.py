"""The child that imports TensorFlow and forks one process for each load, as whoever serves starts and ends it.

Above: `process`, which hands it orders, and `__main__`, which starts it before anything else: TensorFlow then comes
from the disk while the server imports its own libraries. Below: nothing; what runs over there is `fork_server`.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

GENTLY = "gently"
"""Word of the command line: stand back from the start."""

END_SECONDS = 2.0
"""How long a child that was killed is waited for: a dead disk may hold it, and it ends when it can."""

_PROGRAM = "from service.loading.fork_server import main; main()"
_ROOT = Path(__file__).parents[2]
_FAREWELL_SECONDS = 0.2


class Child:
    """A started child: its process, the socket of its orders, and the folder of its temporary files.

    Guarantee: it ends, with all that it started, when `orders` is closed or this process is gone; `close` also removes
    its files, which a child that is killed cannot.

    Args:
        gently: whether it stands back behind whoever else wants the processor, from the start.

    Raises:
        OSError: the system gives no process, no socket or no folder now; nothing is left of the attempt.
    """

    def __init__(self, *, gently: bool = False) -> None:
        self.orders, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        variables = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}  # no threads: a process with some cannot fork
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(self.orders.close)
            self.scratch = tempfile.mkdtemp(prefix="convex-scoring-")
            undo.callback(shutil.rmtree, self.scratch, ignore_errors=True)
            words = [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), self.scratch]
            words += [GENTLY] if gently else []
            self.process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                words,
                env=os.environ | variables,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # TensorFlow's chatter; what matters comes through the pipes
            )
            undo.pop_all()

    def has_ended(self) -> bool:
        """Whether its process is gone."""
        return self.process.poll() is not None

    def close(self) -> None:
        """End it whatever it does: by itself, for it then removes its loads and their files, or killed."""
        self.orders.close()
        try:
            self.process.wait(_FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
        shutil.rmtree(self.scratch, ignore_errors=True)
