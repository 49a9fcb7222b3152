"""What this process runs on: the versions of the packages under it, and its threads.

Above: `metrics`. Below: nothing.
"""

import functools
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

_STATUS = Path("/proc/self/stat")
_THREADS_FIELD = 17  # num_threads of proc(5), counted from the field after the name
_ELSEWHERE = {"tensorflow": ("tensorflow", "tensorflow-cpu")}


@functools.cache
def installed_versions(names: Sequence[str]) -> tuple[str, ...]:
    """Return the version of Python or of each package, "" where it is not installed; nothing is imported for it."""
    return tuple(platform.python_version() if name == "python" else _version(name) for name in names)


def count_threads() -> int:
    """Return how many threads the process has, those of native libraries too; 0 where the system does not say."""
    try:
        fields = _STATUS.read_text().rpartition(")")[2].split()
        return int(fields[_THREADS_FIELD])
    except (OSError, ValueError, IndexError):
        return 0


def _version(name: str) -> str:
    for package in _ELSEWHERE.get(name, (name,)):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
