"""The server as it is, whose batch threads die at a signal: `python -m tests.chaos.mortal_server serve ...`."""

import contextlib
import ctypes
import json
import signal
import threading

from service.__main__ import main
from tests.end_to_end.server_process import ServerProcess

DEADLY = signal.SIGUSR1


class MortalServer(ServerProcess):
    """A server process that can be told to lose its batch threads, wherever they stand."""

    module = "tests.chaos.mortal_server"

    def events(self, name):
        """Return the log lines of one event; a thread that is killed while it writes one leaves a piece of it."""
        parsed = []
        for line in list(self.lines):
            with contextlib.suppress(ValueError):
                parsed.append(json.loads(line))
        return [line for line in parsed if line["event"] == name]

    def kill_batch_threads(self):
        """Let a SystemExit appear in each of them."""
        self.process.send_signal(DEADLY)


def kill_batch_threads(*_):
    """Raise SystemExit in every batch thread, at whatever instruction it is."""
    for thread in threading.enumerate():
        if thread.name.startswith("batcher-") and thread.ident is not None:  # else it is about to start
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


if __name__ == "__main__":
    signal.signal(DEADLY, kill_batch_threads)
    main(prog_name="python -m service")
