"""Comparisons of two versions' scores: DeLong against direct sums, the bootstrap against a closed form, no guess."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.answers import Answers
from training.objectives import comparison


def roc_auc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the area under the curve by scikit-learn."""
    return float(roc_auc_score(targets, scores))


def answers_of(score: np.ndarray) -> Answers:
    """Return answers with these scores."""
    return Answers(score, np.ones((len(score), 1)))


def test_delong_equals_the_sums_over_pairs():
    """Difference and standard error are those of the definition, written as double sums, ties counted half."""
    generator = np.random.default_rng(4)
    targets = (np.arange(60) % 3 == 0).astype(float)
    first = np.round(generator.normal(size=60) + targets, 1)  # rounded: with ties
    second = np.round(generator.normal(size=60) + 0.5 * targets, 1)
    inner, outer = [], []
    for scores in (first, second):
        ones, zeros = scores[targets == 1], scores[targets == 0]
        above = (ones[:, None] > zeros).astype(float) + 0.5 * (ones[:, None] == zeros)
        inner.append(above.mean(axis=1))
        outer.append(above.mean(axis=0))
    between = np.cov(inner) / len(inner[0]) + np.cov(outer) / len(outer[0])
    expected = (roc_auc(second, targets) - roc_auc(first, targets), np.sqrt(np.array([-1, 1]) @ between @ [-1, 1]))
    assert expected == pytest.approx(comparison.delong(first, second, targets), rel=1e-12)


def test_delong_says_nothing_of_the_error_with_one_row_of_a_class():
    """One positive row has no spread: the standard error is NaN, the difference is not."""
    difference, error = comparison.delong(
        np.array([0.0, 1.0, 2.0]), np.array([2.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    )
    assert (-1.0, True) == (difference, np.isnan(error))


def test_paired_bootstrap_is_near_the_error_of_a_mean():
    """For a metric that is a mean of rows, the error is the deviation of the paired differences over sqrt(n)."""
    generator = np.random.default_rng(2)
    champion, challenger = generator.normal(size=(2, 500))
    expected = np.std(challenger - champion) / np.sqrt(500)
    actual = comparison.paired_bootstrap(champion, challenger, np.zeros(500), lambda scores, _: float(scores.mean()))
    assert expected == pytest.approx(actual, rel=0.12)


def test_comparison_takes_delong_for_the_area_and_the_bootstrap_for_every_other_metric():
    """Both metrics and the error of the difference are those of the method that is named."""
    generator = np.random.default_rng(3)
    targets = (np.arange(80) % 2).astype(float)
    old, new = targets + generator.normal(size=80), targets + generator.normal(size=80)
    area = comparison.compare_scores(answers_of(old), answers_of(new), targets, roc_auc, is_area=True)
    assert (roc_auc(old, targets), roc_auc(new, targets)) == (area.champion, area.challenger)
    assert ("DeLong", comparison.delong(old, new, targets)[1]) == (area.method, area.standard_error)
    mean = comparison.compare_scores(answers_of(old), answers_of(new), targets, lambda scores, _: float(scores.mean()))
    assert "paired bootstrap, 400 resamples" == mean.method
    assert np.std(old) / np.sqrt(80) == pytest.approx(mean.champion_error, rel=0.12)
    assert np.std(new - old) / np.sqrt(80) == pytest.approx(mean.standard_error, rel=0.12)


def test_comparison_without_a_champion_has_the_challengers_metric_alone():
    """There is no difference and no error of one."""
    found = comparison.compare_scores(None, answers_of(np.array([0.0, 1.0])), np.array([0.0, 1.0]), roc_auc)
    assert comparison.Comparison(None, 1.0, 2) == found


def test_comparison_is_not_defined_when_an_answer_is_not_finite():
    """No metric is asked about NaN: the side that has it, and the difference, are NaN."""
    good, bad, targets = answers_of(np.array([0.0, 1.0])), answers_of(np.array([0.0, np.nan])), np.array([0.0, 1.0])
    broken = comparison.compare_scores(good, bad, targets, roc_auc, is_area=True)
    old = comparison.compare_scores(bad, good, targets, roc_auc, is_area=True)
    assert all(np.isnan(value) for value in (broken.challenger, broken.standard_error, old.champion))
    assert 1.0 == old.challenger
