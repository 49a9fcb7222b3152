"""What a version takes: numbers that are finite, also where their sum is not."""

import numpy as np
import pytest

from service.signature import are_finite


@pytest.mark.parametrize("shape", [(1,), (7, 3), (256, 64), (2, 3, 4)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found_at_any_place(shape, bad):
    """NaN and both infinities, first, last and in the middle."""
    for place in {0, int(np.prod(shape)) // 2, int(np.prod(shape)) - 1}:
        values = np.ones(shape, np.float32)
        assert are_finite(values)
        values.reshape(-1)[place] = bad
        assert not are_finite(values)


def test_infinities_that_cancel_are_found():
    """The sum of both infinities is NaN, not a number."""
    assert not are_finite(np.array([np.inf, -np.inf, 1.0], np.float32))


@pytest.mark.parametrize("values", [[3e38, 3e38], [-3e38, -3e38, 1.0], [], [0.0, -0.0]])
def test_finite_numbers_are_finite_when_their_sum_is_not(values):
    """Numbers at the end of float32 are finite; so is nothing at all."""
    assert are_finite(np.array(values, np.float32))
