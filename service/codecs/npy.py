"""NumPy's own file format, `.npy`, in versions 1 to 3: a short head that says type and shape, then the numbers.

`numpy.load` evaluates the head as Python and trusts its shape. Here the head is matched against what writers write, and
its claims are compared with the bytes that came, before an array is made, which is a view of them.
Above: `rest`. Below: `signature` and `errors`.
"""

import io
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.codecs import raw
from service.errors import InvalidArgumentError

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
"""Size of the head's length, by the format's version."""
_MAX_HEAD_BYTES = 4096
_MAX_RANK = 2
_MAX_DIMENSION = (1 << 31) - 1
_DTYPES: dict[bytes, np.dtype[np.floating[Any]]] = {b"<f4": np.dtype("<f4"), b"<f8": np.dtype("<f8")}

# The three entries in any order, as Python writes a dictionary; every part is bounded and nothing nests.
_HEAD = re.compile(rb"\{((?:[^{}()]|\([0-9, ]*\)){0,200})\} *+\n?")
_ENTRY = re.compile(
    rb"""[ \n]*(?:
        (?P<q>['"])descr(?P=q)[ \n]*:[ \n]*(?P<r>['"])(?P<descr>[ -&(-~]{1,40})(?P=r)
      | (?P<s>['"])fortran_order(?P=s)[ \n]*:[ \n]*(?P<fortran>True|False)
      | (?P<t>['"])shape(?P=t)[ \n]*:[ \n]*\((?P<shape>[0-9, ]*)\)
    )[ \n]*(?:,|$)[ \n]*""",
    re.VERBOSE,
)
_NAMES = ("descr", "fortran", "shape")
_SHAPE = re.compile(rb" *(?:(?:0|[1-9][0-9]{0,18}) *, *)*(?:(?:0|[1-9][0-9]{0,18}) *)?")


def decode_rows(body: bytes) -> NDArray[np.floating]:
    """Return the array of a body, without copying it.

    Args:
        body: `.npy`, float32 or float64, little-endian, in C or Fortran order.

    Returns:
        float32 or float64 array of at most two dimensions, read-only; possibly not finite. Whether its shape is that of
        rows is `signature.validate`'s matter.

    Raises:
        InvalidArgumentError: not `.npy`, a head that is not a plain array's, another type, more than two dimensions,
            or another number of bytes than type and shape say.
    """
    head, start = _head(body)
    entries = _entries(head)
    dtype = _DTYPES.get(entries["descr"])
    if dtype is None:
        received = entries["descr"].decode("ascii")
        message = f"body: .npy of type '{received}', expected '<f4' or '<f8'. Convert with astype('<f4')."
        raise InvalidArgumentError(message)
    shape = _shape(entries["shape"])
    expected = math.prod(shape) * dtype.itemsize
    if len(body) - start != expected:
        message = (
            f"body: .npy holds {len(body) - start} bytes behind its head, expected {expected} for shape {list(shape)} "
            f"of {dtype.itemsize}-byte values. Send the whole array."
        )
        raise InvalidArgumentError(message)
    values = np.frombuffer(body, dtype=dtype, offset=start) if expected else np.empty(0, dtype)
    return values.reshape(shape, order="F" if entries["fortran"] == b"True" else "C")


def encode_answer(outputs: Mapping[str, NDArray[np.floating]]) -> bytes:
    """Return the outputs as `.npy`: float32 [n, columns] in C order, those of `raw.table`.

    Args:
        outputs: name -> float32 [n] or [n, width], the same n for all.
    """
    file = io.BytesIO()
    np.lib.format.write_array(file, raw.table(outputs), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _head(body: bytes) -> tuple[bytes, int]:
    """Return the head's text and where the numbers begin."""
    size = _LENGTH_BYTES.get(body[6]) if len(body) > 8 and body[:6] == _MAGIC and body[7] == 0 else None
    if size is None:
        message = "body: not .npy: it does not begin with the format's mark and a version from 1.0 to 3.0."
        raise InvalidArgumentError(f"{message} Write it with numpy.save.")
    begin = 8 + size
    length = int.from_bytes(body[8:begin], "little")
    if length > _MAX_HEAD_BYTES or begin + length > len(body):
        message = (
            f"body: the .npy head claims {length} bytes, expected at most {_MAX_HEAD_BYTES} and as many as came. "
            "Write it with numpy.save."
        )
        raise InvalidArgumentError(message)
    return body[begin : begin + length], begin + length


def _entries(head: bytes) -> dict[str, bytes]:
    """Return `descr`, `fortran` and `shape` of a head, each there once."""
    found: dict[str, bytes] = {}
    match = _HEAD.fullmatch(head)
    text, position = (match[1], 0) if match else (b"", 0)
    while position < len(text):
        entry = _ENTRY.match(text, position)
        if entry is None or any(entry[name] is not None for name in found):
            break
        found |= {name: entry[name] for name in _NAMES if entry[name] is not None}
        position = entry.end()
    if len(found) < len(_NAMES) or position < len(text):
        message = (
            "body: the .npy head is not that of an array of plain numbers: descr, fortran_order and shape, each once. "
            "Write it with numpy.save, allow_pickle=False."
        )
        raise InvalidArgumentError(message)
    return found


def _shape(text: bytes) -> tuple[int, ...]:
    sizes = [int(size) for size in text.split(b",") if size.strip()] if _SHAPE.fullmatch(text) else None
    if sizes is None or len(sizes) > _MAX_RANK or max(sizes, default=0) > _MAX_DIMENSION:
        received = text[:40].decode("ascii")
        message = (
            f"body: .npy of shape ({received}), expected (n, dim), each at most {_MAX_DIMENSION}. Send a table of rows."
        )
        raise InvalidArgumentError(message)
    return tuple(sizes)
