"""Rows in tiles: every row once, in order, in pieces of exactly the sizes asked for, the last one padded with zeros."""

import numpy as np
import pytest
from numpy.typing import NDArray

from service.program.evaluation import evaluate_both
from service.program.tiles import TILE_ROWS, evaluate_in_tiles, run_in_tiles
from tests.service.program.programs import build, draw_weights


class Noted:
    """score = x0 + 1, gradient = -x; notes the tiles that it was given."""

    def __init__(self) -> None:
        self.pieces: list[NDArray[np.float32]] = []

    def __call__(self, piece: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return both outputs."""
        assert piece.flags.c_contiguous
        self.pieces.append(piece)
        return {"score": piece[:, 0] + 1, "gradient": -piece}


@pytest.mark.parametrize(
    ("num_rows", "sizes", "num_padded"), [(0, [4], 4), (1, [4], 3), (8, [8], 0), (13, [8, 4, 4], 3), (11, [4, 8], 1)]
)
def test_rows_come_back_once_and_in_order_whatever_the_sizes(num_rows: int, sizes: list[int], num_padded: int) -> None:
    """Each row has its own answer, the tiles have the sizes asked for, and what is left of them is zero."""
    rows = np.asfortranarray(np.arange(1, 3 * num_rows + 1, dtype=np.float32).reshape(num_rows, 3))
    tile = Noted()
    received = run_in_tiles(tile, rows, sizes)
    assert (rows[:, 0] + 1).tolist() == received["score"].tolist()
    assert (-rows).tolist() == received["gradient"].tolist()
    assert sizes == list(map(len, tile.pieces))
    assert num_padded == int((np.concatenate(tile.pieces) == 0).all(axis=1).sum())


def test_fixed_tiles_hold_thirty_two_rows_whatever_is_asked_for() -> None:
    """The outputs asked for, and no others, have the bits of the program on whole tiles of 32 rows."""
    program = build(draw_weights())
    rows = np.random.default_rng(5).standard_normal((2 * TILE_ROWS, 3)).astype(np.float32)
    expected = [evaluate_both(program, half) for half in np.split(rows, 2)]
    score, gradient = (np.concatenate(parts) for parts in zip(*expected, strict=True))
    for outputs in (("score",), ("gradient",), ("score", "gradient")):
        received = evaluate_in_tiles(program, rows, outputs)
        assert outputs == tuple(received)
        for name, values in {"score": score, "gradient": gradient}.items():
            assert name not in outputs or values.tobytes() == received[name].tobytes()
