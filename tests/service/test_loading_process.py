"""The loading process: the loader's answers from over there, and what happens when it dies."""

import contextlib
import dataclasses
import errno
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import numpy as np
import psutil
import pytest

from service import loading_process
from service.engines.program import ProgramEngine
from service.errors import VersionRefusedError
from service.loading_process import NICENESS, LoadingProcess, LoadingProcessError, Order, serve
from service.model_version import ModelVersion
from service.plain_data import NotPlainError

SHIPPED = Path(__file__).parents[2] / "models" / "tumours" / "1"
ORDER = Order(Path("m/1"), "m", 1)
SECONDS = 60.0
CHILD = "import os, signal, sys; from multiprocessing.connection import Connection as C; c = C(int(sys.argv[1])); "


@pytest.fixture
def make_process(monkeypatch):
    """Return `make(program)`, a loading process whose child runs that program; all are ended after the test."""
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")  # as `python -m service` does
    made = []

    def make(program=None):
        if program is not None:
            monkeypatch.setattr(loading_process, "_PROGRAM", CHILD + program)
        made.append(LoadingProcess())
        return made[-1]

    yield make
    for process in made:
        process.close()
        process._discard()


def test_load_returns_the_proved_version_and_refusals_from_the_child(make_process, tmp_path):
    """A shipped version arrives whole and computes; a refusal keeps its rule; later loads stand back when told to."""
    process = make_process()
    process.start()
    child = psutil.Process(process._child.pid)
    loaded = process.load(Order(SHIPPED, "tumours", 1))
    assert ("proved", 30) == (loaded.convexity, loaded.signature.dim)
    assert loaded.manifest.certificate["program_sha256"] == loaded.program.program_sha256
    received = ModelVersion(loaded, ProgramEngine(loaded.program)).score(loaded.probe.x)
    np.testing.assert_allclose(received, loaded.probe.score, rtol=0.0, atol=1e-5 * np.abs(loaded.probe.score).max())
    assert process.sees_gpu() is False
    assert 0 == child.nice()
    with pytest.raises(VersionRefusedError) as refusal:
        process.load(Order(tmp_path, "tumours", 1, gently=True))
    assert "saved-model" == refusal.value.rule
    assert NICENESS == child.nice()
    assert {NICENESS} == set(nicenesses(child.pid).values())
    process.close()
    assert not child.is_running()


def test_stand_back_keeps_what_stands_back_further_when_the_server_was_started_so():
    """A process under `nice -n 15` may not come forward to 10, and goes on at 15."""
    words = (
        "import os; from service.loading_process import stand_back; "
        "os.nice(15 - os.nice(0)); stand_back(); print(os.nice(0))"
    )
    result = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (0, "15\n") == (result.returncode, result.stdout), result.stderr


def test_process_stands_back_from_its_start_when_it_replaces_one_that_did(make_process):
    """The successor of a worn process does not even import TensorFlow in the way of requests."""
    process = make_process(
        "from service.loading_process import _Failure; "
        "c.send((False, True, _Failure(str('gently' in sys.argv)))); signal.pause()"
    )
    process.start()
    for expected in ("False", "True"):
        with pytest.raises(LoadingProcessError, match=expected):
            process.load(dataclasses.replace(ORDER, gently=True))


def nicenesses(pid):
    """Return the niceness of each thread of a process; Linux keeps one for each."""
    return {int(name): os.getpriority(os.PRIO_PROCESS, int(name)) for name in os.listdir(f"/proc/{pid}/task")}


def test_load_fails_and_the_next_one_gets_a_new_process_when_the_child_dies(make_process):
    """A crash over there is an exception here that names the signal; it harms nothing else."""
    process = make_process("c.recv(); os.kill(os.getpid(), signal.SIGSEGV)")
    for _ in range(2):
        with pytest.raises(LoadingProcessError, match="it ended while it loaded: SIGSEGV"):
            process.load(ORDER)


def test_load_starts_another_process_when_the_child_ended_in_between(make_process):
    """Nobody has to notice that it is gone."""
    process = make_process("sys.exit(3)")
    process.start()
    process._child.wait(SECONDS)
    with pytest.raises(LoadingProcessError, match="exit code 3"):
        process.load(ORDER)


def test_load_is_given_up_when_it_takes_too_long(make_process, monkeypatch):
    """A child that hangs is ended, and its load fails."""
    monkeypatch.setattr(loading_process, "LONGEST_LOAD_SECONDS", 0.05)
    process = make_process("c.recv(); signal.pause()")
    process.start()
    child = process._child
    with pytest.raises(LoadingProcessError, match=r"it took longer than 0\.05 s"):
        process.load(ORDER)
    assert -9 == child.poll()


def test_process_is_replaced_when_it_has_grown_and_its_answer_stands(make_process):
    """A worn process gives its version, and the next one is started before anybody needs it."""
    process = make_process(
        "from service.loading_process import _Failure; "
        "c.recv(); c.send((False, True, _Failure('the answer'))); signal.pause()"
    )
    process.start()
    first = process._child
    with pytest.raises(LoadingProcessError, match="the answer"):
        process.load(ORDER)
    assert first.poll() is not None
    assert first is not process._child
    assert process._child.poll() is None


def test_answer_stands_when_no_successor_of_a_worn_process_can_be_started(make_process, monkeypatch, temporary):
    """A system that gives no process now takes nothing from the version that was loaded; the next load tries again."""
    process = make_process(
        "from service.loading_process import _Failure; c.recv(); c.send((False, True, _Failure('it')))"
    )
    process.start()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse_process)
        for expected in (LoadingProcessError, BlockingIOError):
            with pytest.raises(expected):
                process.load(ORDER)
    with pytest.raises(LoadingProcessError, match="it"):
        process.load(ORDER)
    process.close()
    assert [] == list(temporary.iterdir())


def refuse_process(*_, **__):
    """Stand in for Popen where the limit of processes is reached."""
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_process_is_not_worn_when_a_version_is_merely_large(make_process):
    """What a version needs while it is here counts for nothing; what versions leave behind gets a new process."""
    process = make_process(
        "from service import loading_process as p; p.prepare = lambda: False; p.MAX_GROWTH_BYTES = 16 << 20\n"
        "kept = []\n"
        "def load(folder, model, version, **_):\n"
        "    if version == 3: kept.append(b'.' * (64 << 20))\n"
        "    return b'.' * ((64 << 20) * (version == 2) + 1)\n"
        "p.load = load; p.serve(c)"
    )
    process.start()
    first = process._child
    survived = []
    for version in (1, 2, 1, 3, 1):
        with pytest.raises(LoadingProcessError, match="it answered with a bytes"):
            process.load(dataclasses.replace(ORDER, version=version))
        survived.append(process._child is first)
    assert [True, True, True, True, False] == survived


def test_load_says_why_when_tensorflow_cannot_be_imported_over_there(make_process):
    """The reason arrives although nobody reads the child's standard error, and the next load tries a new process."""
    process = make_process(
        "from service import loading_process as p\n"
        "def prepare(): raise ImportError('libtensorflow.so is not whole')\n"
        "p.prepare = prepare; p.serve(c)"
    )
    process.start()
    first = process._child
    with pytest.raises(LoadingProcessError, match=r"libtensorflow\.so is not whole"):
        process.load(ORDER)
    assert first is not process._child


def test_answer_that_was_not_read_is_never_taken_for_the_next_when_memory_ran_out(make_process, monkeypatch):
    """An order that failed on this side leaves nothing in the pipe: its child is ended with it."""
    process = make_process(
        "from service.loading_process import _Failure\n"
        "for number in range(9): order = c.recv(); c.send((False, False, _Failure(f'of version {order.version}')))"
    )
    process.start()

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "recv_bytes", fail)
        with pytest.raises(MemoryError):
            process.load(ORDER)
    with pytest.raises(LoadingProcessError, match="of version 2"):
        process.load(dataclasses.replace(ORDER, version=2))


def test_load_runs_nothing_when_the_child_sends_what_is_no_plain_data(make_process, tmp_path):
    """A child that was taken over by the files it reads cannot make the server call what it names."""
    planted = tmp_path / "planted"
    process = make_process(
        "import os\n"
        f"class Evil: __reduce__ = lambda self: (os.mkdir, ({str(planted)!r},))\n"
        "c.recv(); c.send((False, False, Evil())); signal.pause()"
    )
    with pytest.raises(NotPlainError, match=r"posix\.mkdir, expected plain data"):
        process.load(ORDER)
    assert not planted.exists()


def test_child_imports_nothing_of_the_folder_when_the_server_was_started_there(make_process, tmp_path, monkeypatch):
    """A file called numpy.py in the current folder is not what the child takes for NumPy."""
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    process = make_process("import service.loading_process as p; c.recv(); c.send((False, False, p._Failure('fine')))")
    with pytest.raises(LoadingProcessError, match="fine"):
        process.load(ORDER)


def test_load_refuses_an_answer_when_it_is_another_version(make_process):
    """What is served under a number was loaded under that number."""
    process = make_process(
        "from pathlib import Path; from service import loading_process as p; p.prepare = lambda: False\n"
        "right = p.load\n"
        f"p.load = lambda *_, **__: right(Path({str(SHIPPED)!r}), model='tumours', version=1); p.serve(c)"
    )
    with pytest.raises(LoadingProcessError, match="another version"):
        process.load(Order(SHIPPED, "tumours", 2))


def test_load_refuses_a_program_when_it_is_not_the_proved_one(make_process):
    """One weight that changed on its way, to one that would not have been proved, is not served."""
    process = make_process(
        "from service import loading_process as p; p.prepare = lambda: False; right = p.load\n"
        "def load(*arguments, **words):\n"
        "    version = right(*arguments, **words)\n"
        "    array = next(version.program.weights()); array.setflags(write=True); array.flat[0] = -array.flat[0]\n"
        "    return version\n"
        "p.load = load; p.serve(c)"
    )
    with pytest.raises(LoadingProcessError, match="not the one that was proved"):
        process.load(Order(SHIPPED, "tumours", 1))


def test_close_ends_a_load_that_runs_and_forbids_another(make_process, wait_until, tmp_path):
    """The server's end waits for no load."""
    begun = tmp_path / "begun"
    process = make_process(f"c.recv(); open({str(begun)!r}, 'w').close(); signal.pause()")
    process.start()
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(process.load, ORDER)
        wait_until(begun.exists)
        process.close()
        assert "it ended while it loaded" in str(load.exception(SECONDS))
    with pytest.raises(LoadingProcessError, match="about to end"):
        process.load(ORDER)


HANGING = (  # the real child, in a load that writes a file and never ends
    "import sys, tempfile, signal; from service import loading_process as p; p.prepare = lambda: False\n"
    "def load(*_, **__): tempfile.mkdtemp(prefix='left-'); signal.pause()\n"
    "p.load = load; p.main()"
)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return the folder for temporary files of this process and its children, empty."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_close_leaves_no_file_of_a_load_that_ran(make_process, wait_until, temporary):
    """A child that is killed cannot remove its temporary files, which hold a whole version: its parent does."""
    process = make_process(HANGING)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(process.load, ORDER)
        wait_until(lambda: list(temporary.rglob("left-*")))
        process.close()
        assert isinstance(load.exception(SECONDS), LoadingProcessError)
    assert [] == list(temporary.iterdir())


def test_child_ends_when_the_server_is_killed_in_the_middle_of_a_load(wait_until, temporary):
    """After `kill -9` of the server no process and no file of it is left, however long the load would have taken."""
    server = (
        "from pathlib import Path; from service import loading_process as p\n"
        f"p._PROGRAM = {HANGING!r}\n"
        "p.LoadingProcess().load(p.Order(Path('m/1'), 'm', 1))"
    )
    with subprocess.Popen([sys.executable, "-c", server]) as running:
        wait_until(lambda: list(temporary.rglob("left-*")))
        (child,) = psutil.Process(running.pid).children()
        running.kill()
    try:
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        wait_until(lambda: not list(temporary.iterdir()))
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (VersionRefusedError("file-hash", "no"), VersionRefusedError, "file-hash: no"),
        (RuntimeError("stale"), LoadingProcessError, "RuntimeError: stale"),
    ],
)
def test_serve_answers_with_the_version_or_why_there_is_none(monkeypatch, raised, expected, words, make_process):
    """What the loader raises over there arrives as a refusal, or as the text of its traceback."""

    def load(*_, **__):
        raise raised

    monkeypatch.setattr(loading_process, "prepare", lambda: True)
    monkeypatch.setattr(loading_process, "load", load)
    ours, theirs = Pipe()
    child = threading.Thread(target=serve, args=(theirs,))
    child.start()
    process = make_process()
    process._child, process._connection = _Running(), ours
    with pytest.raises(expected, match=words):
        process.load(ORDER)
    assert process.sees_gpu() is True
    process._child = None
    ours.close()
    child.join(SECONDS)
    assert not child.is_alive()


class _Running:
    """A child that has not ended."""

    def poll(self):
        """It has not."""
