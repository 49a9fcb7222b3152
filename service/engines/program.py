"""The program engine: the lifted program and its reverse-mode gradient, by the compiled kernel or by NumPy in tiles.

Beside `engines.tensorflow`; below: `program.kernel`, `program.ladder`, `program.tiles`.
"""

from collections.abc import Iterable

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from service.program.evaluation import prepared
from service.program.kernel import compiled
from service.program.ladder import Ladder, admit, admit_operations, overhead_rows, trial_rows
from service.program.program import Program
from service.program.tiles import TILE_ROWS, evaluate_tile, run_in_tiles
from service.program.verification import Probe
from service.signature import SUPPORT

SIZES = (4, 8, 16, TILE_ROWS, 64, 128, 256)
"""Sizes worth trying: one and two rows take the path of a vector, above 256 nothing more is gained."""

_NODE_WORK = 150_000.0
"""What a call costs for each node before its first row, in multiply-adds of a product."""


class ProgramEngine:
    """Evaluates a program in float32 on the CPU.

    The compiled kernel, where there is one for the program, gives a row the same bits in any tile by construction. With
    NumPy the sizes of tiles are found when the engine is made: those in which every operation of the program alone, and
    its score and gradient as a whole, have the bits of tiles of 32 rows. The process's BLAS is set to one thread then,
    because the bits of large products hang on the number of threads, and the products of one tile gain nothing by more.

    Args:
        program: the program.
        probe: rows of the version's data, on which sizes are tried too.
        sizes: sizes to try, of NumPy's tiles.
        uses_kernel: whether the compiled kernel may compute.
        support: the program of the domain weight, or None. NumPy computes it, in tiles of its own, for those who ask.
        num_threads: the most that may share a call of the compiled kernel; 0: as many as pay.

    Thread safety: nothing changes after it was made; `run` may be called by any number of threads.
    """

    name = "program"
    thread_safe = True

    def __init__(
        self,
        program: Program,
        probe: Probe | None = None,
        sizes: Iterable[int] = SIZES,
        *,
        uses_kernel: bool = True,
        support: Program | None = None,
        num_threads: int = 0,
    ) -> None:
        self._support = None if support is None else ProgramEngine(support, probe, uses_kernel=False)
        self._compiled = compiled.compiled(program, num_threads=num_threads) if uses_kernel else None
        if self._compiled is not None:
            self.tile_rows: tuple[int, ...] = compiled.TILE_ROWS
            return
        threadpoolctl.threadpool_limits(1, user_api="blas")
        self._program = prepared(program, np.float32)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            candidates = admit_operations(self._program, sizes, TILE_ROWS)
        rows = trial_rows(program.width, probe, program.weights_sha256)
        self.tile_rows = admit(self._tile, rows, candidates, TILE_ROWS)
        self._ladder = Ladder(self.tile_rows, overhead_rows(program, _NODE_WORK * len(program.nodes)))

    def cut(self, num_rows: int) -> list[int]:
        """Return the sizes of the tiles of so many rows."""
        return list((self._compiled or self._ladder).cut(num_rows))

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return those of `score` [n], `gradient` [n, dim] and `support` [n] that are asked for."""
        if self._support is not None and SUPPORT in outputs:
            others = tuple(name for name in outputs if name != SUPPORT)
            found = self.run(rows, others) if others else {}
            return {**found, SUPPORT: self._support.run(rows, ("score",))["score"]}
        if self._compiled is not None:
            return self._compiled.run(rows, outputs)
        return run_in_tiles(lambda piece: self._tile(piece, outputs), rows, self._ladder.cut(rows.shape[0]))

    def _tile(self, piece: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        return evaluate_tile(self._program, piece, outputs)
