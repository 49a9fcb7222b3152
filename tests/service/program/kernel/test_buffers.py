"""Buffers of a plan: those that are needed at once never share a place, the others do."""

import itertools

import numpy as np
import pytest

from service.program.kernel.buffers import NOWHERE, Buffers


def overlaps(places, widths, lives):
    """Return the pairs of buffers that are alive at once and share a float."""
    found = []
    for one in places:
        for other in places:
            together = lives[one][0] <= lives[other][1] and lives[other][0] <= lives[one][1]
            meet = places[one] < places[other] + widths[other] and places[other] < places[one] + widths[one]
            if one < other and together and meet:
                found.append((one, other))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_buffers_that_are_alive_together_share_no_float(seed):
    """Random plans: no two buffers overlap while both are needed, and each begins at a line of the cache."""
    random = np.random.default_rng(seed)
    buffers, widths = Buffers(), [int(width) for width in random.integers(1, 300, 30)]
    numbers = [buffers.new(width) for width in widths]
    used = [[int(n) for n in random.choice(numbers, 3)] + [NOWHERE, -1] for _ in range(60)]
    lives = {n: [step for step, row in enumerate(used) if n in row] for n in numbers}
    lives = {n: (steps[0], steps[-1]) for n, steps in lives.items() if steps}
    places, total = buffers.placed(used)
    assert set(lives) == set(places)
    assert [] == overlaps(places, widths, lives)
    assert all(place % 16 == 0 for place in places.values())
    assert total >= max(places[n] + widths[n] for n in places)


def test_checker_finds_buffers_that_share_a_float():
    """Two buffers of 20 floats at places 0 and 16 overlap if and only if their lives do."""
    assert [(0, 1)] == overlaps({0: 0, 1: 16}, [20, 20], {0: (0, 3), 1: (3, 4)})
    assert [] == overlaps({0: 0, 1: 16}, [20, 20], {0: (0, 3), 1: (4, 5)})


def test_a_chain_of_steps_needs_room_for_two():
    """In a chain each buffer is read by the next step only: every second one has the same place."""
    buffers = Buffers()
    numbers = [buffers.new(64) for _ in range(10)]
    places, total = buffers.placed([[one, other] for one, other in itertools.pairwise(numbers)])
    assert 128 == total
    assert [0, 64] * 5 == [places[number] for number in numbers]
