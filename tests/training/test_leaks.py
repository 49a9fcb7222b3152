"""Leaks: a split that puts a row on the wrong side, a run that has other rows, copies that were rounded or jittered."""

import dataclasses

import numpy as np
import pytest

from service.manifest import VersionRefusedError
from tests.training.nights import job, shuffled, split_of
from training import leaks
from training.datasets import Samples, Table, join, split, validation_split
from training.objectives import create_objective

RULES = {"percent": 20, "salt": "s", "inner": (20, "s/validation")}


def sides_of(data):
    """Return the sides of some rows by the project's own split."""
    outer = split(data, percent=20, salt="s")
    inner = validation_split(outer.train, percent=20, salt="s")
    return {"train": inner.train, "validation": inner.held_out, "held_out": outer.held_out}


def picked(table: Table, rows) -> Table:
    """Return rows of a table by their numbers."""
    return dataclasses.replace(table, x=table.x[rows], y=table.y[rows])


def with_rows(table: Table, other: Table, rows) -> Table:
    """Return a table and some rows of another behind it."""
    return join(table, picked(other, rows))


@pytest.mark.parametrize("name", ["tumours", "diabetes"])
def test_check_sides_passes_the_split_of_a_shipped_data_set(name):
    """The rule written twice puts every row on the same side."""
    table = shuffled(name, 0)
    leaks.check_sides(table, sides_of(table), **RULES)


@pytest.mark.parametrize("to", ["train", "validation"])
def test_check_sides_refuses_one_held_out_row_elsewhere(to):
    """One row moved by the code that splits is enough, on either side."""
    table = shuffled("tumours", 0)
    sides = sides_of(table)
    sides[to] = with_rows(sides[to], sides["held_out"], [3])
    sides["held_out"] = picked(sides["held_out"], np.arange(len(sides["held_out"])) != 3)
    with pytest.raises(VersionRefusedError, match=r"rows have 1 held-out rows among them") as caught:
        leaks.check_sides(table, sides, **RULES)
    assert leaks.RULE == caught.value.rule


def test_check_sides_refuses_a_held_out_row_that_came_with_another_target_or_more_digits():
    """A row is its features in float32: neither a changed label nor the twelfth digit makes it another."""
    table = shuffled("tumours", 0)
    for digits, label in ((0.0, 1.0), (1e-12, 0.0)):
        sides = sides_of(table)
        held_out = picked(sides["held_out"], [5])
        copy = dataclasses.replace(held_out, x=held_out.x * (1 + digits), y=abs(held_out.y - label))
        sides["train"] = join(sides["train"], copy)
        with pytest.raises(VersionRefusedError, match="1 held-out rows among them"):
            leaks.check_sides(table, sides, **RULES)


def test_check_sides_refuses_validation_rows_in_training_and_foreign_rows():
    """The rule within the training rows is looked at as well, and a row that the file has not is named."""
    table = shuffled("tumours", 0)
    sides = sides_of(table)
    mixed = {**sides, "train": with_rows(sides["train"], sides["validation"], [0, 1])}
    foreign = {**sides, "train": join(sides["train"], dataclasses.replace(picked(table, [0]), x=np.ones((1, 30))))}
    for found, said in ((mixed, "2 validation rows among"), (foreign, "1 foreign rows among")):
        with pytest.raises(VersionRefusedError, match=said):
            leaks.check_sides(table, found, **RULES)


def test_check_sides_refuses_rows_that_are_lost_doubled_or_relabelled():
    """The sides together are the file: each row once, with its own target."""
    table = shuffled("tumours", 0)
    sides = sides_of(table)
    train = sides["train"]
    lost, doubled = picked(train, np.arange(len(train)) > 0), with_rows(train, train, [0])
    flipped = dataclasses.replace(train, y=np.where(np.arange(len(train)) == 7, 1.0 - train.y, train.y))
    for changed in (lost, doubled, flipped):
        with pytest.raises(VersionRefusedError, match="each once with its target"):
            leaks.check_sides(table, {**sides, "train": changed}, **RULES)


def test_check_sides_looks_at_both_samples_of_a_transport():
    """A held-out target row among the training target rows is found as one of the source is."""
    generator = np.random.default_rng(0)
    data = Samples(*(Table(("a", "b"), generator.normal(size=(n, 2)), np.empty((n, 0))) for n in (200, 150)))
    sides = sides_of(data)
    leaks.check_sides(data, sides, **RULES)
    leaked = with_rows(sides["train"].target, sides["held_out"].target, [0])
    with pytest.raises(VersionRefusedError, match="1 held-out rows"):
        leaks.check_sides(data, {**sides, "train": Samples(sides["train"].source, leaked)}, **RULES)


@pytest.mark.parametrize("name", ["tumours", "diabetes"])
def test_check_drawn_refuses_a_run_that_was_given_held_out_rows(name):
    """The run's own batches are looked at: twenty rows given to it behind the split are found, honest ones pass."""
    config = job(name, steps=1)
    rows = split_of(config, shuffled(name, 0))
    objective = create_objective(config)
    network = objective.create_network(config.network, rows.train, 0)
    for extra, said in (
        (0, ""),
        (20, "the run trains on 20 different rows that are no training rows, 20 of them held"),
    ):
        fed = with_rows(rows.train, rows.held_out, np.arange(extra))
        subject = objective.start(network, fed, rows.validation, config.trainer).subject()
        if not extra:
            leaks.check_drawn(subject.draw, subject.as_drawn, rows.train, rows.held_out)
            continue
        with pytest.raises(VersionRefusedError, match=said):
            leaks.check_drawn(subject.draw, subject.as_drawn, rows.train, rows.held_out)


def test_check_drawn_refuses_rows_that_are_none_of_the_files():
    """Held-out rows that were jittered on their way to the run are no held-out rows any more, nor training rows."""
    config = job("tumours", steps=1)
    rows = split_of(config, shuffled("tumours", 0))
    objective = create_objective(config)
    network = objective.create_network(config.network, rows.train, 0)
    jittered = dataclasses.replace(rows.held_out, x=rows.held_out.x * 1.001)
    subject = objective.start(network, join(rows.train, jittered), rows.validation, config.trainer).subject()
    with pytest.raises(VersionRefusedError, match="no training rows, 0 of them held out"):
        leaks.check_drawn(subject.draw, subject.as_drawn, rows.train, rows.held_out)


@pytest.mark.parametrize("name", ["tumours", "diabetes"])
def test_near_copies_counts_rounded_rows_and_no_honest_ones(name):
    """A file that came twice, once with five digits, has near copies of held-out rows in training; one does not."""
    sides = sides_of(shuffled(name, 0))
    train, held_out = sides["train"], sides["held_out"]
    rounded = np.vectorize(lambda value: float(f"{value:.5g}"))(held_out.x * (1 + 3e-6))
    count = len(held_out)
    assert (0, count) == leaks.near_copies(train, held_out)
    assert (count, count) == leaks.near_copies(join(train, dataclasses.replace(held_out, x=rounded)), held_out)


@pytest.mark.parametrize(("jitter", "found"), [(1e-5, True), (1e-1, False)])
def test_near_copies_sees_small_jitter_and_not_a_large_one(jitter, found):
    """Copies within a hundred-thousandth of a deviation are found; those within a tenth of one are like other rows."""
    sides = sides_of(shuffled("tumours", 0))
    train, held_out = sides["train"], sides["held_out"]
    noise = jitter * train.x.std(axis=0) * np.random.default_rng(0).normal(size=held_out.x.shape)
    copies, rows = leaks.near_copies(join(train, dataclasses.replace(held_out, x=held_out.x + noise)), held_out)
    assert found is (copies > 0.9 * rows)
    assert not found or copies == rows


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_near_copies_of_honest_rows_are_below_chance_in_any_dimension(dim):
    """On a line nine in a thousand is the bound; in more dimensions there are hardly any."""
    generator = np.random.default_rng(dim)
    train, held_out = (Table(tuple("abcde"[:dim]), generator.normal(size=(n, dim)), np.zeros(n)) for n in (3000, 500))
    copies, rows = leaks.near_copies(train, held_out)
    assert (500, True) == (rows, copies <= 2 * leaks.CHANCE * 500)


def test_near_copies_of_pixels_are_none():
    """Whole numbers have neighbours at a distance of one step, near and far alike."""
    generator = np.random.default_rng(0)
    data = Table(tuple("rgb"), np.round(generator.normal(128, 30, size=(6000, 3))), np.zeros(6000))
    sides = sides_of(data)
    assert 0 == leaks.near_copies(sides["train"], sides["held_out"])[0]
