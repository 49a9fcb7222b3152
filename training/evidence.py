"""What a night shows beside its metrics: drift of the data, labels that surprise, held-out rows that training knew.

Below `gate`, which refuses for every reason found here; over `drift`, `row_losses` and `leaks`, which find them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training import drift, fingerprint, leaks, row_losses
from training.answers import Answers
from training.config import TrainingConfig
from training.datasets import Data, Table, join
from training.drift import Drift
from training.histogram import is_above
from training.objectives import Objective

MAX_LEAK_ERRORS = 3.5
"""By how many standard errors held-out rows may look easier to the challenger than validation rows."""

MAX_LOSS_ERRORS = 4.0
"""By how many standard errors the challenger's loss on held-out rows may be above the champion's on the same rows."""

ERROR_KEY, FALLEN_KEY = "row_errors", "fallen"
"""Where the manifest's `data` keeps how well a version did on rows that it was not fitted to, row by row, and what the
gate let slip so far."""

_FALSE_ALARMS = 1e-4

Ask = Callable[[NDArray[np.floating]], Answers]
"""Rows [n, d] to a version's answers."""

AnyObjective = Objective[Any]


class Sides(Protocol):
    """The rows of a job, as `pipeline.Rows` has them: all, and those of each side."""

    @property
    def data(self) -> Data:
        """All good rows."""

    @property
    def train(self) -> Data:
        """Rows to fit."""

    @property
    def validation(self) -> Data:
        """Rows to stop early on."""

    @property
    def held_out(self) -> Data:
        """Rows that only metrics and gate see."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What was found; None where it cannot be told.

    Args:
        surprise: how much larger the champion's errors on new rows are than on rows of its own night that it was not
            fitted to (held-out and validation rows), in standard errors.
        leak: how much smaller the challenger's loss on held-out rows is than on validation rows, in standard errors.
        gain_leak: the same of what the challenger gained on the champion.
        loss_errors: how much larger the challenger's loss on held-out rows is than the champion's, in standard errors.
        near_copies_percent: held-out rows of which training or validation has a near copy.
        data: the drift of the rows.
        target_data: of a transport, that of the target rows.
        notes: what could not be looked at, and why.
        reasons: one sentence each; the gate refuses for any.
    """

    surprise: float | None = None
    leak: float | None = None
    gain_leak: float | None = None
    loss_errors: float | None = None
    near_copies_percent: float | None = None
    data: Drift | None = None
    target_data: Drift | None = None
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        document: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("surprise", "leak", "gain_leak", "loss_errors", "near_copies_percent")
        }
        drifts = {"data": self.data, "target_data": self.target_data}
        found = {name: None if one is None else one.to_document() for name, one in drifts.items()}
        return {**document, **found, "notes": list(self.notes), "reasons": list(self.reasons)}


def gather(
    config: TrainingConfig,
    objective: AnyObjective,
    sides: Sides,
    champion: tuple[Mapping[str, Any], Ask] | None,
    challenger: Ask,
) -> Evidence:
    """Return what the night shows.

    Args:
        config: the job, with the gate's limits.
        objective: its task.
        sides: its rows.
        champion: the `data` of its manifest and what answers for it, or None where there is none.
        challenger: what answers for the version just trained.
    """
    copies, looked_at = _near_copies(sides)
    found = Evidence(near_copies_percent=100.0 * copies / looked_at if looked_at else None)
    if champion is not None:
        found = _with_drift(found, config, sides.data, champion[0])
        found = _with_surprise(found, objective, sides.data, champion)
    found = _with_losses(found, objective, sides, champion, challenger)
    return dataclasses.replace(found, reasons=tuple(_reasons(found, config, (copies, looked_at))))


def facts(objective: AnyObjective, sides: Sides, ask: Ask) -> dict[str, Any]:
    """Return what a manifest's `data` keeps of the errors of rows that a version was not fitted to (`row_errors`).

    Args:
        objective: the task; empty for one whose rows have no losses of their own.
        sides: the rows of the version's night.
        ask: what answers for the version.
    """
    if not isinstance(sides.held_out, Table) or not isinstance(sides.validation, Table):
        return {}
    losses = _losses(objective, ask, join(sides.held_out, sides.validation))
    unit = 1.0 if objective.threshold is not None else 2.0 * float(losses.mean()) or 1.0
    found = row_losses.moments(row_losses.bounded(losses, unit))
    return {} if found is None else {ERROR_KEY: {**found.to_document(), "unit": unit}}


def fallen(data: Mapping[str, Any], metric: str) -> float:
    """Return what a manifest's `data` says that the gate let the metric slip so far, 0 where it says nothing."""
    kept = data.get(FALLEN_KEY)
    value = kept.get("value") if isinstance(kept, Mapping) and kept.get("metric") == metric else None
    return max(float(value), 0.0) if isinstance(value, int | float) and np.isfinite(value) else 0.0


def _near_copies(sides: Sides) -> tuple[int, int]:
    """Return how many held-out rows have near copies among the others, and how many were looked at."""
    parts = zip(*(leaks.tables(rows).values() for rows in (sides.train, sides.validation, sides.held_out)), strict=True)
    found = [leaks.near_copies(join(train, validation), held_out) for train, validation, held_out in parts]
    return sum(copies for copies, _ in found), sum(rows for _, rows in found)


def _with_drift(found: Evidence, config: TrainingConfig, data: Data, before: Mapping[str, Any]) -> Evidence:
    """Return the evidence with how far the rows drifted, or a note why that is not known."""
    tables = {"": data} if isinstance(data, Table) else {"source: ": data.source, "target file: ": data.target}
    drifts: list[Drift | None] = []
    notes = list(found.notes)
    for (sample, table), key in zip(tables.items(), (fingerprint.KEY, fingerprint.TARGET_KEY), strict=False):
        known, why = fingerprint.read(before.get(key), len(table.columns))
        if known is None:
            notes.append(f"{sample}{why}: columns are compared by mean and deviation alone.")
            drifts.append(None)
        else:
            drifts.append(drift.compare(known, table, config.data.target, config.gate, sample))
    return dataclasses.replace(found, data=drifts[0], target_data=(*drifts, None)[1], notes=tuple(notes))


def _with_surprise(
    found: Evidence, objective: AnyObjective, data: Data, champion: tuple[Mapping[str, Any], Ask]
) -> Evidence:
    """Return the evidence with how the champion does on new rows, none of which it has ever seen."""
    document = champion[0].get(ERROR_KEY)
    before, unit = row_losses.from_document(document), row_losses.unit_of(document)
    known, _ = fingerprint.read(champion[0].get(fingerprint.KEY), data.x.shape[1])
    if before is None or unit is None or known is None or not isinstance(data, Table):
        return found
    new = data.take(np.isin(np.arange(len(data)), drift.new_rows(known, data)))
    if len(new) < drift.MIN_ROWS:
        return found
    now = row_losses.moments(row_losses.bounded(_losses(objective, champion[1], new), unit))
    return found if now is None else dataclasses.replace(found, surprise=row_losses.excess(before, now))


def _with_losses(
    found: Evidence,
    objective: AnyObjective,
    sides: Sides,
    champion: tuple[Mapping[str, Any], Ask] | None,
    challenger: Ask,
) -> Evidence:
    """Return the evidence with what the losses of held-out and of validation rows say."""
    if not isinstance(sides.held_out, Table) or not isinstance(sides.validation, Table):
        return found
    held_out, validation = (_losses(objective, challenger, rows) for rows in (sides.held_out, sides.validation))
    found = dataclasses.replace(found, leak=_excess(held_out, validation))
    if champion is None:
        return found
    before = [_losses(objective, champion[1], rows) for rows in (sides.held_out, sides.validation)]
    gains = before[0] - held_out, before[1] - validation
    finite = np.isfinite(gains[0]).all()
    return dataclasses.replace(
        found,
        gain_leak=_excess(gains[1], gains[0]),
        loss_errors=row_losses.paired_excess(before[0], held_out) if finite else None,
    )


def _losses(objective: AnyObjective, ask: Ask, rows: Table) -> NDArray[np.float64]:
    losses = objective.row_losses(ask(rows.x), rows)
    return np.full(len(rows), np.nan) if losses is None else losses


def _excess(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    before, after = row_losses.moments(first), row_losses.moments(second)
    return None if before is None or after is None else row_losses.excess(before, after)


def _reasons(found: Evidence, config: TrainingConfig, copies: tuple[int, int]) -> list[str]:
    """Return every reason to refuse."""
    limits = config.gate
    reasons = [reason for one in (found.data, found.target_data) if one is not None for reason in one.reasons]
    if (found.surprise or 0.0) > limits.max_surprise:
        reasons.append(
            f"the champion's error on tonight's new rows is {found.surprise:.3g} standard errors above that on its "
            f"own night's, gate.max_surprise is {limits.max_surprise:g}. Look at the labels of the new rows, and at "
            f"whether two columns changed places."
        )
    for value, what in (
        (found.leak, "the challenger's loss on held-out rows is"),
        (found.gain_leak, "what the challenger gained on the champion is, on held-out rows,"),
    ):
        if (value or 0.0) > MAX_LEAK_ERRORS:
            reasons.append(
                f"{what} {value:.3g} standard errors better than on validation rows, at most {MAX_LEAK_ERRORS:g} is "
                f"allowed: it looks as if training saw them. Look for copies of held-out rows among the training rows."
            )
    if (found.loss_errors or 0.0) > MAX_LOSS_ERRORS:
        reasons.append(
            f"the challenger's loss on held-out rows is {found.loss_errors:.3g} standard errors above the champion's, "
            f"at most {MAX_LOSS_ERRORS:g} is allowed. Look at the training rows that are new."
        )
    allowed = limits.max_near_copies_percent / 100.0
    if is_above(*copies, usual=leaks.CHANCE, allowed=allowed, tail=_FALSE_ALARMS):
        reasons.append(
            f"{copies[0]} of {copies[1]} held-out rows that were looked at have a near copy among the training rows, "
            f"gate.max_near_copies_percent is {limits.max_near_copies_percent:g}. Look at whether rows came twice, "
            f"rounded differently."
        )
    return reasons
