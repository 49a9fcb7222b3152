"""One worker as a process: what is heard of it, and that it never outlives the commander."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from service.fleet import worker_process
from service.fleet.worker_process import WorkerProcess

ECHO = """
import os, signal, socket, sys
from service.fleet.channel import Channel
channel = Channel(socket.socket(fileno=int(sys.argv[1])))
while True:
    message, descriptors = channel.receive()
    if message == "end":
        os._exit(7)
    if message == "spawn":
        message = os.fork()
        while message == 0:
            signal.pause()
    for descriptor in descriptors:
        os.write(descriptor, b"hello")
    channel.send((message, os.getppid()))
"""

COMMANDER = """
import threading
from service.fleet.worker_process import WorkerProcess
process = WorkerProcess(0, lambda *_: None, lambda *_: None)
process.start()
print(process.pid, flush=True)
threading.Event().wait()
"""


@pytest.fixture
def echo(monkeypatch):
    """Return a started process that says what it is told, what was heard of it, and an event of its end."""
    monkeypatch.setattr(worker_process, "_PROGRAM", ECHO)
    heard, news, ended = [], threading.Event(), threading.Event()

    def hear(_, message):
        heard.append(message)
        news.set()

    process = WorkerProcess(0, hear, lambda _: ended.set())
    process.start()
    yield process, heard, news, ended
    process.kill()
    assert ended.wait(20)
    assert process.join(20)


def test_worker_hears_and_is_heard_until_it_ends(echo):
    """A message with a descriptor goes there, its answer comes back, and the end is told with the exit code."""
    process, heard, news, ended = echo
    reading, writing = os.pipe()
    process.send("first", [writing])
    os.close(writing)
    assert news.wait(20)
    assert (b"hello", [("first", os.getpid())]) == (os.read(reading, 5), heard)
    os.close(reading)
    process.send("end")
    process.send("nobody hears this")
    assert ended.wait(20)
    assert 7 == process.code


def test_end_of_a_killed_worker_is_told_with_its_signal(echo):
    """The code is the signal's number, negative."""
    process, _, _, ended = echo
    process.kill()
    assert ended.wait(20)
    assert -signal.SIGKILL == process.code


def test_end_of_a_worker_is_told_even_where_its_own_child_lives_on(echo, wait_until):
    """A process that it left holds the other end of the channel open, and delays nothing."""
    process, heard, news, ended = echo
    process.send("spawn")
    assert news.wait(20)
    ((child, _),) = heard
    process.kill()
    try:
        assert ended.wait(20)
        assert psutil.Process(child).is_running()
    finally:
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_worker_that_stands_still_ends_with_its_commander(wait_until):
    """Killed without a word, the commander takes even a stopped worker along: the system sees to that."""
    root = Path(worker_process.__file__).parents[2]
    commander = subprocess.Popen([sys.executable, "-c", COMMANDER], cwd=root, stdout=subprocess.PIPE, text=True)
    with commander:
        pid = int(commander.stdout.readline())
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(pid)
            ignored = Path(f"/proc/{pid}/status")
            wait_until(lambda: int(ignored.read_text().split("SigIgn:")[1].split()[0], 16) & 1 << signal.SIGTERM - 1)
            wait_until(lambda: worker.status() == psutil.STATUS_SLEEPING)
            os.kill(pid, signal.SIGSTOP)
            commander.kill()
            wait_until(lambda: not psutil.pid_exists(pid) or worker.status() == psutil.STATUS_ZOMBIE)
