"""The gate: each reason to refuse has answers that show it, and answers that do not."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training import gate
from training.answers import Answers
from training.config import GateConfig
from training.evidence import Evidence
from training.objectives.comparison import compare_scores

PAST = {field.name for field in dataclasses.fields(gate.Past)}
LIMITS = GateConfig(metric="roc_auc", tolerance=0.01, max_score_drift=0.2, min_rows=50)


def roc_auc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the area under the curve by scikit-learn; NaN with one class."""
    return float(roc_auc_score(targets, scores)) if len(np.unique(targets)) == 2 else float("nan")


def rmse(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the root mean square error."""
    return float(np.sqrt(np.mean((scores - targets) ** 2)))


def night(rows: int = 400, seed: int = 0) -> tuple[Answers, np.ndarray]:
    """Return a champion's answers and the targets of one night."""
    generator = np.random.default_rng(seed)
    targets = (generator.random(rows) < 0.4).astype(float)
    score = targets * 2 + generator.normal(size=rows)
    return Answers(score, generator.normal(size=(rows, 3))), targets


def judge(champion, challenger, targets, **changes):
    """Return the gate's report under `LIMITS`, changed, on a comparison of the scores."""
    past = gate.Past(**{name: changes.pop(name) for name in [*changes] if name in PAST})
    evidence = changes.pop("evidence", None)
    metric = changes.pop("by", roc_auc)
    config = dataclasses.replace(LIMITS, **changes)
    comparison = compare_scores(champion, challenger, targets, metric, is_area=metric is roc_auc)
    return gate.judge(champion, challenger, comparison, config=config, past=past, evidence=evidence)


def moved(scored: Answers, noise: float) -> Answers:
    """Return the answers with normal noise on the scores."""
    generator = np.random.default_rng(9)
    return Answers(scored.score + noise * generator.normal(size=len(scored.score)), scored.gradient)


def test_gate_lets_an_equal_challenger_pass():
    """The champion itself loses to nobody."""
    champion, targets = night()
    report = judge(champion, champion, targets)
    assert (True, (), 0.0, 0.0, 0.0, 1.0) == (
        report.passed,
        report.reasons,
        report.difference,
        report.standard_error,
        report.score_drift,
        report.gradient_ratio,
    )


def test_gate_lets_a_little_loss_pass_and_refuses_a_large_one():
    """The tolerance is what divides them, on the same answers."""
    champion, targets = night()
    challenger = moved(champion, 0.2)
    loss = roc_auc(champion.score, targets) - roc_auc(challenger.score, targets)
    assert loss > 0
    assert judge(champion, challenger, targets, tolerance=loss * 1.01).passed
    refused = judge(champion, challenger, targets, tolerance=loss * 0.99)
    assert not refused.passed
    assert "gate.tolerance" in refused.reasons[0]
    assert -loss == pytest.approx(refused.difference)


def test_gate_refuses_a_larger_error_where_less_is_better():
    """For rmse a rise is a loss: the sign is turned, and the error comes from the bootstrap."""
    champion, _ = night()
    targets = champion.score + 0.1
    worse = Answers(champion.score - 0.05, champion.gradient)
    report = judge(champion, worse, targets, metric="rmse", by=rmse)
    assert pytest.approx(-0.05) == report.difference
    assert (False, "paired bootstrap, 400 resamples") == (report.passed, report.method)
    better = Answers(champion.score + 0.05, champion.gradient)
    assert judge(champion, better, targets, metric="rmse", by=rmse).passed


def test_gate_refuses_scores_that_drift():
    """Order alone is not enough, clients have thresholds: a drift in deviations of the champion's scores is refused."""
    champion, targets = night()
    shifted = Answers(champion.score + 0.3 * np.std(champion.score), champion.gradient)
    report = judge(champion, shifted, targets)
    assert pytest.approx(0.3) == report.score_drift
    assert not report.passed
    assert "gate.max_score_drift" in report.reasons[0]


@pytest.mark.parametrize("factor", [11.0, 1 / 11.0])
def test_gate_refuses_a_gradient_of_another_size(factor):
    """A surface that became ten times steeper or flatter is not published unseen."""
    champion, targets = night()
    report = judge(champion, Answers(champion.score, champion.gradient * factor), targets)
    assert pytest.approx(factor) == report.gradient_ratio
    assert not report.passed
    assert "gradient norm" in report.reasons[0]


def test_gate_refuses_too_few_rows():
    """A comparison on a handful of rows says nothing."""
    champion, targets = night(rows=49)
    report = judge(champion, champion, targets)
    assert (False, 1) == (report.passed, len(report.reasons))
    assert "gate.min_rows" in report.reasons[0]


def test_gate_refuses_data_whose_features_moved():
    """A column in another unit is seen before it is published."""
    champion, targets = night()
    assert not judge(champion, champion, targets, data_drift=10.1).passed
    assert judge(champion, champion, targets, data_drift=9.9).passed


@pytest.mark.parametrize("broken", ["score", "gradient"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gate_refuses_answers_that_are_not_finite(broken, value):
    """One NaN is enough, with or without a champion."""
    champion, targets = night()
    challenger = Answers(champion.score.copy(), champion.gradient.copy())
    getattr(challenger, broken)[3] = value
    assert not judge(champion, challenger, targets).passed
    assert not judge(None, challenger, targets).passed


def test_gate_refuses_a_metric_that_is_not_defined():
    """Held-out rows of one class compare nothing."""
    champion, targets = night()
    report = judge(champion, champion, np.ones_like(targets))
    assert not report.passed
    assert "not defined" in report.reasons[0]


def test_gate_refuses_when_the_champion_itself_fell_on_shuffled_labels():
    """On shuffled labels both are at 0.5 and equal; the champion's recorded metric tells that the data are wrong."""
    champion, targets = night()
    recorded = roc_auc(champion.score, targets)
    shuffled = np.random.default_rng(1).permutation(targets)
    report = judge(champion, champion, shuffled, recorded=recorded)
    assert not report.passed
    assert recorded == report.recorded
    assert "when it was published" in " ".join(report.reasons)
    assert judge(champion, champion, targets, recorded=recorded).passed
    assert judge(champion, champion, shuffled).passed


def test_gate_lets_the_first_version_pass():
    """Without a champion there is nothing to lose, however few rows."""
    challenger, targets = night(rows=20)
    report = judge(None, challenger, targets)
    assert (True, None) == (report.passed, report.champion)


def test_feature_drift_is_in_old_deviations_and_leaves_constant_columns_out():
    """(7 - 1) / 2 = 3; the constant column cannot be measured."""
    assert gate.feature_drift(np.array([7.0, 5.0]), np.array([1.0, 0.0]), np.array([2.0, 0.0])) == 3.0
    assert gate.feature_drift(np.array([7.0]), np.array([1.0]), np.array([0.0])) == 0.0


def test_report_is_json_even_with_numbers_that_json_lacks():
    """NaN and infinity become null."""
    champion, targets = night()
    document = judge(champion, champion, np.ones_like(targets), by=roc_auc).to_document()
    assert None is json.loads(json.dumps(document, allow_nan=False))["challenger"]


def test_gate_refuses_losses_that_add_up_over_many_nights():
    """Nights that each lose less than the tolerance pass until their sum is above it; a better one passes always."""
    champion, targets = night()
    challenger = moved(champion, 0.1)
    loss = roc_auc(champion.score, targets) - roc_auc(challenger.score, targets)
    assert 0 < loss < 0.01
    first = judge(champion, challenger, targets, tolerance=2.5 * loss)
    second = judge(champion, challenger, targets, tolerance=2.5 * loss, fallen=first.fallen)
    third = judge(champion, challenger, targets, tolerance=2.5 * loss, fallen=second.fallen)
    assert [True, True, False] == [report.passed for report in (first, second, third)]
    assert [loss, 2 * loss, 3 * loss] == pytest.approx([report.fallen for report in (first, second, third)])
    assert "added up over the nights" in third.reasons[0]
    better = judge(challenger, champion, targets, tolerance=2.5 * loss, fallen=second.fallen)
    assert (True, pytest.approx(loss)) == (better.passed, better.fallen)
    assert judge(challenger, challenger, targets, tolerance=0.0, fallen=0.5).passed  # no worse than what is served


def test_gate_measures_gradients_by_each_features_deviation():
    """A gradient twenty times as steep in a column of large unit is hidden by one of small unit in the raw norm."""
    champion, targets = night()
    gradient = champion.gradient * [1000.0, 0.01, 1.0]
    champion = Answers(champion.score, gradient)
    steep = Answers(champion.score, gradient * [1.0, 20.0, 1.0])
    assert judge(champion, steep, targets).passed
    report = judge(champion, steep, targets, deviations=np.array([1e-6, 100.0, 1e-6]))
    assert pytest.approx(20.0, rel=0.01) == report.gradient_ratio
    assert ["the median gradient norm is"] == [reason[:27] for reason in report.reasons]


def test_gate_warns_where_chance_is_larger_than_the_tolerance():
    """The verdict stays the point difference's, and the reader is told how many rows would tell."""
    champion, targets = night(rows=100)
    challenger = moved(champion, 0.3)
    sure = judge(champion, challenger, targets, tolerance=0.5)
    unsure = judge(champion, challenger, targets, tolerance=sure.standard_error / 4, max_score_drift=9.0)
    assert () == sure.warnings
    assert "About 6400 held-out rows would tell" in unsure.warnings[0]  # (2 * 4)^2 times as many


def test_gate_forgives_a_record_of_few_rows_by_the_error_of_so_few():
    """A champion recorded at 1.0 on 20 rows does not refuse every later night of 2,000; one recorded on 2,000 does."""
    champion, targets = night(rows=2000)
    assert judge(champion, champion, targets, recorded=1.0, rows=20).passed
    assert not judge(champion, champion, targets, recorded=1.0, rows=2000).passed
    assert not judge(champion, champion, targets, recorded=1.0).passed


def test_gate_refuses_for_every_reason_of_the_evidence():
    """What was found beside the metrics refuses too, with a champion and without one, and is in the document."""
    champion, targets = night()
    evidence = Evidence(surprise=5.0, leak=float("nan"), reasons=("the labels are strange.",))
    for old in (champion, None):
        report = judge(old, champion, targets, evidence=evidence)
        assert (False, ("the labels are strange.",)) == (report.passed, report.reasons)
        found = json.loads(json.dumps(report.to_document(), allow_nan=False))["evidence"]
        assert (5.0, None, ["the labels are strange."]) == (found["surprise"], found["leak"], found["reasons"])
