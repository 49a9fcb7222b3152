"""What a load may take: what machine and control groups say, from planted files; limits, tried in processes."""

import os
import subprocess
import sys

import pytest

from service.loading.bounds import LEAST_MEMORY_BYTES, memory_bytes, resident_bytes, spare_bytes

GIB = 1 << 30
SECONDS = 60.0


def plant(root, **files):
    """Write files below a root: name (with __ for /) -> text."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run(words):
    """Run a program in a process of its own and return what it printed."""
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


def test_spare_memory_is_what_the_machine_has_available(tmp_path):
    """Without control groups the machine's own figure counts, in kibibytes there."""
    plant(tmp_path, proc__meminfo="MemTotal:       24684084 kB\nMemAvailable:    2097152 kB\n")
    assert 2 * GIB == spare_bytes(tmp_path)


def test_spare_memory_is_what_the_tightest_group_has_left(tmp_path):
    """Version 2: the limit of an outer group counts as well, and what the kernel can take back is to spare."""
    group = "sys__fs__cgroup__pods__one__"
    outer = "sys__fs__cgroup__pods__"
    plant(
        tmp_path,
        **{
            "proc__meminfo": "MemAvailable:    8388608 kB\n",
            "proc__self__cgroup": "0::/pods/one\n",
            f"{group}memory.max": "max\n",
            f"{outer}memory.max": f"{3 * GIB}\n",
            f"{outer}memory.current": f"{2 * GIB}\n",
            f"{outer}memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        },
    )
    assert GIB + GIB // 2 == spare_bytes(tmp_path)


def test_spare_memory_is_found_in_a_container_of_the_first_version(tmp_path):
    """Version 1: the group's path is the host's, and the container's own limit lies at the top."""
    top = "sys__fs__cgroup__memory__"
    plant(
        tmp_path,
        **{
            "proc__self__cgroup": "5:cpuset:/\n4:cpu,memory:/docker/abc\n0::/\n",
            f"{top}memory.limit_in_bytes": f"{GIB}\n",
            f"{top}memory.usage_in_bytes": f"{GIB // 4}\n",
        },
    )
    assert GIB - GIB // 4 == spare_bytes(tmp_path)


@pytest.mark.parametrize("text", ["", "9223372036854771712\n", "max\n", "what\n"])
def test_spare_memory_is_without_bound_when_nothing_says_otherwise(tmp_path, text):
    """No file, a limit that is none, or one that cannot be read bounds nothing."""
    plant(tmp_path, proc__self__cgroup="4:memory:/\n", sys__fs__cgroup__memory__memory_limit=text)
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text(text)
    assert spare_bytes(tmp_path) >= 1 << 60


def test_spare_memory_is_never_less_than_nothing(tmp_path):
    """A group beyond its limit has nothing to spare."""
    top = "sys__fs__cgroup__"
    plant(
        tmp_path,
        **{"proc__self__cgroup": "0::/\n", f"{top}memory.max": "5\n", f"{top}memory.current": "9\n"},
    )
    assert 0 == spare_bytes(tmp_path)


@pytest.mark.parametrize(
    ("spare", "promised", "expected"),
    [
        (8 * GIB, 0, 4 * GIB),
        (8 * GIB, 4 * GIB, 2 * GIB),
        (GIB // 2, 0, LEAST_MEMORY_BYTES),
        (0, GIB, LEAST_MEMORY_BYTES),
    ],
)
def test_load_may_take_half_of_what_nobody_was_promised(spare, promised, expected):
    """Each load that runs leaves half of the rest to the next, and no load less than it needs to begin."""
    assert expected == memory_bytes(spare, promised)


def test_this_machine_has_memory_to_spare_and_this_process_has_some():
    """The real files are read: more than a mebibyte, less than a pebibyte; a process that is gone has none."""
    assert 1 << 20 < spare_bytes() < 1 << 50
    assert 1 << 20 < resident_bytes(os.getpid()) < 1 << 40
    assert 0 == resident_bytes(1 << 30)


def test_confined_process_gets_its_share_and_no_more():
    """64 MiB beyond what it has: 32 can be had, 128 cannot; no dump, no large file, and first in the kernel's list."""
    words = (
        "import resource; from pathlib import Path; from service.loading import bounds as b; b.confine(64 << 20)\n"
        "kept = bytearray(32 << 20)\n"
        "try: bytearray(128 << 20)\n"
        "except MemoryError: print('bounded', end=' ')\n"
        "print(*map(resource.getrlimit, (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)), end=' ')\n"
        "print(Path('/proc/self/oom_score_adj').read_text())"
    )
    assert f"bounded (0, 0) {(3 * GIB, 3 * GIB)} 1000" == run(words)


def test_confined_process_keeps_a_limit_that_is_lower():
    """Whoever started the server with less is obeyed."""
    words = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from service.loading.bounds import confine\n"
        "confine(64 << 20); print(*resource.getrlimit(resource.RLIMIT_FSIZE))"
    )
    assert "1000 1000" == run(words)


def test_stand_back_keeps_what_stands_back_further_when_the_server_was_started_so():
    """A process under `nice -n 15` may not come forward to 10, and goes on at 15."""
    words = (
        "import os; from service.loading.bounds import stand_back; "
        "os.nice(15 - os.nice(0)); stand_back(); print(os.nice(0))"
    )
    assert "15" == run(words)


def test_stand_back_moves_every_thread():
    """Linux keeps a niceness for each thread: all of them stand back."""
    words = (
        "import os, threading; from service.loading.bounds import stand_back; held = threading.Event()\n"
        "thread = threading.Thread(target=held.wait); thread.start(); stand_back(); held.set()\n"
        "print(*{os.getpriority(os.PRIO_PROCESS, number) for number in (os.getpid(), thread.native_id)})"
    )
    assert "10" == run(words)


def test_process_ends_with_its_parent():
    """A parent that is killed takes it along; one that has gone already ends it at once."""
    words = (
        "import os, signal, time; from service.loading.bounds import die_with\n"
        "read, write = os.pipe()\n"
        "if (middle := os.fork()) == 0:\n"
        "    parent = os.getpid()\n"
        "    if os.fork() == 0:\n"
        "        die_with(parent); os.write(write, b'1'); signal.pause()\n"
        "    signal.pause()\n"
        "os.close(write); os.read(read, 1); os.kill(middle, signal.SIGKILL); os.waitpid(middle, 0)\n"
        "print(os.read(read, 1))\n"
        "if (child := os.fork()) == 0: die_with(1 << 30); os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert "b''\n1" == run(words)
