"""Drift on the shipped data: whatever is wrong with new rows is refused by name, and honest nights are not."""

import dataclasses
import re

import numpy as np
import pytest

from tests.training.nights import TARGETS, Change, first_rows, night_of, shuffled
from training import drift, fingerprint
from training.config import GateConfig
from training.datasets import Table

LIMITS = GateConfig(metric="any")


def compared(before: Table, tonight: Table, target: str, **limits: float) -> drift.Drift:
    """Return the drift between two nights, over what a manifest keeps of the first."""
    known, why = fingerprint.read(fingerprint.facts(before, target)[fingerprint.KEY], before.x.shape[1])
    assert known is not None, why
    return drift.compare(known, tonight, target, dataclasses.replace(LIMITS, **limits))


def night(name: str, change: Change | None, *, new: int = 100, seed: int = 0, **limits: float) -> drift.Drift:
    """Return the drift when new rows of a shipped data set are changed on their way."""
    table = shuffled(name, seed)
    return compared(first_rows(table, 300), night_of(table, 300, new, change), TARGETS[name][0], **limits)


def scaled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the fourth column another unit."""
    return x * np.where(np.arange(x.shape[1]) == 3, 10.0, 1.0), y


def shifted(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move the fourth column by one and a half of its standard deviations."""
    return x + np.where(np.arange(x.shape[1]) == 3, 1.5 * x.std(axis=0), 0.0), y


def swapped(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let the third and the fourth column change places."""
    order = np.arange(x.shape[1])
    order[[2, 3]] = 3, 2
    return x[:, order], y


@pytest.mark.parametrize("name", ["tumours", "diabetes"])
@pytest.mark.parametrize("change", [scaled, shifted, swapped])
def test_new_rows_with_a_changed_column_are_refused_by_its_name(name, change):
    """Another unit, a shift of the mean and a swap with its neighbour: the column, index, limit and key are named."""
    found = night(name, change)
    column = shuffled(name, 0).features[3]
    reasons = [reason for reason in found.reasons if f"column '{column}'" in reason]
    assert [] != [reason for reason in reasons if "stability index" in reason and "gate.max_psi = 0.25" in reason]
    assert "Look at its unit" in reasons[0]


@pytest.mark.parametrize("name", ["tumours", "diabetes"])
@pytest.mark.parametrize("new", [5, 30, 100])
@pytest.mark.parametrize("seed", range(3))
def test_honest_nights_are_let_pass_when_the_file_grows_or_holds_new_rows_alone(name, new, seed):
    """Rows dealt at random have no drift, as part of a grown file and by themselves."""
    assert () == night(name, None, new=new, seed=seed).reasons
    table = shuffled(name, seed)
    alone = dataclasses.replace(table, x=table.x[300:400], y=table.y[300:400], rows_read=100)
    found = compared(first_rows(table, 300), alone, TARGETS[name][0])
    assert ((), 100, 300) == (found.reasons, found.new, found.gone)


def test_change_of_new_rows_is_not_diluted_by_the_old_ones():
    """Of 420 rows 20 are shifted far: all rows together pass, the new ones do not."""
    table = shuffled("diabetes", 0)
    tonight = night_of(table, 400, 20, lambda x, y: (x + np.eye(10)[2] * 6 * x.std(axis=0), y))
    found = compared(first_rows(table, 400), tonight, "progression")
    by_part = {one.compared: one for one in found.columns if one.column == table.features[2]}
    assert by_part["all"].psi < by_part["all"].psi_limit
    assert by_part["new"].psi > by_part["new"].psi_limit
    assert (20, 400, 420) == (found.new, found.rows_before, found.looked_at)


def test_category_that_is_gone_and_one_that_nobody_knew_are_refused():
    """All new patients of one sex; and a code that is none of the two."""
    one_sex = night("diabetes", lambda x, y: (np.where(np.arange(10) == 1, x[:, [1]].min(), x), y))
    assert [] != [reason for reason in one_sex.reasons if re.search(r"column 'sex'.* any more", reason)]
    unknown = night("diabetes", lambda x, y: (np.where(np.arange(10) == 1, 9.0, x), y))
    assert [] != [reason for reason in unknown.reasons if "are none of the champion's values" in reason]


def test_values_out_of_range_are_refused_where_more_than_a_few():
    """Eight of 100 new rows far above the champion's maximum are refused, two are not; the key can be raised."""

    def high(count: int) -> Change:
        def change(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x[:count, 0] = 2.0 * x[:, 0].max()
            return x, y

        return change

    reasons = night("tumours", high(8)).reasons
    assert 1 == len([reason for reason in reasons if "outside of the champion's range" in reason])
    assert () == night("tumours", high(2)).reasons
    assert () == night("tumours", high(8), max_outside_percent=20.0).reasons


def test_missing_cells_that_rise_in_one_column_are_refused():
    """Of 300 cells 20 were missing: 25 tonight are chance, 120 are refused."""
    table = shuffled("tumours", 0)
    before = dataclasses.replace(first_rows(table, 280), rows_read=300, bad_cells={"mean area": 20})
    tonight = {bad: dataclasses.replace(night_of(table, 200, 60), rows_read=300, bad_cells={"mean area": bad})
               for bad in (25, 120)}  # fmt: skip
    reasons = {bad: compared(before, one, "malignant").reasons for bad, one in tonight.items()}
    assert (0, 1) == (len(reasons[25]), len(reasons[120]))
    assert "column 'mean area': 40 percent of its cells are missing" in reasons[120][0]
    assert () == compared(before, tonight[120], "malignant", max_missing_percent=40.0).reasons


def test_target_that_drifts_is_refused_with_its_own_limit():
    """All new tumours malignant; progression in another unit; a limit raised for a night lets both pass."""
    for name, change in (("tumours", lambda x, y: (x, np.ones_like(y))), ("diabetes", lambda x, y: (x, y * 5.0))):
        reasons = night(name, change).reasons
        assert [] != [reason for reason in reasons if "'target " in reason and "gate.max_target_psi" in reason]
    loose = {"max_target_psi": 100.0, "max_outside_percent": 100.0}
    assert [] == [reason for reason in night("diabetes", change, **loose).reasons if "index" in reason]


def test_old_rows_with_other_labels_are_refused():
    """Thirty of 300 known rows have another label tonight; six are a correction."""
    table = shuffled("tumours", 0)
    for count, refused in ((6, False), (30, True)):
        y = table.y.copy()
        y[:count] = 1.0 - y[:count]
        found = compared(first_rows(table, 300), first_rows(dataclasses.replace(table, y=y), 400), "malignant")
        assert (count, refused) == (found.relabelled, any("another target tonight" in one for one in found.reasons))


def test_row_that_stands_again_and_again_is_refused():
    """Ten copies of one row among 100 new ones are refused, three are not."""

    def copied(count: int) -> Change:
        def change(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x[:count], y[:count] = x[0], y[0]
            return x, y

        return change

    found = night("tumours", copied(10))
    assert (True, 10) == (any("one row stands 10 times among" in one for one in found.reasons), found.heaviest)
    assert () == night("tumours", copied(3)).reasons


def test_many_columns_give_few_sentences_and_all_are_in_the_document():
    """All thirty columns in another unit: a handful of reasons, sixty lines in the report, the largest first."""
    found = night("tumours", lambda x, y: (x * 100.0, y))
    document = found.to_document()
    assert len(found.reasons) <= 3 * 5 + 1
    assert found.reasons[-1].endswith("more columns drifted as well: the report has all of them.")
    assert 2 * 31 == len(document["columns"])
    indices = [one["psi"] for one in document["columns"]]
    assert sorted(indices, reverse=True) == indices
