"""Every argument with which a class would not be convex: refused when it is made, by three points that show it."""

import numpy as np
import pytest

from docs.layer_reference import registered
from tests.training.refused_arguments import (
    FALLING,
    NOT_CONVEX,
    NOTHING_TO_REFUSE,
    REFUSED,
    Refused,
    names_of,
)
from training.activations import Counterexample, Role

CASES = [(name, number) for name, refusals in REFUSED.items() for number in range(len(refusals))]


def faults(refused: Refused, counterexample: Counterexample) -> list[str]:
    """Return what is wrong with a counterexample: its points, its values, or that it shows nothing."""
    left, middle, right = counterexample.points
    function = refused.along_the_line(counterexample.function)
    values = [float(function(np.float64(point))) for point in counterexample.points]
    slack = 1e-9 * max(map(abs, values))
    checks = {
        "three different points": min(left, right) < middle < max(left, right),
        "the middle is the mean": middle == pytest.approx((left + right) / 2, abs=1e-12 * abs(right - left)),
        "the values are the function's": values == pytest.approx(list(counterexample.values), rel=1e-3, abs=slack),
        "the middle lies above": values[1] > values[0] / 2 + values[2] / 2 + slack,
    }
    return [claim for claim, holds in checks.items() if not holds]


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_break_convexity_are_refused_with_three_points_that_show_it(name: str) -> None:
    """The refusal names reason and remedy, and by an independent float64 definition the midpoint inequality fails."""
    for number, refused in enumerate(REFUSED[name]):
        with pytest.raises(ValueError, match=r"(expect|Use|not convex|not declared)") as caught:
            refused.make()
        counterexample = caught.value.counterexample
        assert isinstance(counterexample, Counterexample), (number, str(caught.value))
        assert str(counterexample) in str(caught.value)
        assert [] == faults(refused, counterexample), (number, str(caught.value))


def test_every_registered_class_says_what_it_refuses_or_why_nothing() -> None:
    """Each class stands in one of the two tables, and each table names registered classes only."""
    names = {name.partition(">")[2] for name in registered()}
    assert names == set(REFUSED) | set(NOTHING_TO_REFUSE)
    assert set() == set(REFUSED) & set(NOTHING_TO_REFUSE)


def test_tables_of_activations_are_those_of_the_registry() -> None:
    """Every activation that is refused somewhere has its independent definition here."""
    assert (set(NOT_CONVEX), set(FALLING)) == (names_of(Role.NEVER), names_of(Role.FIRST))


@pytest.mark.parametrize(
    ("points", "values", "fault"),
    [
        ((-1.0, 0.0, 1.0), (-1.0, 1.0, -1.0), "the values are the function's"),
        ((-1.0, 0.5, 1.0), (-1.0, 0.5, -1.0), "the middle is the mean"),
        ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), "the middle lies above"),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), "three different points"),
    ],
)
def test_counterexample_that_shows_nothing_is_found_when_there_is_one(
    points: tuple[float, float, float], values: tuple[float, float, float], fault: str
) -> None:
    """Wrong values, wrong points, and points at which the function is convex are each named."""
    refused = Refused(lambda: None, lambda x: min(x, -x) if x < 1 else x)
    assert fault in faults(refused, Counterexample("min(x, -x)", points, values))


def test_violation_is_strict_for_every_argument_that_is_refused() -> None:
    """Each class refuses at least one argument, over a hundred in all."""
    assert all(REFUSED.values())
    assert len(CASES) >= 100
