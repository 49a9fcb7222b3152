"""A program that the compiled kernel computes: rows in, score and gradient out, in one call without Python's lock.

Above: engines and training. Below: `plan`, `library`, `sharing`.
"""

import numpy as np
import structlog
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.kernel.library import MAX_THREADS, Library, Run, library
from service.program.kernel.plan import TILE_ROWS as LARGEST_TILE_ROWS
from service.program.kernel.plan import Plan, UnknownStepError, aligned, plan
from service.program.kernel.sharing import Sharing
from service.program.program import Program
from service.program.tiles import evaluate_in_tiles
from service.program.verification import Probe, rows_for, verify

TILE_ROWS = tuple(range(1, LARGEST_TILE_ROWS + 1))
"""Rows that a product is computed for at once: six, and what is left."""

_SHARE = 60_000_000
"""Multiply-adds that are worth a thread: a millisecond or two."""

_sharing = Sharing()


class CompiledProgram:
    """Computes a program's score and gradient in float32.

    A row's bits depend on nothing but the row and the program: not on how many rows there are, nor on the processor.

    Args:
        program: the program.
        library: the compiled code.
        level: of instructions; the highest by default.
        num_threads: the most that may share a call; 0: as many as pay.

    Raises:
        UnknownStepError: the kernel does not know one of the program's operators or atoms.

    Thread safety: `run` may be called by any number of threads; each call has scratch memory of its own. A large call
    is shared by as many threads as the process has processors that compute nothing.
    """

    def __init__(self, program: Program, library: Library, level: int | None = None, *, num_threads: int = 0) -> None:
        self._library = library
        self._level = library.level if level is None else level
        self._num_threads = num_threads
        self._plans = {wants: plan(program, gradient=wants) for wants in (False, True)}
        self._scratch: dict[int, list[NDArray[np.float32]]] = {}  # of calls that have ended, by number of threads
        self._scratch_floats = max(plan.block_rows * plan.scratch_width for plan in self._plans.values())

    @staticmethod
    def cut(num_rows: int) -> list[int]:
        """Return the sizes of the tiles of so many rows."""
        largest = TILE_ROWS[-1]
        rest = num_rows % largest
        return [largest] * (num_rows // largest) + [rest] * (rest > 0)

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return `score` [n] and, where asked for, `gradient` [n, dim] of rows [n, dim]; one pass makes both."""
        wants = "gradient" in outputs
        chosen = self._plans[wants]
        rows = np.ascontiguousarray(rows, np.float32)
        num_rows = rows.shape[0]
        score = np.empty(num_rows, np.float32)
        gradient = np.empty(rows.shape, np.float32) if wants else None
        if num_rows:
            run = self._library.bind(chosen, rows, (score, gradient), self._level)
            most = num_rows * chosen.work // _SHARE
            most = min(most, self._num_threads or most, MAX_THREADS)
            if most < 2:
                self._compute(run, min(chosen.block_rows, num_rows), 1)
            else:
                with _sharing.threads(most) as num_threads:
                    self._compute(run, _block_rows(chosen, num_rows, num_threads), num_threads)
        values = {"score": score} if gradient is None else {"score": score, "gradient": gradient}
        return {name: values[name] for name in outputs}

    def _compute(self, run: Run, block_rows: int, num_threads: int) -> None:
        kept = self._scratch.setdefault(num_threads, [])
        try:
            scratch = kept.pop()
        except IndexError:
            scratch = aligned(num_threads * self._scratch_floats)
        run(scratch.ctypes.data, self._scratch_floats, block_rows, num_threads)
        kept.append(scratch)


def _block_rows(chosen: Plan, num_rows: int, num_threads: int) -> int:
    """Return rows of a block such that each thread has two blocks at least, so that all end at about the same time."""
    share = -(-num_rows // (2 * num_threads))
    return min(chosen.block_rows, -(-share // LARGEST_TILE_ROWS) * LARGEST_TILE_ROWS)


def compiled(program: Program, *, num_threads: int = 0) -> CompiledProgram | None:
    """Return the program for the compiled kernel, or None where that is missing or does not know all of its steps.

    Args:
        program: the program.
        num_threads: see `CompiledProgram`.
    """
    found = library()
    if found is None:
        return None
    try:
        return CompiledProgram(program, found, num_threads=num_threads)
    except UnknownStepError:
        return None


def is_trusted(program: Program, probe: Probe | None) -> bool:
    """Whether the compiled kernel is there for a program, computes the same function and keeps a row's bits.

    The function is compared as a SavedModel's own answers are, with `verification.verify`; the bits in tiles of every
    size and in whole blocks. A kernel that fails is logged as an error, and NumPy computes.

    Args:
        program: the proved program.
        probe: the version's probe, or None.
    """
    found = compiled(program)
    if found is None:
        return False

    def run(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        answers = found.run(rows, ("score", "gradient"))
        return answers["score"], answers["gradient"]

    try:
        verify(program, run, probe)
    except VersionRefusedError as err:
        structlog.get_logger().error("the compiled kernel is another function: NumPy computes", reason=str(err))
        return False
    if not _keeps_bits(found, rows_for(program, probe)):
        structlog.get_logger().error("the compiled kernel does not keep a row's bits: NumPy computes")
        return False
    return True


def _keeps_bits(found: CompiledProgram, rows: NDArray[np.float32]) -> bool:
    """Whether rows have the same bits in pieces of every size and backwards as together."""
    both = ("score", "gradient")
    together = found.run(rows, both)
    backwards = found.run(rows[::-1], both)
    alone = found.run(rows, both[:1])
    same = [np.array_equal(together[name], backwards[name][::-1], equal_nan=True) for name in both]
    same.append(np.array_equal(together["score"], alone["score"], equal_nan=True))
    start = 0
    for size in np.resize(TILE_ROWS, len(rows)):
        piece = found.run(rows[start : start + size], both)
        same += [np.array_equal(piece[name], together[name][start : start + size], equal_nan=True) for name in both]
        start += int(size)
    return all(same)


def answers(program: Program, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Return `score` [n] and, where asked for, `gradient` [n, dim] of rows [n, dim], with the program engine's bits."""
    found = compiled(program)
    return evaluate_in_tiles(program, rows, outputs) if found is None else found.run(rows, outputs)
