"""Rows as comma-separated text (RFC 4180), as a spreadsheet or `curl --data-binary @rows.csv` sends them.

Above: `rest`. Below: `signature` and `errors`. A header is optional: a first line with a cell that is no number is one.
"""

import array
import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from service.codecs import raw
from service.codecs.decimals import settle_tie, unambiguous
from service.codecs.json import unknown_name
from service.errors import InvalidArgumentError, PayloadTooLargeError
from service.signature import WIRE_ORDER, Signature

_MAX_SHOWN = 40
_MAX_LINE_CHARACTERS = 1 << 16
_MAX_CELL_CHARACTERS = 64


def decode_rows(body: bytes, signature: Signature, max_rows: int) -> NDArray[np.float64]:
    """Return the rows of a body.

    Memory: at most nine times the body, where each number is a digit, and a line.

    Args:
        body: UTF-8 text, with or without a byte-order mark. With a header, and where the model has names, columns are
            found by name, in any order, each feature once and nothing else; without one they are the row's numbers in
            the model's order, x and then the context.
        signature: of the version that is asked.
        max_rows: largest number of rows of one request.

    Returns:
        float64 [n, width]; possibly not finite.

    Raises:
        InvalidArgumentError: not UTF-8, quotes that do not close, a column that is unknown, missing or there twice, a
            line of another width, or a cell that is no number: each by its line.
        PayloadTooLargeError: more than `max_rows` rows.
    """
    lines = _lines(body, signature.width)
    first = next(lines, None)
    values = array.array("d")
    if first is None:
        return np.empty((0, signature.width))
    order = None
    if any(_number(cell) is None for cell in first[1]):
        order = _order(first[1], signature)
    else:
        values.extend(_row(*first, signature))
    num_rows = len(values) // signature.width
    for number, cells in lines:
        num_rows += 1
        if num_rows > max_rows:
            message = f"body: more than {max_rows} rows, which is the most in one request. Split it."
            raise PayloadTooLargeError(message)
        values.extend(_row(number, cells, signature))
    rows = np.frombuffer(values, np.float64).reshape(-1, signature.width) if values else np.empty((0, signature.width))
    return settle_tie(rows if order is None else rows[:, order])


def encode_answer(signature: Signature, outputs: Mapping[str, NDArray[np.floating]]) -> bytes:
    """Return the outputs as CSV with a header: `score`, `gradient_<feature>`, `support`, those that are there.

    Args:
        signature: of the version that answered.
        outputs: name -> finite float32 [n] or [n, width], the same n for all. Each number is the shortest decimal that
            reads back to it.
    """
    names = []
    for name in WIRE_ORDER:
        if name == "gradient" and name in outputs:
            features = signature.features or tuple(f"x{position}" for position in range(signature.dim))
            names += [f"gradient_{feature}" for feature in features]
        elif name in outputs:
            names.append(name)
    head = io.StringIO(newline="")
    csv.writer(head, lineterminator="\n").writerow(names)
    table = raw.table(outputs)
    if not len(table):
        return head.getvalue().encode()
    # [[1.0,2.0],[3.0,4.0]]: the numbers of JSON, and of CSV once the brackets are gone
    numbers = orjson.dumps(table.astype(np.float32, copy=False), option=orjson.OPT_SERIALIZE_NUMPY)
    lines = numbers[2:-2].replace(b"],[", b"\n")
    return head.getvalue().encode() + unambiguous(lines, [table]) + b"\n"


def _lines(body: bytes, width: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that has any."""
    reader = csv.reader(_texts(body, _MAX_LINE_CHARACTERS + _MAX_CELL_CHARACTERS * width), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except UnicodeDecodeError as error:
        message = f"body: not UTF-8 after line {reader.line_num}. Save the file as UTF-8."
        raise InvalidArgumentError(message) from error
    except csv.Error as error:
        message = f"body: line {reader.line_num} is not CSV ({str(error)[:80]}). Separate cells by commas."
        raise InvalidArgumentError(message) from error


def _texts(body: bytes, limit: int) -> Iterator[str]:
    """Yield the lines of a body; they are decoded one by one, for most of a body need never be held as text."""
    data = io.BytesIO(body)
    if body.startswith(codecs.BOM_UTF8):  # "utf-8-sig" would take a part of the mark for an empty text
        data.seek(len(codecs.BOM_UTF8))
    file = io.TextIOWrapper(data, encoding="utf-8", newline="")
    while line := file.readline(limit):
        if len(line) == limit:
            message = f"body: a line of {limit} characters or more. End each row with a line break."
            raise InvalidArgumentError(message)
        yield line


def _row(number: int, cells: Sequence[str], signature: Signature) -> Sequence[float]:
    """Return the numbers of one line."""
    if len(cells) != signature.width:
        message = (
            f"line {number}: received {len(cells)} cells, expected {signature.width} for model {signature.model} "
            f"version {signature.version}. Separate numbers by commas."
        )
        raise InvalidArgumentError(message)
    try:
        if not any("_" in cell for cell in cells):
            return [float(cell) for cell in cells]
    except ValueError:
        pass
    column, cell = next((column, cell) for column, cell in enumerate(cells) if _number(cell) is None)
    said = f"received '{cell[:_MAX_SHOWN]}'" if cell.strip() else "it is empty"
    raise InvalidArgumentError(f"line {number}, column {column + 1}: expected a number, {said}.")


def _number(cell: str) -> float | None:
    """Return the number of a cell; Python's digits in groups, 1_000, are none."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _order(header: Sequence[str], signature: Signature) -> list[int] | None:
    """Return where each number of a row stands in a line; None where it stands in its place."""
    names = [cell.strip() for cell in header]
    known = (*signature.features, *signature.context_features)
    if len(known) != signature.width:  # a model without names: the header says nothing
        return None
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if name not in known:
            raise InvalidArgumentError(f"line 1: unknown column {unknown_name(name, known)}")
        if name in places:
            raise InvalidArgumentError(f"line 1: the column '{name[:_MAX_SHOWN]}' is there twice. Send it once.")
        places[name] = place
    for name in known:
        if name not in places:
            message = f"line 1: the column '{name[:_MAX_SHOWN]}' is missing. Send all {signature.width} columns."
            raise InvalidArgumentError(message)
    return [places[name] for name in known]
