"""The fingerprint of the rows of a night, as the manifest keeps it for the next one: columns, target, rows.

Below `pipeline`, which puts it into the manifest, and `drift`, which compares; over `histogram` and `row_sketch`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from service.manifest import canonical_json
from training import histogram, row_sketch
from training.datasets import Data, Samples, Table
from training.histogram import Histogram
from training.row_sketch import RowSketch

KEY, TARGET_KEY = "fingerprint", "target_fingerprint"
"""Where they stand in the manifest's `data`: that of the rows, and for a transport that of the target rows."""

MAX_BYTES = 4 * 2**20
"""A larger one, of some 15,000 columns and more, is left out of the manifest, which has 16 MiB."""

_LEFT_OUT = "left_out"


@dataclasses.dataclass(frozen=True, eq=False)
class Fingerprint:
    """What one night's table was like: all its good rows, on whatever side of the split.

    Args:
        columns: of each column of x, the context behind the features.
        target: of the target, or None where the rows have none.
        rows: their hashes.
        read: rows of the file, those included that were dropped.
    """

    columns: tuple[Histogram, ...]
    target: Histogram | None
    rows: RowSketch
    read: int

    def to_document(self) -> dict[str, Any]:
        """Return the fingerprint as JSON values."""
        return {
            "columns": [column.to_document() for column in self.columns],
            "target": None if self.target is None else self.target.to_document(),
            "rows": self.rows.to_document(),
            "read": self.read,
        }


def take(table: Table, target: str = "") -> Fingerprint:
    """Return the fingerprint of a table.

    Args:
        table: the rows.
        target: the target column's name, by which its bad cells were counted.
    """
    columns = tuple(
        histogram.take(table.x[:, place], table.bad_cells.get(name, 0)) for place, name in enumerate(table.columns)
    )
    labels = histogram.take(table.y, table.bad_cells.get(target, 0)) if table.y.ndim == 1 else None
    return Fingerprint(columns, labels, row_sketch.take(table), max(table.rows_read, len(table)))


def facts(data: Data, target: str = "", max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return what a manifest's `data` says of the rows: a fingerprint, of two samples one each.

    Args:
        data: all good rows of the file, or of both.
        target: the target column's name, or empty.
        max_bytes: the largest fingerprint; in place of a larger one stands a sentence.
    """
    if isinstance(data, Samples):
        source, other = (facts(table, max_bytes=max_bytes)[KEY] for table in (data.source, data.target))
        return {KEY: source, TARGET_KEY: other}
    document = take(data, target).to_document()
    size = len(canonical_json(document))
    if size > max_bytes:
        sentence = f"{size} bytes of {len(data.columns)} columns, more than the {max_bytes} that a manifest may give it"
        return {KEY: {_LEFT_OUT: sentence}}
    return {KEY: document}


def read(document: Any, columns: int) -> tuple[Fingerprint | None, str]:
    """Return a manifest's fingerprint, or None and why there is none.

    Args:
        document: what stands in the manifest, whatever it is; None where it has none.
        columns: how many columns are expected.
    """
    if document is None:
        return None, "the champion's manifest has no fingerprint of its data"
    if isinstance(document, Mapping) and _LEFT_OUT in document:
        return None, f"the champion's manifest has no fingerprint of its data: {str(document[_LEFT_OUT])[:200]}"
    try:
        found = _build(document)
    except (ValueError, KeyError, TypeError, OverflowError) as err:
        return (
            None,
            f"the fingerprint in the champion's manifest cannot be read ({type(err).__name__}: {str(err)[:80]})",
        )
    if len(found.columns) != columns:
        return None, f"the champion's fingerprint has {len(found.columns)} columns, tonight's rows {columns}"
    return found, ""


def _build(document: Mapping[str, Any]) -> Fingerprint:
    target = document["target"]
    return Fingerprint(
        tuple(histogram.from_document(column) for column in document["columns"]),
        None if target is None else histogram.from_document(target),
        row_sketch.from_document(document["rows"]),
        int(document["read"]),
    )
