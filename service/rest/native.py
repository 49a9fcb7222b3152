"""`POST /score` and `POST /models/<model>/score`: our own REST.

Above: `app`. Below: `scorer`, and the codecs that know the bodies.
"""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import TypeVar

import flask
import numpy as np
from numpy.typing import NDArray
from werkzeug.datastructures import MultiDict

from service.caller import Caller
from service.codecs import json, raw
from service.errors import DeadlineExceededError, InvalidArgumentError, UnsupportedMediaTypeError
from service.rest import deadlines, wsgi
from service.scorer import Answer, Scorer, Target
from service.settings import Settings
from service.signature import Signature

_Value = TypeVar("_Value")

_JSON = "application/json"
_OCTETS = "application/octet-stream"
_JSON_TYPES = frozenset({"", _JSON, "application/x-www-form-urlencoded"})  # the last is what a plain `curl -d` sends
_UNICODE_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
_PARAMETERS = ("version", "label", "outputs")
_SCORED = re.compile(rb"/models/([A-Za-z0-9_-]{1,64})/score")
_VERSION = re.compile(r"[1-9][0-9]{0,18}")


@dataclasses.dataclass(frozen=True)
class _Request:
    """What body and query say together."""

    rows_for: Callable[[Signature], NDArray[np.floating]]
    outputs: tuple[str, ...] | None
    version: int | None
    label: str | None


def routes(scorer: Scorer, settings: Settings) -> flask.Blueprint:
    """Return the scoring routes.

    Args:
        scorer: scores rows.
        settings: `request_timeout_seconds` of requests that say nothing of a deadline.
    """
    blueprint = flask.Blueprint("native", __name__)

    @blueprint.post("/score")
    def score_default() -> flask.Response:
        return _score(scorer, None, settings.request_timeout_seconds)

    @blueprint.post("/models/<model>/score")
    def score(model: str) -> flask.Response:
        return _score(scorer, model, settings.request_timeout_seconds)

    return blueprint


def room_check(scorer: Scorer) -> Callable[[bytes], None]:
    """Return what the HTTP server asks, with the path, before it reads the body of a request.

    It raises ResourceExhaustedError for a model of which every version is full.
    """

    def check(path: bytes) -> None:
        if path == b"/score":
            scorer.check_room(None)
        elif (scored := _SCORED.fullmatch(path)) is not None:
            scorer.check_room(scored[1].decode("ascii"))

    return check


def _score(scorer: Scorer, model: str | None, timeout_seconds: float) -> flask.Response:
    scorer.check_room(model)
    caller = flask.g.caller = _caller(timeout_seconds)
    request = _decode()

    def rows_for(signature: Signature) -> NDArray[np.floating]:
        flask.g.signature, flask.g.outputs = signature, request.outputs
        return request.rows_for(signature)

    target = Target(model, request.version, request.label)
    answer = scorer.score(target, rows_for, request.outputs, caller=caller)
    flask.g.num_rows = len(next(iter(answer.outputs.values())))
    return _encode(answer)


def _caller(timeout_seconds: float) -> Caller:
    """Return who waits: until when, counted from the arrival of the whole request, and from which address."""
    timeout_seconds = deadlines.timeout_seconds(flask.request.headers.get(deadlines.HEADER), timeout_seconds)
    arrived = flask.request.environ.get(wsgi.ARRIVAL, flask.g.started)
    caller = Caller(arrived + timeout_seconds, flask.request.remote_addr)
    if caller.deadline_seconds <= time.monotonic():
        message = "the deadline passed before the request had its turn. Allow more time."
        raise DeadlineExceededError(message)
    return caller


def _decode() -> _Request:
    encoding = flask.request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        message = f"Content-Encoding: received '{encoding[:40]}', expected none. Send the body uncompressed."
        raise UnsupportedMediaTypeError(message)
    query = _read_query(flask.request.args)
    kind = _body_kind()
    body = flask.request.get_data(cache=False)
    if kind == _OCTETS:
        return dataclasses.replace(query, rows_for=lambda signature: raw.decode_rows(body, signature))
    document = json.decode_request(body)
    return _Request(
        rows_for=lambda signature: json.decode_rows(document.instances, signature),
        outputs=_agreed("outputs", document.outputs, query.outputs),
        version=_agreed("version", document.version, query.version),
        label=_agreed("label", document.label, query.label),
    )


def _encode(answer: Answer) -> flask.Response:
    if flask.request.accept_mimetypes.best_match([_JSON, _OCTETS], _JSON) == _OCTETS:
        response = flask.Response(raw.encode_answer(answer.outputs), mimetype=_OCTETS)
    else:
        response = flask.Response(json.encode_answer(answer.signature, answer.outputs), mimetype=_JSON)
    if answer.convexity == "unproved":
        response.headers["X-Convexity"] = "unproved"
    return response


def _body_kind() -> str:
    received = flask.request.mimetype
    if received == _OCTETS:
        return _OCTETS
    charset = flask.request.mimetype_params.get("charset", "utf-8").lower()
    if received not in _JSON_TYPES or charset not in _UNICODE_CHARSETS:
        message = (
            f"Content-Type: received '{(flask.request.content_type or '')[:40]}', expected {_JSON} (UTF-8) "
            f"or {_OCTETS}."
        )
        raise UnsupportedMediaTypeError(message)
    return _JSON


def _read_query(query: MultiDict[str, str]) -> _Request:
    values: dict[str, str] = {}
    for name, received in query.items(multi=True):
        if name not in _PARAMETERS:
            raise InvalidArgumentError(f"query: unknown parameter {json.unknown_name(name, _PARAMETERS)}")
        if values.setdefault(name, received) != received:
            raise InvalidArgumentError(f"query: {name} is given twice, with different values. Send it once.")
    version = values.get("version")
    if version is not None and not (_VERSION.fullmatch(version) and int(version) <= json.MAX_VERSION):
        message = f"version: expected a whole number from 1 to {json.MAX_VERSION}, received '{version[:40]}'."
        raise InvalidArgumentError(message)
    return _Request(
        rows_for=_no_rows,
        outputs=tuple(values["outputs"].split(",")) if "outputs" in values else None,
        version=None if version is None else int(version),
        label=values.get("label"),
    )


def _no_rows(signature: Signature) -> NDArray[np.floating]:
    return np.empty((0, signature.dim), dtype=np.float32)


def _agreed(name: str, in_body: _Value | None, in_query: _Value | None) -> _Value | None:
    if in_body is not None and in_query is not None and in_body != in_query:
        raise InvalidArgumentError(f"{name}: the body and the query contradict each other. Send it once.")
    return in_query if in_body is None else in_body
