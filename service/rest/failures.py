"""Errors as HTTP answers: the status of each class and the native form of the body.

Above: `app`, which registers the handlers, and the HTTP server, which refuses some requests before the application sees
them. Below: `errors`.
"""

import math
from collections.abc import Sequence

import flask
import orjson
import structlog
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from service.errors import (
    ErrorCode,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PayloadTooLargeError,
    ResourceExhaustedError,
    ScoringError,
    UnsupportedMediaTypeError,
)

STATUSES = {
    ErrorCode.CANCELLED: 499,
    ErrorCode.INVALID_ARGUMENT: 400,
    ErrorCode.OUT_OF_RANGE: 400,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.FAILED_PRECONDITION: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.RESOURCE_EXHAUSTED: 429,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.UNIMPLEMENTED: 501,
    ErrorCode.INTERNAL: 500,
}
"""HTTP status of each code; a body that is too large or of an unknown type has a status of its own."""


def refusal(
    error: ScoringError, request_id: str, status: int | None = None
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return the answer to a request that ended in `error`: status, headers and body, in the form of all errors.

    Needs no application and no request: the HTTP server uses it for what it refuses by itself.

    Args:
        error: what is told; of an INTERNAL one nothing but the request id.
        request_id: the request's name, which goes back as `X-Request-ID` and in the body.
        status: HTTP status where it is not that of the error's class, such as 408 or 431.

    Returns:
        Status; headers without Content-Length; body, JSON.
    """
    message = f"internal error, request_id={request_id}" if error.code is ErrorCode.INTERNAL else error.message
    headers = [("Content-Type", "application/json"), ("X-Request-ID", request_id)]
    if isinstance(error, ResourceExhaustedError):
        headers.append(("Retry-After", str(max(1, math.ceil(error.retry_after_seconds)))))
    body = orjson.dumps({"error": {"code": error.code, "message": message, "request_id": request_id}})
    return _status(error) if status is None else status, headers, body


def bare(error: ScoringError) -> ScoringError:
    """Return an error without where it came from, for whoever keeps it until its request is counted.

    Its traceback, and those of its causes, hold the frames that it passed, with the body in them. One of them holds who
    keeps it: a circle, which only the garbage collector would open, many bodies later.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _status(error: ScoringError) -> int:
    if isinstance(error, PayloadTooLargeError):
        return 413
    return 415 if isinstance(error, UnsupportedMediaTypeError) else STATUSES[error.code]


def respond_to_scoring_error(error: ScoringError) -> flask.Response:
    """Return the answer to a request that ended in one of our errors."""
    if error.code is ErrorCode.INTERNAL:
        return respond_to_defect(error)
    return _response(error)


def respond_to_http_error(error: HTTPException) -> flask.Response:
    """Return the answer to a request that Flask or Werkzeug refused."""
    if isinstance(error, NotFound):
        message = "there is no such path. GET / lists those that there are."
        return _response(NotFoundError(message))
    if isinstance(error, MethodNotAllowed):
        methods = sorted(error.valid_methods or ())
        response = _response(*wrong_method(flask.request.method, methods))
        response.headers["Allow"] = ", ".join(methods)
        return response
    if isinstance(error, RequestEntityTooLarge):
        limit = flask.current_app.config["MAX_CONTENT_LENGTH"]
        message = f"body: larger than {limit} bytes. Send fewer rows in one request."
        return _response(PayloadTooLargeError(message))
    status = error.code or 500
    if status >= 500:
        return respond_to_defect(error)
    return _response(InvalidArgumentError("the request is malformed HTTP. Check its headers."), status)


def wrong_method(received: str, allowed: Sequence[str]) -> tuple[InvalidArgumentError, int]:
    """Return the error of a request with another verb than its path has, and its status."""
    return InvalidArgumentError(f"received {received[:20]}, expected {', '.join(allowed)}."), 405


def respond_to_defect(error: Exception) -> flask.Response:
    """Log a defect of ours under the request id and return an answer that tells nothing but that id."""
    structlog.get_logger().error("request failed", request_id=flask.g.request_id, exc_info=error)
    return _response(InternalError(""))


def _response(error: ScoringError, status: int | None = None) -> flask.Response:
    flask.g.error = bare(error)
    number, headers, body = refusal(error, flask.g.request_id, status)
    return flask.Response(body, number, headers)
