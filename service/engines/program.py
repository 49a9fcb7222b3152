"""The program engine: the lifted program and its reverse-mode gradient, evaluated with NumPy in row tiles.

Below: `program.evaluation`. Tiles of one fixed size make a row's bits independent of its neighbours: BLAS takes the
same path for every tile.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.program.evaluation import evaluate
from service.program.program import Program

TILE_ROWS = 32
"""Rows of one tile; a lone row pays a whole tile."""

Tile = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]


def run_in_tiles(
    tile: Tile, rows: NDArray[np.float32], widths: dict[str, int | None], tile_rows: int
) -> dict[str, NDArray[np.float32]]:
    """Return the outputs of `rows`, computed in tiles of exactly `tile_rows` rows, the last one padded with zero rows.

    Args:
        tile: computes one tile [tile_rows, dim].
        rows: [n, dim]; n may be 0.
        widths: for each output its number of columns, or None for one number a row.
        tile_rows: rows of a tile.
    """
    count = rows.shape[0]
    answers = {
        name: np.empty((count,) if width is None else (count, width), np.float32) for name, width in widths.items()
    }
    for start in range(0, count, tile_rows):
        piece = rows[start : start + tile_rows]
        used = piece.shape[0]
        if used < tile_rows:
            padded = np.zeros((tile_rows, rows.shape[1]), np.float32)
            padded[:used] = piece
            piece = padded
        with np.errstate(over="ignore"):  # float64 answers beyond float32 become infinite; the caller checks
            for name, value in tile(np.ascontiguousarray(piece)).items():
                answers[name][start : start + used] = value[:used]
    return answers


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
        self._tile_rows = tile_rows

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return `score` [n] and, where asked for, `gradient` [n, dim]."""
        wanted = "gradient" in outputs

        def tile(piece: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            score, gradient = evaluate(self._program, piece, gradient=wanted)
            values = {"score": score, "gradient": gradient}
            return {name: values[name] for name in outputs}

        widths: dict[str, int | None] = {name: self._program.dim if name == "gradient" else None for name in outputs}
        return run_in_tiles(tile, rows, widths, self._tile_rows)
