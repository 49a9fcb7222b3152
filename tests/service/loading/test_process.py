"""The loading process: the loader's answers from over there, and what happens when a load, or all of it, dies."""

import contextlib
import dataclasses
import errno
import os
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from service.engines.program import ProgramEngine
from service.errors import LoadFailedError, VersionRefusedError
from service.loading import bounds
from service.loading import child as loading_child
from service.loading import process as loading_process
from service.loading.bounds import LAST_NICENESS, NICENESS
from service.loading.fork_server import Order
from service.loading.process import LoadingProcess
from service.model_version import ModelVersion

SHIPPED = Path(__file__).parents[3] / "models" / "tumours" / "1"
ORDER = Order(Path("m/1"), "m", 1)
SECONDS = 60.0

CHILD = """
import ctypes, os, pickle, signal, sys, tempfile, time
from pathlib import Path
from service.loading import bounds, fork_server as f
f.warm_up, f.prepare = (lambda: None), (lambda: False)
see_gpu, f._see_gpu = f._see_gpu, (lambda: False)
def pause():
    while True: signal.pause()
def fine(folder, **_): raise f.VersionRefusedError("fine", str(folder))
"""
"""The real process without TensorFlow; `fine` is a load that ends well, as far as the process is concerned."""

PLAIN = CHILD + "f.load = fine\n"


@pytest.fixture
def make_process(monkeypatch):
    """Return `make(program)`, whose child runs that program and then serves; all are ended after the test."""
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")  # as `python -m service` does
    made = []

    def make(program=None):
        if program is not None:
            monkeypatch.setattr(loading_child, "_PROGRAM", program + "\nf.main()")
        made.append(LoadingProcess())
        return made[-1]

    yield make
    for process in made:
        process.close()


def program_of(load, meanwhile=""):
    """Return the real process whose load of version 1 runs these lines, and that is fine with any other."""
    lines = "\n    ".join(load.splitlines())
    head = "def load(folder, model, version, **_):\n    if version > 1: fine(folder)"
    return f"{CHILD}{meanwhile}\n{head}\n    {lines}\nf.load = load"


def is_fine(process, version=2):
    """Whether a load of another version comes back as it should."""
    with pytest.raises(VersionRefusedError, match="fine"):
        process.load(dataclasses.replace(ORDER, version=version))
    return True


def told_of(process, order=ORDER):
    """Return what is told of the load that fails."""
    with pytest.raises(LoadFailedError) as failure:
        process.load(order)
    return failure.value.told


@contextlib.contextmanager
def loading(process, *orders):
    """Give the loads of orders that run; a test that fails meanwhile ends them."""
    with ThreadPoolExecutor(len(orders)) as pool:
        loads = [pool.submit(process.load, order) for order in orders]
        try:
            yield loads
        except BaseException:
            process.close()
            raise


def forks_of(process):
    """Return the loads that run."""
    return psutil.Process(process._child.process.pid).children()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return the folder for temporary files of this process and its children, empty."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------------------------------------------------- what comes
@pytest.fixture(scope="module")
def real():
    """Return a process that loads with TensorFlow; with `allow_uncertified` it changes a weight on the way."""
    spoiling = (
        "from service.loading import fork_server as f; right = f.load\n"
        "def load(folder, *, model, version, allow_uncertified):\n"
        "    loaded = right(folder, model=model, version=min(version, 1))\n"
        "    if allow_uncertified:\n"
        "        array = next(loaded.program.weights())\n"
        "        array.setflags(write=True); array.flat[0] = -array.flat[0]\n"
        "    return loaded\n"
        "f.load = load\nf.main()"
    )
    yield from started(spoiling)


def started(program):
    """Yield a process that runs a program, and close it."""
    process = LoadingProcess()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_USE_LEGACY_KERAS", "1")
        patch.setattr(loading_child, "_PROGRAM", program)
        process.start()
    yield process
    process.close()


def test_load_returns_the_proved_version_and_refusals_from_the_child(real, tmp_path):
    """A shipped version arrives whole and computes, a refusal keeps its rule, and nothing stays behind over there."""
    process = real
    child = psutil.Process(process._child.process.pid)
    loaded = process.load(Order(SHIPPED, "tumours", 1))
    assert ("proved", 30) == (loaded.convexity, loaded.signature.dim)
    assert loaded.manifest.certificate["program_sha256"] == loaded.program.program_sha256
    received = ModelVersion(loaded, ProgramEngine(loaded.program)).score(loaded.probe.x)
    np.testing.assert_allclose(received, loaded.probe.score, rtol=0.0, atol=1e-5 * np.abs(loaded.probe.score).max())
    assert process.sees_gpu() is False
    with pytest.raises(VersionRefusedError) as refusal:
        process.load(Order(tmp_path, "tumours", 1))
    assert "saved-model" == refusal.value.rule
    assert (1, 0) == (child.num_threads(), child.nice())


def test_load_stands_back_behind_requests_when_told_to(make_process):
    """The load runs at the lower priority, and so does the import of a process that follows one that did."""
    process = make_process(program_of("raise RuntimeError(os.getpriority(os.PRIO_PROCESS, 0))"))
    for gently, expected in ((False, 0), (True, NICENESS)):
        with pytest.raises(LoadFailedError, match=f"RuntimeError: {expected}\n"):
            process.load(dataclasses.replace(ORDER, gently=gently))
    psutil.Process(process._child.process.pid).kill()
    process._child.process.wait(SECONDS)
    with pytest.raises(LoadFailedError, match=f"RuntimeError: {NICENESS}\n"):
        process.load(ORDER)


def test_load_stands_back_behind_all_others_when_it_takes_long(make_process, wait_until):
    """What may hang has the processor when nobody else wants it, and goes on."""
    process = make_process(program_of("while True: pass", "bounds.PATIENCE_SECONDS = 0.2"))
    with loading(process, ORDER) as (load,):
        wait_until(lambda: process._child and forks_of(process))
        (fork,) = forks_of(process)
        wait_until(lambda: LAST_NICENESS == fork.nice())
        assert not load.done()
        assert is_fine(process)
        process.give_up(ORDER.folder)


def test_load_is_the_first_to_be_killed_when_memory_runs_out(make_process):
    """The kernel takes a load first, then the process it was forked from; neither leaves a dump of its memory."""
    process = make_process(
        program_of(
            "import resource\n"
            "score = lambda number: int(Path(f'/proc/{number}/oom_score_adj').read_text())\n"
            "raise RuntimeError([score(os.getpid()), score(os.getppid()), resource.getrlimit(resource.RLIMIT_CORE)])"
        )
    )
    with pytest.raises(LoadFailedError, match=r"\[1000, 900, \(0, 0\)\]"):
        process.load(ORDER)


def test_load_finds_nothing_of_the_version_before_it(make_process):
    """What a version changed in the process that loaded it is not there when the next one is loaded."""
    process = make_process(program_of("seen.append(1); raise RuntimeError(seen)", "seen = []"))
    for _ in range(3):
        with pytest.raises(LoadFailedError, match=r"RuntimeError: \[1\]\n"):
            process.load(ORDER)


# --------------------------------------------------------------------------------------------------------- bad versions
@pytest.fixture(scope="module")
def harmed():
    """Return a process whose loads do what the file `load` of their folder says, and answer as `send` says."""
    program = (
        f"{CHILD}bounds.memory_bytes, bounds.LARGEST_FILE_BYTES = (lambda *_: 96 << 20), 4 << 20\n"
        "right, deeds = f._send, {}\n"
        "def load(folder, **_):\n"
        "    deeds.update((path.name, path.read_text()) for path in folder.iterdir())\n"
        "    exec(deeds.get('load', ''))\n"
        "    fine(folder)\n"
        "def send(answer, content): exec(deeds.get('send', 'right(answer, content)'))\n"
        "f.load, f._send = load, send\nf.main()"
    )
    yield from started(program)


@pytest.fixture
def harm(harmed, tmp_path, wait_until):
    """Return `harm(load=..., send=...)`, what is told of such a load; another one is fine before and after it."""
    untouched, child = tmp_path / "fine", harmed._child
    untouched.mkdir()

    def run(**deeds):
        folder = tmp_path / "harm"
        folder.mkdir()
        for name, deed in deeds.items():
            (folder / name).write_text(deed)
        return told_of(harmed, dataclasses.replace(ORDER, folder=folder))

    assert is_fine_at(harmed, untouched)
    yield run
    assert is_fine_at(harmed, untouched)
    wait_until(lambda: not forks_of(harmed))
    assert child is harmed._child


@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os._exit(3)", "exit code 3"),
        ("sys.exit(3)", "exit code 1"),
    ],
)
def test_load_alone_fails_when_its_process_crashes(harm, deed, expected):
    """It is told how it ended, and the next one begins at once in the process that imported TensorFlow long ago."""
    assert f"its process ended while it loaded ({expected})" in harm(load=deed)


@pytest.mark.parametrize(
    "deed",
    [
        "kept = []\nwhile True: kept.append(bytearray(1 << 20))",
        "bytearray(1 << 40)",
        "import numpy\nkept = []\nwhile True: kept.append(numpy.ones(1 << 17))",
    ],
)
def test_load_alone_fails_when_it_takes_memory_without_end(harm, deed):
    """It gets no more than its share, the status names that, and the next version loads."""
    assert "it needs more than the 96 MiB of memory that a load may take now" == harm(load=deed)


def test_load_alone_fails_when_a_library_ends_it_for_want_of_memory(harm):
    """Code that does not ask whether it got memory dies of it; how much that was is told with the signal."""
    told = harm(
        load="take = ctypes.CDLL(None).malloc; take.restype = ctypes.c_void_p\n"
        "while True: ctypes.memset(ctypes.c_void_p(take(ctypes.c_size_t(1 << 20))), 1, 1 << 20)"
    )
    assert "(SIGSEGV), having taken " in told
    assert "of 96 MiB" in told
    assert 80 <= int(told.split("taken ")[1].split()[0]) <= 97


def test_load_alone_fails_when_it_writes_a_file_without_end(harm):
    """A file has a largest size, after which the disk's own error is told."""
    writing = (
        "with open(Path(tempfile.gettempdir()) / 'large', 'wb') as file:\n    while True: file.write(bytes(1 << 20))"
    )
    assert "OSError (File too large)" == harm(load=writing)


def test_load_alone_is_given_up_when_it_hangs(make_process, monkeypatch, wait_until):
    """A load that never ends is ended after the longest time, and with it its process."""
    process = make_process(program_of("pause()"))
    assert is_fine(process)
    with monkeypatch.context() as patch:
        patch.setattr(loading_process, "LONGEST_LOAD_SECONDS", 0.5)
        assert "it took longer than 0.5 s" == told_of(process)
    assert is_fine(process)
    wait_until(lambda: not forks_of(process))


def test_loads_run_side_by_side_when_one_hangs(make_process, wait_until):
    """Another version loads while one hangs; the one that hangs can be given up, and its process ends."""
    process = make_process(program_of("pause()"))
    with loading(process, ORDER) as (hanging,):
        wait_until(lambda: process._child and forks_of(process))
        (fork,) = forks_of(process)
        assert is_fine(process)
        assert fork.is_running()
        process.give_up(Path("another/1"))
        assert is_fine(process)
        assert not hanging.done()
        process.give_up(ORDER.folder)
        assert "it was given up for another version" == hanging.exception(SECONDS).told
    wait_until(lambda: not forks_of(process))


GARBAGE = [
    ("os.write(answer, bytes([255]) * 1000)", "its process answered with too much"),
    ("os.write(answer, f.ANSWER_HEAD.pack(9) + b'no pickle')", "its process answered with what is no version"),
    ("os.write(answer, f.ANSWER_HEAD.pack(0))", "its process answered with what is no version"),
    ("right(answer, 7)", "its process answered with what is no version"),
    ("right(answer, (False, b'text'))", "its process answered with what is no version"),
    ("os.write(answer, f.ANSWER_HEAD.pack(99) + b'half'); os._exit(0)", "its process ended while it loaded"),
    ("os.write(answer, b'head'); os._exit(0)", "its process ended while it loaded"),
    ("os.write(answer, f.ANSWER_HEAD.pack(99) + b'half'); pause()", "it took longer than 0.5 s"),
    ("os.close(answer); pause()", "its process gave no answer, and went on"),
]


@pytest.mark.parametrize(("deed", "expected"), GARBAGE)
def test_load_alone_fails_when_its_process_writes_garbage(harm, monkeypatch, deed, expected):
    """Whatever comes through the pipe, or does not, the load fails with a reason and the next one is read aright."""
    with monkeypatch.context() as patch:
        patch.setattr(loading_process, "_REPORT_SECONDS", 0.2)
        if "longer" in expected:
            patch.setattr(loading_process, "LONGEST_LOAD_SECONDS", 0.5)
        assert harm(send=deed).startswith(expected)


def is_fine_at(process, folder):
    """Whether the load of a folder comes back as it should."""
    with pytest.raises(VersionRefusedError, match=str(folder)):
        process.load(dataclasses.replace(ORDER, folder=folder))
    return True


def test_load_runs_nothing_when_the_child_sends_what_is_no_plain_data(harm, harmed, tmp_path):
    """A child that was taken over by the files it reads cannot make the server call what it names."""
    planted = tmp_path / "planted"
    evil = f"class Evil: __reduce__ = lambda self: (os.mkdir, ({str(planted)!r},))\nright(answer, (False, Evil()))"
    assert "its process answered with what is no version" == harm(send=evil)
    with pytest.raises(LoadFailedError, match=r"posix\.mkdir, expected plain data"):
        harmed.load(dataclasses.replace(ORDER, folder=tmp_path / "harm"))
    assert not planted.exists()


def test_load_refuses_an_answer_when_it_is_another_version(real):
    """What is served under a number was loaded under that number."""
    with pytest.raises(LoadFailedError, match="another version"):
        real.load(Order(SHIPPED, "tumours", 2))


def test_load_refuses_a_program_when_it_is_not_the_proved_one(real):
    """One weight that changed on its way, to one that would not have been proved, is not served."""
    with pytest.raises(LoadFailedError, match="not the one that was proved"):
        real.load(Order(SHIPPED, "tumours", 1, allow_uncertified=True))


# ------------------------------------------------------------------------------------------------- life of the process
def test_load_starts_another_process_when_the_child_ended_in_between(make_process):
    """Nobody has to notice that it is gone."""
    process = make_process(PLAIN)
    process.start()
    first = process._child
    first.process.kill()
    first.process.wait(SECONDS)
    assert is_fine(process)
    assert first is not process._child


def test_loads_fail_and_the_next_one_has_a_process_when_the_child_is_killed(make_process, wait_until):
    """All loads end with the process they were forked from, which is replaced before anybody needs it."""
    process = make_process(program_of("pause()"))
    with loading(process, *(dataclasses.replace(ORDER, model=model) for model in "ab")) as loads:
        wait_until(lambda: process._child and len(forks_of(process)) == 2)
        forks, first = forks_of(process), process._child
        first.process.kill()
        assert {"all loads ended (SIGKILL)"} == {load.exception(SECONDS).told for load in loads}
        wait_until(lambda: not any(fork.is_running() for fork in forks))
    assert first is not process._child
    assert process._child.process.poll() is None
    assert is_fine(process)


def test_load_says_why_when_tensorflow_cannot_be_imported_over_there(make_process):
    """The reason arrives although nobody reads the child's standard error, and the next load tries a new process."""
    why = "libtensorflow.so is not whole"
    process = make_process(f"{PLAIN}def warm_up(): raise ImportError({why!r})\nf.warm_up = warm_up")
    children = set()
    for _ in range(2):
        with pytest.raises(LoadFailedError, match=r"(?s)^TensorFlow cannot be used \(ImportError\).*not whole"):
            process.load(ORDER)
        children.add(process._child.process.pid)
        process._child.process.wait(SECONDS)
    assert 2 == len(children)


@pytest.mark.parametrize("has_gpu", [True, False])
def test_gpu_is_asked_for_in_a_process_of_its_own_and_told(make_process, has_gpu):
    """Whether there is a GPU is told with the first answer, and no load sees one or wakes its driver."""
    asking = f"f.prepare, f._see_gpu = (lambda: {has_gpu}), see_gpu\nos.environ['CUDA_VISIBLE_DEVICES'] = '0'"
    process = make_process(program_of("raise RuntimeError(os.environ['CUDA_VISIBLE_DEVICES'])", asking))
    assert process.sees_gpu() is False
    with pytest.raises(LoadFailedError, match="RuntimeError: -1\n"):
        process.load(ORDER)
    assert has_gpu is process.sees_gpu()


def test_load_says_why_when_tensorflow_cannot_be_set_up_over_there(make_process):
    """A driver that crashes whoever asks for a GPU is told, and costs no more than the load."""
    process = make_process(f"{PLAIN}f.prepare, f._see_gpu = os.abort, see_gpu")
    with pytest.raises(LoadFailedError, match="a process that tried ended with -6"):
        process.load(ORDER)


def test_child_imports_nothing_of_the_folder_when_the_server_was_started_there(make_process, tmp_path, monkeypatch):
    """A file called numpy.py in the current folder is not what the child takes for NumPy."""
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert is_fine(make_process(PLAIN))


def test_load_begins_nothing_when_the_system_gives_no_process_now(make_process, monkeypatch, temporary):
    """The error is the caller's, no file is left, and the next load tries again."""
    process = make_process(PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse_process)
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                process.load(ORDER)
    assert is_fine(process)
    process.close()
    assert [] == list(temporary.iterdir())


def refuse_process(*_, **__):
    """Stand in for Popen where the limit of processes is reached."""
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_load_says_so_when_the_child_can_fork_no_process(make_process):
    """The limit of processes that is met over there is told like one that is met here."""
    process = make_process(
        f"{PLAIN}right, calls = os.fork, []\n"
        "def fork():\n"
        "    calls.append(1)\n"
        "    if len(calls) == 1: raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "    return right()\n"
        "os.fork = fork"
    )
    told = told_of(process)
    assert "no process can be started now (Resource temporarily unavailable)" == told
    assert is_fine(process)


WRITING = program_of("tempfile.mkdtemp(prefix='left-'); pause()")


def files_in(temporary):
    """Return what the load of `WRITING` left below a folder, from which files go meanwhile."""
    return [name for _, folders, _ in os.walk(temporary) for name in folders if name.startswith("left-")]


def test_load_leaves_no_file_when_it_ends(make_process, temporary, wait_until):
    """What a load wrote goes when it is given up, for a process that is killed removes nothing."""
    process = make_process(WRITING)
    with loading(process, ORDER) as (load,):
        wait_until(lambda: files_in(temporary))
        process.give_up(ORDER.folder)
        assert isinstance(load.exception(SECONDS), LoadFailedError)
    wait_until(lambda: not files_in(temporary))


def test_close_ends_a_load_that_runs_and_forbids_another(make_process, wait_until, temporary):
    """The server's end waits for no load, and leaves neither process nor file."""
    process = make_process(WRITING)
    with loading(process, ORDER) as (load,):
        wait_until(lambda: files_in(temporary))
        forks = forks_of(process)
        process.close()
        assert "the server is about to end" == load.exception(SECONDS).told
    wait_until(lambda: not any(fork.is_running() for fork in forks))
    assert [] == list(temporary.iterdir())
    with pytest.raises(LoadFailedError, match="about to end"):
        process.load(ORDER)


def test_nothing_is_left_of_a_child_that_has_no_folder(monkeypatch, temporary):
    """A disk without room is the caller's error, and no socket stays open for it."""
    sockets = []
    make = socket.socketpair

    def note():
        sockets.extend(make())
        return sockets

    monkeypatch.setattr(socket, "socketpair", note)
    monkeypatch.setattr(tempfile, "mkdtemp", no_room)
    with pytest.raises(OSError, match="No space"):
        loading_child.Child()
    assert [-1, -1] == [each.fileno() for each in sockets]
    assert [] == list(temporary.iterdir())


def no_room(**_):
    """Stand in for a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_process_keeps_the_child_that_was_started_for_it(make_process):
    """It is the one that loads; `start` starts none beside it."""
    process = make_process(PLAIN)
    given = process._child = loading_child.Child()
    process.start()
    assert is_fine(process)
    assert given is process._child


def test_child_ends_by_itself_when_nobody_gives_it_orders_any_more(make_process, temporary, wait_until):
    """A server that ends before it has a use for its child leaves no process and no file."""
    make_process(PLAIN)
    child = loading_child.Child()
    child.orders.close()
    wait_until(child.has_ended, SECONDS)
    assert [] == list(temporary.iterdir())


def test_close_ends_a_child_that_still_imports_tensorflow(make_process, temporary):
    """A child that does not listen yet is killed, and its folder is removed for it."""
    process = make_process(f"{PLAIN}f.warm_up = pause")
    process.start()
    child = process._child
    process.close()
    assert child.has_ended()
    assert [] == list(temporary.iterdir())


def test_child_ends_when_the_server_is_killed_in_the_middle_of_a_load(wait_until, temporary):
    """After `kill -9` of the server no process and no file of it is left, however long the load would have taken."""
    server = (
        "from pathlib import Path; from service.loading import child, process as p\n"
        "from service.loading.fork_server import Order\n"
        f"child._PROGRAM = {WRITING + chr(10) + 'f.main()'!r}\n"
        "p.LoadingProcess().load(Order(Path('m/1'), 'm', 1))"
    )
    with subprocess.Popen([sys.executable, "-c", server]) as running:
        wait_until(lambda: files_in(temporary))
        left = psutil.Process(running.pid).children(recursive=True)
        running.kill()
    assert 2 == len(left)
    try:
        wait_until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in left))
        wait_until(lambda: not list(temporary.iterdir()))
    finally:
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def test_answer_may_be_no_larger_than_what_is_to_spare(monkeypatch):
    """Half of the memory that is left bounds what is read, and never more than the largest version can need."""
    for spare, expected in ((4 << 30, 2 << 30), (1 << 50, 6 << 30)):
        monkeypatch.setattr(bounds, "spare_bytes", lambda spare=spare: spare)
        assert expected == loading_process._most_bytes()
