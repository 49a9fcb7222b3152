"""What a user should know of the data and of the run: sentences for the log and the report.

Below `pipeline` and `retrain`, which tell them; above `trainer`. Nothing here stops a job.
"""

import numpy as np

from training.datasets import DataT, Samples, Table, row_bytes
from training.trainer import History

_FEW_ROWS = 30
_LONE_SHARE = 0.9
_UNSEEN_SHARE = 0.01


def of_data(data: DataT, train: DataT) -> list[str]:
    """Return sentences on dropped rows, columns that teach nothing, and values out of all proportion.

    Args:
        data: all rows of the file, or of both files.
        train: the rows to fit.
    """
    if not isinstance(data, Samples):
        return _of_table(data, train)
    found = [
        f"{name}, {whole.file}: {sentence}"
        for name, whole, part in (("Source", data.source, train.source), ("Target", data.target, train.target))
        for sentence in _of_table(whole, part)
    ]
    found += _unseen_columns(train)
    if _have_equal_rows(data.source, data.target):
        found.append("Source and target are the same rows: the map to learn is the identity.")
    return found


def of_run(history: History) -> list[str]:
    """Return a sentence where more steps might have helped."""
    if not history.chosen or history.stopped_early or history.best_step != history.steps[-1]:
        return []
    return ["The validation loss was still falling at the last step. More trainer.steps may give a better version."]


def _of_table(table: Table, train: Table) -> list[str]:
    """Return the sentences on one file."""
    found = list(table.notes)
    if table.dropped:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in table.dropped.items())
        found.append(f"Rows that were dropped: {reasons}.")
    if train.constant_features:
        names = ", ".join(train.constant_features)
        found.append(f"Columns with one value in all training rows, which teach nothing: {names}.")
    found += [
        f"Column {name}: one row ({value:g}) holds nearly all of its variation. Is it a mistake?"
        for name, value in _lone_values(train)
    ]
    return found


def _unseen_columns(train: Samples) -> list[str]:
    """Return a sentence on columns that vary, but so little beside others that a distance hardly depends on them."""
    deviations = np.sqrt((train.source.x.var(axis=0) + train.target.x.var(axis=0)) / 2.0)
    small = (deviations > 0.0) & (deviations < _UNSEEN_SHARE * deviations.max())
    if not small.any():
        return []
    names = ", ".join(name for name, one in zip(train.features, small, strict=True) if one)
    widest = train.features[int(np.argmax(deviations))]
    sentence = f"Columns that vary less than a hundredth of what {widest} does: {names}."
    advice = "Distances, and so the map, hardly depend on them: give the columns in units in which they vary alike."
    return [f"{sentence} {advice}"]


def _have_equal_rows(first: Table, second: Table) -> bool:
    """Tell whether two tables hold the same rows, in whatever order."""
    if first.x.shape != second.x.shape or (np.sort(first.x, axis=0) != np.sort(second.x, axis=0)).any():
        return False  # columns of other values need no look at rows
    return first.sha256 == second.sha256 != "" or sorted(row_bytes(first.x)) == sorted(row_bytes(second.x))


def _lone_values(table: Table) -> list[tuple[str, float]]:
    """Return the columns in which one row has more than nine tenths of the squares about the median, with its value."""
    if len(table) < _FEW_ROWS:
        return []
    deviations = table.x - np.median(table.x, axis=0)
    largest = np.abs(deviations).max(axis=0)
    squares = (deviations / np.where(largest > 0.0, largest, 1.0)) ** 2
    lone = squares.max(axis=0) > _LONE_SHARE * squares.sum(axis=0)
    values = table.x[squares.argmax(axis=0), np.arange(table.x.shape[1])]
    return [(name, float(value)) for name, value, one in zip(table.features, values, lone, strict=True) if one]
