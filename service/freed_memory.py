"""What becomes of memory that is free again: large blocks go back to the system at once.

Above: `__main__`, which asks for it once, before the process serves. Below: nothing.
"""

import contextlib
import ctypes

LARGE_BYTES = 128 << 10
"""From this size on a block is the system's own, and what lies free at the end of a heap goes back."""

_TRIM_THRESHOLD = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_MMAP_THRESHOLD = -3


def return_large_blocks() -> bool:
    """Fix glibc's two thresholds at what they are when a process starts; return whether that was done.

    Left to itself, glibc raises them with each larger block that is freed, up to 32 and 64 MiB: bodies, and what is
    made of them, then lie in heaps of which each thread has its own and which keep their size. No more than one request
    of a kind a thread was ever there at once, and the process held 50 MiB more than it needed. The price is the fresh
    pages of each large block, some 50 us for 512 KiB.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: it does as it likes
        mallopt = ctypes.CDLL(None).mallopt
        answers = [mallopt(option, LARGE_BYTES) for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD)]
        return answers == [1, 1]
    return False
