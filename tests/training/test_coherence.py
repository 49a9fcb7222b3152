"""The coherence of filters: its closed forms, the Welch floor, and what it says of too many filters."""

import math

import numpy as np
import pytest

from training.coherence import measure, welch_floor

NONE = np.zeros(3, bool)
MERCEDES = np.array([[1.0, -0.5, -0.5], [0.0, math.sqrt(0.75), -math.sqrt(0.75)]])


@pytest.mark.parametrize(
    ("fan_in", "filters", "expected"),
    [(2, 3, 0.5), (4, 5, 0.25), (3, 6, 1 / math.sqrt(5)), (7, 28, 1 / 3), (3, 3, 0.0), (9, 2, 0.0), (1, 4, 1.0)],
)
def test_welch_floor_is_that_of_known_frames(fan_in, filters, expected):
    """Simplex, icosahedron and the 28 lines in 7 dimensions have the cosines that are known for them."""
    assert expected == pytest.approx(welch_floor(fan_in, filters), rel=1e-12, abs=1e-15)


def test_coherence_of_three_directions_in_the_plane_is_its_floor():
    """Three unit vectors at 120 degrees have cosines of one half, which no three do better."""
    found = measure(3.0 * MERCEDES, NONE)
    assert (2, 3) == (found.fan_in, found.filters)
    assert (0.5, 0.5) == (pytest.approx(found.largest, rel=1e-12), pytest.approx(found.floor, rel=1e-12))
    assert 3 * (9 * 0.5) ** 2 == pytest.approx(found.penalty, rel=1e-12)


def test_frozen_share_is_that_of_pairs_of_frozen_filters():
    """Only a pair of which both are frozen counts as what training cannot change."""
    kernel = np.random.default_rng(1).normal(size=(4, 5))
    frozen = np.array([True, False, True, False, True])
    pairs = [(0, 2), (0, 4), (2, 4)]
    expected = sum(float(kernel[:, i] @ kernel[:, j]) ** 2 for i, j in pairs)
    found = measure(kernel, frozen)
    assert expected == pytest.approx(found.frozen_penalty, rel=1e-12)
    assert 0.0 == measure(kernel, frozen & ~frozen).frozen_penalty
    assert found.penalty == pytest.approx(measure(kernel, frozen | ~frozen).frozen_penalty, rel=1e-12)


def test_zero_filter_has_cosines_of_zero():
    """A filter of zeros is orthogonal to all, and none of the numbers is NaN."""
    found = measure(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]), NONE)
    assert (0.0, 0.0) == (found.largest, found.penalty)


def test_single_filter_is_orthogonal_to_nothing():
    """One filter has no pair, whatever its fan-in."""
    found = measure(np.ones((1, 1)), np.zeros(1, bool))
    assert (0.0, 0.0, 0.0) == (found.largest, found.floor, found.penalty)


@pytest.mark.parametrize(("fan_in", "said"), [(2, "no 3 vectors in 2 dimensions have one below 0.5 (Welch)"), (3, "")])
def test_d8_t3_report_names_the_floor_where_there_are_too_many_filters(fan_in, said):
    """For n > m it says what cannot be had, for n <= m nothing of the kind."""
    line = str(measure(np.random.default_rng(2).normal(size=(fan_in, 3)), NONE))
    assert line.startswith(f"3 filters of {fan_in} weights: largest |cos| ")
    assert said in line
    assert bool(said) == ("Welch" in line)
