"""Fails a test that leaves a thread, a socket, an open file or a child process behind.

What exists before a test's own fixtures (a session's server, say) is not the test's. Loaded by `tests/conftest.py`;
`tests/house/test_leaks.py` shows it at work.
"""

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

LONG_LIVED_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Helpers that Python's multiprocessing starts once and keeps to the end of the process."""

KEPT_FILES = "/fonts/"
"""Fonts, its own and the system's, stay open in matplotlib's cache once a test has drawn with them."""

GC_SECONDS = 0.05
"""How long threads and sockets may take to end by themselves before circles of objects are looked through."""


class LongLived:
    """What a session's fixture may start later, in the middle of somebody's test: the threads of its server's pool."""

    def __init__(self) -> None:
        self.prefixes: list[str] = []

    def expect_threads(self, prefix: str) -> None:
        """Threads whose name begins with `prefix` belong to the session from now on."""
        self.prefixes.append(prefix)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of this module wait less."""
    parser.addoption(
        "--leak-grace-seconds", type=float, default=10.0, help="how long a test's leftovers may take to go (default 10)"
    )


def pytest_collection_finish() -> None:
    """Take all that was imported out of the garbage collector's sight: it would look through it again and again.

    That is a third of the time of many a test module, and half a second wherever a test left something in a circle.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def long_lived() -> LongLived:
    """Take note of threads that a session-scoped fixture will start during tests."""
    return LongLived()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest, long_lived: LongLived) -> Iterator[None]:
    """Compare what lives after the test with what lived before it; sockets and threads get a moment to end."""
    before = snapshot(long_lived)
    yield
    start = time.monotonic()
    deadline = start + request.config.getoption("--leak-grace-seconds")
    left = snapshot(long_lived) - before
    while left and time.monotonic() < start + GC_SECONDS:
        time.sleep(0.01)
        left = snapshot(long_lived) - before
    if left:
        gc.collect()  # an exception's traceback may have kept an object alive
        left = snapshot(long_lived) - before
    while left and time.monotonic() < deadline:
        time.sleep(0.01)
        left = snapshot(long_lived) - before
    if left:
        pytest.fail("the test left behind: " + ", ".join(sorted(left)), pytrace=False)


def snapshot(long_lived: LongLived) -> set[str]:
    """Return one line for each thread, socket, open file and child process of this process."""
    return threads(long_lived) | descriptors() | children()


def threads(long_lived: LongLived) -> set[str]:
    """Return Python's own threads but the main one; those of native libraries are not ours to end."""
    prefixes = tuple(long_lived.prefixes)
    return {
        f"thread {thread.name} ({thread.ident})"
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not (prefixes and thread.name.startswith(prefixes))
    }


def descriptors() -> set[str]:
    """Return sockets and files that are open; pipes, devices and event counters are left out (libraries keep some)."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        process = psutil.Process()
        files = {f"file {entry.path}" for entry in process.open_files()}
        return files | {f"socket {entry.laddr} {entry.raddr}" for entry in process.net_connections()}
    found = set()
    for name in os.listdir(folder):
        try:
            target = os.readlink(folder / name)
        except OSError:  # it was the one that listed the folder
            continue
        if KEPT_FILES in target:
            continue
        if target.startswith("socket:") or (target.startswith("/") and not target.startswith(("/dev/", "/proc/"))):
            found.add(f"open {target}")
    return found


def children() -> set[str]:
    """Return the child processes of this process, those that ended and were not waited for too."""
    found = set()
    for number in child_numbers():
        try:
            process = psutil.Process(number)
            command = " ".join(process.cmdline())[:100] or process.name()
        except psutil.NoSuchProcess:
            continue
        if not any(name in command for name in LONG_LIVED_PROCESSES):
            found.add(f"process {number} ({command})")
    return found


def child_numbers() -> list[int]:
    """Return the process numbers of the children; from the kernel's lists where it has them, they are the fastest."""
    lists = list(Path("/proc/self/task").glob("*/children"))
    if not lists:
        return [process.pid for process in psutil.Process().children()]
    numbers: list[int] = []
    for path in lists:
        try:
            numbers.extend(int(word) for word in path.read_text().split())
        except OSError:  # the thread has ended
            continue
    return numbers
