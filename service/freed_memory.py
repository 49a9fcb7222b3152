"""What becomes of memory that is free again: large blocks go back to the system at once.

Above: `__main__`, which asks for it once, before the process serves. Below: nothing.
"""

import contextlib
import ctypes

LARGE_BYTES = 128 << 10
"""From this size on a block is the system's own."""

KEPT_BYTES = 512 << 10
"""So much may lie free at the end of each thread's heap: what a usual request takes and gives back again."""

_TRIM_THRESHOLD = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_MMAP_THRESHOLD = -3


def return_large_blocks() -> bool:
    """Fix glibc's two thresholds; return whether that was done.

    Left to itself, glibc raises them with each larger block that is freed, up to 32 and 64 MiB: bodies, and what is
    made of them, then lie in heaps that keep their size, one for each few threads. One client, one large request after
    the other, made the process grow by 50 MiB. The price: fresh pages for each large block, some 50 us for 512 KiB.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: it does as it likes
        mallopt = ctypes.CDLL(None).mallopt
        answers = [mallopt(_TRIM_THRESHOLD, KEPT_BYTES), mallopt(_MMAP_THRESHOLD, LARGE_BYTES)]
        return answers == [1, 1]
    return False
