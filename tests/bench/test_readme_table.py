"""The README's figures are those of the committed results, and a table says what a result says."""

import json
import re

import pytest

from bench import readme_table
from bench.peers import GOALS

BEFORE = {
    "commit": "0123456789abcdef",
    "is_changed": False,
    "cpu": "a processor",
    "num_cores": 2,
    "python": "3.11.7",
    "load_averages": [0.1, 0.2, 0.3],
}
SIDE = {
    "requests_per_second": 1234.6,
    "rows_per_second": 1234.6,
    "p50_milliseconds": 4.04,
    "p99_milliseconds": 12.26,
    "processor_microseconds": 99.6,
}
RESULT = {
    "plan": {"num_repeats": 5, "seconds": 2.0},
    "before": BEFORE,
    "after": {"load_averages": [0.4, 0.5, 0.6]},
    "figures": {
        "Other": {
            "variant": "batches of 64",
            "form": "application/json",
            "theirs": SIDE | {"requests_per_second": 300.0},
            "ours": SIDE,
            "times_theirs": 4.12,
            "missing": "",
        },
        "Gone": {"missing": "pip: no\n  version | of it"},
    },
}


@pytest.mark.parametrize("name", readme_table.TABLES)
def test_tables_of_the_readme_are_those_of_the_committed_results(name):
    """What stands in the README between the marks of a result is made of that very result."""
    text, result = readme_table.README.read_text(), json.loads((readme_table.RESULTS / f"{name}.json").read_text())
    assert name == result["measurement"]
    assert text == readme_table.written(text, name, result)


def test_committed_result_of_peers_has_every_peer_of_the_goals():
    """Each peer for which a goal is set is measured, or missing with a reason."""
    figures = json.loads((readme_table.RESULTS / "peers.json").read_text())["figures"]
    assert set(GOALS) <= set(figures)
    assert all("theirs" in pair or pair["missing"] for pair in figures.values())


def test_table_has_both_sides_of_each_pair():
    """A pair is a line with rates, quotient, latencies and processor time; a missing peer a line with the reason."""
    _, _, pair, missing, *_ = readme_table.peers_table(RESULT)
    cells = [cell.strip() for cell in pair.strip("|").split("|")]
    expected = ["Other", "batches of 64", "json", "300", "1,235", "4.1", "4.0 / 12.3", "4.0 / 12.3", "100", "100"]
    assert expected == cells
    assert re.match(r"\| Gone \| missing: pip: no version / of it \|", missing)


ENGINE = {
    "plan": {"num_rounds": 7, "seconds": 0.05},
    "before": BEFORE,
    "after": {"load_averages": [0.4, 0.5, 0.6]},
    "results": [
        {
            "model": "M",
            "dim": 64,
            "hidden": [256, 256, 256],
            "calls": [
                {
                    "num_rows": 4096,
                    "microseconds": {"engine": 31234.4, "products": 33000.0, "signature": 9e4, "xla": 46000.0},
                    "share_of_products": 1.056,
                    "best_tensorflow": "xla",
                    "times_tensorflow": 1.47,
                }
            ],
            "two_threads": {"num_rows": 4096, "times_one": 1.846},
        },
        {"model": "S", "dim": 16, "hidden": [64, 64, 64], "calls": [], "two_threads": None},
    ],
}


def test_table_of_the_engine_has_its_products_and_the_best_of_tensorflow():
    """Each number of rows is a line; below stand the two threads, where there were two, and how it was measured."""
    _, _, call, empty, below = readme_table.engine_table(ENGINE)
    cells = [cell.strip() for cell in call.strip("|").split("|")]
    assert ["M: 64 - 256 - 256 - 256", "4,096", "31,234", "33,000", "1.06", "46,000 (xla)", "1.5"] == cells
    assert "" == empty
    assert below.startswith(
        "Two threads, times one: M 1.85 at 4,096 rows. Medians of 7 interleaved rounds of 0.05 s a side"
    )
    assert "Commit 0123456789ab; a processor" in below


def test_origin_tells_commit_machine_and_load():
    """Below a table stands which commit was measured, where, how often, and what else the machine did."""
    sentence = readme_table.peers_table(RESULT)[-1]
    for words in ("5 interleaved repeats of 2 s", "0123456789ab;", "a processor, 2 cores", "0.10 0.20 0.30 before"):
        assert words in sentence


def test_figures_of_a_busy_machine_say_so():
    """Where other work was done beside a measurement, the table says what its figures are worth."""
    assert "Other work" not in readme_table.peers_table(RESULT)[-1]
    assert "Other work" in readme_table.peers_table(RESULT | {"after": {"load_averages": [9.0, 1.0, 1.0]}})[-1]


def test_changed_figure_is_another_text():
    """The comparison with the README can fail: another figure makes another table."""
    marks = "<!-- bench: peers -->\nold\n<!-- end of bench: peers -->"
    first = readme_table.written(marks, "peers", RESULT)
    assert first == readme_table.written(first, "peers", RESULT)
    other = RESULT | {"after": {"load_averages": [9.0, 9.0, 9.0]}}
    assert first != readme_table.written(first, "peers", other)


def test_text_without_the_marks_is_refused():
    """A README that lost its place for a table is an error, not a README without one."""
    with pytest.raises(ValueError, match="no place for peers"):
        readme_table.written("# Title", "peers", RESULT)
