"""What a user should know of the data and of the run: sentences for the log and the report.

Below `pipeline` and `retrain`, which tell them; above `trainer`. Nothing here stops a job.
"""

import numpy as np

from training.datasets import Data, Samples, Table, row_bytes
from training.trainer import History

_FEW_ROWS = 30
_LONE_SHARE = 0.9
_UNSEEN_SHARE = 0.01
_DISTINCT_SHARE = 0.9


def of_data(data: Data, train: Data) -> list[str]:
    """Return sentences on the files, constant columns, values out of all proportion, and equal rows of two samples.

    Args:
        data: all rows of the file, or of both files.
        train: the rows to fit.
    """
    found = [*of_files(data), *_constant_columns(train)]
    for place, table in _tables(train):
        found += [
            f"{place}Column {name}: one row ({value:g}) holds nearly all of its variation. Is it a mistake?"
            for name, value in _lone_values(table)
        ]
    if isinstance(data, Samples) and isinstance(train, Samples):
        found += [*_unseen_columns(train), *_equal_rows(data)]
        if _are_equal(data.source, data.target):
            found.append("Source and target are the same rows: the map to learn is the identity.")
    return found


def of_files(data: Data) -> list[str]:
    """Return sentences on what was done to the numbers of a file, or of both, and on dropped rows."""
    found = []
    for place, table in _tables(data):
        found += [f"{place}{note}" for note in table.notes]
        if table.dropped:
            reasons = ", ".join(f"{count} with {reason}" for reason, count in table.dropped.items())
            found.append(f"{place}Rows that were dropped: {reasons}.")
    return found


def of_run(history: History) -> list[str]:
    """Return a sentence where more steps might have helped."""
    if not history.chosen or history.stopped_early or history.best_step != history.steps[-1]:
        return []
    return ["The validation loss was still falling at the last step. More trainer.steps may give a better version."]


def _tables(data: Data) -> list[tuple[str, Table]]:
    """Return each table after the words that its sentences begin with: none where there is one table alone."""
    if not isinstance(data, Samples):
        return [("", data)]
    return [(f"Source, {data.source.file}: ", data.source), (f"Target, {data.target.file}: ", data.target)]


def _constant_columns(train: Data) -> list[str]:
    """Return a sentence on columns of one value; of two samples, for each of what they may mean to the map."""
    if isinstance(train, Samples):
        source, target = train.source.constant_features, train.target.constant_features
        found = {
            "all training rows of each side, which the map has only to shift": [
                name for name in source if name in target
            ],
            "all source training rows, by which the map tells no row from another": [
                name for name in source if name not in target
            ],
            "all target training rows, to which the map has to lead every row": [
                name for name in target if name not in source
            ],
        }
    else:
        found = {"all training rows, which teach nothing": list(train.constant_features)}
    return [f"Columns with one value in {words}: {', '.join(names)}." for words, names in found.items() if names]


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


def _equal_rows(data: Samples) -> list[str]:
    """Return a sentence where so many rows are equal that held-out rows are no small copy of all rows.

    `datasets.is_held_out` goes by a row's value. With few values of many rows each, the two sides of the split differ
    by more than chance, and a distance between held-out rows has this difference beside the map's error.
    """
    sides = {"source": data.source, "target": data.target}
    distinct = {name: len(set(row_bytes(table.x))) for name, table in sides.items()}
    if all(distinct[name] >= _DISTINCT_SHARE * len(table) for name, table in sides.items()):
        return []
    counts = " and ".join(f"{distinct[name]} of {len(table)} {name} rows" for name, table in sides.items())
    sentence = (
        f"Many rows are equal: {counts} are distinct. Equal rows are held out together or not at all, so held-out rows "
        "are other values than training rows, in other proportions, and the distance measured on them may be far above "
        "the map's error on all rows: compare it with that of other maps, not with that of two draws of the target."
    )
    return [sentence]


def _are_equal(first: Table, second: Table) -> bool:
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
    return [(name, float(value)) for name, value, one in zip(table.columns, values, lone, strict=True) if one]
