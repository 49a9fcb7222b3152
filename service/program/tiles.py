"""Rows in tiles of one fixed size, so that a row's bits do not depend on its neighbours.

BLAS chooses its path by the size of a product: the same row in a batch of another size gets other last bits. In tiles
of one size, the last one padded, every row meets the same kernels. Above: engines and training; below: `evaluation`.
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


def evaluate_in_tiles(
    program: Program, rows: NDArray[np.float32], outputs: tuple[str, ...], tile_rows: int = TILE_ROWS
) -> dict[str, NDArray[np.float32]]:
    """Return `score` [n] and, where asked for, `gradient` [n, dim] of float32 rows [n, dim], on the CPU."""
    wanted = "gradient" in outputs

    def tile(piece: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        score, gradient = evaluate(program, piece, gradient=wanted)
        values = {"score": score, "gradient": gradient}
        return {name: values[name] for name in outputs}

    widths: dict[str, int | None] = {name: program.dim if name == "gradient" else None for name in outputs}
    return run_in_tiles(tile, rows, widths, tile_rows)
