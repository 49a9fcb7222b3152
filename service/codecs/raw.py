"""Rows as bare little-endian float32, row-major: the cheapest body that HTTP can carry.

Above: `rest`. Below: `signature` and `errors`.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidArgumentError
from service.signature import WIRE_ORDER, Signature

_FLOAT_BYTES = 4


def decode_rows(body: bytes, signature: Signature) -> NDArray[np.float32]:
    """Return the rows of a body, without copying it.

    Args:
        body: n * width little-endian float32, row-major: x, then the context where the model takes one. An empty body
            holds no rows.
        signature: of the version that is asked.

    Returns:
        float32 [n, width], read-only; possibly not finite.

    Raises:
        InvalidArgumentError: the length is no multiple of 4 * width bytes.
    """
    row_bytes = _FLOAT_BYTES * signature.width
    if len(body) % row_bytes:
        parts = f": {signature.dim} of x, then {signature.context_dim} of the context" if signature.context_dim else ""
        message = (
            f"body: expected a multiple of {row_bytes} bytes ({signature.width} little-endian float32 a row for model "
            f"{signature.model} version {signature.version}{parts}), received {len(body)}. Send whole rows."
        )
        raise InvalidArgumentError(message)
    return np.frombuffer(body, dtype="<f4").reshape(-1, signature.width)


def encode_answer(outputs: Mapping[str, NDArray[np.floating]]) -> bytes:
    """Return the outputs' `table` as little-endian float32, row-major."""
    return table(outputs).tobytes()


def table(outputs: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return the outputs side by side: `score`, `gradient`, `support`, those that are there.

    Args:
        outputs: name -> float32 [n] or [n, width], the same n for all.

    Returns:
        Little-endian float32 [n, columns], C-contiguous.
    """
    names = [name for name in WIRE_ORDER if name in outputs]
    widths = [1 if outputs[name].ndim == 1 else outputs[name].shape[1] for name in names]
    columns = np.empty((len(outputs[names[0]]), sum(widths)), dtype="<f4")
    start = 0
    for name, width in zip(names, widths, strict=True):
        columns[:, start : start + width] = outputs[name].reshape(-1, width)
        start += width
    return columns
