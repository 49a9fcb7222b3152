"""Piecewise functions: what is known of their shape, exactly at the boundary of each condition."""

from fractions import Fraction

import numpy as np
import pytest

from service.program import piecewise_operations as operations
from service.program.piecewise import NotPiecewiseError, Piecewise, polynomial

ZERO, ONE, HALF = Fraction(0), Fraction(1), Fraction(1, 2)
U = polynomial(ZERO, ONE)
RELU = operations.maximum(U, polynomial(ZERO))
ABS = operations.maximum(U, U.negated())
NEXT = Fraction(float(np.nextafter(1.0, 2.0)))


def huber(delta: Fraction) -> Piecewise:
    """Return u^2/2 for |u| <= delta, delta (|u| - delta/2) else."""
    inside = operations.compared(polynomial(delta), ABS, strict=False)
    outside = ABS.plus(polynomial(-delta / 2)).scaled(delta)
    return operations.chosen(inside, polynomial(ZERO, ZERO, HALF), outside)


def elu(alpha: Fraction) -> Piecewise:
    """Return u for u > 0, alpha (exp(u) - 1) else."""
    below = operations.exponential(U).plus(polynomial(-ONE)).scaled(alpha)
    return operations.chosen(operations.compared(U, polynomial(ZERO), strict=True), U, below)


def stable_softplus() -> Piecewise:
    """Return max(u, 0) + log(1 + exp(-|u|))."""
    return RELU.plus(operations.logarithm_of_one_plus(operations.exponential(ABS.negated())))


def squareplus(b: Fraction) -> Piecewise:
    """Return (u + sqrt(u^2 + b)) / 2."""
    return U.plus(operations.square_root(polynomial(b, ZERO, ONE))).scaled(HALF)


CONVEX = {
    "relu": RELU, "abs": ABS, "leaky 1": operations.leaky(U, ONE), "leaky -3": operations.leaky(U, Fraction(-3)),
    "elu 1": elu(ONE), "elu 0": elu(ZERO), "huber": huber(Fraction(7, 10)), "softplus": stable_softplus(),
    "squareplus": squareplus(Fraction(4)), "square": polynomial(ONE, Fraction(-2), ONE),
    "hinge squared": operations.product(*[operations.maximum(polynomial(ONE, -ONE), polynomial(ZERO))] * 2),
}  # fmt: skip
NOT_CONVEX = {
    "leaky just above 1": operations.leaky(U, NEXT), "elu just above 1": elu(NEXT), "minus abs": ABS.negated(),
    "capped": operations.maximum(RELU.negated(), polynomial(Fraction(-6))).negated(),
    "softplus minus square": stable_softplus().plus(polynomial(ZERO, ZERO, Fraction(-1, 1000))),
    "minus softplus": stable_softplus().negated(),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVEX)
def test_convex_function_is_known_to_be_convex(name: str) -> None:
    """What the textbook calls convex is known to be, at the boundary of its parameters too."""
    assert CONVEX[name].is_convex()
    assert CONVEX[name].negated().is_convex() == (name == "leaky 1")


@pytest.mark.parametrize("name", NOT_CONVEX)
def test_function_beyond_the_boundary_is_not_called_convex(name: str) -> None:
    """One float above the boundary, a cap or a sign is enough: nothing is called convex that is not."""
    assert not NOT_CONVEX[name].is_convex()


def test_slope_that_falls_by_one_unit_is_seen_on_its_place_only() -> None:
    """A leaky ReLU of alpha above 1 is linear, hence convex, on each side of 0."""
    steep = operations.leaky(U, NEXT)
    assert steep.is_convex((ZERO, None))
    assert steep.is_convex((None, ZERO))
    assert not steep.is_convex((Fraction(-1, 10**400), Fraction(1, 10**400)))


@pytest.mark.parametrize(
    ("function", "lower"),
    [
        (ABS, ZERO), (RELU, None), (huber(ONE), ZERO), (stable_softplus(), None), (squareplus(Fraction(4)), None),
        (elu(HALF), None), (polynomial(ZERO, ZERO, ONE), ZERO), (polynomial(ONE, Fraction(-2), ONE), ONE),
        (operations.leaky(U, Fraction(-1, 4)), ZERO), (stable_softplus().plus(U.scaled(Fraction(-1, 2))), ZERO),
    ],
)  # fmt: skip
def test_function_is_known_to_rise_from_its_lowest_place_on_and_no_earlier(
    function: Piecewise, lower: Fraction | None
) -> None:
    """The derivative at the end of the interval decides, exactly, where it is rational."""
    assert function.never_falls((lower, None))
    if lower is not None:
        assert not function.never_falls((lower - Fraction(1, 10**12), None))


def test_function_that_falls_everywhere_is_not_called_rising() -> None:
    """softplus(u) - u falls, and -relu(u) does; each negated rises."""
    falling = stable_softplus().plus(U.negated())
    assert not falling.never_falls()
    assert falling.negated().never_falls()
    assert RELU.negated().negated().never_falls()
    assert not RELU.negated().never_falls()


@pytest.mark.parametrize(
    ("function", "lowest"),
    [
        (ABS, 0), (RELU, 0), (huber(ONE), 0), (stable_softplus(), 0), (squareplus(Fraction(4)), 0), (elu(HALF), -0.5),
        (polynomial(ONE, Fraction(-3), ONE), -1.25), (U, None), (operations.leaky(U, HALF), None),
        (ABS.negated(), None), (ABS.plus(polynomial(Fraction(-2))), -2), (operations.leaky(U, ZERO), 0),
        (operations.maximum(polynomial(Fraction(3)), U), 3),
        (operations.maximum(polynomial(ZERO, Fraction(-1, 2)), U), 0),
    ],
)  # fmt: skip
def test_lowest_value_is_the_infimum_where_it_is_known(function: Piecewise, lowest: float | None) -> None:
    """The infimum over the line is exact, so that no rounding loses the sign of what is never negative."""
    assert (None if lowest is None else Fraction(lowest)) == function.lowest()


def test_two_forms_of_one_function_are_the_same_function() -> None:
    """Stable and plain softplus, both huber forms, |u| with log-cosh: equal pieces, without a break between them."""
    assert operations.softplus(U) == stable_softplus()
    capped = operations.maximum(ABS.negated(), polynomial(Fraction(-1))).negated()
    quadratic = operations.product(capped, capped).scaled(HALF).plus(ABS.plus(capped.negated()))
    assert huber(ONE) == quadratic
    plain = U.plus(operations.softplus(U.scaled(Fraction(-2))))
    assert plain == ABS.plus(operations.softplus(ABS.scaled(Fraction(-2))))


def test_choice_between_branches_that_differ_is_refused_with_the_jump() -> None:
    """where(u > 20, u, log(1 + exp(u))) jumps by -2.06e-09 at 20, and the message says so."""
    condition = operations.compared(U, polynomial(Fraction(20)), strict=True)
    with pytest.raises(NotPiecewiseError, match=r"differ by -2\.06e-09 at 20"):
        operations.chosen(condition, U, operations.softplus(U))
    with pytest.raises(NotPiecewiseError, match=r"differ by 1 at 0"):
        operations.chosen(operations.compared(U, polynomial(ZERO), strict=True), polynomial(ONE), polynomial(ZERO))


def test_choice_by_a_condition_that_holds_in_one_point_only_is_refused() -> None:
    """where(-|u| >= 0, 5, u): at 0 alone it is 5, which neither side shows."""
    condition = operations.compared(ABS.negated(), polynomial(ZERO), strict=False)
    assert (ZERO,) == condition[0]
    with pytest.raises(NotPiecewiseError, match="at 0"):
        operations.chosen(condition, polynomial(Fraction(5)), U)


def test_comparison_of_equal_functions_tells_strict_from_not_strict() -> None:
    """relu(u) > 0 and relu(u) >= 0 differ on the whole left half."""
    assert ((ZERO,), (False, True)) == operations.compared(RELU, polynomial(ZERO), strict=True)
    assert ((ZERO,), (True, True)) == operations.compared(RELU, polynomial(ZERO), strict=False)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: operations.exponential(polynomial(ONE, ONE)), "no multiple"),
        (lambda: operations.softplus(polynomial(ZERO)), "softplus of 0"),
        (lambda: operations.product(polynomial(ZERO, ZERO, ONE), U), "not both piecewise affine"),
        (lambda: operations.product(operations.softplus(U), U), "not both piecewise affine"),
        (lambda: operations.maximum(operations.softplus(U), polynomial(ONE)), "no polynomial"),
        (lambda: operations.maximum(polynomial(ZERO, ZERO, ONE), polynomial(Fraction(2))), "irrational"),
        (lambda: operations.square_root(U), "sum of squares"),
        (lambda: operations.square_root(polynomial(-ONE, ZERO, ONE)), "sum of squares"),
        (lambda: operations.quotient(U, U), "not a constant"),
        (lambda: operations.quotient(U, polynomial(ZERO)), "not a constant"),
        (lambda: operations.logarithm_of_one_plus(U), "logarithm"),
        (lambda: operations.composed(RELU, polynomial(ZERO, ZERO, ONE)), "not piecewise affine"),
    ],
)  # fmt: skip
def test_form_that_is_not_understood_is_refused_in_words(build: object, words: str) -> None:
    """No form is guessed: what the pieces cannot hold is refused and named."""
    with pytest.raises(NotPiecewiseError, match=words):
        build()  # type: ignore[operator]


def test_maximum_of_parabolas_that_meet_outside_of_a_piece_is_understood() -> None:
    """Irrational zeros matter only where the piece is: max(u^2, -2) is u^2."""
    assert polynomial(ZERO, ZERO, ONE) == operations.maximum(polynomial(ZERO, ZERO, ONE), polynomial(Fraction(-2)))
    assert operations.maximum(polynomial(ZERO, ZERO, ONE), polynomial(ONE)).breaks == (-ONE, ONE)


def test_composition_follows_both_sets_of_breaks() -> None:
    """relu(|u| - 1) breaks where |u| passes 1, not in 0, and softplus of it where its argument has no constant."""
    hinge = operations.composed(RELU, ABS.plus(polynomial(-ONE)))
    assert (-ONE, ONE) == hinge.breaks
    assert operations.composed(operations.softplus(U), U.scaled(Fraction(-3))) == operations.softplus(
        U.scaled(Fraction(-3))
    )
