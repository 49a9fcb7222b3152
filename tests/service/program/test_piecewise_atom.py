"""Piecewise atoms in floats: value, slope, image and text against closed forms, feature by feature."""

import pickle
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from service.program import piecewise_operations as operations
from service.program.atoms import Abs, Atom, Elu, Exp, Softplus, Square, leaky_relu, relu, squared_leaky
from service.program.piecewise import Piecewise, polynomial
from service.program.piecewise_atom import PiecewiseAtom, atom_of

ZERO, ONE, HALF = Fraction(0), Fraction(1), Fraction(1, 2)
U = polynomial(ZERO, ONE)
ABS = operations.maximum(U, U.negated())
SOFTPLUS, EXP = operations.softplus(U), operations.exponential(U)
Floats = NDArray[np.float64]
Closed = Callable[[Floats], Floats]


def elu(alpha: Fraction) -> Piecewise:
    """Return u for u > 0, alpha (exp(u) - 1) else."""
    below = EXP.plus(polynomial(-ONE)).scaled(alpha)
    return operations.chosen(operations.compared(U, polynomial(ZERO), strict=True), U, below)


def capped(limit: int) -> Piecewise:
    """Return min(|u|, limit)."""
    return operations.maximum(ABS.negated(), polynomial(Fraction(-limit))).negated()


def sigmoid(u: Floats) -> Floats:
    """Return 1 / (1 + exp(-u))."""
    return np.exp(-np.logaddexp(0.0, -u))


HUBER = operations.product(capped(1), capped(1)).scaled(HALF).plus(ABS.plus(capped(1).negated()))
CLOSED_FORMS: dict[str, tuple[Piecewise, Closed, Closed]] = {
    "elu 1/2": (elu(HALF), lambda u: np.where(u > 0, u, np.expm1(np.minimum(u, 0)) / 2),
                lambda u: np.where(u > 0, 1, np.exp(np.minimum(u, 0)) / 2)),
    "huber": (HUBER, lambda u: np.where(abs(u) <= 1, u * u / 2, abs(u) - 0.5), lambda u: np.clip(u, -1, 1)),
    "squareplus": (U.plus(operations.square_root(polynomial(Fraction(4), ZERO, ONE))).scaled(HALF),
                   lambda u: (u + np.hypot(u, 2)) / 2, lambda u: (1 + u / np.hypot(u, 2)) / 2),
    "log cosh": (polynomial(Fraction(-0.6931471805599453), -ONE).plus(operations.softplus(U.scaled(Fraction(2)))),
                 lambda u: np.logaddexp(u, -u) - np.log(2), np.tanh),
    "smooth leaky": (U.scaled(Fraction(1, 4)).plus(operations.softplus(U.scaled(Fraction(4))).scaled(Fraction(3, 16))),
                     lambda u: u / 4 + 3 * np.logaddexp(0, 4 * u) / 16, lambda u: 0.25 + 0.75 * sigmoid(4 * u)),
    "shifted root": (operations.square_root(polynomial(Fraction(3), Fraction(2), ONE)),
                     lambda u: np.sqrt((u + 1) ** 2 + 2), lambda u: (u + 1) / np.sqrt((u + 1) ** 2 + 2)),
    "dead zone": (operations.maximum(ABS.plus(polynomial(-HALF)), polynomial(ZERO)),
                  lambda u: np.maximum(abs(u) - 0.5, 0), lambda u: np.where(abs(u) > 0.5, np.sign(u), 0)),
    "falling exp": (operations.exponential(U.scaled(Fraction(-2))),
                    lambda u: np.exp(-2 * u), lambda u: -2 * np.exp(-2 * u)),
}  # fmt: skip
ATOMS = {name: atom_of([function], np.zeros(1, np.intp)) for name, (function, _, _) in CLOSED_FORMS.items()}
GRID = np.concatenate([np.linspace(-6, 6, 2401) + 1e-4, [0.0, -30.0, 30.0]])[:, None]


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 4e-15), (np.float32, 1e-6)])
def test_piecewise_atom_agrees_with_its_closed_form(name: str, dtype: type, tolerance: float) -> None:
    """Value and slope are the closed form's, in the precision of the rows."""
    _, value, slope = CLOSED_FORMS[name]
    rows = GRID.astype(dtype)
    received = ATOMS[name].value_and_slope(rows, np)
    assert (dtype, dtype) == tuple(array.dtype for array in received)
    exact = rows.astype(np.float64)
    scale = np.maximum(1.0, np.abs(value(exact)))
    assert np.max(np.abs(received[0] - value(exact)) / scale) <= 4 * tolerance
    np.testing.assert_allclose(received[1], slope(exact), rtol=8 * tolerance, atol=8 * tolerance)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_slope_is_a_subgradient_on_a_grid_with_the_kinks(name: str) -> None:
    """Every tangent lies below, at the kinks too: a tripwire for the exact proof that these are convex."""
    assert ATOMS[name].is_convex
    u = np.concatenate([np.linspace(-4, 4, 161), [-1, 1, -0.5, 0.5, 0, 1e-9, -1e-9]])[:, None]
    value, slope = (array[:, 0] for array in ATOMS[name].value_and_slope(u, np))
    gap = value[None, :] - value[:, None] - slope[:, None] * (u[None, :, 0] - u)
    assert gap.min() >= -1e-12 * np.abs(value).max()


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize(
    "ends", [(-3.0, -1.0), (-2.0, 0.0), (-2.0, 5.0), (0.0, 4.0), (1.5, 1.5), (-1e-3, 1e-9), (-np.inf, 2.0), (1.0, 50.0)]
)
def test_image_encloses_dense_samples_and_is_tight(name: str, ends: tuple[float, float]) -> None:
    """No value lies outside; the largest is met closely, and so is the smallest of what rises or is polynomial."""
    low, high = (array[0] for array in ATOMS[name].image(np.array(ends[:1]), np.array(ends[1:])))
    grid = np.append(np.linspace(max(ends[0], -300.0), ends[1], 4001), np.clip([-1.0, 0.0], *ends))
    values = CLOSED_FORMS[name][1](grid)
    assert low <= values.min() + 1e-15
    assert values.max() <= high + 1e-15
    if np.isfinite(ends[0]):
        assert high == pytest.approx(values.max(), rel=1e-11, abs=1e-11)
    if name not in {"log cosh", "shifted root"}:
        assert low == pytest.approx(values.min(), rel=1e-11, abs=1e-11) or not np.isfinite(ends[0])


@pytest.mark.parametrize("name", ["huber", "squareplus", "dead zone", "falling exp"])
def test_image_never_loses_the_sign_of_what_is_never_negative(name: str) -> None:
    """Over the line the lower end is exactly 0, so that a square of it may be proved."""
    low, high = ATOMS[name].image(np.array([-np.inf]), np.array([np.inf]))
    assert ([0.0], [np.inf]) == (low.tolist(), high.tolist())


KNOWN: dict[str, tuple[Piecewise, Atom]] = {
    "relu": (operations.maximum(U, polynomial(ZERO)), relu()),
    "leaky": (operations.maximum(U, U.scaled(Fraction(1, 4))), leaky_relu(0.25)),
    "abs": (ABS, Abs()), "elu": (elu(ONE), Elu()), "exp": (EXP, Exp()), "softplus": (SOFTPLUS, Softplus()),
    "square": (operations.product(U, U), Square()),
    "squared leaky": (operations.product(*[operations.leaky(U, Fraction(1, 4))] * 2), squared_leaky(0.25)),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_function_that_has_an_atom_of_its_own_becomes_that(name: str) -> None:
    """A form of relu is relu: one canonical text for one function."""
    function, atom = KNOWN[name]
    assert atom.text == atom_of([function], np.zeros(3, np.intp)).text


def test_function_that_nearly_has_an_atom_does_not_become_it() -> None:
    """A slope of one third is no float64, a break beside 0 no relu: they stay as they are."""
    third = operations.leaky(U, Fraction(1, 3))
    beside = operations.maximum(U, polynomial(Fraction(1, 10**30)))
    for function in (third, beside, elu(HALF), SOFTPLUS.scaled(Fraction(2)), EXP.plus(polynomial(ONE))):
        assert "piecewise" == atom_of([function], np.zeros(1, np.intp)).name


def per_feature(*alphas: Fraction) -> Atom:
    """Return leaky ReLUs with a slope for each feature."""
    different = list(dict.fromkeys(alphas))
    index = np.array([different.index(alpha) for alpha in alphas])
    return atom_of([operations.leaky(U, alpha) for alpha in different], index)


ALPHAS = (Fraction(1, 4), ONE, ZERO, Fraction(1, 4), Fraction(-1, 2))


def test_each_feature_has_its_own_function_even_of_another_form() -> None:
    """Slopes of a PReLU differ, and where one is 1 the function has no break at all; the order of features stays."""
    rows = np.random.default_rng(0).standard_normal((50, len(ALPHAS)))
    rows[0] = 0.0
    value, slope = per_feature(*ALPHAS).value_and_slope(rows, np)
    alphas = np.array([float(alpha) for alpha in ALPHAS])
    np.testing.assert_array_equal(value, np.where(rows > 0, rows, alphas * rows))
    np.testing.assert_array_equal(slope, np.where(rows > 0, 1.0, alphas))


def test_monotonicity_and_curvature_are_known_feature_by_feature() -> None:
    """One falling slope, or one above 1, spoils its own feature alone, and neither does on [0, inf)."""
    atom = per_feature(*ALPHAS, Fraction(3, 2))
    lower, upper = np.full(6, -np.inf), np.full(6, np.inf)
    assert [True, True, True, True, False, True] == atom.rises_on(lower, upper).tolist()
    assert [True, True, True, True, True, False] == atom.convex_on(lower, upper).tolist()
    assert [False, True, False, False, False, True] == atom.concave_on(lower, upper).tolist()
    assert atom.rises_on(np.zeros(6), upper).all()
    assert atom.convex_on(np.zeros(6), upper).all()
    assert atom.concave_on(np.zeros(6), upper).all()
    assert [False, False, True, False, True, False] == atom.falls_on(lower, np.zeros(6)).tolist()
    assert not atom.is_convex
    assert "its slope falls from 1.5 to 1 at 0" == atom.objection()


def test_kinks_are_where_the_slope_jumps_and_nowhere_else() -> None:
    """Huber has no kink though it has breaks; a dead zone has two; a PReLU one for each feature that bends."""
    assert [] == ATOMS["huber"].kinks()
    assert [-0.5, 0.5] == [place for _, places in ATOMS["dead zone"].kinks() for place in places]
    ((features, places),) = per_feature(*ALPHAS).kinks()
    assert ([0, 2, 3, 4], [0.0] * 4) == (features.tolist(), places.tolist())


def test_text_tells_every_parameter_apart_and_survives_pickling() -> None:
    """The last bit of a break, a slope or the order of features changes the text; a copy has the same."""
    quarter, third = Fraction(1, 4), Fraction(1, 3)
    texts = {
        atom.text
        for atom in (
            per_feature(quarter, third), per_feature(third, quarter), per_feature(third, third), *ATOMS.values(),
            atom_of([elu(HALF + Fraction(1, 2**60))], np.zeros(1, np.intp)), per_feature(*[quarter, third] * 100),
        )
    }  # fmt: skip
    assert 5 + len(ATOMS) == len(texts)
    assert max(map(len, texts)) <= 220
    copy = pickle.loads(pickle.dumps(per_feature(quarter, third)))  # noqa: S301  (our own bytes)
    assert per_feature(quarter, third).text == copy.text


@pytest.mark.parametrize(("name", "modulus"), [("huber", 0), ("shifted root", 0)])
def test_modulus_is_none_where_a_piece_is_not_quadratic(name: str, modulus: int) -> None:
    """Strong convexity is claimed from squares alone."""
    assert modulus == ATOMS[name].modulus


def test_modulus_of_a_quadratic_in_pieces_is_that_of_its_flattest_one() -> None:
    """u^2 below 0 and 3 u^2 above is 2-strongly convex, and its negative is not convex at all."""
    steep = operations.chosen(
        operations.compared(U, polynomial(ZERO), strict=True),
        polynomial(ZERO, ZERO, Fraction(3)),
        polynomial(ZERO, ZERO, ONE),
    )
    assert isinstance(atom := atom_of([steep], np.zeros(1, np.intp)), PiecewiseAtom)
    assert 2 == atom.modulus
    assert 0 == PiecewiseAtom((steep.negated(),), (0,)).modulus


def test_piece_that_is_not_chosen_never_overflows() -> None:
    """An exponential stands on the left of elu only: on the right it is asked for nothing that leaves the floats."""
    rows = np.array([[1e30], [-1e30], [88.0]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        value, slope = ATOMS["elu 1/2"].value_and_slope(rows, np)
    np.testing.assert_allclose(value[:, 0], [1e30, -0.5, 88.0])
    np.testing.assert_allclose(slope[:, 0], [1, 0, 1])
