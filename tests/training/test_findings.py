"""What a user is told of data and run: each finding has data that show it and data that do not."""

import dataclasses

import numpy as np
import pytest

from training import findings
from training.datasets import Samples, Table
from training.trainer import History

X = np.random.default_rng(0).normal(size=(100, 3))


def table_of(x: np.ndarray, **facts: object) -> Table:
    """Return a table with these rows."""
    return Table(("a", "b", "c"), x, np.zeros(len(x)), **facts)


def changed(row: int, column: int, value: float) -> np.ndarray:
    """Return ordinary rows with one number changed."""
    x = X.copy()
    x[row, column] = value
    return x


def test_ordinary_data_have_no_finding():
    """Normal columns and heavy-tailed ones say nothing."""
    heavy = np.random.default_rng(1).standard_t(3, size=(100, 3))
    assert [[], []] == [findings.of_data(table_of(x), table_of(x)) for x in (X, heavy)]


def test_value_out_of_all_proportion_is_named_with_its_column():
    """A slip of the decimal point, and the largest number there is, are shown; a few are a habit."""
    for value in (-1e4, 1e30, 3e38):
        table = table_of(changed(4, 1, value))
        assert [f"Column b: one row ({value:g})" in told for told in findings.of_data(table, table)] == [True]
    several = table_of(np.where(np.arange(100)[:, None] % 30 == 0, 1e30, X))
    assert [] == findings.of_data(several, several)


def test_constant_column_and_dropped_rows_are_told():
    """A column is constant in the training rows, which teach; rows are dropped from the whole file."""
    train = table_of(changed(0, 0, 1.0) * [1, 0, 1])
    told = findings.of_data(table_of(X, dropped={"a missing number": 2}), train)
    assert ["Rows that were dropped: 2 with a missing number.", True] == [told[0], told[1].endswith("nothing: b.")]
    assert 2 == len(told)


def test_few_rows_have_no_outlier():
    """Among a handful of rows one always holds most of the variation."""
    few = table_of(changed(4, 1, 1e30)[:8])
    assert [] == findings.of_data(few, few)


def test_budget_that_ended_too_early_is_told():
    """A run whose last evaluation was its best one might go on; one that found no better for a while might not."""
    cut = History((0, 50), (0.7, 0.2), (0.8, 0.3), 50, stopped_early=False)
    assert 1 == len(findings.of_run(cut))
    assert [] == findings.of_run(dataclasses.replace(cut, best_step=0))
    assert [] == findings.of_run(dataclasses.replace(cut, stopped_early=True))


def test_findings_of_two_samples_name_the_side_and_the_file():
    """A value out of all proportion in the source, and a greyscale target, are told where they are."""
    source = table_of(changed(4, 1, 1e30), file="p.csv", dropped={"NaN": 3})
    target = table_of(changed(5, 1, 1e30)[::-1] + 9.0, file="q.png", notes=("It is grey.",))
    told = findings.of_data(Samples(source, target), Samples(source, target))
    lone = "Column b: one row (1e+30) holds nearly all of its variation. Is it a mistake?"
    files = ["Source, p.csv: Rows that were dropped: 3 with NaN.", "Target, q.png: It is grey."]
    assert [*files, f"Source, p.csv: {lone}", f"Target, q.png: {lone}"] == told[:4]
    assert files == findings.of_files(Samples(source, target))


def test_files_of_a_table_are_told_without_its_rows():
    """Notes and dropped rows are the file's; what the rows are like is told of training rows alone."""
    table = table_of(X * [0, 1, 1], file="p.png", notes=("It is grey.",), dropped={"NaN": 3})
    assert ["It is grey.", "Rows that were dropped: 3 with NaN."] == findings.of_files(table)
    assert [] == findings.of_files(table_of(X * [0, 1, 1]))


def test_constant_column_of_a_side_is_told_by_what_it_means_to_the_map():
    """On both sides it is a shift to learn, whatever its values; on one it is no shift; it never teaches nothing."""
    source = table_of(X * [1, 0, 0] + [0, 2, 5])
    target = table_of(X[::-1] * [0, 1, 0] + [3, 0, 7])
    told = findings.of_data(Samples(table_of(X), table_of(X + 1.0)), Samples(source, target))
    assert [
        "Columns with one value in all training rows of each side, which the map has only to shift: c.",
        "Columns with one value in all source training rows, by which the map tells no row from another: b.",
        "Columns with one value in all target training rows, to which the map has to lead every row: a.",
    ] == told


def equal_rows(distinct: int) -> Table:
    """Return a hundred rows, of which so many are distinct; the others are the first row, moved by next to nothing."""
    x = X.copy()
    x[distinct:] = x[0] + 1e-12
    return table_of(x)


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [(90, 100, False), (100, 90, False), (89, 100, True), (100, 89, True), (1, 2, True)],
)
def test_equal_rows_of_samples_are_counted_on_each_side(source, target, told):
    """Below nine tenths on either side both counts are told, and what follows; numbers are compared in float32."""
    samples = Samples(equal_rows(source), equal_rows(target))
    found = [sentence for sentence in findings.of_data(samples, samples) if "rows are equal" in sentence]
    assert told == bool(found)
    if told:
        counts = f"Many rows are equal: {source} of 100 source rows and {target} of 100 target rows are distinct. "
        assert [counts] == [sentence[: len(counts)] for sentence in found]
        assert found[0].endswith("compare it with that of other maps, not with that of two draws of the target.")


def test_equal_rows_are_counted_in_the_whole_file_and_only_of_samples():
    """A few training rows may well be distinct; and a table's metrics are no distances between distributions."""
    whole, part = Samples(equal_rows(50), equal_rows(100)), Samples(equal_rows(100), equal_rows(100))
    assert [True, False] == ["50 of 100" in "".join(findings.of_data(data, part)) for data in (whole, part)]
    assert [] == findings.of_data(equal_rows(50), equal_rows(50))


def test_zero_is_one_value_whatever_its_sign():
    """-0.0 and 0.0 are equal, as they are for the held-out rule."""
    x = X.copy()
    x[:20] = 0.0
    x[10:20] = -0.0
    samples = Samples(table_of(x), table_of(X))
    assert "81 of 100 source rows and 100 of 100 target" in "".join(findings.of_data(samples, samples))


def test_same_rows_on_both_sides_are_told_whatever_their_order():
    """The map is then the identity; rows that share each column's values, but not the rows, are others."""
    for target, same in ((X, True), (X[::-1], True), (X + 1.0, False), (X[:50], False)):
        samples = Samples(table_of(X), table_of(target))
        assert same == any("the identity" in sentence for sentence in findings.of_data(samples, samples))
    turned = np.column_stack([X[:, 0], X[::-1, 1], X[:, 2]])
    samples = Samples(table_of(X), table_of(turned))
    assert [] == findings.of_data(samples, samples)


def test_columns_that_distances_do_not_see_are_named_with_the_widest():
    """A deviation below a hundredth of the largest is told; one above it, or none at all, is not."""
    for factors, told in (([1, 200, 0], ["a"]), ([1, 50, 0], []), ([1, 1, 1], []), ([1, 200, 1], ["a, c"])):
        samples = Samples(table_of(X * factors), table_of((X + 1.0) * factors))
        found = [sentence for sentence in findings.of_data(samples, samples) if "vary less" in sentence]
        expected = [f"Columns that vary less than a hundredth of what b does: {names}. " for names in told]
        assert expected == [sentence[: len(expected[0])] for sentence in found]
