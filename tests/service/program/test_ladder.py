"""The ladder of tile sizes: sizes that change a bit anywhere are dropped, and batches are cut at the least cost."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from service.program.evaluation import evaluate
from service.program.ladder import BOTH, TRIAL_ROWS, Ladder, admit, admit_operations, overhead_rows, trial_rows
from service.program.operators import Scale
from service.program.program import AffineNode, AtomNode, InputNode, Program, Term
from service.program.verification import Probe
from tests.service.program.programs import build, draw_weights

FIXED = 32
SIZES = (4, 8, 16, FIXED, 64)
DIM = 3
ROWS = np.random.default_rng(7).standard_normal((253, DIM)).astype(np.float32)

Outputs = dict[str, NDArray[np.float32]]


def plain(piece: NDArray[np.float32], outputs: tuple[str, ...]) -> Outputs:
    """Return an answer that does not depend on the tile: score = x0 * 3, gradient = x * 2."""
    values = {"score": piece[:, 0] * np.float32(3), "gradient": piece * np.float32(2)}
    return {name: values[name] for name in outputs}


def next_float(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the numbers with their last bit changed."""
    return (np.ascontiguousarray(values).view(np.uint32) ^ 1).view(np.float32)


def planted(size: int, name: str, places: slice, only: tuple[str, ...] | None = None):
    """Return an engine's tile that changes the last bit of one output in tiles of one size, at some places of it."""

    def compute(piece: NDArray[np.float32], outputs: tuple[str, ...]) -> Outputs:
        values = plain(piece, outputs)
        if len(piece) == size and name in outputs and only in (None, outputs):
            changed = values[name].copy()
            changed[places] = next_float(changed[places])
            values[name] = changed
        return values

    return compute


def test_every_size_is_admitted_when_bits_do_not_depend_on_it() -> None:
    """Nothing is dropped where nothing differs, and the fixed size is there though it was not offered."""
    assert SIZES == admit(plain, ROWS, SIZES, FIXED)
    assert (8, FIXED) == admit(plain, ROWS, (8,), FIXED)


@pytest.mark.parametrize("size", [4, 8, 16, 64])
@pytest.mark.parametrize(
    ("name", "places", "only"),
    [
        ("score", slice(None), None),
        ("gradient", slice(None), None),
        ("score", slice(None), ("score",)),
        ("score", slice(-1, None), None),
        ("gradient", slice(0, 1), None),
    ],
)
def test_size_is_dropped_when_one_bit_at_one_place_depends_on_it(
    size: int, name: str, places: slice, only: tuple[str, ...] | None
) -> None:
    """A last bit of the score or gradient, of the score alone, of the first or last row of a tile: each is seen."""
    expected = tuple(other for other in SIZES if other != size)
    assert expected == admit(planted(size, name, places, only), ROWS, SIZES, FIXED)


def test_fixed_size_remains_alone_when_it_depends_on_the_place_itself() -> None:
    """An engine whose bits depend on the place in the fixed tile agrees with nothing: no size is added."""
    assert (FIXED,) == admit(planted(FIXED, "score", slice(0, 16)), ROWS, SIZES, FIXED)


def test_fixed_size_remains_alone_when_no_row_is_finite() -> None:
    """Rows that overflow are no evidence."""
    with np.errstate(over="ignore"):
        assert (FIXED,) == admit(plain, np.full_like(ROWS, 2e38), SIZES, FIXED)


def test_rows_that_overflow_do_not_drop_a_size() -> None:
    """A row that is not finite is refused to its owner anyway; its bits decide nothing."""
    rows = ROWS.copy()
    rows[5] = 2e38

    def compute(piece: NDArray[np.float32], outputs: tuple[str, ...]) -> Outputs:
        values = plain(piece, outputs)
        for array in values.values():
            array[~np.isfinite(array)] = np.nan if len(piece) == 8 else np.inf
        return values

    with np.errstate(over="ignore"):
        assert SIZES == admit(compute, rows, SIZES, FIXED)


class Fickle:
    """An atom, the identity, whose value or slope has another last bit in tiles of eight rows."""

    text = name = "fickle"

    def __init__(self, part: int) -> None:
        self.part = part

    def value_and_slope(self, u, namespace):
        """Return u and ones."""
        parts = [u.copy(), namespace.ones_like(u)]
        if len(u) == 8:
            parts[self.part] = next_float(parts[self.part])
        return tuple(parts)


@pytest.mark.parametrize("part", [0, 1])
def test_operation_is_tried_alone_when_the_score_would_hide_its_bit(part: int) -> None:
    """A last bit of an atom that the sum after it rounds away for every row still drops the size."""
    hidden = hiding_program(part)
    whole = admit(lambda piece, outputs: evaluated(hidden, piece, outputs), ROWS[:, :1], SIZES, FIXED)
    assert SIZES == whole
    assert (4, 16, FIXED, 64) == admit_operations(hidden, SIZES, FIXED)


def hiding_program(part: int) -> Program:
    """Return 1000 x + 1e-12 fickle(x), without a matrix product."""
    large, small = (Scale(np.full(1, factor, np.float32)) for factor in (1e3, 1e-12))
    return Program((InputNode(1), AtomNode(1, 0, Fickle(part)), AffineNode(1, (Term(0, large), Term(1, small)))))


def evaluated(program: Program, piece: NDArray[np.float32], outputs: tuple[str, ...]) -> Outputs:
    """Return the wanted outputs of one tile."""
    score, gradient = evaluate(program, piece)
    return {name: {"score": score, "gradient": gradient}[name] for name in outputs}


@pytest.mark.parametrize(("dim", "hidden"), [(20, (200, 200)), (3, (64, 64)), (30, (100, 100)), (2, (16, 16))])
def test_admitted_sizes_agree_on_ten_times_as_many_rows(dim: int, hidden: tuple[int, int]) -> None:
    """Of real products, a vector's path of one row among them, what is admitted agrees on rows that were not tried."""
    program = build(draw_weights(1, dim, hidden))
    offered = (1, 2, 3, 4, 8, 16, FIXED, 64, 128, 256)
    admitted = admit_operations(program, offered, FIXED)
    rows = np.random.default_rng(17).standard_normal((2560, dim)).astype(np.float32)
    outputs = {size: in_pieces(program, rows, size) for size in offered}
    differing = {size for size in offered if outputs[size] != outputs[FIXED]}
    assert set() == differing & set(admitted)
    assert {1, 2, 3} <= differing  # or this would show nothing


def in_pieces(program: Program, rows: NDArray[np.float32], size: int) -> bytes:
    """Return the bytes of score and gradient of the rows in padded tiles of one size, cut here."""
    pieces = []
    for start in range(0, len(rows), size):
        piece = np.zeros((size, rows.shape[1]), np.float32)
        used = len(rows[start : start + size])
        piece[:used] = rows[start : start + size]
        score, gradient = evaluate(program, piece)
        pieces.append(np.concatenate([score[:, None], gradient], axis=1)[:used])
    return np.concatenate(pieces).tobytes()


@pytest.mark.parametrize("sizes", [(4, 8, 16, 32, 64), (32,), (8, 32), (32, 64, 128), (5, 7, 32)])
@pytest.mark.parametrize("overhead", [0.1, 7.0, 39.0, 300.0])
def test_cut_is_the_cheapest_of_all_cuts(sizes: tuple[int, ...], overhead: float) -> None:
    """Up to the largest size no other choice of tiles that hold the rows costs less; tried one and all."""
    ladder = Ladder(sizes, overhead)
    for num_rows in range(1, sizes[-1] + 1, 3):
        received = list(ladder.cut(num_rows))
        assert set(received) <= set(sizes)
        assert sum(received) >= num_rows > sum(received[:-1])
        cost = sum(received) + overhead * len(received)
        for count in range(1, 4):
            for other in itertools.combinations_with_replacement(sizes, count):
                assert sum(other) < num_rows or cost <= sum(other) + overhead * count + 1e-9


def test_cut_uses_the_largest_size_first_when_there_are_more_rows() -> None:
    """A thousand rows are three tiles of 256 and the cut of what is left; no rows are one of the smallest."""
    ladder = Ladder((4, 32, 256), 1.0)
    assert [256, 256, 256, *ladder.cut(232)] == list(ladder.cut(1000))
    assert [4] == list(ladder.cut(0))
    assert [4] == list(ladder.cut(3))
    assert list(ladder.cut(77)) == list(Ladder((4, 32, 256), 1.0).cut(77))


def test_overhead_is_smaller_for_a_larger_program() -> None:
    """A call that costs a thousand multiply-adds is worth 1000 / (2 products + 140 activations + 1) rows."""
    program = build(draw_weights(0, 3, (5, 4)))
    products = 3 * 5 + 5 * 4 + 3 * 4 + 3 + 4 + 3 + 3
    assert pytest.approx(1000 / (2 * products + 140 * (5 + 4 + 3) + 1)) == overhead_rows(program, 1000)


def test_trial_rows_hold_the_probe_and_as_many_rows_as_asked_for() -> None:
    """The probe's rows come first; the others differ from each other; a seed gives the same rows again."""
    probe = Probe(ROWS[:16], ROWS[:16, 0], ROWS[:16])
    rows = trial_rows(DIM, probe, "ab", 1021)
    assert (1021, DIM) == rows.shape
    assert probe.x.tobytes() == rows[:16].tobytes()
    assert 950 < len(np.unique(rows, axis=0))
    assert rows.tobytes() == trial_rows(DIM, probe, "ab", 1021).tobytes()
    assert TRIAL_ROWS == len(trial_rows(DIM, None, "ab"))


def test_score_alone_and_both_are_what_admit_asks_for() -> None:
    """Each size is tried with both outputs and with the score alone, in tiles of exactly its rows."""
    asked = set()

    def compute(piece: NDArray[np.float32], outputs: tuple[str, ...]) -> Outputs:
        asked.add((len(piece), outputs))
        return plain(piece, outputs)

    admit(compute, ROWS, (4, 64), FIXED)
    assert set(itertools.product((4, FIXED, 64), (BOTH, ("score",)))) == asked
