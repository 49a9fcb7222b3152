"""Operators: the sign bit, fingerprints, values against NumPy, exact diagonals and enclosing products."""

import functools
import pickle
from fractions import Fraction

import numpy as np
import pytest

from service.program.constants import Constant
from service.program.operators import Dense, Divide, Identity, Operator, Scale, fingerprint, is_negative
from service.program.selections import selection

MATRIX = np.array([[1.0, -2.0], [0.5, 3.0], [0.0, 0.25]], np.float32)
FACTORS = np.array([3.0, -0.1, 7.0], np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sign_is_read_from_the_sign_bit(dtype: type) -> None:
    """-0.0 is not negative, the smallest negative denormal is."""
    tiny = np.finfo(dtype).smallest_subnormal
    values = np.array([0.0, -0.0, tiny, -tiny, 1.0, -1.0, -np.finfo(dtype).max], dtype)
    assert [False, False, False, True, False, True, True] == is_negative(values).tolist()


def test_sign_is_read_of_arrays_of_any_layout() -> None:
    """Transposed, strided and one-number arrays are read in their own order."""
    np.testing.assert_array_equal(MATRIX.T < 0, is_negative(MATRIX.T))
    np.testing.assert_array_equal(MATRIX[::2] < 0, is_negative(MATRIX[::2]))
    assert is_negative(np.array(-3.0, np.float32)).all()


def test_fingerprint_tells_values_shapes_and_types_apart() -> None:
    """Arrays with another last bit, shape, type or sign of zero have other fingerprints; copies have the same."""
    array = np.array([[1.0, 0.0]], np.float32)
    others = [np.nextafter(array, 2), array.T, array.reshape(2), array.astype(np.float64), array * -1 * -1 - 0.0]
    others[-1][0, 1] = -0.0
    assert len({fingerprint(other) for other in (array, *others)}) == len(others) + 1
    assert fingerprint(array) == fingerprint(np.asfortranarray(array)) == fingerprint(array.astype(">f4").astype("<f4"))


@pytest.mark.parametrize(
    ("operator", "matrix"),
    [
        (Dense(MATRIX), MATRIX.astype(np.float64)),
        (selection(np.array([[2, -1], [0, 2]]), 3), np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])),
        (Scale(FACTORS), np.diag(FACTORS.astype(np.float64))),
        (Divide(FACTORS), np.diag(1 / FACTORS.astype(np.float64))),
        (Identity(), np.eye(3)),
    ],
)
def test_operator_is_its_matrix(operator: Operator, matrix: np.ndarray) -> None:
    """Values are v M and pullbacks are the adjoint times M transposed, in the dtype asked for."""
    generator = np.random.default_rng(0)
    values, adjoint = generator.standard_normal((4, 3)), generator.standard_normal((4, matrix.shape[1]))
    np.testing.assert_allclose(operator.apply(values, np.float64, np), values @ matrix, rtol=1e-14)
    np.testing.assert_allclose(operator.pull_back(adjoint, np.float64, np), adjoint @ matrix.T, rtol=1e-14)
    assert operator.apply(values.astype(np.float32), np.float32, np).dtype == np.float32
    assert operator.output_width(3) == matrix.shape[1]


def test_dense_pickles_its_matrix_alone() -> None:
    """What is sent to another process is W once; its transpose is made of it there, contiguous and equal."""
    matrix = np.random.default_rng(3).standard_normal((64, 48)).astype(np.float32)
    data = pickle.dumps(Dense(matrix, "kernel"))
    assert len(data) < 1.25 * matrix.nbytes
    received = pickle.loads(data)  # noqa: S301  (our own)
    assert ("kernel", True) == (received.label, received.transposed.flags.c_contiguous)
    np.testing.assert_array_equal(matrix, received.coefficients, strict=True)
    np.testing.assert_array_equal(matrix.T, received.transposed, strict=True)


def test_exact_diagonal_is_rational() -> None:
    """Scales are exact, reciprocals are fractions and no rounded floats, a dense matrix has no diagonal."""
    assert [Fraction(3), Fraction(float(np.float32(-0.1))), Fraction(7)] == Scale(FACTORS).exact_diagonal(3)
    assert Fraction(1, 3) == Divide(FACTORS).exact_diagonal(3)[0]
    assert [1, 1, 1] == Identity().exact_diagonal(3)
    assert Dense(MATRIX).exact_diagonal(3) is None


@pytest.mark.parametrize(
    "operator",
    [Dense(MATRIX), Scale(FACTORS), Divide(FACTORS), Identity(), selection(np.array([[2, 0], [1, -1]]), 3)],
)
def test_interval_encloses_every_exact_image(operator: Operator) -> None:
    """The least and largest of each output over the box's corners, in rational arithmetic, lie between the bounds."""
    lower, upper = np.array([-1.0, 0.5, -0.3]), np.array([2.0, 0.75, 0.0])
    below, above = (ends.sum(axis=0) for ends in operator.interval(lower, upper))
    for j in range(operator.output_width(3)):
        ends = [
            sorted(factor * Fraction(float(end[i])) for end in (lower, upper))
            for i, k, factor in operator.exact_entries(3)
            if k == j
        ]
        assert Fraction(float(np.nextafter(below[j], -np.inf))) <= sum(low for low, _ in ends)
        assert sum(high for _, high in ends) <= Fraction(float(np.nextafter(above[j], np.inf)))
        assert above[j] - below[j] <= float(sum(high - low for low, high in ends)) + 1e-12


def test_interval_of_products_keeps_the_sign_of_zero() -> None:
    """Where no product lies below 0, neither does the bound, whatever the rounding; and the same above."""
    rising = Dense(np.array([[1e-30, 0.1], [3.0, -0.0]], np.float32))
    below, above = rising.interval(np.zeros(2), np.array([0.1, np.inf]))
    assert ([0.0, 0.0], np.inf) == (below[0].tolist(), above[0, 0])
    below, above = rising.interval(np.array([-np.inf, -1.0]), np.zeros(2))
    assert [0.0, 0.0] == above[0].tolist()
    assert np.isneginf(below[0]).all()


def test_interval_sees_denormal_coefficients() -> None:
    """The smallest denormal number, times a row without bounds, is without bounds."""
    tiny = np.array([[5e-324], [-5e-324]])
    below, above = Dense(tiny).interval(np.array([0.0, 0.0]), np.array([np.inf, 0.0]))
    assert (0.0, np.inf) == (below[0, 0], above[0, 0])
    below, above = Dense(tiny).interval(np.array([0.0, 0.0]), np.array([0.0, np.inf]))
    assert (-np.inf, 0.0) == (below[0, 0], above[0, 0])


def test_smallest_entry_is_placed_in_the_variable_that_it_comes_from() -> None:
    """An entry of a transposed, reshaped kernel is named where it stands in the variable."""
    variable = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    variable[1, 0, 2] = -5.0
    constant = Constant.read(variable, "kernel").moved(functools.partial(np.transpose, axes=(2, 0, 1))).reshaped((4, 6))
    assert (-5.0, (1, 0, 2)) == Dense(constant.array, constant.label, constant.origin).smallest()
    assert (-5.0, (2, 3)) == Dense(constant.array).smallest()


def test_interval_of_an_unbounded_box_has_no_nan() -> None:
    """0 times infinity is 0, a denormal divisor gives infinity, a product too small to write keeps its sign."""
    free = np.full(3, np.inf)
    masked = Dense(MATRIX * np.array([[0.0, 1.0]], np.float32))
    below, above = masked.interval(-free, free)
    assert (below[0, 0], above[0, 0]) == (0.0, 0.0)
    assert (below[0, 1], above[0, 1]) == (-np.inf, np.inf)
    below, above = Divide(np.array([1.0, 5e-324, -5e-324])).interval(np.zeros(3), np.ones(3))
    assert (above[0, 1], below[0, 2]) == (np.inf, -np.inf)
    below, above = Scale(np.full(3, -1e-300)).interval(np.full(3, 1e-300), np.full(3, 1e-200))
    assert (below < 0).all()
    assert (above < 0).all()
