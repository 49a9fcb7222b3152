"""The generator of bump data: what it draws, what it leaves out, and what other readers leave out."""

import math

import numpy as np
import pytest

from tests.oracle import bumps
from tests.training.layers.bump_grid import grid
from training.bump_samples import draw_bump, draw_sigma_bump
from training.datasets import read_table


def test_s27_a_nothing_is_filtered_from_the_consistent_family():
    """For every width of the grid, inside and far beyond [-1, 1], all values lie in [0, 1/e] and none is removed."""
    for s in np.unique(grid()[0]):
        for span in ((-1.0, 1.0), (-1.5 * float(s) - 1e-30, 1.5 * float(s) + 1e-30), (-3e38, 3e38)):
            drawn = draw_bump(float(s), 200, span=span)
            assert (200, 0) == (len(drawn.y), drawn.num_removed)
            assert (drawn.y.min() >= 0.0, drawn.y.max() <= math.exp(-1) * (1 + 1e-7)) == (True, True)


def test_s27_a_values_are_those_of_the_closed_form():
    """The drawn values equal the float64 formula at the drawn points, and fill the range."""
    drawn = draw_bump(0.7, 5000, span=(-1.0, 2.0))
    np.testing.assert_allclose(bumps.bump(drawn.x, 0.7)[0], drawn.y, rtol=1e-6, atol=1e-30)
    assert (-1.0 <= drawn.x.min() < -0.99, 1.99 < drawn.x.max() <= 2.0) == (True, True)


def test_s27_b_points_of_the_bare_form_that_are_no_values_are_removed_and_counted():
    """With sigma = 4 on (-5, 5) the points between 2 and 4 whose value is above the limit or infinite are left out."""
    drawn = draw_sigma_bump(4.0, 10_000, span=(-5.0, 5.0))
    everything = np.random.default_rng(0).uniform(0.0, 1.0, 10_000) * 10.0 - 5.0
    expected = int(np.count_nonzero((np.abs(everything) > 2.0) & (np.abs(everything) < 4.0)))
    assert abs(expected - drawn.num_removed) <= 3
    assert 10_000 == len(drawn.y) + drawn.num_removed
    assert np.isfinite(drawn.y).all()
    assert np.abs(drawn.y).max() <= 1.0
    assert 0 == draw_sigma_bump(4.0, 10_000).num_removed
    assert drawn.num_removed > draw_sigma_bump(4.0, 10_000, span=(-5.0, 5.0), limit=1e9).num_removed


def test_s27_b_reader_of_tables_counts_and_removes_what_is_no_number(tmp_path):
    """The reader that every training starts with drops and counts rows with NaN, infinities and what leaves float32."""
    (tmp_path / "bump.csv").write_text("x,y\n0.1,0.3\n2.5,inf\n2.1,nan\n2.2,1e39\n0.3,0.2\n0.4,0.1\n", encoding="utf-8")
    table = read_table(tmp_path / "bump.csv", target="y", features=(), max_bad_rows_percent=60.0)
    assert (3, 3) == (len(table.x), sum(table.dropped.values()))


def test_s27_c_removing_everything_is_an_error():
    """A range that lies where the bare form is no value leaves nothing, and that is said."""
    with pytest.raises(ValueError, match=r"all of 50 points were removed: every value is NaN, infinite or above 1 in"):
        draw_sigma_bump(4.0, 50, span=(2.01, 3.9))


def test_s27_d_same_seed_gives_the_same_data():
    """Equal arguments give equal bits, another seed others."""
    one, same, other = (draw_bump(0.5, 100, seed=seed) for seed in (3, 3, 4))
    assert (one.x.tobytes(), one.y.tobytes()) == (same.x.tobytes(), same.y.tobytes())
    assert one.x.tobytes() != other.x.tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": -1.0}, "radius: expected a finite number of at least 0, received -1"),
        ({"radius": math.inf}, "radius: expected a finite number"),
        ({"radius": 1.0, "num_points": 0}, "expected at least one point"),
        ({"radius": 1.0, "span": (1.0, 1.0)}, r"a range low < high, received 1000 points and \(1"),
    ],
)
def test_generator_refuses_what_is_no_width_and_no_range(arguments, message):
    """Widths below zero, infinite ones, no points and empty ranges are refused."""
    with pytest.raises(ValueError, match=message):
        draw_bump(**arguments)
