"""Which of tonight's rows an earlier night had: short hashes of its rows, of all of them or of a fixed part.

Below `fingerprint`, which keeps a sketch in the manifest, and `drift`, which asks it. Standard library and NumPy.
"""

import base64
import binascii
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets import Table, row_bytes

MAX_ROWS = 4096
"""Most rows that a sketch keeps; of more rows it keeps those of one hash in 2, 4, 8, ..."""

_KEY_BYTES, _CHECK_BYTES = 4, 2
_ENTRY_BYTES = _KEY_BYTES + _CHECK_BYTES

Entry = tuple[int, bytes]


@dataclasses.dataclass(frozen=True)
class RowSketch:
    """Hashes of rows: four bytes of the features', two of features and target.

    A row counts as seen where its features' hash is kept, once for each time that it was there. Which rows are kept
    depends on the features' hash alone, so that they are the same part of any night's rows: a sample, whatever the
    rows' order, and whether a night's file holds the earlier rows or not. That an unseen row is taken for a seen one
    has a probability below 1e-6, that a changed target is overlooked one of 1/65536.

    Args:
        rows: number of rows, kept or not.
        heaviest: how often the most frequent row (features and target) was there.
        every: one hash in so many is kept, a power of two.
        entries: the kept rows' hashes, sorted.
    """

    rows: int
    heaviest: int
    every: int
    entries: tuple[Entry, ...]

    def to_document(self) -> dict[str, Any]:
        """Return the sketch as JSON values."""
        hashes = b"".join(key.to_bytes(_KEY_BYTES, "big") + check for key, check in self.entries)
        text = base64.b64encode(hashes).decode()
        return {"count": self.rows, "heaviest": self.heaviest, "every": self.every, "hashes": text}


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """Tonight's rows as a sketch sees them, by their numbers in the table.

    Args:
        known: the sketch has them, with this target.
        relabelled: the sketch has their features with another target.
        new: the sketch has not seen them.
        gone: how many rows of the sketch tonight lacks.
    """

    known: NDArray[np.int64]
    relabelled: NDArray[np.int64]
    new: NDArray[np.int64]
    gone: int


def take(table: Table) -> RowSketch:
    """Return the sketch of a table's rows."""
    entries = _entries(table)
    every = 1
    while (kept := sum(key % every == 0 for key, _ in entries)) > MAX_ROWS and every < 2**31:
        every *= 2
    chosen = sorted(entry for entry in entries if entry[0] % every == 0) if kept <= MAX_ROWS else []
    return RowSketch(len(table), heaviest(table), every, tuple(chosen))


def heaviest(table: Table) -> int:
    """Return how often the most frequent row is there, with its target."""
    return max(Counter(_whole_rows(table)).values(), default=0)


def from_document(document: Mapping[str, Any]) -> RowSketch:
    """Return what `to_document` wrote.

    Raises:
        ValueError, KeyError, TypeError: it is not that.
    """
    try:
        hashes = base64.b64decode(document["hashes"], validate=True)
    except binascii.Error as err:
        message = "the hashes are no base64"
        raise ValueError(message) from err
    pieces = [hashes[start : start + _ENTRY_BYTES] for start in range(0, len(hashes), _ENTRY_BYTES)]
    entries = tuple((int.from_bytes(piece[:_KEY_BYTES], "big"), piece[_KEY_BYTES:]) for piece in pieces)
    counts = [document[name] for name in ("count", "heaviest", "every")]
    if len(hashes) % _ENTRY_BYTES or not all(type(count) is int and count > 0 for count in counts):
        message = "no sketch of rows"
        raise ValueError(message)
    return RowSketch(counts[0], counts[1], counts[2], entries)


def look(sketch: RowSketch, table: Table) -> Seen:
    """Return which rows of a table the sketch has; rows that it would not keep are in none of the answers."""
    entries = _entries(table)
    asked = [row for row, (key, _) in enumerate(entries) if key % sketch.every == 0]
    left = Counter(sketch.entries)
    known: list[int] = []
    rest: list[int] = []
    for row in asked:
        if left[entries[row]] > 0:
            left[entries[row]] -= 1
            known.append(row)
        else:
            rest.append(row)
    keys: Counter[int] = Counter()
    for (key, _), count in left.items():
        keys[key] += count
    relabelled: list[int] = []
    new: list[int] = []
    for row in rest:
        key = entries[row][0]
        (relabelled if keys[key] > 0 else new).append(row)
        keys[key] = max(keys[key] - 1, 0)
    return Seen(_numbers(known), _numbers(relabelled), _numbers(new), sum(keys.values()))


def _numbers(rows: list[int]) -> NDArray[np.int64]:
    return np.asarray(rows, dtype=np.int64)


def _entries(table: Table) -> list[Entry]:
    """Return each row's hashes; equal rows are hashed once."""
    found: dict[tuple[bytes, bytes], Entry] = {}
    pairs = _whole_rows(table)
    for features, target in pairs:
        if (features, target) not in found:
            key = int.from_bytes(hashlib.sha256(features).digest()[:_KEY_BYTES], "big")
            found[features, target] = key, hashlib.sha256(features + target).digest()[:_CHECK_BYTES]
    return [found[pair] for pair in pairs]


def _whole_rows(table: Table) -> list[tuple[bytes, bytes]]:
    """Return the bytes of each row's features, and of its target (none where it has none)."""
    targets = [b""] * len(table) if table.y.ndim > 1 else row_bytes(table.y[:, None])
    return list(zip(row_bytes(table.x), targets, strict=True))
