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
        body: n * dim little-endian float32, row-major. An empty body holds no rows.
        signature: of the version that is asked.

    Returns:
        float32 [n, dim], read-only; possibly not finite.

    Raises:
        InvalidArgumentError: the length is no multiple of 4 * dim bytes.
    """
    row_bytes = _FLOAT_BYTES * signature.dim
    if len(body) % row_bytes:
        message = (
            f"body: expected a multiple of {row_bytes} bytes ({signature.dim} little-endian float32 a row for model "
            f"{signature.model} version {signature.version}), received {len(body)}. Send whole rows."
        )
        raise InvalidArgumentError(message)
    return np.frombuffer(body, dtype="<f4").reshape(-1, signature.dim)


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
    columns = [np.atleast_2d(outputs[name].T).T for name in WIRE_ORDER if name in outputs]
    return np.ascontiguousarray(np.hstack(columns), dtype="<f4")
