"""Errors as HTTP answers: the status of each class and the native form of the body.

Above: `app`, which registers the handlers. Below: `errors`.
"""

import math

import flask
import orjson
import structlog
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from service.errors import (
    ErrorCode,
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


def respond_to_scoring_error(error: ScoringError) -> flask.Response:
    """Return the answer to a request that ended in one of our errors."""
    if error.code is ErrorCode.INTERNAL:
        return respond_to_defect(error)
    if isinstance(error, PayloadTooLargeError):
        status = 413
    elif isinstance(error, UnsupportedMediaTypeError):
        status = 415
    else:
        status = STATUSES[error.code]
    response = _response(error.code, error.message, status)
    if isinstance(error, ResourceExhaustedError):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    return response


def respond_to_http_error(error: HTTPException) -> flask.Response:
    """Return the answer to a request that Flask or Werkzeug refused."""
    if isinstance(error, NotFound):
        message = "there is no such path. GET / lists those that there are."
        return _response(ErrorCode.NOT_FOUND, message, 404)
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        message = f"received {flask.request.method[:20]}, expected {allowed}."
        response = _response(ErrorCode.INVALID_ARGUMENT, message, 405)
        response.headers["Allow"] = allowed
        return response
    if isinstance(error, RequestEntityTooLarge):
        limit = flask.current_app.config["MAX_CONTENT_LENGTH"]
        message = f"body: larger than {limit} bytes. Send fewer rows in one request."
        return _response(ErrorCode.INVALID_ARGUMENT, message, 413)
    status = error.code or 500
    if status >= 500:
        return respond_to_defect(error)
    return _response(ErrorCode.INVALID_ARGUMENT, "the request is malformed HTTP. Check its headers.", status)


def respond_to_defect(error: Exception) -> flask.Response:
    """Log a defect of ours under the request id and return an answer that tells nothing but that id."""
    structlog.get_logger().error("request failed", request_id=flask.g.request_id, exc_info=error)
    return _response(ErrorCode.INTERNAL, f"internal error, request_id={flask.g.request_id}", 500)


def _response(code: ErrorCode, message: str, status: int) -> flask.Response:
    flask.g.code = code
    body = orjson.dumps({"error": {"code": code, "message": message, "request_id": flask.g.request_id}})
    return flask.Response(body, status, mimetype="application/json")
