"""One line for each answered request.

Above: `worker`, which gives it to `metrics`. Below: `answered`. No body, no header and no query is ever written; what a
caller names is cut and percent-encoded, so that it can neither break a line nor fill the disk.
"""

import datetime
import functools
import urllib.parse
from collections.abc import Callable
from typing import Any

import orjson

from service.answered import AnsweredRequest

PROBES = frozenset(
    {"/healthz", "/readyz", "/metrics", "/monitoring/prometheus/metrics", "/grpc.health.v1.Health/Check"}
)
"""Paths that are asked all day long by machines: logged at the level `debug` alone."""

_MAX_PATH = 200
_MAX_METHOD = 40
_SAFE = "/:-._~"
_LINE_BYTES = 512


class AccessLog:
    """Writes what is known of each answered request: one JSON object a line, or a line for people.

    Args:
        write: takes what forms each line, its end included, and about how many bytes that is; must not wait.
        log_format: "console" or "json".
        log_level: "debug": probes too; "info": all but probes; anything else: nothing.
        now: time of day, with its zone.

    Thread safety: `log` may be called from any thread.
    """

    def __init__(
        self,
        write: Callable[[Callable[[], bytes], int], object],
        log_format: str,
        log_level: str = "info",
        *,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._write = write
        self._form = _json_line if log_format == "json" else _console_line
        self._skipped = frozenset() if log_level == "debug" else PROBES
        self._is_silent = log_level not in {"debug", "info"}
        self._now = now

    def log(self, answered: AnsweredRequest) -> None:
        """Write one line of a request, if it is to be logged."""
        if not self._is_silent and answered.path not in self._skipped:
            num_bytes = _LINE_BYTES + len(answered.method) + len(answered.path) + len(answered.model)
            self._write(functools.partial(self._form, answered, self._now()), num_bytes)


def _fields(answered: AnsweredRequest, **first: str) -> dict[str, Any]:
    """Return the fields of a line in their order."""
    return {
        **first,
        "request_id": answered.request_id,
        "protocol": answered.protocol,
        "method": _shown(answered.method, _MAX_METHOD),
        "path": _shown(answered.path, _MAX_PATH),
        "model": _shown(answered.model, _MAX_METHOD + 24),
        "version": answered.version,
        "signature": answered.signature,
        "code": answered.code,
        "status": answered.status,
        "rows": answered.num_rows,
        "bytes_in": answered.bytes_in,
        "bytes_out": answered.bytes_out,
        "milliseconds": _milliseconds(answered.seconds),
        "queue_milliseconds": _milliseconds(answered.queue_seconds),
        "compute_milliseconds": _milliseconds(answered.compute_seconds),
        "peer": answered.peer,
    }


def _level(answered: AnsweredRequest) -> str:
    return "debug" if answered.path in PROBES else "info"


def _json_line(answered: AnsweredRequest, now: datetime.datetime) -> bytes:
    line = _fields(answered, event="request")
    line["level"], line["timestamp"] = _level(answered), now
    return orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def _console_line(answered: AnsweredRequest, now: datetime.datetime) -> bytes:
    told = " ".join(f"{name}={value}" for name, value in _fields(answered).items() if value not in {None, ""})
    return f"{now.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%S.%fZ} [{_level(answered):<9}] request {told}\n".encode()


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000.0 * seconds, 3)


def _shown(text: str, longest: int) -> str:
    """Return what a caller named: cut, and printable ASCII without blanks whatever it is."""
    return _encode(text[:longest]) + ("..." if len(text) > longest else "")


@functools.lru_cache(maxsize=1024)
def _encode(text: str) -> str:
    return urllib.parse.quote(text, safe=_SAFE, errors="replace")
