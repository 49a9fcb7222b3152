"""What is freed goes back to the system, whatever was freed before."""

import ctypes
import subprocess
import sys

import pytest

from service.freed_memory import LARGE_BYTES

HAS_GLIBC = hasattr(ctypes.CDLL(None), "mallopt")
CODE = """
import sys
from pathlib import Path
from service.freed_memory import return_large_blocks

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / (1 << 20)

print(return_large_blocks() if sys.argv[1] == "fixed" else False)
large = bytearray(b"x") * (24 << 20)
del large  # from here on glibc by itself keeps blocks of 24 MiB in a heap, and 48 MiB of what lies free at its end
before = resident_mib()
blocks = [bytearray(b"x") * (1 << 20) for _ in range(16)]
del blocks
print(round(resident_mib() - before))
"""


def kept_mib(how):
    """Return what a process that was asked says, and how many MiB it keeps of 16 that it freed."""
    words = [sys.executable, "-c", CODE, how]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    said, kept = done.stdout.split()
    return said, int(kept)


@pytest.mark.skipif(not HAS_GLIBC, reason="the C library is not glibc")
def test_large_blocks_go_back_to_the_system_after_a_larger_one_was_freed():
    """Of 16 blocks of 1 MiB nothing is kept, where glibc by itself keeps them all."""
    assert ("True", 0) == kept_mib("fixed")
    assert kept_mib("unchanged")[1] >= 12


def test_large_is_what_glibc_begins_with():
    """The threshold is glibc's own M_MMAP_THRESHOLD before the first large block is freed (mallopt(3))."""
    assert 128 * 1024 == LARGE_BYTES
