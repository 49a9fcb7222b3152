"""Requests that are refused before the application sees them, answered in the form of all other errors.

Above: `server`. Below: `failures` (the form), `tracing`.
"""

import http
import math

import orjson

from service import tracing
from service.errors import ErrorCode, ResourceExhaustedError, ScoringError
from service.rest.failures import STATUSES
from service.rest.request_reader import MalformedError, Request
from service.rest.wsgi import Answer


def refusal(error: ScoringError | MalformedError, request: Request | None) -> Answer:
    """Return the answer to a request that is refused at its head, or to bytes that are none.

    Args:
        error: why.
        request: the request, as far as there is one: its id goes back.
    """
    received = b"" if request is None else request.header(b"x-request-id")
    request_id = tracing.request_id(received.decode("latin-1"))
    if isinstance(error, MalformedError):
        status: int = error.status
        is_unoffered = status == http.HTTPStatus.NOT_IMPLEMENTED
        code = ErrorCode.UNIMPLEMENTED if is_unoffered else ErrorCode.INVALID_ARGUMENT
    else:
        status, code = STATUSES[error.code], error.code
    headers = [("Content-Type", "application/json"), ("X-Request-ID", request_id)]
    if isinstance(error, ResourceExhaustedError):
        headers.append(("Retry-After", str(max(1, math.ceil(error.retry_after_seconds)))))
    document = {"error": {"code": code, "message": error.message, "request_id": request_id}}
    return Answer.of(status, headers, orjson.dumps(document))
