"""The leak detector catches each kind of leak, and nothing else."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LEAKS = """
import socket, subprocess, sys, threading
import pytest

kept = []

def test_thread():
    thread = threading.Thread(target=threading.Event().wait, daemon=True, name="forgotten")
    thread.start()

def test_socket():
    kept.append(socket.create_server(("127.0.0.1", 0)))

def test_file(tmp_path):
    kept.append(open(tmp_path / "forgotten.txt", "w"))

def test_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
"""

CLEAN = """
import socket, subprocess, sys, threading
import pytest

@pytest.fixture(scope="session")
def server(long_lived):
    long_lived.expect_threads("session-pool")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server

@pytest.fixture
def thread():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield thread
    stop.set()
    thread.join()

def test_ends_what_it_starts(tmp_path, thread):
    (tmp_path / "x").write_text("")
    subprocess.run([sys.executable, "-c", ""], check=True)

def test_uses_a_server_of_the_session(server):
    with socket.create_connection(server.getsockname()):
        connection, _ = server.accept()
        connection.close()

def test_meets_a_thread_of_the_session_pool(server):
    threading.Thread(target=threading.Event().wait, daemon=True, name="session-pool-1").start()
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run a test file in a process of its own with the detector alone."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run_tests(source: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        arguments = ("-p", "tests.plugins.leaks", "-p", "no:cacheprovider", "--leak-grace-seconds=0.2")
        return pytester.runpytest_subprocess(*arguments)

    return run_tests


def test_leak_detector_fails_the_test_when_it_leaves_something_behind(run) -> None:
    """A thread, a socket, a file and a child process that outlive their test each fail it, by name."""
    result = run(LEAKS)
    result.assert_outcomes(passed=4, errors=4)
    result.stdout.fnmatch_lines(
        [
            "*left behind: thread forgotten*",
            "*left behind: open socket:*",
            "*left behind: open *forgotten.txt*",
            "*left behind: process *input()*",
        ]
    )


def test_leak_detector_passes_the_test_when_all_is_ended_or_of_the_session(run) -> None:
    """What a test ends itself, and what belongs to the session, is no leak."""
    run(CLEAN).assert_outcomes(passed=3)
