"""What is reported of a load: medians, quotients, and no figure at all where an answer was missing."""

import pytest

from bench.serving import Plan, figures_of, medians, ratios

DOCUMENT = {
    "counts": {"ok": 4},
    "num_sent": 4,
    "num_distinct_answers": 1,
    "ok_per_second": 2.0,
    "milliseconds": {"ok": {"p50": 3.0, "p99": 9.0}},
    "generator_cpu_share": 0.5,
}


def test_figures_are_those_of_the_phase():
    """Four requests of 64 rows in a millisecond of processor time: 250 us each, 128 rows a second."""
    figures = figures_of(DOCUMENT, 64, 0.001)
    assert (2.0, 128.0, 250.0) == tuple(
        figures[name] for name in ("requests_per_second", "rows_per_second", "processor_microseconds")
    )
    assert (3.0, 9.0, 0.5) == tuple(
        figures[name] for name in ("p50_milliseconds", "p99_milliseconds", "generator_share")
    )


@pytest.mark.parametrize("change", [{"counts": {"ok": 3, "429": 1}}, {"num_sent": 5}, {"num_distinct_answers": 2}])
def test_phase_with_other_answers_has_no_figures(change):
    """A refusal, a request without an answer or a different answer spoils the measurement, and is told."""
    with pytest.raises(RuntimeError, match="different answers"):
        figures_of(DOCUMENT | change, 1, 0.001)


def test_medians_are_of_each_figure():
    """Each figure has the median of its own repeats."""
    assert {"a": 2.0, "b": 5.0} == medians([{"a": 1.0, "b": 5.0}, {"a": 2.0, "b": 4.0}, {"a": 9.0, "b": 6.0}])


def test_ratios_are_those_of_the_goals():
    """700 us of which the engine has 550, echoes of 100: 1.5; 4 + 10 + 3 ms of 10: 1.7; p99 of 12 over p50 of 4: 3."""
    figures = {
        "octet-stream, 64 rows": {"processor_microseconds": 700.0},
        "echo, 64 rows": {"processor_microseconds": 100.0},
        "octet-stream, 1 row": {"p50_milliseconds": 4.0, "p99_milliseconds": 12.0},
    }
    alone = {
        "64 rows": {"engine": 550.0},
        "1000 rows": {"engine": 10e3, "decode JSON": 4e3, "encode JSON": 3e3},
    }
    expected = {
        "64 rows over engine, in echoes": 1.5,
        "1000 rows as JSON, in engines": 1.7,
        "p99 over p50, 1 row as octet-stream": 3.0,
    }
    assert expected == ratios(figures, alone)


def test_single_rows_have_many_callers():
    """Of one row there are 64 callers at once, of more few."""
    assert (64, 8) == (Plan().callers(1), Plan().callers(64))
