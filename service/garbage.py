"""What is done about memory after a version was loaded or let go, and not done while libraries are imported.

Below `watcher` and `fork_server`, each of which has a collection for its process, and `__main__`.
"""

import contextlib
import ctypes
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Let nothing be collected while this lasts: for imports, which make objects by the million and drop hardly any.

    Python looks through what is there again and again as it grows: a quarter of the time that TensorFlow's import takes
    (2.0 s without, 2.8 s with), for nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class GarbageCollection:
    """Collect, give freed memory back to the system; after the first time, freeze what is left.

    TensorFlow's functions form cycles that no automatic collection finds in time (0.4 MiB a reload), and a full
    collection over everything that was imported stops the process for 0.2 s. Frozen objects are not looked at again,
    which makes it 2 ms; at most the first version's own cycles are kept for ever by that.
    """

    def __init__(self) -> None:
        self._is_frozen = False
        self._trim = _find_trim()

    def __call__(self) -> None:
        """Collect."""
        gc.collect()
        if not self._is_frozen:
            gc.freeze()
            self._is_frozen = True
        if self._trim is not None:
            self._trim(0)


def _find_trim() -> "ctypes._FuncPointer | None":
    """Return the C library's way to give freed memory back, where it has one (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL(None).malloc_trim
    return None
