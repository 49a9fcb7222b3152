"""Requests that are refused before the application sees them: their answers, and what is told of them.

Above: `server`. Below: `failures` (the form of all errors), `tracing`.
"""

import http

from service import tracing
from service.answered import AnsweredRequest
from service.errors import ErrorCode, InvalidArgumentError, Refusal, ScoringError, UnimplementedError
from service.rest import failures
from service.rest.request import Request
from service.rest.request_reader import MalformedError
from service.rest.wsgi import Answer

_PROTOCOL = "rest"


def refuse(
    error: ScoringError | MalformedError, request: Request | None, client: str
) -> tuple[Answer, AnsweredRequest]:
    """Return the answer to a request that is refused at its head, or to bytes that are none; and what to count.

    Args:
        error: why.
        request: the request, as far as there is one: its id goes back.
        client: the client's address.
    """
    received = None if request is None else request.header(b"x-request-id").decode("latin-1")
    request_id = tracing.request_id(received)
    told, status = _told(error)
    code, headers, body = failures.refusal(told, request_id, status)
    answered = AnsweredRequest(
        protocol=_PROTOCOL,
        code=told.code,
        seconds=0.0,
        request_id=request_id,
        method="" if request is None else request.method,
        path="" if request is None else request.head.path.decode("latin-1"),
        status=code,
        model=told.model,
        bytes_in=0 if request is None else request.num_body_bytes,
        bytes_out=len(body),
        peer=client,
        refusal=told.refusal,
    )
    return Answer.of(code, headers, body), answered


def no_room_for(client: str) -> AnsweredRequest:
    """Return what to count of a connection that is one too many: it is closed before it asks anything."""
    return AnsweredRequest(_PROTOCOL, ErrorCode.RESOURCE_EXHAUSTED, 0.0, peer=client, refusal=Refusal.CONNECTION_LIMIT)


def _told(error: ScoringError | MalformedError) -> tuple[ScoringError, int | None]:
    """Return the error of the contract, and the status where HTTP has one of its own."""
    if isinstance(error, ScoringError):
        return error, None
    if error.status == http.HTTPStatus.NOT_IMPLEMENTED:
        return UnimplementedError(error.message), None
    told = InvalidArgumentError(error.message)
    if error.status == http.HTTPStatus.REQUEST_TIMEOUT:
        told.refusal = Refusal.SLOW_CLIENT
    return told, error.status
