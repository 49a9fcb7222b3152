"""The body of a scoring request: its encoding, its type, and the rows in it.

Above: `native`. Below: the codecs.
"""

import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray
from werkzeug.http import parse_options_header

from service.caller import Caller
from service.codecs import arrow, csv, gzip, json, npy, raw
from service.errors import DeadlineExceededError, UnsupportedMediaTypeError
from service.settings import Settings
from service.signature import Signature

JSON = "application/json"
OCTETS = "application/octet-stream"
NPY = "application/x-npy"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"

_JSON_TYPES = frozenset({"", JSON, "application/x-www-form-urlencoded"})  # the last is what a plain `curl -d` sends
_UNICODE_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
_GZIP = frozenset({"gzip", "x-gzip"})  # RFC 9110, 8.4.1.3
_TEXTS = frozenset({JSON, CSV})
_LARGE_BYTES = 1 << 18
_Rows = NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Body:
    """What a body says.

    Args:
        rows_for: makes the rows once it is known which version answers; for once.
        outputs: names of the outputs, or None where the body does not say; likewise `version` and `label`.
        version: version number.
        label: version label.
    """

    rows_for: Callable[[Signature], NDArray[np.floating]]
    outputs: tuple[str, ...] | None = None
    version: int | None = None
    label: str | None = None


class BodyReader:
    """Reads the bodies of all requests.

    What grows is read one at a time: a large JSON document, which takes up to 14 times its size until it is an array, a
    large CSV text, up to nine times, and a large gzip body. So many at once take no more memory than one, and no more
    time: text is parsed under Python's global lock anyway.

    Args:
        settings: `max_body_bytes`, of the expanded body too, and `max_request_rows`.

    Thread safety: `read` may be called from any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = settings.max_body_bytes
        self._max_rows = settings.max_request_rows
        self._turn = threading.Lock()

    def read(self, data: bytes, content_type: str, content_encoding: str, caller: Caller, held: ExitStack) -> Body:
        """Return what the body of a request says.

        Args:
            data: the body.
            content_type: as the header says, or "".
            content_encoding: as the header says, or "identity".
            caller: of the request; does not wait for its turn beyond its deadline.
            held: gives the turn back when it is closed, which is for the moment when there are rows.

        Raises:
            UnsupportedMediaTypeError: another type or encoding than those that are offered.
            PayloadTooLargeError: larger than `max_body_bytes` when expanded, or too many instances.
            InvalidArgumentError: not what its type and its encoding say.
            DeadlineExceededError: other large bodies were read until the deadline.
        """
        is_compressed = _is_compressed(content_encoding)
        kind = _kind(content_type)
        if (gzip.claimed_bytes(data) if is_compressed else len(data) * (kind in _TEXTS)) > _LARGE_BYTES:
            self._take_turn(caller, held)
        if is_compressed:
            data = gzip.decompress(data, self._max_bytes)
        if kind == JSON:
            return self._read_json(data)
        if kind == NPY:
            rows = npy.decode_rows(data)
            return Body(lambda _signature: rows)
        if kind == CSV:
            return Body(lambda signature: csv.decode_rows(data, signature, self._max_rows))
        if kind == ARROW:
            return Body(lambda signature: arrow.decode_rows(data, signature, self._max_rows))
        return Body(lambda signature: raw.decode_rows(data, signature))

    def _take_turn(self, caller: Caller, held: ExitStack) -> None:
        if not self._turn.acquire(timeout=max(0.0, caller.deadline_seconds - time.monotonic())):
            message = "the deadline passed while other large bodies were read. Send smaller ones, or allow more time."
            raise DeadlineExceededError(message)
        held.callback(self._turn.release)

    def _read_json(self, data: bytes) -> Body:
        document = json.decode_request(data, self._max_rows)

        def rows_for(signature: Signature) -> _Rows:
            rows = json.decode_both(document, signature)
            for received in (document.instances, document.context or []):
                received.clear()  # many times as large as the rows, which may wait for a while
            return rows

        return Body(rows_for, document.outputs, document.version, document.label)


def _is_compressed(encoding: str) -> bool:
    encoding = encoding.strip().lower()
    if encoding in _GZIP:
        return True
    if encoding != "identity":
        message = f"Content-Encoding: received '{encoding[:40]}', expected gzip or none. Send the body uncompressed."
        raise UnsupportedMediaTypeError(message)
    return False


@functools.lru_cache(maxsize=64)
def _kind(content_type: str) -> str:
    received, parameters = parse_options_header(content_type)
    received = received.lower()
    if received in (OCTETS, NPY, ARROW):
        return received
    if received not in (*_JSON_TYPES, CSV) or parameters.get("charset", "utf-8").lower() not in _UNICODE_CHARSETS:
        message = f"Content-Type: received '{content_type[:40]}', expected {JSON} or {CSV} (UTF-8), {OCTETS}, {NPY} or"
        message = f"{message} {ARROW}."
        raise UnsupportedMediaTypeError(message)
    return CSV if received == CSV else JSON
