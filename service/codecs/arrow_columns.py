"""Which columns of an Arrow stream are a model's rows, and the numbers of a record batch held against its bytes.

Above: `arrow`. Below: `arrow_messages`, `signature` and `errors`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.codecs import arrow_messages
from service.codecs.arrow_messages import Field, Message
from service.codecs.json import unknown_name
from service.errors import InvalidArgumentError
from service.signature import CONTEXT, Signature

LIST_COLUMN = "x"
"""Name of the column that holds whole rows as lists."""

_LIST_NAME = LIST_COLUMN.encode()


def find_columns(fields: Sequence[Field], signature: Signature) -> "Lists | Columns":
    """Return where the columns of a schema have a model's rows.

    Args:
        fields: the schema's first columns: one more than a row has numbers, where there are as many.
        signature: of the version that is asked.

    Raises:
        InvalidArgumentError: columns are unknown, missing or there twice, or lists are of another size than rows.
    """
    if any(field.list_size is not None for field in fields):
        return _find_list(fields, signature)
    known = (*signature.features, *signature.context_features)
    if len(known) != signature.width:  # a model without names: those of the columns say nothing
        if len(fields) != signature.width:
            received = f"more than {signature.width}" if len(fields) > signature.width else str(len(fields))
            message = f"body: received {received} columns, expected {signature.width} for {_who(signature)}"
            raise InvalidArgumentError(f"{message}. Send a column for each number of a row.")
        return Columns(tuple(field.dtype for field in fields), tuple(range(len(fields))), signature)
    return Columns(tuple(field.dtype for field in fields), _places(fields, known), signature)


def _find_list(fields: Sequence[Field], signature: Signature) -> "Lists":
    others = [field for field in fields if field.list_size is None or field.name != _LIST_NAME]
    if others or len(fields) > 1:
        message = (
            f"body: the column '{arrow_messages.shown((others or fields)[0].name)}' is none of the model's. Send one "
            f"column '{LIST_COLUMN}' of lists and nothing else, or a column of numbers for each number of a row."
        )
        raise InvalidArgumentError(message)
    if fields[0].list_size != signature.width:
        parts = f": {signature.dim} of x, then {signature.context_dim} of the context" if signature.context_dim else ""
        message = f"column '{LIST_COLUMN}': lists of {fields[0].list_size} numbers, expected {signature.width}"
        raise InvalidArgumentError(f"{message} for {_who(signature)}{parts}. Send whole rows.")
    return Lists(fields[0].dtype, signature)


def _places(fields: Sequence[Field], known: Sequence[str]) -> tuple[int, ...]:
    """Return where in a row the numbers of each column stand."""
    left = {name.encode(): place for place, name in enumerate(known)}
    places = []
    for field in fields:
        place = left.pop(bytes(field.name), None)
        if place is None:
            name = arrow_messages.shown(field.name)
            if name in known:
                raise InvalidArgumentError(f"body: the column '{name}' is there twice. Send it once.")
            raise InvalidArgumentError(f"body: unknown column {unknown_name(name, known)}")
        places.append(place)
    if left:
        name = next(iter(left)).decode()[:40]
        raise InvalidArgumentError(f"body: the column '{name}' is missing. Send all {len(known)} columns.")
    return tuple(places)


def _who(signature: Signature) -> str:
    return f"model {signature.model} version {signature.version}"


@dataclasses.dataclass(frozen=True)
class Lists:
    """Rows that are the lists of one column.

    Args:
        dtype: of their numbers.
        signature: of the version.
    """

    dtype: np.dtype[Any]
    signature: Signature

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in a batch's body."""
        return self.dtype.itemsize * self.signature.width

    def rows_of(self, batch: Message, num_rows: int, start: int) -> NDArray[Any]:
        """Return the rows of a batch, [n, width], where they lie; `start` is the first one's number in the request.

        Raises:
            InvalidArgumentError: a null, or what is claimed is not there.
        """
        num_values = num_rows * self.signature.width
        arrays, buffers = arrow_messages.read_words(batch, 2, 3)
        row = _first_null(batch, num_rows, arrays[:2], buffers[:2])
        if row is not None:
            raise InvalidArgumentError(f"instances[{start + row}]: expected a list of numbers, received null.")
        place = _first_null(batch, num_values, arrays[2:], buffers[2:4])
        if place is not None:
            raise _null(self.signature, start + place // self.signature.width, place % self.signature.width)
        return _numbers(batch, self.dtype, num_values, buffers[4:]).reshape(num_rows, self.signature.width)

    def fill(self, rows: NDArray[np.float32], batch: Message, start: int) -> None:
        """Write the rows of a batch; see `rows_of`."""
        rows[...] = self.rows_of(batch, len(rows), start)


@dataclasses.dataclass(frozen=True)
class Columns:
    """Rows of which each number has a column of its own.

    Args:
        dtypes: of each column's numbers.
        places: where in a row each column's numbers stand.
        signature: of the version.
    """

    dtypes: tuple[np.dtype[Any], ...]
    places: tuple[int, ...]
    signature: Signature

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in a batch's body."""
        return sum(dtype.itemsize for dtype in self.dtypes)

    def fill(self, rows: NDArray[np.float32], batch: Message, start: int) -> None:
        """Write the rows of a batch; `start` is the first one's number in the request.

        Raises:
            InvalidArgumentError: a null, or what is claimed is not there.
        """
        count = len(self.dtypes)
        arrays, buffers = arrow_messages.read_words(batch, count, 2 * count)
        if arrays == (len(rows), 0) * count and not any(buffers[1::4]):  # nothing is missing
            table = self._table(batch, len(rows), buffers[2::4], buffers[3::4])
            if table is not None:
                rows[:, self.places] = table.T
                return
        for index, (dtype, place) in enumerate(zip(self.dtypes, self.places, strict=True)):
            first = 4 * index
            row = _first_null(batch, len(rows), arrays[2 * index : 2 * index + 2], buffers[first : first + 2])
            if row is not None:
                raise _null(self.signature, start + row, place)
            rows[:, place] = _numbers(batch, dtype, len(rows), buffers[first + 2 : first + 4])

    def _table(
        self, batch: Message, num_rows: int, offsets: tuple[int, ...], sizes: tuple[int, ...]
    ) -> NDArray[Any] | None:
        """Return the columns, [width, n], where they lie, if they are alike and in even steps, as most writers write.

        A column by itself takes a microsecond and a half, however few rows there are.
        """
        dtype, start = self.dtypes[0], offsets[0]
        step = offsets[1] - start if len(offsets) > 1 else 0
        needed = num_rows * dtype.itemsize
        is_even = step >= 0 and offsets == tuple(range(start, start + max(step, 1) * len(offsets), max(step, 1)))
        if not is_even or self.dtypes.count(dtype) != len(offsets):
            return None
        if start < 0 or min(sizes) < needed or offsets[-1] + max(sizes) > len(batch.body):
            return None  # which of them is wrong, the look at each tells
        return np.ndarray((len(offsets), num_rows), dtype, batch.body, start, (step, dtype.itemsize))


def _first_null(batch: Message, length: int, array: tuple[int, ...], bits: tuple[int, ...]) -> int | None:
    """Return where an array has its first null, or None.

    Args:
        batch: the message.
        length: which the array must have.
        array: length and number of nulls, as the batch says.
        bits: offset and length of the buffer that has a bit for each that is there; of length 0 where all are.

    Raises:
        InvalidArgumentError: the claims contradict each other.
    """
    claimed_length, num_nulls = array
    if claimed_length != length:
        raise arrow_messages.broken(batch.number)
    if bits[1]:
        there = np.unpackbits(_numbers(batch, np.dtype("u1"), -(-length // 8), bits), count=length, bitorder="little")
        first = int(there.argmin()) if length else 0
        if length and not there[first]:
            return first
    if num_nulls:
        raise arrow_messages.broken(batch.number)
    return None


def _numbers(batch: Message, dtype: np.dtype[Any], count: int, buffer: tuple[int, ...]) -> NDArray[Any]:
    """Return the numbers that a buffer begins with, where they lie.

    Raises:
        InvalidArgumentError: it is shorter, or leaves the batch's body.
    """
    offset, size = buffer
    if offset < 0 or not count * dtype.itemsize <= size <= len(batch.body) - offset:
        raise arrow_messages.broken(batch.number)
    return np.frombuffer(batch.body, dtype, count, offset) if count else np.empty(0, dtype)


def _null(signature: Signature, row: int, column: int) -> InvalidArgumentError:
    is_context = column >= signature.dim
    name, place = (CONTEXT, column - signature.dim) if is_context else ("instances", column)
    return InvalidArgumentError(f"{name}[{row}][{place}]: expected a number, received null.")
