"""Rows as the body of a request, in each form that is served. Above: `serving`, `peers`."""

import base64
import io

import numpy as np
import orjson
from numpy.typing import NDArray

OCTETS, NPY, JSON, CSV = "application/octet-stream", "application/x-npy", "application/json", "text/csv"
FORMS = {"octet-stream": OCTETS, "npy": NPY, "JSON": JSON, "CSV": CSV}
"""What each form is called -> its media type."""


def body(content_type: str, rows: NDArray[np.float32]) -> bytes:
    """Return rows as a body; numbers as the shortest decimals of float32.

    Raises:
        ValueError: for another type.
    """
    if content_type == OCTETS:
        return rows.astype("<f4").tobytes()
    if content_type == NPY:
        file = io.BytesIO()
        np.save(file, rows)
        return file.getvalue()
    if content_type == JSON:
        return json_body({"instances": rows})
    if content_type == CSV:
        return b"".join(b",".join(str(value).encode() for value in row) + b"\n" for row in rows)
    message = f"forms: expected one of {', '.join(FORMS.values())}, received {content_type}"
    raise ValueError(message)


def json_body(document: dict[str, object]) -> bytes:
    """Return a document, in which arrays may stand, as JSON."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def packed(data: bytes) -> str:
    """Return bytes as a `Job` carries them."""
    return base64.b64encode(data).decode("ascii")
