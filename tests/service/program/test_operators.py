"""Operators: the sign bit, fingerprints, values against NumPy, exact diagonals and enclosing products."""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from service.program.operators import Dense, Divide, Identity, Operator, Scale, fingerprint, is_negative

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


@pytest.mark.parametrize("operator", [Dense(MATRIX), Scale(FACTORS), Divide(FACTORS), Identity()])
def test_interval_encloses_every_exact_product(operator: Operator) -> None:
    """Products of the box's corners, in rational arithmetic, lie between the bounds or next to them."""
    lower, upper = np.array([-1.0, 0.5, -0.3]), np.array([2.0, 0.75, 0.0])
    below, above = operator.interval(lower, upper)
    diagonal = operator.exact_diagonal(3)
    for i in range(3):
        for end in (lower[i], upper[i]):
            if diagonal is None:
                products = [Fraction(float(w)) * Fraction(float(end)) for w in MATRIX[i]]
                bounds = list(zip(below[i], above[i], strict=True))
            else:
                products, bounds = [diagonal[i] * Fraction(float(end))], [(below[0, i], above[0, i])]
            for product, (low, high) in zip(products, bounds, strict=True):
                assert (
                    Fraction(float(np.nextafter(low, -np.inf)))
                    <= product
                    <= Fraction(float(np.nextafter(high, np.inf)))
                )


def test_interval_of_an_unbounded_box_has_no_nan() -> None:
    """0 times infinity is 0, a denormal divisor gives infinity, a product too small to write keeps its sign."""
    free = np.full(3, np.inf)
    below, above = Dense(MATRIX).interval(-free, free)
    assert (below[2, 0], above[2, 0]) == (0.0, 0.0)
    assert np.isneginf(below[0]).all()
    below, above = Divide(np.array([1.0, 5e-324, -5e-324])).interval(np.zeros(3), np.ones(3))
    assert (above[0, 1], below[0, 2]) == (np.inf, -np.inf)
    below, above = Scale(np.full(3, -1e-300)).interval(np.full(3, 1e-300), np.full(3, 1e-200))
    assert (below < 0).all()
    assert (above < 0).all()
