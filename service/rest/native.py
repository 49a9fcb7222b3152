"""`POST /score` and `POST /models/<model>/score`: our own REST.

Above: `app`, in front of whose other routes it stands: behind a framework's dispatch a request would cost several times
as much. Below: `scorer`, `bodies`, `failures`, and the codecs that write answers.
"""

import dataclasses
import functools
import queue
import re
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from service import tracing
from service.answered import OK, AnsweredRequest, signature_name
from service.caller import Caller
from service.codecs import arrow, csv, json, npy, raw
from service.errors import (
    DeadlineExceededError,
    ErrorCode,
    InternalError,
    InvalidArgumentError,
    PayloadTooLargeError,
    ScoringError,
)
from service.metrics import Metrics
from service.model_version import Ticket
from service.pieces import Request as Waiting
from service.registry import Registry
from service.rest import deadlines, failures, wsgi
from service.rest.bodies import ARROW, CSV, JSON, NPY, OCTETS, Body, BodyReader
from service.scorer import Answer, Scorer, Target
from service.settings import Settings
from service.signature import Signature

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_Value = TypeVar("_Value")
_Parts = tuple[int, list[tuple[str, str]], bytes]
_Rows = NDArray[np.floating]  # by a name: a request would pay some 5 us for the subscript

PATHS = ("POST /score", "POST /models/<model>/score")
"""What is answered here."""

_PROTOCOL = "rest"
_PLAIN_KINDS = frozenset({OCTETS, NPY, ARROW})
_TABLES = {OCTETS: raw.encode_answer, NPY: npy.encode_answer, ARROW: arrow.encode_answer}
_SCORE_PATH = re.compile(r"/models/([^/]+)/score")
_PARAMETERS = ("version", "label", "outputs")
_VERSION = re.compile(r"[1-9][0-9]{0,18}")


@dataclasses.dataclass(frozen=True)
class _Query:
    """What the query says: names of outputs, and a version or a label; None where it does not say."""

    outputs: tuple[str, ...] | None = None
    version: int | None = None
    label: str | None = None


@dataclasses.dataclass(slots=True)
class _Noted:
    """What becomes known of a request while it is answered."""

    environ: "WSGIEnvironment"
    model: str | None
    request_id: str
    started_seconds: float
    signature: Signature | None = None
    outputs: tuple[str, ...] | None = None
    caller: Caller | None = None
    error: ScoringError | None = None
    num_rows: int = 0


class ScoreRoutes:
    """The scoring routes, as WSGI, in front of an application that has all others.

    Args:
        app: the application.
        scorer: scores rows.
        registry: knows the default model's name.
        metrics: counts.
        settings: `request_timeout_seconds` of requests that say nothing of a deadline, and the limits of bodies.

    Thread safety: may be called from any thread.
    """

    def __init__(
        self, app: "WSGIApplication", scorer: Scorer, registry: Registry, metrics: Metrics, settings: Settings
    ) -> None:
        self._app = app
        self._scorer = scorer
        self._registry = registry
        self._metrics = metrics
        self._settings = settings
        self._reader = BodyReader(settings)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request for a score; leave every other to the application."""
        path = environ.get("PATH_INFO", "")
        scored = None if path == "/score" else _SCORE_PATH.fullmatch(path)
        if path != "/score" and scored is None:
            return self._app(environ, start_response)
        answer = _end_of(self._stages(environ, scored))
        start_response(answer.status, list(answer.headers))
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body]

    def begin(
        self, environ: "WSGIEnvironment", ended: "queue.SimpleQueue[Waiting]"
    ) -> Generator[Ticket, None, wsgi.Answer]:
        """Answer a POST for a score in stages: see `Scorer.stages`. The answer is that of `__call__`."""
        return self._stages(environ, _SCORE_PATH.fullmatch(environ["PATH_INFO"]), ended)

    def _stages(
        self,
        environ: "WSGIEnvironment",
        scored: re.Match[str] | None,
        ended: "queue.SimpleQueue[Waiting] | None" = None,
    ) -> Generator[Ticket, None, wsgi.Answer]:
        model = None if scored is None else scored[1].encode("latin-1").decode("utf-8", "replace")
        started = environ.get(wsgi.ARRIVAL)
        noted = _Noted(
            environ,
            model,
            tracing.request_id(environ.get("HTTP_X_REQUEST_ID")),
            time.monotonic() if started is None else started,
        )
        self._metrics.begin(_PROTOCOL)
        try:
            status, headers, body = yield from self._answer(noted, ended)
            headers.append(("Content-Length", str(len(body))))
            if noted.signature is not None:
                headers.append(("X-Model-Version", str(noted.signature.version)))
            if not wsgi.is_given_up(environ):
                self._metrics.count_request(self._answered(noted, status, len(body)))
        finally:
            self._metrics.end(_PROTOCOL)
        return wsgi.Answer.of(status, headers, body)

    def _answer(self, noted: _Noted, ended: "queue.SimpleQueue[Waiting] | None") -> Generator[Ticket, None, _Parts]:
        """Return status, headers and body; every error has the form of all errors."""
        if noted.environ["REQUEST_METHOD"] != "POST":
            noted.error, status = failures.wrong_method(noted.environ["REQUEST_METHOD"], ("POST",))
            status, headers, body = failures.refusal(noted.error, noted.request_id, status)
            return status, [*headers, ("Allow", "POST")], body
        try:
            return (yield from self._score(noted, ended))
        except ScoringError as error:
            if error.code is ErrorCode.INTERNAL:
                self._log_defect(noted, error)
            noted.error = failures.bare(error)
        except Exception as error:  # noqa: BLE001  # the transport's border: log and convert, whatever it was
            noted.error = InternalError("")
            self._log_defect(noted, error)
        return failures.refusal(noted.error, noted.request_id)

    @staticmethod
    def _log_defect(noted: _Noted, error: Exception) -> None:
        structlog.get_logger().error("request failed", request_id=noted.request_id, exc_info=error)

    def _score(self, noted: _Noted, ended: "queue.SimpleQueue[Waiting] | None") -> Generator[Ticket, None, _Parts]:
        environ = noted.environ
        kind, encoding = environ.get("CONTENT_TYPE", ""), environ.get("HTTP_CONTENT_ENCODING", "identity")
        if kind not in _PLAIN_KINDS or encoding != "identity":  # the scorer asks too, but these are read before
            self._scorer.check_room(noted.model)
        caller = noted.caller = self._caller(noted)
        query = _read_query(environ.get("QUERY_STRING", ""))
        with ExitStack() as held:
            data = self._read_data(environ)
            body = self._reader.read(data, kind, encoding, caller, held)
            del data
            answer = yield from self._score_body(noted, query, body, held, ended)
        return _encode(answer, environ.get("HTTP_ACCEPT", ""), noted.request_id)

    def _read_data(self, environ: "WSGIEnvironment") -> bytes:
        """Return the body: as long as Content-Length says, or to its end where a server says that it has one."""
        limit = self._settings.max_body_bytes
        received = environ.get("CONTENT_LENGTH", "")
        length = int(received) if received.isascii() and received.isdigit() else None
        if length is None and not environ.get("wsgi.input_terminated"):
            return b""
        data: bytes = b"" if length is not None and length > limit else environ["wsgi.input"].read(length or limit + 1)
        if max(length or 0, len(data)) > limit:
            message = f"body: larger than {limit} bytes. Send fewer rows in one request."
            raise PayloadTooLargeError(message)
        return data

    def _caller(self, noted: _Noted) -> Caller:
        """Return who waits: until when, counted from the arrival of the whole request, and from which address."""
        received = noted.environ.get("HTTP_X_REQUEST_TIMEOUT")
        seconds = deadlines.timeout_seconds(received, self._settings.request_timeout_seconds)
        caller = Caller(noted.started_seconds + seconds, noted.environ.get("REMOTE_ADDR"))
        if caller.deadline_seconds <= time.monotonic():
            message = "the deadline passed before the request had its turn. Allow more time."
            raise DeadlineExceededError(message)
        return caller

    def _score_body(
        self,
        noted: _Noted,
        query: _Query,
        body: Body,
        held: ExitStack,
        ended: "queue.SimpleQueue[Waiting] | None",
    ) -> Generator[Ticket, None, Answer]:
        outputs = _agreed("outputs", body.outputs, query.outputs)

        def rows_for(signature: Signature) -> _Rows:
            noted.signature, noted.outputs = signature, outputs
            rows = body.rows_for(signature)
            held.close()
            return rows

        version = _agreed("version", body.version, query.version)
        target = Target(noted.model, version, _agreed("label", body.label, query.label))
        if ended is None or noted.caller is None:
            answer = self._scorer.score(target, rows_for, outputs, caller=noted.caller)
        else:
            answer = yield from self._scorer.stages(target, rows_for, outputs, noted.caller, ended)
        noted.num_rows = len(next(iter(answer.outputs.values())))
        return answer

    def _answered(self, noted: _Noted, status: int, num_bytes: int) -> AnsweredRequest:
        """Return what is known of a request that has its answer."""
        environ, signature, error, caller = noted.environ, noted.signature, noted.error, noted.caller
        asked = noted.model or self._registry.default_model or ""
        method = environ["REQUEST_METHOD"]
        received = environ.get("CONTENT_LENGTH") or "0"
        return AnsweredRequest(
            protocol=_PROTOCOL,
            code=OK if error is None else error.code,
            seconds=time.monotonic() - noted.started_seconds,
            request_id=noted.request_id,
            method=method,
            path=environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
            status=status,
            model=signature.model if signature is not None else asked if method == "POST" else "",
            version=None if signature is None else signature.version,
            signature="" if caller is None or signature is None else signature_name(noted.outputs),
            num_rows=noted.num_rows,
            bytes_in=int(received) if received.isascii() and received.isdigit() else 0,
            bytes_out=num_bytes,
            queue_seconds=None if caller is None else caller.queue_seconds,
            compute_seconds=None if caller is None else caller.compute_seconds,
            peer=environ.get("REMOTE_ADDR") or "",
            refusal=None if error is None else error.refusal,
        )


def _end_of(stages: Generator[Ticket, None, wsgi.Answer]) -> wsgi.Answer:
    """Return the answer of a request that is not waited for beside others: it has one stage."""
    try:
        next(stages)
    except StopIteration as end:
        answer: wsgi.Answer = end.value
        return answer
    message = "a request that waits alone has but one stage"
    raise RuntimeError(message)


def room_check(scorer: Scorer) -> Callable[[bytes], None]:
    """Return what the HTTP server asks, with the path, before it reads the body of a request.

    It raises ResourceExhaustedError for a model of which every version is full.
    """

    def check(path: bytes) -> None:
        if (scored := wsgi.SCORED.fullmatch(path)) is not None:
            scorer.check_room(None if scored[1] is None else scored[1].decode("ascii"))

    return check


def _encode(answer: Answer, accepted: str, request_id: str) -> tuple[int, list[tuple[str, str]], bytes]:
    kind = _best_kind(accepted)
    if kind in _TABLES:
        data = _TABLES[kind](answer.outputs)
    else:
        data = (json if kind == JSON else csv).encode_answer(answer.signature, answer.outputs)
    headers = [("Content-Type", kind), ("X-Request-ID", request_id)]
    if answer.convexity == "unproved":
        headers.append(("X-Convexity", "unproved"))
    return 200, headers, data


@functools.lru_cache(maxsize=64)
def _best_kind(accepted: str) -> str:
    """Return the type of the answer that an `Accept` header likes best; JSON where it likes none (RFC 9110, 12.5.1)."""
    kinds = [JSON, OCTETS, NPY, CSV, ARROW]
    return parse_accept_header(accepted, MIMEAccept).best_match(kinds, JSON) if accepted else JSON


def _read_query(query: str) -> _Query:
    if not query:
        return _Query()
    values: dict[str, str] = {}
    text = query.encode("latin-1").decode("utf-8", "replace")
    for name, received in urllib.parse.parse_qsl(text, keep_blank_values=True, errors="replace"):
        if name not in _PARAMETERS:
            raise InvalidArgumentError(f"query: unknown parameter {json.unknown_name(name, _PARAMETERS)}")
        if values.setdefault(name, received) != received:
            raise InvalidArgumentError(f"query: {name} is given twice, with different values. Send it once.")
    version = values.get("version")
    if version is not None and not (_VERSION.fullmatch(version) and int(version) <= json.MAX_VERSION):
        message = f"version: expected a whole number from 1 to {json.MAX_VERSION}, received '{version[:40]}'."
        raise InvalidArgumentError(message)
    return _Query(
        outputs=tuple(values["outputs"].split(",")) if "outputs" in values else None,
        version=None if version is None else int(version),
        label=values.get("label"),
    )


def _agreed(name: str, in_body: _Value | None, in_query: _Value | None) -> _Value | None:
    if in_body is not None and in_query is not None and in_body != in_query:
        raise InvalidArgumentError(f"{name}: the body and the query contradict each other. Send it once.")
    return in_query if in_body is None else in_body
