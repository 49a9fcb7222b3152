"""Evidence on the shipped data: labels that surprise, held-out rows that training knew, versions that are worse."""

import dataclasses

import numpy as np
import pytest

from tests.training import nights
from tests.training.nights import Version, first_rows, job, night_of, shuffled, split_of, train
from training import evidence
from training.answers import Answers
from training.datasets import Table, join
from training.objectives import create_objective
from training.pipeline import Rows

CONFIG = job("tumours", steps=200, tolerance=0.02, max_score_drift=2.0)


@pytest.fixture(scope="module")
def champion() -> Version:
    """Return a version trained on the first 300 tumours."""
    return train(CONFIG, split_of(CONFIG, first_rows(shuffled("tumours", 0), 300)))


def tonight(change: nights.Change | None = None, new: int = 150) -> Rows[Table]:
    """Return the sides of a file that grew."""
    return split_of(CONFIG, night_of(shuffled("tumours", 0), 300, new, change))


def gathered(rows: Rows[Table], champion: Version | None, challenger: Version | None = None, **data: object):
    """Return the evidence; the challenger is the champion again where there is no other."""
    known = None if champion is None else ({**champion.data, **data}, champion.ask)
    asked = challenger or champion
    return evidence.gather(CONFIG, create_objective(CONFIG), rows, known, asked.ask)


def flipped(share: float) -> nights.Change:
    """Return a change that flips a share of the labels, both ways alike."""

    def change(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.random.default_rng(1).permutation(len(y))[: round(share * len(y))]
        y[chosen] = 1.0 - y[chosen]
        return x, y

    return change


def test_honest_night_shows_nothing(champion):
    """More rows of the same kind: every number is far from its limit."""
    found = gathered(tonight(), champion)
    assert ((), ()) == (found.reasons, found.notes)
    assert (150, 0, 0) == (found.data.new, found.data.relabelled, found.data.gone)
    assert found.surprise < 2.0
    assert (0.0, 0.0) == (found.loss_errors, found.near_copies_percent)


def test_flipped_labels_among_new_rows_are_refused_though_no_column_moved(champion):
    """Labels flipped both ways alike leave every distribution as it was; the champion is wrong on them too often."""
    found = gathered(tonight(flipped(0.3)), champion)
    assert () == found.data.reasons
    assert found.surprise > CONFIG.gate.max_surprise
    assert ["the champion's error on tonight's new rows"] == [reason[:42] for reason in found.reasons]


def test_few_flipped_labels_are_not_seen(champion):
    """The limit of what is promised: three wrong labels among 150 new rows pass for chance."""
    assert () == gathered(tonight(flipped(0.02)), champion).reasons


def test_columns_of_equal_distribution_that_changed_places_are_seen_by_the_champions_errors():
    """Two columns with the same distribution move no index when they are swapped, but the champion is wrong."""
    table = shuffled("tumours", 0)
    spread = table.x[:, 20:24]  # the worst radius, texture, perimeter and area, all mapped to the same distribution
    ranks = spread.argsort(axis=0).argsort(axis=0) / len(table)
    x = table.x.copy()
    x[:, 20:24] = ranks
    same = dataclasses.replace(table, x=x)
    first = train(CONFIG, split_of(CONFIG, first_rows(same, 300)))

    def swap(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x[:, [*range(20), 23, 20, 21, 22, *range(24, 30)]], y

    found = gathered(split_of(CONFIG, night_of(same, 300, 150, swap)), first)
    assert () == found.data.reasons
    assert found.surprise > gathered(split_of(CONFIG, night_of(same, 300, 150)), first).surprise


def test_old_manifest_is_told_of_and_compared_by_what_it_has(champion):
    """Without a fingerprint there is no drift and no surprise, a note says so, and nothing is refused for it."""
    found = gathered(tonight(flipped(0.3)), champion, fingerprint=None)
    assert (None, None, ()) == (found.data, found.surprise, found.reasons)
    assert "has no fingerprint of its data: columns are compared by mean and deviation alone." in found.notes[0]
    assert None is gathered(tonight(flipped(0.3)), champion, row_errors="?").surprise


def test_challenger_that_knows_held_out_rows_by_heart_is_refused():
    """Regression's noise cannot be learned: whoever has no error on held-out rows alone saw them, champion or none."""
    config = job("diabetes", steps=200)
    rows = split_of(config, first_rows(shuffled("diabetes", 0), 400))
    objective = create_objective(config)
    first = train(config, rows)
    known = {row.tobytes(): target for row, target in zip(rows.held_out.x, rows.held_out.y, strict=True)}

    def ask(x: np.ndarray) -> Answers:
        answers = first.ask(x)
        score = [known.get(row.tobytes(), value) for row, value in zip(x, answers.score, strict=True)]
        return Answers(np.array(score), answers.gradient)

    for champion in (None, (first.data, first.ask)):
        found = evidence.gather(config, objective, rows, champion, ask)
        assert found.leak > evidence.MAX_LEAK_ERRORS
        assert "it looks as if training saw them" in " ".join(found.reasons)
    assert () == evidence.gather(config, objective, rows, (first.data, first.ask), first.ask).reasons


def test_challenger_of_larger_loss_is_refused_though_its_order_is_the_same(champion):
    """Scores moved by 4 order rows alike, so the area is equal; their probabilities are wrong."""
    rows = tonight()

    def ask(x: np.ndarray) -> Answers:
        answers = champion.ask(x)
        return Answers(answers.score + 4.0, answers.gradient)

    found = evidence.gather(CONFIG, create_objective(CONFIG), rows, (champion.data, champion.ask), ask)
    assert found.loss_errors > evidence.MAX_LOSS_ERRORS
    assert ["the challenger's loss on held-out rows is"] == [reason[:41] for reason in found.reasons]


def test_near_copies_of_held_out_rows_in_training_are_refused(champion):
    """Half of the held-out rows once more among the training rows, rounded to five digits."""
    rows = tonight()
    half = rows.held_out.take(np.arange(len(rows.held_out)) % 2 == 0)
    rounded = dataclasses.replace(half, x=half.x * (1 + 3e-6))
    found = gathered(dataclasses.replace(rows, train=join(rows.train, rounded)), champion)
    assert found.near_copies_percent == pytest.approx(50.0, abs=1.0)
    assert "gate.max_near_copies_percent is 5" in " ".join(found.reasons)
