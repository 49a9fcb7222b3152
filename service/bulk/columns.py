"""Which columns of a file are the model's features, and the rows that they hold.

Above: `scoring`. Below: `signature`. A file has them by name, in any order and beside others; or, for a model without
names, as its only numeric columns; or as one column `x` of fixed-size lists.
"""

import dataclasses
import difflib
import math
from collections import Counter
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.bulk.failure import BulkError
from service.signature import Signature

LIST_COLUMN = "x"
"""Name of a column that holds whole rows, as in an Arrow stream of the REST API."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where the rows of a model lie in the batches of a file.

    Args:
        names: names of the row's numbers in the model's order, for errors and for the names of gradients.
        indices: position of each in a batch; of the one list column, where they lie in a list.
        is_list: whether they lie in a list.
        dim: how many of them are x; the others are the context.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    is_list: bool
    dim: int

    def rows_of(self, batch: pa.RecordBatch) -> NDArray[np.float32]:
        """Return the rows of a typed batch, float32 [n, width]: NaN where a cell is empty, infinite where too large."""
        if self.is_list:
            return self._rows_of_list(batch.column(self.indices[0]))
        rows = np.empty((batch.num_rows, len(self.names)), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for position, index in enumerate(self.indices):
                rows[:, position] = _numbers(batch.column(index))
        return rows

    def typed(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return a batch of text with numbers where `schema` has them; a feature that is no number is empty there.

        Raises:
            BulkError: a cell of another column is neither empty nor a number.
        """
        columns = list(batch.columns)
        for index, field in enumerate(schema):
            if not pa.types.is_string(field.type):
                columns[index] = _numbers_of_text(batch.column(index))
                if index not in self.indices:
                    _check_numbers(field.name, batch.column(index).to_pylist(), columns[index].to_pylist())
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def typed_schema(self, schema: pa.Schema, *, whole: bool) -> pa.Schema:
        """Return the schema of text with numbers in the features' columns, or in the whole table."""
        for index in range(len(schema)) if whole else self.indices:
            schema = schema.set(index, pa.field(schema.field(index).name, pa.float64()))
        return schema

    def why_bad(self, batch: pa.RecordBatch, position: int) -> str:
        """Return why a row of a batch, as it was read, has no answer."""
        for name, index in zip(self.names, self.indices * (len(self.names) if self.is_list else 1), strict=True):
            cell = batch.column(index)[position].as_py()
            cell = cell[self.names.index(name)] if self.is_list and cell is not None else cell
            if why := _why_bad_cell(cell):
                return f"column {name} {why}"
        return "the score or its gradient leaves float32 (3.4e38)"

    def _rows_of_list(self, column: Any) -> NDArray[np.float32]:
        rows = np.full((len(column), len(self.names)), np.nan, np.float32)
        present = column.is_valid().to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):
            values = _numbers(column.flatten())  # of the lists that are there
            rows[present] = values.reshape(-1, len(self.names))
        return rows


def find_columns(schema: pa.Schema, signature: Signature, *, is_text: bool) -> Columns:
    """Return where a file has the model's features.

    Args:
        schema: of the file.
        signature: of the version.
        is_text: whether the file has no types, so that a column of text may hold numbers.

    Raises:
        BulkError: some are missing, are there twice, or hold no numbers.
    """
    width = signature.width
    named = (*signature.features, *(signature.context_features if signature.features else ()))
    if LIST_COLUMN not in named and LIST_COLUMN in schema.names:
        found = schema.field(LIST_COLUMN).type
        if pa.types.is_fixed_size_list(found):
            if found.list_size != width:
                message = f"column {LIST_COLUMN}: lists of {found.list_size} numbers, expected {width}."
                raise BulkError(message)
            names = named if len(named) == width else _numbered(width)
            return Columns(names, (schema.get_field_index(LIST_COLUMN),), is_list=True, dim=signature.dim)
    if len(named) == width:
        indices = tuple(_index(schema, name) for name in named)
    else:
        indices = tuple(i for i, field in enumerate(schema) if is_text or _is_number(field.type))
        if len(indices) != width:
            message = (
                f"{len(indices)} numeric columns, expected {width}: model {signature.model} has no names for its "
                "features, so that a file must hold them and no other numbers."
            )
            raise BulkError(message)
    for index in indices:
        field = schema.field(index)
        if not (_is_number(field.type) or is_text):
            raise BulkError(f"column {field.name}: of type {field.type}, expected numbers.")
    return Columns(tuple(schema.field(i).name for i in indices), indices, is_list=False, dim=signature.dim)


def _numbered(width: int) -> tuple[str, ...]:
    return tuple(f"x{position}" for position in range(width))


def _index(schema: pa.Schema, name: str) -> int:
    """Return where the one column of a name is."""
    count = Counter(schema.names)[name]
    if count == 1:
        return int(schema.get_field_index(name))
    if count:
        raise BulkError(f"column {name}: {count} columns of this name, expected one. Rename the others.")
    near = difflib.get_close_matches(name, schema.names, 1)
    have = f"; the nearest is {near[0]}" if near else f"; it has {', '.join(map(str, schema.names[:8]))}"
    raise BulkError(f"column {name}: not in the file{have}. The model's features are found by their names.")


def _is_number(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _numbers(column: "pa.Array[Any]") -> NDArray[np.floating]:
    """Return the numbers of a column; NaN where a cell is empty."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_decimal(column.type) or (column.null_count and pa.types.is_integer(column.type)):
        column = column.cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _numbers_of_text(column: "pa.Array[Any]") -> "pa.Array[Any]":
    """Return what the cells say, as the nearest float64; nothing where a cell is empty or no number."""
    trimmed = pc.utf8_trim_whitespace(column)
    try:
        said: pa.Array[Any] = pc.if_else(pc.equal(trimmed, pa.scalar("")), None, trimmed)
        return said.cast(pa.float64())
    except pa.ArrowInvalid:
        return pa.array([_number_of(text or "") for text in trimmed.to_pylist()], pa.float64())


def _check_numbers(name: str, cells: list[str | None], numbers: list[float | None]) -> None:
    """Refuse a column of which a cell was lost: it is neither empty nor a number."""
    for cell, number in zip(cells, numbers, strict=True):
        if number is None and cell and cell.strip():
            message = (
                f"column {name}: {cell[:40]!r} is no number, and .npy holds numbers alone. Write .parquet or .csv."
            )
            raise BulkError(message)


def _number_of(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _why_bad_cell(cell: object) -> str:
    """Return what is wrong with a cell; nothing where it is a number that float32 has."""
    number = _number_of(cell.strip()) if isinstance(cell, str) else cell
    if cell is None or cell == "":
        return "is empty"
    if number is None:
        return f"is {str(cell)[:40]!r}, which is no number"
    value = float(cast("float", number))
    if math.isnan(value):
        return "is NaN"
    with np.errstate(over="ignore"):
        return "" if np.isfinite(np.float32(value)) else f"is {value:g}, which float32 does not have"
