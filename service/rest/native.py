"""`POST /score` and `POST /models/<model>/score`: our own REST.

Above: `app`. Below: `scorer`, `bodies`, and the codecs that write answers.
"""

import dataclasses
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import flask
import numpy as np
from numpy.typing import NDArray
from werkzeug.datastructures import MultiDict

from service.caller import Caller
from service.codecs import json, npy, raw
from service.errors import DeadlineExceededError, InvalidArgumentError
from service.rest import deadlines, wsgi
from service.rest.bodies import JSON, NPY, OCTETS, Body, BodyReader
from service.scorer import Answer, Scorer, Target
from service.settings import Settings
from service.signature import Signature

_Value = TypeVar("_Value")

_PARAMETERS = ("version", "label", "outputs")
_SCORED = re.compile(rb"/models/([A-Za-z0-9_-]{1,64})/score")
_VERSION = re.compile(r"[1-9][0-9]{0,18}")


@dataclasses.dataclass(frozen=True)
class _Query:
    """What the query says: names of outputs, and a version or a label; None where it does not say."""

    outputs: tuple[str, ...] | None
    version: int | None
    label: str | None


def routes(scorer: Scorer, settings: Settings) -> flask.Blueprint:
    """Return the scoring routes.

    Args:
        scorer: scores rows.
        settings: `request_timeout_seconds` of requests that say nothing of a deadline, and the limits of bodies.
    """
    blueprint = flask.Blueprint("native", __name__)
    reader = BodyReader(settings)

    @blueprint.post("/score")
    def score_default() -> flask.Response:
        return score(None)

    @blueprint.post("/models/<model>/score")
    def score(model: str | None) -> flask.Response:
        scorer.check_room(model)
        caller = flask.g.caller = _caller(settings.request_timeout_seconds)
        query = _read_query(flask.request.args)
        with ExitStack() as held:
            return _encode(_score(scorer, model, query, reader.read(caller, held), held))

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


def _caller(timeout_seconds: float) -> Caller:
    """Return who waits: until when, counted from the arrival of the whole request, and from which address."""
    timeout_seconds = deadlines.timeout_seconds(flask.request.headers.get(deadlines.HEADER), timeout_seconds)
    arrived = flask.request.environ.get(wsgi.ARRIVAL, flask.g.started)
    caller = Caller(arrived + timeout_seconds, flask.request.remote_addr)
    if caller.deadline_seconds <= time.monotonic():
        message = "the deadline passed before the request had its turn. Allow more time."
        raise DeadlineExceededError(message)
    return caller


def _score(scorer: Scorer, model: str | None, query: _Query, body: Body, held: ExitStack) -> Answer:
    outputs = _agreed("outputs", body.outputs, query.outputs)

    def rows_for(signature: Signature) -> NDArray[np.floating]:
        flask.g.signature, flask.g.outputs = signature, outputs
        rows = body.rows_for(signature)
        held.close()
        return rows

    version = _agreed("version", body.version, query.version)
    target = Target(model, version, _agreed("label", body.label, query.label))
    answer = scorer.score(target, rows_for, outputs, caller=flask.g.caller)
    flask.g.num_rows = len(next(iter(answer.outputs.values())))
    return answer


def _encode(answer: Answer) -> flask.Response:
    kind = flask.request.accept_mimetypes.best_match([JSON, OCTETS, NPY], JSON)
    if kind == JSON:
        data = json.encode_answer(answer.signature, answer.outputs)
    else:
        data = (npy if kind == NPY else raw).encode_answer(answer.outputs)
    response = flask.Response(data, mimetype=kind)
    if answer.convexity == "unproved":
        response.headers["X-Convexity"] = "unproved"
    return response


def _read_query(query: MultiDict[str, str]) -> _Query:
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
    return _Query(
        outputs=tuple(values["outputs"].split(",")) if "outputs" in values else None,
        version=None if version is None else int(version),
        label=values.get("label"),
    )


def _agreed(name: str, in_body: _Value | None, in_query: _Value | None) -> _Value | None:
    if in_body is not None and in_query is not None and in_body != in_query:
        raise InvalidArgumentError(f"{name}: the body and the query contradict each other. Send it once.")
    return in_query if in_body is None else in_body
