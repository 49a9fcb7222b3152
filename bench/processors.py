"""Which processor a process may have, and how much processor time it and its children have taken.

Above: `serving`, `peers`. A server and the load that it gets have a core each, so that neither takes the other's.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

SERVER_CORE, LOAD_CORE = 0, 1

_TICKS = os.sysconf("SC_CLK_TCK")
_MICROSECONDS = 1e6


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Let the processes that are started in the block, and theirs, have this core alone (modulo those there are)."""
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def family(pid: int) -> set[int]:
    """Return a process and all that it has started, and those have, as far as they live."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_fields(folder.name)[1]), []).append(int(folder.name))
    found, unseen = set(), [pid]
    while unseen:
        parent = unseen.pop()
        if parent not in found:
            found.add(parent)
            unseen += children.get(parent, [])
    return found


def family_seconds(pid: int) -> float:
    """Return the processor time of a process and of all that it has started, in seconds, to a hundredth."""
    ticks = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = _fields(member)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def _fields(pid: int | str) -> list[str]:
    """Return what `/proc/<pid>/stat` says after the name: state, parent, ... (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
