"""Rows as an Arrow IPC stream (`application/vnd.apache.arrow.stream`), as pyarrow, Polars, DuckDB or arrow-js write it.

Read by a parser of our own and not by pyarrow, which is there for files: pyarrow adds 43 MB and two threads to the
serving process, expands 8 KB of compressed buffers to 268 MB without a limit that could be set, and follows the lengths
that a batch claims until it is asked to validate them. Here float32 lists are a view of the body, and every claim is
held against the bytes that came before anything is made of it. Compressed buffers, dictionaries, nulls, and types that
hold no plain numbers are refused. Above: `rest`. Below: `arrow_columns`, `arrow_messages`, `signature` and `errors`.
"""

import functools
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from service.codecs import arrow_messages
from service.codecs.arrow_columns import Columns, Lists, find_columns
from service.codecs.arrow_messages import Message
from service.errors import InvalidArgumentError, PayloadTooLargeError
from service.signature import WIRE_ORDER, Signature

_MAX_BATCHES = 1024
_ALIGNMENT = 8
_REMEMBERED_BYTES = 1 << 16  # of a schema, at most; 32 of them are remembered
_FLOAT32 = np.dtype("<f4")


def decode_rows(body: bytes, signature: Signature, max_rows: int) -> NDArray[np.float32]:
    """Return the rows of a body: a view of it where they lie there as float32 lists in one batch.

    Memory: else four bytes a number, at most four times the body (of 8-bit integers).

    Args:
        body: a stream with one column `x` of fixed-size lists, each the numbers of a row, x and then the context; or
            with a column for each of these numbers. Where the model has names, such columns are found by name, in any
            order, each feature once and nothing else; else they are in the model's order. All of integers or floats.
        signature: of the version that is asked.
        max_rows: largest number of rows of one request.

    Returns:
        float32 [n, width]; possibly not finite.

    Raises:
        InvalidArgumentError: no such stream, columns that are not the model's or hold no plain numbers, or a null: by
            the column's name, the null's place or the message's number.
        PayloadTooLargeError: more than `max_rows` rows, or than 1,024 batches.
    """
    messages = arrow_messages.read_messages(body)
    schema = next(messages, None)
    metadata = bytes(schema.metadata) if schema is not None else b""
    columns = (_columns if len(metadata) <= _REMEMBERED_BYTES else _columns.__wrapped__)(metadata, signature)
    batches = _batches(messages, columns.row_bytes, max_rows)
    if len(batches) == 1 and isinstance(columns, Lists) and columns.dtype == _FLOAT32:
        rows = columns.rows_of(*batches[0], 0)
        return rows if rows.flags.aligned else rows.copy()
    rows = np.empty((sum(num_rows for _, num_rows in batches), signature.width), np.float32)
    start = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for batch, num_rows in batches:
            columns.fill(rows[start : start + num_rows], batch, start)
            start += num_rows
    return rows


def encode_answer(outputs: Mapping[str, NDArray[np.floating]]) -> bytes:
    """Return the outputs as a stream of one batch: columns `score`, `gradient` of lists, `support`, those there are.

    Args:
        outputs: name -> float32 [n] or [n, width], the same n for all.
    """
    names = [name for name in WIRE_ORDER if name in outputs]
    arrays = [np.ascontiguousarray(outputs[name], _FLOAT32) for name in names]
    pieces = [_head(tuple((name, array.shape) for name, array in zip(names, arrays, strict=True)))]
    for array in arrays:
        pieces += [array.tobytes(), bytes(-array.nbytes % _ALIGNMENT)]
    return b"".join([*pieces, arrow_messages.END])


@functools.lru_cache(maxsize=32)
def _columns(metadata: bytes, signature: Signature) -> "Lists | Columns":
    """Return where the rows are; a client's schema, which it sends with each request, is read once."""
    fields = list(arrow_messages.read_fields(metadata, signature.width + 1))  # one too many is told, more are not read
    return find_columns(fields, signature)


@functools.lru_cache(maxsize=64)
def _head(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> bytes:
    """Return all that a stream has before its numbers, which is the same for all answers of a shape."""
    columns = [(name, shape[1] if len(shape) > 1 else None) for name, shape in shapes]
    lengths: list[int] = []
    buffers: list[tuple[int, int]] = []
    end = 0
    for _, shape in shapes:
        size = _FLOAT32.itemsize * math.prod(shape)
        lengths += [math.prod(shape[:rank]) for rank in range(1, 1 + len(shape))]
        buffers += [*[(end, 0)] * len(shape), (end, size)]  # without the bits of what is there: all is
        end += size + -size % _ALIGNMENT
    batch = arrow_messages.batch_message(shapes[0][1][0], lengths, buffers, end)
    return arrow_messages.schema_message(columns) + batch


def _batches(messages: Iterator[Message], row_bytes: int, max_rows: int) -> list[tuple[Message, int]]:
    """Return the record batches, and how many rows each has: no more than its body can hold.

    Raises:
        InvalidArgumentError: another kind of message, or a batch that claims more.
        PayloadTooLargeError: too many rows or batches.
    """
    batches: list[tuple[Message, int]] = []
    total = 0
    for batch in messages:
        num_rows = arrow_messages.count_rows(batch)
        if num_rows * row_bytes > len(batch.body):
            message = (
                f"message {batch.number} of the Arrow stream: claims {num_rows} rows of {row_bytes} bytes, its body "
                f"has {len(batch.body)}. Send the whole table."
            )
            raise InvalidArgumentError(message)
        total += num_rows
        if total > max_rows:
            message = f"body: more than {max_rows} rows, which is the most in one request. Split it."
            raise PayloadTooLargeError(message)
        if len(batches) == _MAX_BATCHES:
            raise PayloadTooLargeError(f"body: more than {_MAX_BATCHES} record batches. Write fewer, larger ones.")
        batches.append((batch, num_rows))
    return batches
