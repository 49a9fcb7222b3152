"""What a load may take from the machine: memory, size of its files, the processor; and who has to go first.

Above: `fork_server`, which confines each of its loads, and `process`, which bounds what it reads from them.
Below: nothing. A SavedModel may ask for any amount of memory: the load that gives it dies of that, not the server.
"""

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

NICENESS = 10
"""How far loads stand back behind requests for the processor, once the first version is served (19: only if idle)."""

LAST_NICENESS = 19
"""How far a load stands back that takes long: it may hang, and has what nobody else wants."""

PATIENCE_SECONDS = 10.0
"""What takes long: such a load goes on beside the others, and keeps nobody waiting."""

LEAST_MEMORY_BYTES = 512 << 20
"""What a load may take even where less is to spare: below this nothing loads, and what is told as spare may be used."""

LARGEST_FILE_BYTES = 3 << 30
"""Largest file that a load may write; a version is at most 2 GiB."""

_SHARE = 2
_SLACK_BYTES = 4 << 30  # of addresses: stacks and arenas that are reserved and never touched
_NO_LIMIT_BYTES = 1 << 60
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_DIES_FIRST, _DIES_EARLY = 1000, 900
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def spare_bytes(root: Path = Path("/")) -> int:
    """Return how much memory can still be had: of the machine and of every control group around this process.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        Bytes, at least 0; a very large number where the system does not say.
    """
    return max(0, min([_NO_LIMIT_BYTES, *_available(root), *_left_in_groups(root)]))


def memory_bytes(spare: int, promised: int = 0) -> int:
    """Return how much memory a load may take beyond what it shares with its parent: half of what nobody was promised.

    Args:
        spare: of the machine, now.
        promised: what loads that run may still take of it.
    """
    return max(LEAST_MEMORY_BYTES, (spare - promised) // _SHARE)


def confine(memory: int) -> None:
    """Bound this process for ever: so much more memory than it has, no large file, no dump; the first to be killed.

    Args:
        memory: bytes.
    """
    sizes, data = _own_pages()
    _lower(resource.RLIMIT_DATA, data + memory)
    _lower(resource.RLIMIT_AS, sizes + memory + _SLACK_BYTES)
    _lower(resource.RLIMIT_FSIZE, LARGEST_FILE_BYTES)
    _lower(resource.RLIMIT_CORE, 0)
    _volunteer(_DIES_FIRST)


def stand_before_server() -> None:
    """Let this process be killed before the server where memory runs out, and after what `confine` was called in."""
    _volunteer(_DIES_EARLY)


def die_with(parent: int) -> None:
    """Let the system kill this process once its parent has ended, where it can (Linux); at once if it has.

    Args:
        parent: process id; of one thread alone, for Linux takes the end of the thread that forked.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def stand_back(niceness: int = NICENESS, process: int | None = None) -> None:
    """Let a process stand back so far at least: each of its threads, for Linux gives each its own.

    Args:
        niceness: from 0 to 19.
        process: its id; None: this one.
    """
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{process or 'self'}/task")]
    except OSError:  # a system that knows processes alone
        threads = [process or 0]
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            if os.getpriority(os.PRIO_PROCESS, thread) < niceness:  # who stands back further may not come forward
                os.setpriority(os.PRIO_PROCESS, thread, niceness)


def resident_bytes(process: int) -> int:
    """Return how much memory a process has; 0 where the system does not say, or it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _lower(limit: int, value: int) -> None:
    """Set a limit, unless it is lower already."""
    _, hard = resource.getrlimit(limit)
    if hard == resource.RLIM_INFINITY or value < hard:
        with contextlib.suppress(ValueError, OSError):  # a system that has no such limit
            resource.setrlimit(limit, (value, value))


def _volunteer(score: int) -> None:
    with contextlib.suppress(OSError):  # Linux alone; lowering it is forbidden, as where all of it is at 1000
        Path("/proc/self/oom_score_adj").write_text(str(score))


def _own_pages() -> tuple[int, int]:
    """Return the bytes of this process' addresses, and of those that hold data, as the limits count them."""
    try:
        words = Path("/proc/self/statm").read_text().split()
        page = os.sysconf("SC_PAGE_SIZE")
        return int(words[0]) * page, int(words[5]) * page
    except (OSError, ValueError, IndexError):
        return 1 << 40, 1 << 40


def _available(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc" / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) << 10


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what is left in each control group with a limit, from this process' own up to the outermost."""
    with contextlib.suppress(OSError):
        for line in (root / "proc" / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield from _left(_groups(root / "sys" / "fs" / "cgroup", path), *_V2)
            elif "memory" in controllers.split(","):
                yield from _left(_groups(root / "sys" / "fs" / "cgroup" / "memory", path), *_V1)


def _groups(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folders of a group and of those around it; inside a container the outermost is its own."""
    parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _left(groups: Iterable[Path], limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    for group in groups:
        with contextlib.suppress(OSError, ValueError):  # a group without a limit: no file, or the word "max"
            most = int((group / limit).read_text())
            if most < _NO_LIMIT_BYTES:
                yield most - int((group / usage).read_text()) + _statistic(group, reclaimable)


def _statistic(group: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text().splitlines():
            word, _, value = line.partition(" ")
            if word == name:
                return int(value)
    return 0
