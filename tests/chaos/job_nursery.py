"""Training jobs that are cheap to start and can be killed anywhere: forked by a process that has imported everything.

`python -m tests.chaos.job_nursery` imports what `python -m training` imports when a command runs, and runs nothing of
it. A line that it reads forks a child; what runs there is `main([...])`, as the command line runs it, to its exit code.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path

from tests.end_to_end.server_process import ROOT


class Job:
    """One job in a process of its own.

    Args:
        nursery: that forked it.
        number: its process number.
        output: the file that it writes both streams to.
    """

    def __init__(self, nursery, number, output):
        self._nursery, self._number, self._output = nursery, number, output
        self.code = None

    def said(self):
        """Return what it wrote so far."""
        return self._output.read_text()

    def kill(self):
        """End it at once, wherever it is; its number stays its own until `wait`."""
        os.kill(self._number, signal.SIGKILL)

    def limit_files(self, num_bytes):
        """Let it write no file longer than this from now on: a disk that is full for all that is large."""
        resource.prlimit(self._number, resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    def has_ended(self):
        """Whether it has ended by itself or by a kill."""
        if self.code is None:
            self.code = self._nursery.ask({"poll": self._number})["code"]
        return self.code is not None

    def wait(self):
        """Return its exit code, or the signal that ended it as a negative number."""
        if self.code is None:
            self.code = self._nursery.ask({"wait": self._number})["code"]
        return self.code


class Nursery:
    """The process that forks jobs.

    Args:
        folder: where the jobs' output goes.
    """

    def __init__(self, folder):
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.ask({})  # all is imported

    def start(self, *arguments):
        """Return a job that has just been forked, of these arguments of `python -m training`."""
        self._count += 1
        output = self._folder / f"job-{self._count}.log"
        output.touch()
        answer = self.ask({"arguments": [str(argument) for argument in arguments], "output": str(output)})
        return Job(self, answer["number"], output)

    def ask(self, request):
        """Return the answer to one line."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        """End it and whatever it forked."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
        self._process.stdin.close()
        self._process.stdout.close()


def fork(main, request):
    """Return the number of a child that runs a command."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the thread that `serve` knows of
        number = os.fork()
    if number:
        return number
    output = os.open(request["output"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, stream)
    code = 70
    try:
        code = main(request["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def code_of(number, flags):
    """Return how a child ended, or None."""
    found, status = os.waitpid(number, flags)
    return os.waitstatus_to_exitcode(status) if found else None


def serve():
    """Answer every line."""
    from training.__main__ import _quiet, main

    _quiet()
    import training.retrain  # noqa: F401  (this and all below it, for the children)

    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if len(threads) - threads.count("jemalloc_bg_thd") != 1:  # which knows of forks
        raise RuntimeError(f"only a process of one thread can be forked honestly, this one has {threads}")
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if "arguments" in request:
            answer["number"] = fork(main, request)
        elif "wait" in request:
            answer["code"] = code_of(request["wait"], 0)
        elif "poll" in request:
            answer["code"] = code_of(request["poll"], os.WNOHANG)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
