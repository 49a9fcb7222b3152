"""The compiled code of the kernel: where it lies, what it is called with, and whether it is there.

Above: `compiled`, `build`. It lies beside its source under a name that holds the source's hash: code of another source
is never loaded.
"""

import ctypes
import functools
import hashlib
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.program.kernel.plan import PANEL, Plan

FOLDER = Path(__file__).parent
SOURCES = ("kernel.c", "block.h", "forget.h", "steps.h")

MAX_THREADS = 64
"""Threads that may share a call; see `steps.h`."""

Run = Callable[[int, int, int, int], int]
"""Computes rows and returns how many threads did.

Arguments: the address of scratch memory, this call's alone; floats of it for each thread, block_rows * scratch_width at
least; block_rows, those that are computed together; the most threads.
"""


def path() -> Path:
    """Return where the compiled code of these sources lies, or would lie, for this kind of machine."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((FOLDER / name).read_bytes())
    return FOLDER / "compiled" / f"kernel-{platform.system()}-{platform.machine()}-{digest.hexdigest()[:16]}.so".lower()


class Library:
    """The compiled code.

    Args:
        file: the shared object.

    Raises:
        OSError: it is not there, or not for this machine.

    Thread safety: what `bind` returns may be called by any number of threads; Python's lock is free meanwhile.
    """

    def __init__(self, file: Path) -> None:
        code = ctypes.CDLL(str(file))
        code.convex_level.restype = code.convex_panel.restype = ctypes.c_int64
        if code.convex_panel() != PANEL:
            message = f"{file.name} was built for panels of {code.convex_panel()} columns, expected {PANEL}"
            raise OSError(message)
        self.level = int(code.convex_level())
        """The highest level of instructions of code and processor: 1 AVX2 or NEON, 2 AVX-512; 0: none."""
        if self.level == 0:
            message = "the processor has no AVX2 and no fused multiply-add"
            raise OSError(message)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        code.convex_run.restype = number
        code.convex_run.argtypes = [number, pointer, number, pointer, number, number, *[pointer] * 3, *[number] * 3]
        self._run = code.convex_run

    def bind(
        self,
        plan: Plan,
        rows: NDArray[np.float32],
        outputs: tuple[NDArray[np.float32], NDArray[np.float32] | None],
        level: int,
    ) -> Run:
        """Return what runs a plan over rows.

        Args:
            plan: the steps.
            rows: float32 [n, dim], contiguous, n at least 1.
            outputs: score [n], and gradient [n, dim] for a plan that has one; fresh, contiguous; written.
            level: of instructions, from 1 to `self.level`. The bits are the same.
        """
        score, gradient = outputs
        return functools.partial(
            self._run,
            level,
            plan.address,
            len(plan.steps),
            rows.ctypes.data,
            rows.shape[0],
            rows.shape[1],
            _address(score),
            None if gradient is None else _address(gradient),
        )


def _address(fresh: NDArray[np.float32]) -> int:
    """Return where an array's numbers lie that may be written to: a third of the time of `fresh.ctypes.data`."""
    return ctypes.addressof(ctypes.c_char.from_buffer(fresh.data))


@functools.cache
def library() -> Library | None:
    """Return the compiled code, or None where there is none for this machine: `why_missing` says why."""
    try:
        return Library(path())
    except OSError:
        return None


def why_missing() -> str:
    """Return why there is no compiled code; empty where there is."""
    try:
        Library(path())
    except OSError as err:
        return str(err)
    return ""
