"""Rows in tiles of given sizes, so that a row's bits do not depend on its neighbours.

BLAS chooses its path by the size of a product: the same row in a batch of another size gets other last bits. In tiles
of one size, the last one padded, every row meets the same kernels; `ladder` finds further sizes that give the same
bits. Above: `ladder`, engines and training; below: `evaluation`.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from service.program.evaluation import evaluate
from service.program.program import Program

TILE_ROWS = 32
"""Rows of the one tile that needs no trial: the others are held to its bits."""

Tile = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]


def run_in_tiles(tile: Tile, rows: NDArray[np.float32], sizes: Iterable[int]) -> dict[str, NDArray[np.float32]]:
    """Return the outputs of `rows`, computed in tiles of exactly `sizes` rows, the last one padded with zero rows.

    Args:
        tile: computes one tile [size, dim]: output name -> array of `size` rows.
        rows: [n, dim]; n may be 0.
        sizes: of the tiles, in order; together they hold the rows. At least one, for no rows too.
    """
    parts: list[dict[str, NDArray[np.float32]]] = []
    start = 0
    for size in sizes:
        piece = rows[start : start + size]
        used = piece.shape[0]
        start += size
        if used < size:
            padded = np.zeros((size, rows.shape[1]), np.float32)
            padded[:used] = piece
            piece = padded
        parts.append({name: values[:used] for name, values in tile(np.ascontiguousarray(piece)).items()})
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluate_tile(
    program: Program, piece: NDArray[np.float32], outputs: tuple[str, ...]
) -> dict[str, NDArray[np.float32]]:
    """Return `score` [n] and, where asked for, `gradient` [n, dim] of one tile, in one evaluation of its rows."""
    score, gradient = evaluate(program, piece, gradient="gradient" in outputs)
    values = {"score": score, "gradient": gradient}
    return {name: values[name] for name in outputs}


def evaluate_in_tiles(
    program: Program, rows: NDArray[np.float32], outputs: tuple[str, ...]
) -> dict[str, NDArray[np.float32]]:
    """Return `score` [n] and, where asked for, `gradient` [n, dim] of float32 rows [n, dim], in tiles of TILE_ROWS."""
    sizes = [TILE_ROWS] * max(1, -(-rows.shape[0] // TILE_ROWS))
    return run_in_tiles(lambda piece: evaluate_tile(program, piece, outputs), rows, sizes)
