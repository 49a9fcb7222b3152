"""How far tonight's rows are from those that the champion was trained on: columns, target, missing cells, labels.

Below `evidence`, which hands the reasons found here to the gate; over `fingerprint`, which the champion's manifest
keeps. Two comparisons are made of every column:

- **all** of tonight's rows with all of the champion's. In a file that grows every night most rows are the same ones,
  and a few strange new rows are diluted: of 3 % new rows, all in one decile, the stability index sees 0.007;
- the **new** rows alone, those that the champion's `row_sketch` has not seen, with all of the champion's. That is
  where a night goes wrong. In a file of tonight's rows only, every row is new, and both comparisons are the same.

What neither sees: columns of equal distribution that changed places, labels flipped both ways alike, and a change of
few rows; what the champion thinks of the new rows' labels (`row_losses`) sees the first two.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import row_sketch
from training.config import GateConfig
from training.datasets import Table
from training.fingerprint import Fingerprint
from training.histogram import Histogram, chance, is_above, stability_index

ALL, NEW = "all", "new"

MIN_ROWS = 20
"""Fewer new rows are not compared by themselves."""

WIDENING = 0.1
"""How far beyond the champion's smallest and largest value is no new range yet, as a share of the range."""

_FALSE_ALARMS = 1e-3
"""How often, at most, a night without any drift may be refused, over all comparisons together."""

_LOOK = "Look at its unit, and at whether another column stands in its place"
_SENTENCES = 5


@dataclasses.dataclass(frozen=True)
class ColumnDrift:
    """One column tonight beside the champion's night.

    Args:
        column: its name; of a transport's target sample, behind `target file:`.
        compared: `all` of tonight's rows, or the `new` ones.
        rows: how many these are.
        psi: population stability index.
        psi_limit: what the gate and chance allow.
        outside_percent: rows outside of the champion's range, made wider, or with a value that is none of the few.
        bad_percent: cells that were missing or infinite; of the new rows None.
        bad_percent_before: the same of the champion's file.
        mean: of tonight's rows.
        reasons: sentences, for each limit that was passed.
    """

    column: str
    compared: str
    rows: int
    psi: float
    psi_limit: float
    outside_percent: float
    bad_percent: float | None
    bad_percent_before: float | None
    mean: float
    reasons: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Drift:
    """One table tonight beside the champion's.

    Args:
        rows: tonight's rows.
        rows_before: the champion's.
        new: how many rows are new, by the part of the rows that the sketch keeps.
        looked_at: how many rows that part has.
        relabelled: how many of them have another target than they had.
        gone: how many rows of that part the champion had and tonight lacks.
        heaviest: how often tonight's most frequent row is there.
        columns: every column, and the target where there is one, by all rows and by the new ones.
        reasons: sentences; the gate refuses for each.
    """

    rows: int
    rows_before: int
    new: int
    looked_at: int
    relabelled: int
    gone: int
    heaviest: int
    columns: tuple[ColumnDrift, ...]
    reasons: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """Return the drift as JSON values, the columns with the largest indices first."""
        columns = sorted(self.columns, key=lambda one: -one.psi)
        return {**dataclasses.asdict(self), "reasons": list(self.reasons), "columns": [_plain(one) for one in columns]}


def new_rows(before: Fingerprint, table: Table) -> NDArray[np.int64]:
    """Return the numbers of tonight's rows that the champion's sketch has not seen."""
    return row_sketch.look(before.rows, table).new


def compare(before: Fingerprint, table: Table, target: str, config: GateConfig, sample: str = "") -> Drift:
    """Return how tonight's table differs from the one with a fingerprint, and each reason to refuse it.

    Args:
        before: the champion's.
        table: all good rows of tonight, with the same columns.
        target: the target column's name, or empty.
        config: the limits.
        sample: words before each column's name, where there are two tables.
    """
    seen = row_sketch.look(before.rows, table)
    parts: dict[str, NDArray[np.int64]] = {ALL: np.arange(len(table))}
    if len(seen.new) >= MIN_ROWS:
        parts[NEW] = seen.new
    columns = [(sample + name, one, table.x[:, place]) for place, (name, one) in _named(before, table)]
    tail = _FALSE_ALARMS / (4 * len(parts) * (len(columns) + 1))
    found = []
    for name, one, values in columns:
        bad = table.bad_cells.get(name.removeprefix(sample), 0), max(table.rows_read, len(table)), before.read
        found += [
            _column(_Look(name, part, before.rows.rows, tail, config), one, values[rows], bad if part == ALL else None)
            for part, rows in parts.items()
        ]
    if before.target is not None and table.y.ndim == 1:
        bad = table.bad_cells.get(target, 0), max(table.rows_read, len(table)), before.read
        limited = dataclasses.replace(config, max_psi=config.max_target_psi)
        for part, rows in parts.items():
            look = _Look(f"target {target}".strip(), part, before.rows.rows, tail, limited, "gate.max_target_psi")
            found.append(_column(look, before.target, table.y[rows], bad if part == ALL else None))
    heaviest = row_sketch.heaviest(table)
    return Drift(
        rows=len(table),
        rows_before=before.rows.rows,
        new=len(seen.new),
        looked_at=len(seen.known) + len(seen.relabelled) + len(seen.new),
        relabelled=len(seen.relabelled),
        gone=seen.gone,
        heaviest=heaviest,
        columns=tuple(found),
        reasons=(*_first(found), *_rows_reasons(before, table, seen, tail, config, sample)),
    )


@dataclasses.dataclass(frozen=True)
class _Look:
    """What is compared with what limits."""

    name: str
    part: str
    rows_before: int
    tail: float
    config: GateConfig
    key: str = "gate.max_psi"


def _named(before: Fingerprint, table: Table) -> Iterator[tuple[int, tuple[str, Histogram]]]:
    return enumerate(zip(table.columns, before.columns, strict=True))


def _column(
    look: _Look, before: Histogram, values: NDArray[np.float64], bad: tuple[int, int, int] | None
) -> ColumnDrift:
    """Return what a column's values tonight differ by.

    Args:
        look: what they are and the limits.
        before: the champion's.
        values: tonight's, all or new ones.
        bad: bad cells and rows of tonight's file, and rows of the champion's; or None.
    """
    counts, rows = before.count(values), len(values)
    psi, groups = stability_index(before.counts, counts, rows)
    limit = look.config.max_psi + chance(groups, before.rows, rows, look.tail)
    outside = before.outside(values, WIDENING)
    percents = None if bad is None else (100.0 * bad[0] / bad[1], 100.0 * before.bad / bad[2])
    drift = ColumnDrift(
        look.name,
        look.part,
        rows,
        psi,
        limit,
        100.0 * outside / rows,
        None if percents is None else percents[0],
        None if percents is None else percents[1],
        float(values.mean()),
    )
    return dataclasses.replace(drift, reasons=tuple(_reasons(look, drift, before, counts, bad, outside)))


def _reasons(
    look: _Look,
    drift: ColumnDrift,
    before: Histogram,
    counts: NDArray[np.int64],
    bad: tuple[int, int, int] | None,
    outside: int,
) -> Iterator[str]:
    """Yield a sentence for each limit that a column passes."""
    config, words = look.config, f"column '{look.name}' ({look.part} rows, {drift.rows})"
    if drift.psi > drift.psi_limit:
        yield (
            f"{words}: its distribution moved, population stability index {drift.psi:.3g}; {drift.psi_limit:.3g} is "
            f"allowed ({look.key} = {config.max_psi:g}, and what chance does). Its mean is {drift.mean:.5g}. {_LOOK}."
        )
    allowed = config.max_outside_percent / 100.0
    if is_above(outside, drift.rows, usual=before.usually_outside, allowed=allowed, tail=look.tail):
        known = "are none of the champion's values" if before.few else "lie outside of the champion's range"
        yield (
            f"{words}: {drift.outside_percent:.3g} percent of its values {known} ({before.minimum:.5g} to "
            f"{before.maximum:.5g}), gate.max_outside_percent is {config.max_outside_percent:g}. {_LOOK}."
        )
    gone = before.gone(counts, look.tail)
    if gone:
        listed = ", ".join(f"{value:g}" for value in gone[:5])
        yield f"{words}: no row has the value {listed} any more. Look at whether a part of the rows is missing."
    if bad is not None:
        usual, allowed = (before.bad + 1) / (bad[2] + 2), config.max_missing_percent / 100.0
        if is_above(bad[0], bad[1], usual=usual, allowed=allowed, tail=look.tail):
            yield (
                f"column '{look.name}': {drift.bad_percent:.3g} percent of its cells are missing or infinite, "
                f"{drift.bad_percent_before:.3g} when the champion was trained, and gate.max_missing_percent more is "
                f"{config.max_missing_percent:g}. Look at where the column comes from."
            )


def _rows_reasons(
    before: Fingerprint, table: Table, seen: row_sketch.Seen, tail: float, config: GateConfig, sample: str
) -> Iterator[str]:
    """Yield a sentence for rows whose target changed, and for one row that is there again and again."""
    met = len(seen.known) + len(seen.relabelled)
    if len(seen.relabelled) > met * config.max_relabelled_percent / 100.0:
        yield (
            f"{len(seen.relabelled)} of the {met} rows that the champion had as well have another target tonight, "
            f"gate.max_relabelled_percent is {config.max_relabelled_percent:g}. Look at who changed the labels."
        )
    usual, allowed = before.rows.heaviest / before.rows.rows, config.max_copies_percent / 100.0
    parts = {ALL: table, NEW: table.take(np.isin(np.arange(len(table)), seen.new))}
    for part, rows in parts.items():
        count = row_sketch.heaviest(rows) if len(rows) >= MIN_ROWS else 0
        if is_above(count, len(rows), usual=usual, allowed=allowed, tail=tail):
            yield (
                f"{sample}one row stands {count} times among the {len(rows)} {part} rows, and stood "
                f"{before.rows.heaviest} times among the champion's {before.rows.rows} (gate.max_copies_percent is "
                f"{config.max_copies_percent:g}). Look at whether rows were copied."
            )


def _first(columns: Sequence[ColumnDrift]) -> Iterator[str]:
    """Yield the columns' sentences, those of the largest indices first, and how many more columns have one."""
    refused = sorted((one for one in columns if one.reasons), key=lambda one: -one.psi)
    for one in refused[:_SENTENCES]:
        yield from one.reasons
    others = {one.column for one in refused[_SENTENCES:]} - {one.column for one in refused[:_SENTENCES]}
    if others:
        yield f"{len(others)} more columns drifted as well: the report has all of them."


def _plain(one: ColumnDrift) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "reasons": list(one.reasons)}
