"""Which processor each worker keeps to."""

import pytest

from service.fleet.placement import processors


@pytest.mark.parametrize(
    ("num_workers", "allowed", "expected"),
    [
        (2, {0, 1}, [0, 1]),
        (2, {7, 3, 5}, [3, 5]),
        (3, {0, 1}, [None, None, None]),
        (1, {4}, [4]),
    ],
)
def test_workers_have_processors_of_their_own_where_there_are_enough(num_workers, allowed, expected):
    """One each out of those that are allowed, and none to anybody where they do not suffice."""
    assert expected == processors(num_workers, allowed)
