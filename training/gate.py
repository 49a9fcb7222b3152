"""The quality gate of the nightly retrain: may the challenger take the champion's place?

Below `retrain`, which scores both on the held-out rows of tonight's data; above the objectives, which compare the
metrics of both, and `evidence`, which looks at everything else. NumPy only.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.answers import Answers
from training.config import HIGHER_IS_BETTER, GateConfig
from training.evidence import Evidence
from training.objectives.comparison import Comparison

MAX_GRADIENT_RATIO = 10.0
"""Largest factor between the median gradient norms of challenger and champion, in either direction."""

MAX_DATA_DRIFT = 10.0
"""Largest shift of a feature's mean, in standard deviations of the champion's training rows."""

MAX_STORY_ERRORS = 5.0
"""How many standard errors, beyond the tolerance, the champion's metric may have fallen since it was published."""

Floats = NDArray[np.floating]


@dataclasses.dataclass(frozen=True, eq=False)
class Past:
    """What the champion's manifest says of the night when it was published; None where it does not.

    Args:
        recorded: its metric then.
        floor: the metric of a perfect version then, as `Comparison.floor` is tonight's.
        rows: how many held-out rows there were.
        fallen: what the gate let the metric slip, night by night, since it was best.
        deviations: standard deviations [d] of the features of its training rows.
        data_drift: as `feature_drift` returns it for tonight.
    """

    recorded: float | None = None
    floor: float | None = None
    rows: int | None = None
    fallen: float = 0.0
    deviations: Floats | None = None
    data_drift: float | None = None


@dataclasses.dataclass(frozen=True)
class GateReport:
    """What the gate saw and decided.

    Args:
        passed: whether the challenger may be published.
        reasons: why not, one sentence each; empty where it passed.
        metric: name of the metric compared.
        rows: number of held-out rows that were compared; of two samples, the smaller one's.
        champion: the champion's metric, or None without a champion.
        challenger: the challenger's metric.
        difference: challenger minus champion, turned so that positive is better.
        standard_error: of the paired difference, or None where it is not defined.
        method: how the standard error was found.
        score_drift: mean absolute difference of scores over the champion's standard deviation of scores.
        gradient_ratio: median gradient norm of the challenger over the champion's, by each feature's deviation.
        data_drift: largest shift of a feature's mean in champion's standard deviations, or None where unknown.
        recorded: the champion's metric as its manifest has it, from the night it was published.
        champion_error: standard error of the champion's metric, less the floor, on tonight's rows.
        floor: the metric of a perfect version on tonight's rows, or None where it does not depend on their number.
        recorded_floor: the same of the night when the champion was published.
        recorded_rows: how many held-out rows there were then.
        fallen: how much worse this challenger is than the best version before it, added up from night to night.
        evidence: what else the night showed (`Evidence.to_document`), or None where nothing was looked at.
        warnings: sentences that refuse nothing.
    """

    passed: bool
    reasons: tuple[str, ...]
    metric: str
    rows: int
    champion: float | None = None
    challenger: float | None = None
    difference: float | None = None
    standard_error: float | None = None
    method: str = ""
    score_drift: float | None = None
    gradient_ratio: float | None = None
    data_drift: float | None = None
    recorded: float | None = None
    champion_error: float | None = None
    floor: float | None = None
    recorded_floor: float | None = None
    recorded_rows: int | None = None
    fallen: float = 0.0
    evidence: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the report as JSON values; numbers that are not finite become None."""
        document: dict[str, Any] = _finite(dataclasses.asdict(self))
        return document

    def brief(self) -> dict[str, Any]:
        """Return the document without what is told of each column, for a line of a log."""
        seen = {
            key: {name: inner for name, inner in value.items() if name != "columns"}
            if isinstance(value, dict)
            else value
            for key, value in (self.evidence or {}).items()
        }
        return {**self.to_document(), "evidence": _finite(seen)}


def judge(
    champion: Answers | None,
    challenger: Answers,
    comparison: Comparison,
    *,
    config: GateConfig,
    past: Past | None = None,
    evidence: Evidence | None = None,
) -> GateReport:
    r"""Compare challenger and champion on the same held-out rows and decide.

    Refused when any of these holds:

    - scores or gradients of the challenger are not all finite, or its metric is not defined;
    - fewer than `config.min_rows` held-out rows, on the smaller side of two samples;
    - the metric is worse than the champion's by more than `config.tolerance` (in the metric's unit). The paired
      difference itself is compared, whatever its standard error: to ask for a loss beyond chance would let the more
      through the fewer rows there are. Where the error is larger than the tolerance, chance refuses equal versions and
      lets worse ones pass, and a warning says so;
    - losses of earlier nights and of this one add up to more than `config.tolerance`: with D the paired difference of a
      night, and nothing fallen where a version was as good as the best,

      .. math:: F_t = \max(0,\; F_{t-1} - D_t), \qquad F_t > \text{tolerance and } D_t < 0.

      Else a month of nights might each lose a little less than the tolerance;
    - score drift above `config.max_score_drift`:

      .. math:: \mathrm{mean}_i |f(x_i) - f_0(x_i)| \;/\; \mathrm{std}_i f_0(x_i);

    - the median gradient norm more than `MAX_GRADIENT_RATIO` times the champion's, or less than its inverse. Norms are
      taken per standard deviation of each feature, else the feature with the smallest unit would be all that is seen;
    - `past.data_drift` above `MAX_DATA_DRIFT`;
    - the champion itself fell below its recorded metric, each less its night's floor, by more than the tolerance and
      `MAX_STORY_ERRORS` standard errors: tonight's held-out rows tell another story (shuffled labels, another meaning
      of a column), and a comparison on them says nothing. A night of fewer rows does not: its floor is higher too.
      Where the champion was recorded on fewer rows than there are tonight, the error is that of so many rows;
    - any reason of `evidence`.

    Without a champion only the first rule and the evidence apply: there is nothing to lose.

    Args:
        champion: answers of the version that is published, or None where there is none.
        challenger: answers of the version just trained, on the same rows.
        comparison: `config.metric` of both on these rows, as the objective compares them.
        config: limits, and the metric's name.
        past: what is known of the champion.
        evidence: what else the night showed.
    """
    past = past or Past()
    report = GateReport(
        passed=True,
        reasons=(),
        metric=config.metric,
        rows=comparison.rows,
        data_drift=past.data_drift,
        recorded_floor=past.floor,
        recorded_rows=past.rows,
        evidence=None if evidence is None else evidence.to_document(),
    )
    if not challenger.are_finite():
        reason = "the challenger's scores or gradients are not all finite on the held-out rows."
        return dataclasses.replace(report, passed=False, reasons=(reason,))
    report = dataclasses.replace(report, challenger=comparison.challenger)
    if champion is not None:
        report = _compare(report, champion, challenger, comparison, past)
    reasons = (*_reasons(report, config), *(() if evidence is None else evidence.reasons))
    return dataclasses.replace(report, passed=not reasons, reasons=reasons, warnings=tuple(_warnings(report, config)))


def feature_drift(means: Floats, old_means: Floats, old_deviations: Floats) -> float:
    """Return the largest shift of a feature's mean in old standard deviations; constant features are left out."""
    varied = old_deviations > 0
    if not varied.any():
        return 0.0
    return float(np.max(np.abs(means - old_means)[varied] / old_deviations[varied]))


def _compare(
    report: GateReport, champion: Answers, challenger: Answers, comparison: Comparison, past: Past
) -> GateReport:
    """Return the report with everything that needs both versions."""
    old = np.asarray(champion.score, dtype=np.float64)
    new = np.asarray(challenger.score, dtype=np.float64)
    value = _or_nan(comparison.champion)
    sign = 1.0 if report.metric in HIGHER_IS_BETTER else -1.0
    difference = sign * (comparison.challenger - value)
    return dataclasses.replace(
        report,
        champion=value,
        recorded=past.recorded,
        difference=difference,
        fallen=max(0.0, past.fallen - difference),
        standard_error=comparison.standard_error,
        champion_error=comparison.champion_error,
        floor=comparison.floor,
        method=comparison.method,
        score_drift=_ratio(float(np.mean(np.abs(new - old))), float(np.std(old))),
        gradient_ratio=_ratio(*(_median_norm(one.gradient, past.deviations) for one in (challenger, champion))),
    )


def _reasons(report: GateReport, config: GateConfig) -> list[str]:
    """Return every reason to refuse."""
    reasons = []
    if report.challenger is None or not np.isfinite(report.challenger):
        reasons.append(f"{report.metric} is not defined on the {report.rows} held-out rows. Give rows of both classes.")
    if report.champion is None:
        return reasons
    if report.rows < config.min_rows:
        reasons.append(f"{report.rows} held-out rows, expected at least gate.min_rows = {config.min_rows}.")
    reasons.extend(_worse(report, config))
    drift, ratio = _or_nan(report.score_drift), _or_nan(report.gradient_ratio)
    if not drift <= config.max_score_drift:
        reasons.append(
            f"scores differ from the champion's by {drift:.3g} of its standard deviation in the mean, "
            f"gate.max_score_drift is {config.max_score_drift:g}."
        )
    if not 1 / MAX_GRADIENT_RATIO <= ratio <= MAX_GRADIENT_RATIO:
        reasons.append(
            f"the median gradient norm is {ratio:.3g} times the champion's, expected between "
            f"{1 / MAX_GRADIENT_RATIO:g} and {MAX_GRADIENT_RATIO:g}."
        )
    if report.data_drift is not None and not report.data_drift <= MAX_DATA_DRIFT:
        reasons.append(
            f"the mean of a feature moved by {report.data_drift:.3g} standard deviations since the champion was "
            f"trained, at most {MAX_DATA_DRIFT:g} is allowed. Look at its unit."
        )
    reasons.extend(_story(report, config))
    return reasons


def _worse(report: GateReport, config: GateConfig) -> Iterator[str]:
    """Yield the reason to refuse if the metric fell, tonight or over many nights."""
    difference, error = _or_nan(report.difference), _or_nan(report.standard_error)
    if not difference >= -config.tolerance:
        yield (
            f"{report.metric} is {_or_nan(report.challenger):.6g}, the champion's {report.champion:.6g}: worse by "
            f"{-difference:.6g} (standard error {error:.2g}), gate.tolerance is {config.tolerance:g}."
        )
    elif report.fallen > config.tolerance and difference < 0.0:
        yield (
            f"{report.metric} is {-difference:.6g} worse than the champion's, and {report.fallen:.6g} worse than the "
            f"best version's, added up over the nights since; gate.tolerance is {config.tolerance:g}. Give more rows, "
            f"or more steps."
        )


def _warnings(report: GateReport, config: GateConfig) -> Iterator[str]:
    """Yield what the reader of a verdict should know of it."""
    error = report.standard_error or 0.0
    if error > config.tolerance > 0.0:
        rows = int(np.ceil(report.rows * (2.0 * error / config.tolerance) ** 2))
        yield (
            f"The standard error of the difference in {report.metric}, {error:.2g}, is larger than gate.tolerance "
            f"{config.tolerance:g}: chance decides between versions that differ by so little. About {rows} held-out "
            f"rows would tell."
        )


def _story(report: GateReport, config: GateConfig) -> list[str]:
    """Return the reason to refuse if the champion is no longer what it was on tonight's rows."""
    if report.recorded is None or report.champion is None:
        return []
    sign = 1.0 if report.metric in HIGHER_IS_BETTER else -1.0
    floor, recorded_floor = report.floor or 0.0, report.recorded_floor or 0.0
    fall = sign * ((report.recorded - recorded_floor) - (report.champion - floor))
    few = max(1.0, report.rows / (report.recorded_rows or report.rows or 1))
    if fall <= config.tolerance + MAX_STORY_ERRORS * np.sqrt(few) * _or_nan(report.champion_error):
        return []
    floors = [f" ({value:.6g} of it by chance)" if value else "" for value in (floor, recorded_floor)]
    reason = (
        f"the champion's {report.metric} is {report.champion:.6g}{floors[0]} on tonight's held-out rows; it was "
        f"{report.recorded:.6g}{floors[1]} when it was published. The labels, the target rows or the meaning of a "
        "column changed: look at the data."
    )
    return [reason]


def _median_norm(gradient: Floats, deviations: Floats | None) -> float:
    """Return the median norm of gradients [n, d], by each feature's deviation where these are known and not all 0."""
    rows = np.asarray(gradient, dtype=np.float64)
    if deviations is not None and len(deviations) == rows.shape[1] and np.any(np.asarray(deviations) > 0.0):
        rows = rows * deviations
    return float(np.median(np.linalg.norm(rows, axis=1)))


def _ratio(new: float, old: float) -> float:
    """Return new / old, 1 where both are zero."""
    if old == 0.0:
        return 1.0 if new == 0.0 else float("inf")
    return new / old


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _finite(value: Any) -> Any:
    """Return None for a float that JSON does not have, also within objects and lists; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
