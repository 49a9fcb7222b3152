"""Rows from files, checked, and the rule that keeps held-out rows held out for ever.

Beside `config` at the bottom of training; `trainer`, `gate` and `retrain` take the tables made here.
"""

import dataclasses
import difflib
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

SUFFIXES = (".csv", ".parquet", ".npy")
_VALIDATION_SALT = "/validation"
_OTHER_SEPARATORS = ";\t|"


class DataError(Exception):
    """A data file that cannot be used (exit code 1): what was received, what was expected, what to do."""


@final
@dataclasses.dataclass(frozen=True)
class Table:
    """Numeric rows with their target, every number finite in float32.

    Args:
        features: feature names in column order.
        x: float64 [n, d + c], the features, and behind them the context.
        y: float64 [n], the target; [n, 0] where the rows have none.
        file: the file's name, without its folder.
        sha256: of the file's bytes, hexadecimal.
        rows_read: rows of the file, the dropped ones included.
        dropped: number of dropped rows by reason.
        notes: sentences on what was done to the file's numbers.
        picture: height and width, where the rows are all pixels of a picture in their order; else None.
        context: names of the columns of x behind the features: what the score need not be convex in.
        bad_cells: by column, how many of its cells were missing or infinite; columns without any are left out.
    """

    features: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    file: str = ""
    sha256: str = ""
    rows_read: int = 0
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    picture: tuple[int, int] | None = None
    context: tuple[str, ...] = ()
    bad_cells: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of x."""
        return (*self.features, *self.context)

    @property
    def constant_features(self) -> tuple[str, ...]:
        """The columns of x that have one value (in float32) in all rows: they carry no information here."""
        x = self.x.astype(np.float32)
        return tuple(name for name, same in zip(self.columns, (x == x[:1]).all(axis=0), strict=True) if same)

    def take(self, mask: NDArray[np.bool_]) -> "Table":
        """Return the table of the rows where `mask` (bool [n]) is true."""
        return dataclasses.replace(self, x=self.x[mask], y=self.y[mask], picture=None)


@final
@dataclasses.dataclass(frozen=True)
class Samples:
    """Two unpaired sets of rows of the same features: where a map starts and where it should lead.

    Args:
        source: rows without a target; a model scores rows like these.
        target: rows without a target of their own.
    """

    source: Table
    target: Table

    def __len__(self) -> int:
        """Return the number of source rows."""
        return len(self.source)

    @property
    def x(self) -> NDArray[np.float64]:
        """The source rows, float64 [n, d]."""
        return self.source.x

    @property
    def features(self) -> tuple[str, ...]:
        """Feature names in column order, the same on both sides."""
        return self.source.features

    @property
    def context(self) -> tuple[str, ...]:
        """None: a map has no context."""
        return ()

    @property
    def file(self) -> str:
        """The source file's name."""
        return self.source.file

    @property
    def constant_features(self) -> tuple[str, ...]:
        """The features that have one value in all source rows."""
        return self.source.constant_features


Data = Table | Samples
"""The rows of a job: with a target, or two unpaired sets."""

DataT = TypeVar("DataT", Table, Samples)


@dataclasses.dataclass(frozen=True)
class Split(Generic[DataT]):
    """Training rows and held-out rows of one file, or of each of two; no row is equal to one on the other side."""

    train: DataT
    held_out: DataT


def read_table(
    path: Path,
    *,
    target: str | None,
    features: Sequence[str] = (),
    context: Sequence[str] = (),
    max_bad_rows_percent: float = 1.0,
) -> Table:
    """Return the numeric rows of a CSV (with header), Parquet or NPY file.

    A plain two-dimensional NPY array names its columns `column_0`, `column_1`, ...; a structured one by its fields.
    Rows with a missing, NaN or infinite number (in float32), or with the wrong number of cells, are dropped and
    counted.

    Args:
        path: file that ends in .csv, .parquet or .npy.
        target: name of the target column; None: the rows have none.
        features: names of the feature columns, in the order wanted; empty: all others, in the file's order.
        context: names of the columns of the context, in the order wanted.
        max_bad_rows_percent: largest share of dropped rows, in percent of the rows read.

    Raises:
        DataError: the file is missing, empty or unreadable; a column is missing, duplicate, without a name or not
            numeric (it is named); more rows than allowed are bad.
    """
    data = read_bytes(path, SUFFIXES)
    try:
        columns, ragged = _READERS[path.suffix.lower()](data)
        names = columns.column_names
    except UnicodeDecodeError as err:
        message = f"{path.name}: expected a header in UTF-8, received the byte 0x{err.object[err.start]:02x} in it."
        raise DataError(message + " Save the file as UTF-8.") from err
    except (pa.ArrowException, ValueError, EOFError) as err:
        message = f"{path.name}: expected a {path.suffix.lower()} file of numeric columns, received: {err}"
        raise DataError(message.rstrip(". ") + ". Write the file again.") from err
    _check_names(names, path.name)
    chosen = tuple(features) or tuple(name for name in names if name not in {target, *context})
    if target is not None:
        _check_column(target, columns, path.name, "Encode it as numbers, two classes as 0 and 1.")
    for name in (*chosen, *context):
        advice = "Encode it as numbers (true and false as 1 and 0), or list in data.features the columns to use."
        _check_column(name, columns, path.name, advice)
    if not chosen:
        beside = "" if target is None else f" beside the target '{target}'"
        message = f"{path.name}: expected at least one feature column{beside}, received none."
        raise DataError(message)
    x = np.column_stack([_numbers(columns, name, path.name) for name in (*chosen, *context)])
    y = np.empty((len(x), 0)) if target is None else _numbers(columns, target, path.name)
    rows_read = len(x) + ragged
    if not rows_read:
        message = f"{path.name}: expected rows, received a header and none. Give a file with data."
        raise DataError(message)
    good, reasons = _finite_rows(x, y)
    dropped = dict(reasons + Counter({"wrong number of cells": ragged}))
    bad = sum(dropped.values())
    if bad and (100.0 * bad > max_bad_rows_percent * rows_read or not good.any()):
        found = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        message = (
            f"{path.name}: {bad} of {rows_read} rows are bad ({found}); at most {max_bad_rows_percent:g} percent are "
            f"allowed. Repair the file, or raise data.max_bad_rows_percent."
        )
        raise DataError(message)
    digest = hashlib.sha256(data).hexdigest()
    return Table(
        chosen,
        x[good],
        y[good],
        path.name,
        digest,
        rows_read,
        dropped,
        context=tuple(context),
        bad_cells=_bad_cells((*chosen, *context, *([] if target is None else [target])), x[~good], y[~good]),
    )


def read_bytes(path: Path, suffixes: Sequence[str]) -> bytes:
    """Return the whole file, so that the bytes that are hashed are the bytes that are parsed.

    Raises:
        DataError: its name has another ending, it cannot be read, or it is empty.
    """
    if path.suffix.lower() not in suffixes:
        message = f"{path.name}: expected a file that ends in {', '.join(suffixes)}. Convert it."
        raise DataError(message)
    try:
        data = path.read_bytes()
    except OSError as err:
        message = f"{path}: expected a readable data file, received: {err.strerror or type(err).__name__}."
        raise DataError(message + " Name one that is there.") from err
    if not data.strip():
        message = f"{path.name}: the file is empty. Give one with content."
        raise DataError(message)
    return data


def row_bytes(x: NDArray[np.floating]) -> list[bytes]:
    """Return the bytes that identify each row of `x` [n, d]: little-endian float32, with -0.0 written as 0.0."""
    rows = np.ascontiguousarray(x, dtype="<f4") + np.float32(0.0)
    return [row.tobytes() for row in rows]


def is_held_out(row: bytes, salt: str, percent: int) -> bool:
    """Tell whether the row with these bytes (`row_bytes`) is held out: sha256(row + salt) mod 100 < percent.

    The target is no part of it, so that relabelling never moves a row; nor is the file, so that a row that comes
    back in a later night is on the same side, and equal rows are never on both.
    """
    return int.from_bytes(hashlib.sha256(row + salt.encode()).digest(), "big") % 100 < percent


def split(data: DataT, *, percent: int, salt: str) -> Split[DataT]:
    """Return the training and held-out rows of `data` by `is_held_out`; of two samples, each is split for itself.

    Raises:
        DataError: one of the sides is empty.
    """
    if isinstance(data, Samples):
        source, target = (split(table, percent=percent, salt=salt) for table in (data.source, data.target))
        return Split(Samples(source.train, target.train), Samples(source.held_out, target.held_out))
    rows = row_bytes(data.x)
    sides = {row: is_held_out(row, salt, percent) for row in set(rows)}  # pixels of a picture have few colours
    held_out = np.array([sides[row] for row in rows], dtype=np.bool_)
    if held_out.all() or not held_out.any():
        side = "training" if held_out.all() else "held-out"
        equal = "" if len(sides) == len(data) else f" ({len(sides)} distinct in float32; equal ones stay on one side)"
        message = f"{data.file or 'table'}: {len(data)} rows{equal} at {percent} percent leave no {side} row."
        raise DataError(message + f" Give more{' distinct' if equal else ''} rows.")
    return Split(data.take(~held_out), data.take(held_out))


def validation_split(train: DataT, *, percent: int, salt: str) -> Split[DataT]:
    """Return the rows to fit and those to stop early on (`held_out` of the result), drawn from training rows alone.

    The same rule with another salt; rows that `split` held out never reach this function.

    Raises:
        DataError: one of the sides is empty.
    """
    return split(train, percent=percent, salt=salt + _VALIDATION_SALT)


def join(first: DataT, second: DataT) -> DataT:
    """Return the rows of both, those of `first` before those of `second`; facts of the file are the first's."""
    if isinstance(first, Samples):
        return Samples(join(first.source, second.source), join(first.target, second.target))
    x, y = np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y])
    return dataclasses.replace(first, x=x, y=y, picture=None)


def data_fingerprint(data: Data) -> dict[str, str | int]:
    """Return what a manifest says of the files: name, rows read, rows dropped, sha256; of a target file likewise."""
    if isinstance(data, Samples):
        target = {f"target_{key}": value for key, value in data_fingerprint(data.target).items()}
        return {**data_fingerprint(data.source), **target}
    dropped = sum(data.dropped.values())
    return {"file": data.file, "rows": data.rows_read, "dropped_rows": dropped, "sha256": data.sha256}


def _read_csv(data: bytes) -> tuple[pa.Table, int]:
    """Return the columns, types inferred, and the number of rows with a wrong number of cells."""
    ragged = 0

    def skip(_row: csv.InvalidRow) -> Literal["skip"]:
        nonlocal ragged
        ragged += 1
        return "skip"

    columns = csv.read_csv(
        io.BytesIO(data),
        read_options=csv.ReadOptions(use_threads=False),
        parse_options=csv.ParseOptions(invalid_row_handler=skip),
    )
    return columns, ragged


def _read_parquet(data: bytes) -> tuple[pa.Table, int]:
    return parquet.read_table(pa.BufferReader(data)), 0


def _read_npy(data: bytes) -> tuple[pa.Table, int]:
    """Return the columns of a two-dimensional or a structured array; nothing in it is ever unpickled."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as err:
        message = "no array of numbers; objects are never unpickled"  # NumPy's own words advise to unpickle them
        raise ValueError(message) from err
    if array.dtype.names:
        return pa.table({name: pa.array(array[name].ravel()) for name in array.dtype.names}), 0
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        message = f"an array of {array.dtype} with shape {list(array.shape)}, not numbers of shape [rows, columns]."
        raise ValueError(message)
    return pa.table({f"column_{index}": pa.array(array[:, index].copy()) for index in range(array.shape[1])}), 0


_READERS = {".csv": _read_csv, ".parquet": _read_parquet, ".npy": _read_npy}


def _check_names(names: list[str], file: str) -> None:
    """Refuse a header in which a column cannot be told by its name."""
    if len(names) == 1 and set(names[0]) & set(_OTHER_SEPARATORS):
        message = f"{file}: expected cells separated by commas, received {names[0][:40]!r} as one cell of the header."
        raise DataError(message + " Save the file with commas between cells and points in numbers.")
    for position, name in enumerate(names, start=1):
        if not name.strip():
            message = f"{file}: column {position} has no name. Name it, or drop it if it only counts rows."
            raise DataError(message)
    for name, count in Counter(names).items():
        if count > 1:
            message = f"{file}: column '{name}' appears {count} times. Give each column a name of its own."
            raise DataError(message)


def _check_column(name: str, columns: pa.Table, file: str, advice: str) -> None:
    """Refuse a column that is not there or holds no numbers; `advice` says what to do about the latter."""
    if name not in columns.column_names:
        near = difflib.get_close_matches(name, columns.column_names, n=1, cutoff=0.0)
        message = f"{file}: expected a column '{name}', received none of that name (nearest: '{near[0]}'; "
        raise DataError(f"{message}all: {', '.join(columns.column_names)[:200]}). Correct the name here or there.")
    kind = columns.schema.field(name).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        message = f"{file}: column '{name}' is not numeric, received {kind} ({_first_text(columns, name)})."
        raise DataError(f"{message} {advice}")


def _first_text(columns: pa.Table, name: str) -> str:
    """Return where the first cell that is no number stands, and its first 40 characters."""
    for row, cell in enumerate(columns.column(name).to_pylist(), start=1):
        try:
            float(str(cell))
        except ValueError:
            return f"row {row}: {str(cell)[:40]!r}"
    return f"row 1: {str(columns.column(name)[0])[:40]!r}"


def _numbers(columns: pa.Table, name: str, file: str) -> NDArray[np.float64]:
    """Return one column as float64, missing cells as NaN."""
    column = columns.column(name)
    if len(column) and column.null_count == len(column):
        message = f"{file}: column '{name}' has no number in any row. Fill it, or list the others in data.features."
        raise DataError(message)
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _finite_rows(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Return which rows are finite in float32, and how many are not, by reason."""
    rows = np.column_stack([x, y])
    missing: NDArray[np.bool_] = np.asarray(np.isnan(rows).any(axis=1))
    infinite: NDArray[np.bool_] = np.asarray(np.isinf(_in_float32(rows)).any(axis=1)) & ~missing
    reasons = Counter({"a missing number": int(missing.sum()), "an infinite number": int(infinite.sum())})
    return ~(missing | infinite), +reasons


def _bad_cells(names: Sequence[str], x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, int]:
    """Return how many cells of each column are not finite in float32, those with none left out."""
    counts = (~np.isfinite(_in_float32(np.column_stack([x, y])))).sum(axis=0)
    return {name: count for name, count in zip(names, counts.tolist(), strict=True) if count}


def _in_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the values in float32, those beyond it infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)
