"""What a user is told of data and run: each finding has data that show it and data that do not."""

import dataclasses

import numpy as np

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
    """A constant column of the source, and a greyscale target, are told where they are."""
    source, target = table_of(X * [0, 1, 1], file="p.csv"), table_of(X[:50] + 9.0, file="q.png", notes=("It is grey.",))
    told = findings.of_data(Samples(source, target), Samples(source, target))
    flat = "Source, p.csv: Columns with one value in all training rows, which teach nothing: a."
    assert [flat, "Target, q.png: It is grey."] == told


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
