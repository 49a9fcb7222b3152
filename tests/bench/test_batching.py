"""The measurement of batching: both sides for every number of callers, and where the figures come from."""

import json

from bench.__main__ import main
from bench.batching import Plan, measure


def test_result_has_both_sides_and_their_provenance():
    """A short run gives rows, latencies and the ratio of the medians, with commit, versions and load, as JSON."""
    result = json.loads(json.dumps(measure(Plan(num_callers=(1, 4), num_repeats=3, seconds=0.05))))
    assert [1, 4] == [callers["num_callers"] for callers in result["callers"]]
    for callers in result["callers"]:
        rates = {
            side: sorted(each["rows_per_second"] for each in callers["repeats"][side]) for side in ("direct", "batched")
        }
        assert all(len(values) == 3 and values[0] > 0 for values in rates.values())
        assert rates["batched"][1] / rates["direct"][1] == callers["ratio_of_rows_per_second"]
        for side in ("direct", "batched"):
            assert 0 < callers[side]["p50_microseconds"] <= callers[side]["p99_microseconds"]
    assert {"commit", "python", "packages", "cpu", "load_averages"} <= set(result["before"])


def test_unknown_measurement_is_refused_by_name(capsys):
    """A name that nobody measures is exit 2 with the names that there are."""
    assert 2 == main(["speed"])
    assert "there is no measurement speed; known: batching" in capsys.readouterr().err
