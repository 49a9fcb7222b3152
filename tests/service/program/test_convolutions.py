"""Convolutions and block products as operators: their matrices, transposes, bounds, exact entries, texts and bits."""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from service.program.convolutions import Blocks, Convolution
from service.program.operators import Operator
from service.program.selections import MAX_PLACES, Selection, selection
from service.program.windows import Windows, padding_of

DRAWN = np.random.default_rng(0)
WINDOWS = Windows(2, (4, 3), (2, 2), (2, 1), (1, 2), ((1, 0), (0, 1)))


def kernel(*shape: int) -> np.ndarray:
    """Return random float32 numbers."""
    return DRAWN.standard_normal(shape).astype(np.float32)


OPERATORS: dict[str, tuple[Operator, int]] = {
    "convolution": (Convolution(kernel(2, 2, 3, 5), "kernel", windows=WINDOWS), 2 * 12 * 3),
    "convolution in groups": (Convolution(kernel(2, 2, 2, 6), windows=WINDOWS, groups=3), 2 * 12 * 6),
    "each channel alone": (Convolution(kernel(2, 2, 1, 4), windows=WINDOWS, groups=4), 2 * 12 * 4),
    "transposed": (Convolution(kernel(2, 2, 3, 5), windows=WINDOWS, is_transposed=True), 2 * 4 * 5),
    "blocks": (Blocks(kernel(3, 4, 2), positions=5), 60),
    "selection": (selection(np.array([[3, 1, -1], [0, 0, 2], [-1, -1, -1]]), 4), 4),
}


def matrix(operator: Operator, width: int) -> np.ndarray:
    """Return the map's matrix, from its value at each unit vector."""
    return operator.apply(np.eye(width), np.float64, np)


@pytest.mark.parametrize("name", OPERATORS)
def test_exact_entries_are_those_of_the_matrix(name: str) -> None:
    """The rational entries, added up, are the matrix; there are as many as are announced, or fewer."""
    operator, width = OPERATORS[name]
    expected = np.zeros((width, operator.output_width(width)))
    entries = list(operator.exact_entries(width))
    for i, j, factor in entries:
        expected[i, j] += float(factor)
    np.testing.assert_array_equal(expected, matrix(operator, width))
    assert all(isinstance(factor, Fraction) for _, _, factor in entries)
    assert 0 < len(entries) <= operator.num_entries(width)


@pytest.mark.parametrize("name", OPERATORS)
def test_pull_back_is_the_transposed_matrix(name: str) -> None:
    """Adjoints go back by the transpose, in the dtype asked for."""
    operator, width = OPERATORS[name]
    adjoint = DRAWN.standard_normal((6, operator.output_width(width)))
    np.testing.assert_allclose(
        operator.pull_back(adjoint, np.float64, np), adjoint @ matrix(operator, width).T, rtol=0, atol=1e-12
    )
    assert np.float32 == operator.pull_back(adjoint.astype(np.float32), np.float32, np).dtype


@pytest.mark.parametrize("name", OPERATORS)
def test_interval_is_the_image_of_a_box(name: str) -> None:
    """Bounds hold for every corner's sum by signs in float64, and are no wider than rounding asks for."""
    operator, width = OPERATORS[name]
    lower = DRAWN.standard_normal(width)
    upper = lower + DRAWN.uniform(0, 2, width)
    rising, falling = np.maximum(matrix(operator, width), 0), np.minimum(matrix(operator, width), 0)
    below, above = (ends.sum(axis=0) for ends in operator.interval(lower, upper))
    np.testing.assert_allclose(below, lower @ rising + upper @ falling, rtol=0, atol=1e-12)
    np.testing.assert_allclose(above, upper @ rising + lower @ falling, rtol=0, atol=1e-12)
    rows = DRAWN.uniform(lower, upper, (64, width))
    values = operator.apply(rows, np.float64, np)
    assert (below <= values).all()
    assert (values <= above).all()


@pytest.mark.parametrize("name", OPERATORS)
def test_row_has_the_same_bits_in_a_batch_of_any_size(name: str) -> None:
    """Each row is a product of its own: its neighbours, their number and its place change no bit."""
    operator, width = OPERATORS[name]
    rows = DRAWN.standard_normal((65, width)).astype(np.float32)
    adjoints = DRAWN.standard_normal((65, operator.output_width(width))).astype(np.float32)
    for linear, values in ((operator.apply, rows), (operator.pull_back, adjoints)):
        whole = linear(values, np.float32, np)
        for size in (1, 2, 7, 32):
            parts = [linear(values[start : start + size], np.float32, np) for start in range(0, 65, size)]
            assert whole.tobytes() == np.concatenate(parts).tobytes()


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_is_the_same_after_a_pickle(name: str) -> None:
    """Another process gets the same map, with the same text, and no tables on the way."""
    operator, width = OPERATORS[name]
    operator.apply(np.zeros((1, width)), np.float64, np)
    received = pickle.loads(pickle.dumps(operator))  # noqa: S301  (our own)
    assert (operator.text, operator.label) == (received.text, received.label)
    np.testing.assert_array_equal(matrix(operator, width), matrix(received, width))


def test_text_tells_geometries_and_weights_apart() -> None:
    """Another stride, padding, group, transposition, position, place or last bit is another text."""
    numbers = np.ones((2, 2, 2, 2), np.float32)
    nudged = numbers.copy()
    nudged[0, 0, 0, 0] = np.nextafter(np.float32(1), np.float32(2))
    other = Windows(2, (4, 3), (2, 2), (2, 1), (1, 2), ((0, 1), (0, 1)))
    operators = [
        Convolution(numbers, windows=WINDOWS),
        Convolution(nudged, windows=WINDOWS),
        Convolution(numbers, windows=other),
        Convolution(numbers, windows=WINDOWS, groups=2),
        Convolution(numbers, windows=WINDOWS, is_transposed=True),
        Blocks(numbers[0], positions=2),
        Blocks(numbers[0], positions=3),
        selection(np.array([0, 1]), 2),
        selection(np.array([1, 0]), 2),
        selection(np.array([[1, 0]]), 2),
        selection(np.array([1, 0]), 3),
    ]
    assert len(operators) == len({operator.text for operator in operators})


def test_windows_hold_the_cells_that_loops_count() -> None:
    """Cell (i, j) of window (p, q) is (p s + i d - before), -1 outside the grid."""
    expected = []
    for copy in range(2):
        for p in range(2):
            for q in range(2):
                cells = [(2 * p + i - 1, q + 2 * j) for i in range(2) for j in range(2)]
                expected.append([copy * 12 + r * 3 + c if 0 <= r < 4 and 0 <= c < 3 else -1 for r, c in cells])
    assert ((2, 2), expected) == (WINDOWS.outputs, WINDOWS.cells.tolist())


@pytest.mark.parametrize(
    ("kind", "explicit", "expected"),
    [
        ("VALID", (), ((0, 0), (0, 0))),
        ("SAME", (), ((1, 1), (0, 1))),
        ("EXPLICIT", (1, 2, 3, 4), ((1, 2), (3, 4))),
    ],
)
def test_padding_is_tensorflows(kind: str, explicit: tuple[int, ...], expected: tuple[tuple[int, int], ...]) -> None:
    """SAME pads to ceil(size / stride) windows, the odd cell after."""
    assert expected == padding_of(kind, explicit, (5, 4), (3, 2), (2, 1), (1, 1))


@pytest.mark.parametrize(
    "sizes",
    [
        (0, (4,), (2,), (1,), (1,), ((0, 0),)),
        (1, (4,), (5,), (1,), (1,), ((0, 0),)),
        (1, (4,), (2,), (0,), (1,), ((0, 0),)),
        (1, (4,), (2,), (1,), (1,), ((-1, 0),)),
        (1, (4, 4), (2,), (1,), (1,), ((0, 0),)),
    ],
)
def test_windows_that_do_not_fit_are_no_windows(sizes: tuple) -> None:
    """Sizes below one, negative padding and windows that are larger than the grid are refused."""
    with pytest.raises(ValueError, match=r"window"):
        Windows(*sizes)


def test_tables_are_counted_before_they_are_made() -> None:
    """A geometry of 10^12 cells, and a feature that is read by too many, are refused without memory for them."""
    with pytest.raises(ValueError, match=r"at most"):
        _ = Windows(1, (10**6,), (10**6,), (1,), (1,), ((0, 10**6),)).cells
    with pytest.raises(ValueError, match=r"at most"):
        selection(np.zeros(MAX_PLACES // 1000, np.int64), 2000)
    with pytest.raises(ValueError, match=r"not one of 2 features"):
        Selection(places=np.array([[2]]), input_width=2)
