"""The program engine: the lifted program and its reverse-mode gradient, evaluated with NumPy in row tiles.

Beside `engines.tensorflow`; below: `program.tiles`.
"""

import numpy as np
from numpy.typing import NDArray

from service.program.program import Program
from service.program.tiles import TILE_ROWS, evaluate_in_tiles


class ProgramEngine:
    """Evaluates a program in float32 tiles on the CPU.

    Args:
        program: the program.
        tile_rows: rows of a tile.

    Thread safety: holds no state between calls.
    """

    name = "program"
    thread_safe = True

    def __init__(self, program: Program, tile_rows: int = TILE_ROWS) -> None:
        """Keep the program."""
        self._program = program
        self.tile_rows = tile_rows

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return `score` [n] and, where asked for, `gradient` [n, dim]."""
        return evaluate_in_tiles(self._program, rows, outputs, self.tile_rows)
