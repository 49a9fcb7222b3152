"""The measurement of the engine: what its ratios say of known times, and a small one from end to end."""

import json

import numpy as np
import pytest

from bench import engine
from bench.engine import Plan, measure, ratios

TIMES = {
    "engine": [10.0, 20.0, 10.0],
    "products": [8.0, 8.0, 9.0],
    "products_in_tiles": [5.0, 5.0, 5.0],
    "signature": [90.0, 10.0, 90.0],
    "concrete": [80.0, 80.0, 70.0],
    "xla": [100.0, 100.0, 100.0],
    "operation": [85.0, 85.0, 85.0],
    "tensorflow_engine": [1.0, 1.0, 1.0],
}


def test_ratios_are_medians_of_the_rounds_and_tensorflow_is_at_its_best():
    """Shares 8/10, 8/20, 9/10 have the median 0.8; the call with the least median time is taken, in each round."""
    expected = {"share_of_products": 0.8, "share_of_products_in_tiles": 0.5, "best_tensorflow": "concrete"}
    expected["times_tensorflow"] = 7.0
    assert expected == ratios(TIMES, 8)


def test_one_row_is_held_to_twice_its_products():
    """10 - 16, 20 - 16 and 10 - 18 microseconds have the median -6."""
    assert -6.0 == ratios(TIMES, 1)["beyond_two_products"]


@pytest.mark.parametrize("num_rows", [1, 300, 512])
def test_products_are_those_of_score_and_gradient_for_all_rows(num_rows, monkeypatch):
    """Of 4 features and three layers of 8 units each row takes 448 multiply-adds, whole and in tiles of 256 rows."""
    done = []
    real = np.matmul

    def counted(left, right, **out):
        done.append(left.size * right.shape[1])
        return real(left, right, **out)

    sides = engine._products(4, 8, num_rows)
    monkeypatch.setattr(np, "matmul", counted)
    for side in sides.values():
        done.clear()
        side(np.zeros((num_rows, 4), np.float32))
        assert num_rows * (2 * 4 * 24 + 4 * 8 * 8) == sum(done)


def test_small_measurement_has_every_side_and_its_provenance():
    """One small network, two sizes, in a process of its own: times above zero, ratios, commit, versions and load."""
    plan = Plan(networks=(("T", 3, 8),), num_rows=(1, 7), shared_rows=9, num_rounds=2, seconds=0.001)
    result = json.loads(json.dumps(measure(plan)))
    assert {"commit", "python", "packages", "cpu", "load_averages"} <= set(result["before"])
    assert "1" == result["before"]["openblas_threads"]
    (found,) = result["results"]
    assert [1, 7] == [call["num_rows"] for call in found["calls"]]
    for call in found["calls"]:
        assert set(TIMES) == set(call["rounds"])
        assert all(len(times) == 2 and min(times) > 0 for times in call["rounds"].values())
        assert call["best_tensorflow"] in engine.TENSORFLOW
    assert "beyond_two_products" in found["calls"][0]
    if found["two_threads"] is not None:
        assert {"one", "two"} == set(found["two_threads"]["rounds"])
