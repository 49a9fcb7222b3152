"""What a user should know of the data and of the run: sentences for the log and the report.

Below `pipeline` and `retrain`, which tell them; above `trainer`. Nothing here stops a job.
"""

import numpy as np

from training.datasets import Table
from training.trainer import History

_FEW_ROWS = 30
_LONE_SHARE = 0.9


def of_data(table: Table, train: Table) -> list[str]:
    """Return sentences on dropped rows, columns that teach nothing, and values out of all proportion.

    Args:
        table: all rows of the file.
        train: the rows to fit.
    """
    found = []
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


def of_run(history: History) -> list[str]:
    """Return a sentence where more steps might have helped."""
    if not history.chosen or history.stopped_early or history.best_step != history.steps[-1]:
        return []
    return ["The validation loss was still falling at the last step. More trainer.steps may give a better version."]


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
