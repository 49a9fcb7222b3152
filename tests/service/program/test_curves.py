"""Curves and exact numbers: values and slopes against closed forms, and what is known of their signs."""

import math
from fractions import Fraction

import pytest

from service.program.curves import Curve, Exact, rational_root, square_root

EXP = Curve("exp", (Fraction(1, 2),))
SOFTPLUS = Curve("softplus", (Fraction(2),))
ROOT = Curve("root", (Fraction(4), Fraction(2), Fraction(3)))
CLOSED_FORMS = {
    "exp": (EXP, lambda u: math.exp(u / 2), lambda u: math.exp(u / 2) / 2),
    "softplus": (SOFTPLUS, lambda u: math.log1p(math.exp(2 * u)), lambda u: 2 / (1 + math.exp(-2 * u))),
    "root": (
        ROOT,
        lambda u: math.sqrt(4 * u * u + 2 * u + 3),
        lambda u: (4 * u + 1) / math.sqrt(4 * u * u + 2 * u + 3),
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("place", ["-3/2", "0", "7/4"])
def test_enclosure_holds_the_closed_form_closely(name: str, place: str) -> None:
    """Bounds of a value and of a slope hold the float64 closed form and are next to it."""
    curve, value, slope = CLOSED_FORMS[name]
    u = Fraction(place)
    for exact, expected in ((curve.value_at(u), value(float(u))), (curve.slope_at(u), slope(float(u)))):
        bounds = exact.enclosure()
        assert bounds is not None
        assert expected == pytest.approx(float(bounds[0]), rel=1e-11, abs=1e-11)
        assert bounds[0] - Fraction(1, 10**15) <= Fraction(expected) <= bounds[1] + Fraction(1, 10**15)


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("right", [False, True])
def test_limit_of_the_slope_is_that_of_the_closed_form(name: str, right: bool) -> None:
    """Far out the slope is what the limit says, and where there is no limit it grows without bound."""
    curve, _, slope = CLOSED_FORMS[name]
    limit = curve.slope_limit(right=right)
    far = slope(300.0 if right else -300.0)
    if limit is None:
        assert far > 1e20
    else:
        assert far == pytest.approx(float(limit.rational), rel=1e-2, abs=1e-12)


def test_numbers_that_are_written_alike_cancel_exactly() -> None:
    """softplus(-t) is softplus(t) - t, and equal numbers differ by a zero that needs no float."""
    softplus = Curve("softplus", (Fraction(1),))
    difference = softplus.value_at(Fraction(3)).minus(softplus.value_at(Fraction(-3)))
    assert difference.is_zero is False
    assert Fraction(3) == difference.rational
    assert difference.minus(Exact(rational=Fraction(3))).is_zero
    slopes = softplus.slope_at(Fraction(3)).plus(softplus.slope_at(Fraction(-3)))
    assert (1, {}) == (slopes.rational, dict(slopes.irrational))


def test_sign_is_known_only_where_the_enclosure_shows_it() -> None:
    """A difference that float64 cannot tell from zero counts as unknown, and a number beyond float64 too."""
    almost = Curve("exp", (Fraction(1),)).value_at(Fraction(1)).minus(Exact(rational=Fraction(math.e)))
    assert not almost.is_nonnegative()
    assert not almost.scaled(Fraction(-1)).is_nonnegative()
    assert Exact({("exp", Fraction(10_000)): Fraction(1)}).enclosure() is None
    assert not Exact({("exp", Fraction(10_000)): Fraction(1)}).is_nonnegative()
    assert Exact(rational=Fraction(0)).is_nonnegative()
    assert not Exact(rational=Fraction(-1, 10**400)).is_nonnegative()


@pytest.mark.parametrize(("number", "root"), [("0", "0"), ("9/4", "3/2"), ("2", None), ("-1", None), ("1/3", None)])
def test_rational_root_is_exact_or_none(number: str, root: str | None) -> None:
    """Only the square of a rational number has one."""
    assert (None if root is None else Fraction(root)) == rational_root(Fraction(number))


def test_square_root_of_any_size_is_enclosed() -> None:
    """Tiny and huge radicands are enclosed as well as ordinary ones."""
    for radicand in (Fraction(2), Fraction(2, 10**300), Fraction(2 * 10**300), Fraction(1, 3)):
        bounds = square_root(radicand).enclosure()
        assert bounds is not None
        assert bounds[0] ** 2 <= radicand <= bounds[1] ** 2
        assert bounds[1] - bounds[0] < bounds[1] / 10**11
