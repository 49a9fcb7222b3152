"""Did training see held-out rows? Looked at in the rows themselves, by nothing that the split was made with.

Below `pipeline`, which looks before a run, and `evidence`, which the gate hears. The rule is written a second time here
on purpose: a mistake in `datasets.split` must not hide itself.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.manifest import VersionRefusedError
from training.datasets import Data, Samples, Table

RULE = "held-out-leak"
"""The rule by which a job with a leak is refused."""

MAX_DRAWN = 200_000
MAX_COMPARED = 512

CHANCE = 0.009
"""Share of held-out rows that have a near copy by chance, at most: on a line."""

_DRAWS_PER_ROW = 5
_CHUNK = 8192
_NEIGHBOURS = 10
_NEAR = 1e-3

Draw = Callable[[np.random.Generator, int], tuple[Any, ...]]
AsDrawn = Callable[[Any], tuple[Any, ...]]


def tables(data: Data) -> dict[str, Table]:
    """Return the table of a job, or both of its tables by name."""
    return {"source": data.source, "target": data.target} if isinstance(data, Samples) else {"": data}


def check_sides(data: Data, sides: Mapping[str, Data], *, percent: int, salt: str, inner: tuple[int, str]) -> None:
    """Refuse a split in which a row is on a side where the rule does not put it, or is lost, or came from elsewhere.

    Args:
        data: all good rows.
        sides: `train`, `validation` and `held_out`.
        percent: held out of all.
        salt: of that rule.
        inner: the share of the training rows that are for validation, and that rule's salt.

    Raises:
        VersionRefusedError: `held-out-leak`, with how many rows of which side.
    """
    split = {side: tables(rows) for side, rows in sides.items()}
    for name, table in tables(data).items():
        _check_table(table, {side: found[name] for side, found in split.items()}, percent, salt, inner)


def check_drawn(draw: Draw, as_drawn: AsDrawn, train: Data, held_out: Data) -> None:
    """Refuse a run whose batches have other rows than the training rows.

    Args:
        draw: the run's own: a generator and a number of rows to arrays of so many of its rows.
        as_drawn: a `Table` or `Samples` to its rows as `draw` returns them, one array a table.
        train: the rows that it may have.
        held_out: those that it may not have, for the sentence.

    Raises:
        VersionRefusedError: `held-out-leak`, with how many rows of a batch are held out, or are no training rows.
    """
    count = min(MAX_DRAWN, _DRAWS_PER_ROW * len(train))
    drawn, allowed, kept = draw(np.random.default_rng(0), count), as_drawn(train), as_drawn(held_out)
    if isinstance(train, Table):  # features and target belong together; two samples are drawn each for itself
        drawn, allowed, kept = (
            (np.column_stack([np.asarray(one) for one in some]),) for some in (drawn, allowed, kept)
        )
    for rows, may, may_not in zip(drawn, allowed, kept, strict=True):
        strange = set(_bytes_of(np.asarray(rows))) - set(_bytes_of(np.asarray(may)))
        if strange:
            held = len(strange & set(_bytes_of(np.asarray(may_not))))
            message = (
                f"{train.file or 'table'}: the run trains on {len(strange)} different rows that are no training rows, "
                f"{held} of them held out. Nothing may be trained on them: look at the code that starts the run."
            )
            raise VersionRefusedError(RULE, message)


def near_copies(train: Table, held_out: Table) -> tuple[int, int]:
    r"""Return how many held-out rows have a near copy among the training rows, and how many were looked at.

    A row's distances, in standard deviations of each column, to its nearest and tenth nearest training row are in a
    proportion below :math:`r` with a probability of about :math:`9\,r^D`, where the data fill D dimensions (E. Facco et
    al., Estimating the intrinsic dimension of datasets by a minimal neighborhood information, Scientific Reports 7,
    2017). With r = 1/1000 that is less than 0.9 % even on a line; a copy that was rounded or jittered is much nearer.
    Copies with more than a thousandth of the usual distance between rows, and ten or more of one row, are not seen.

    Args:
        train: rows to fit and to stop early on.
        held_out: rows of the same columns; of many, `MAX_COMPARED` drawn with a fixed seed.
    """
    scale = train.x.std(axis=0)
    varied = scale > 0.0
    rows = np.unique(train.x[:, varied], axis=0) / scale[varied]
    asked = np.unique(held_out.x[:, varied], axis=0) / scale[varied]
    if not varied.any() or len(rows) < 2 * _NEIGHBOURS:
        return 0, 0
    if len(asked) > MAX_COMPARED:
        asked = asked[np.random.default_rng(0).permutation(len(asked))[:MAX_COMPARED]]
    nearest = _nearest(rows - rows.mean(axis=0), asked - rows.mean(axis=0))
    return int((nearest[:, 0] < _NEAR * nearest[:, -1]).sum()), len(asked)


def _check_table(data: Table, sides: Mapping[str, Table], percent: int, salt: str, inner: tuple[int, str]) -> None:
    """Refuse the split of one table."""
    known: dict[bytes, str] = {}
    for row in set(_feature_bytes(data)):
        held = _remainder(row, salt) < percent
        known[row] = "held_out" if held else "validation" if _remainder(row, inner[1]) < inner[0] else "train"
    for side, table in sides.items():
        rows = _feature_bytes(table)
        wrong = Counter(known.get(row, "no") for row in rows if known.get(row) != side)
        if wrong:
            found = ", ".join(f"{count} {_words(where)}" for where, count in wrong.items())
            message = (
                f"{data.file or 'table'}: the {_words(side)} rows have {found} rows among them, by the held-out rule. "
                f"Nothing may be trained on them: look at the code that splits."
            )
            raise VersionRefusedError(RULE, message)
    if Counter(_whole_bytes(data)) != sum((Counter(_whole_bytes(table)) for table in sides.values()), Counter()):
        message = f"{data.file or 'table'}: the sides of the split have not the rows of the file, each once with its "
        raise VersionRefusedError(RULE, message + "target. Look at the code that splits.")


def _nearest(rows: NDArray[np.float64], asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances of each asked row to its nearest rows, increasing, [n, `_NEIGHBOURS`]."""
    best = np.full((len(asked), _NEIGHBOURS), np.inf)
    lengths = np.sum(asked**2, axis=1)[:, None]
    for start in range(0, len(rows), _CHUNK):
        piece = rows[start : start + _CHUNK]
        squares = lengths + np.sum(piece**2, axis=1) - 2.0 * asked @ piece.T
        both = np.concatenate([best, np.maximum(squares, 0.0)], axis=1)
        best = np.partition(both, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
    found: NDArray[np.float64] = np.sqrt(np.sort(best, axis=1))
    return found


def _remainder(row: bytes, salt: str) -> int:
    """Return sha256(row + salt) mod 100, from the hexadecimal digest."""
    return int(hashlib.sha256(row + salt.encode()).hexdigest(), 16) % 100


def _feature_bytes(table: Table) -> list[bytes]:
    return _bytes_of(table.x)


def _whole_bytes(table: Table) -> list[bytes]:
    """Return the bytes of features and target."""
    targets = table.y.reshape(len(table), -1)
    return [a + b.tobytes() for a, b in zip(_feature_bytes(table), targets, strict=True)]


def _bytes_of(x: NDArray[np.floating]) -> list[bytes]:
    """Return each row's float32 numbers, little-endian, without the sign of zero."""
    rows = np.where(x == 0.0, 0.0, x).astype("<f4")
    width = rows.shape[1] * 4
    whole = np.where(rows == 0.0, np.float32(0.0), rows).astype("<f4").tobytes()
    return [whole[start : start + width] for start in range(0, len(whole), width)]


def _words(side: str) -> str:
    return {"train": "training", "held_out": "held-out", "no": "foreign"}.get(side, side)
