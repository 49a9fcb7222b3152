"""What every call has in common: a request id, a count, and errors as statuses.

Above: `server`, which installs it, and the services, which reach the present call through `current_call`. Below:
`metrics`, `tracing`, `errors`.
"""

import contextvars
import dataclasses
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError

from service import tracing
from service.answered import OK, AnsweredRequest
from service.caller import Caller
from service.errors import ErrorCode, InvalidArgumentError, ResourceExhaustedError, ScoringError
from service.metrics import Metrics
from service.rpc.call_threads import raise_if_refused

_PROTOCOL = "grpc"
_MAX_MESSAGE = 1024
_NO_DEADLINE_SECONDS = 1e9
"""What is longer is no deadline: without one gRPC says that some 290 years remain."""
_PUSHBACK = "grpc-retry-pushback-ms"
"""Trailing metadata by which a server tells gRPC's own retries when to come again (gRFC A6)."""

_CURRENT: contextvars.ContextVar["Call"] = contextvars.ContextVar("call")


@dataclasses.dataclass
class Call:
    """What is noted about one call while it is answered.

    Args:
        request_id: the caller's or a new one; goes back as initial metadata `x-request-id`.
        caller: who waits for the answer, until when, and whether still.
        model: name of the model that is asked.
        version: the version that answers, once it is known.
        signature: the name of the signature, once it is known that there is one.
        num_rows: rows scored.
        initial_metadata: sent with the answer.
    """

    request_id: str
    caller: Caller
    model: str = ""
    version: int | None = None
    signature: str = ""
    num_rows: int = 0
    initial_metadata: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def current_call() -> Call:
    """Return the call that this thread answers."""
    return _CURRENT.get()


class CallInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs, not at run time
    """Gives every unary call an id, counts it, and turns whatever it raises into a status.

    A `ScoringError` becomes its code and message. A message that is no protobuf is INVALID_ARGUMENT (gRPC itself would
    say INTERNAL). Anything else is a defect: it is logged, and the caller sees INTERNAL with the request id alone.

    Args:
        metrics: counts the calls.
        timeout_seconds: time for a call that sets no deadline.

    Thread safety: every method may be called from any thread.
    """

    def __init__(self, metrics: Metrics, timeout_seconds: float = 30.0) -> None:
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the handler of a call, wrapped; a method that nobody offers stays UNIMPLEMENTED."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
            return self._answer(handler, handler_call_details.method, data, context)

        pool = getattr(handler.unary_unary, "experimental_thread_pool", None)
        if pool is not None:  # a method with threads of its own keeps them
            answer.experimental_thread_pool = pool  # type: ignore[attr-defined]
        # Bytes are parsed and made in `_answer`, where a failure can be told from a defect and sizes are known.
        return grpc.unary_unary_rpc_method_handler(answer)

    def _answer(self, handler: Any, method: str, data: bytes, context: Any) -> bytes:
        started = time.monotonic()
        metadata = dict(context.invocation_metadata())
        call = Call(tracing.request_id(_text(metadata.get("x-request-id"))), self._caller(started, context))
        call.initial_metadata.append(("x-request-id", call.request_id))
        token = _CURRENT.set(call)
        code, refusal, response = OK, None, b""
        self._metrics.begin(_PROTOCOL)
        try:
            raise_if_refused()
            message = handler.unary_unary(_parse(handler.request_deserializer, data), context)
            response = _serialize(handler.response_serializer, message)
            status = context.code()
            code = status.name if status is not None else code
            context.send_initial_metadata(tuple(call.initial_metadata))
            return response
        except ScoringError as error:
            code, refusal = error.code, error.refusal
            call.model = call.model or error.model
            if error.code is ErrorCode.INTERNAL:
                _abort_with_defect(context, call, error)
            if isinstance(error, ResourceExhaustedError):
                pause_ms = max(1, round(1000 * error.retry_after_seconds))
                context.set_trailing_metadata(((_PUSHBACK, str(pause_ms)),))
            _abort(context, call, error.code, error.message)
        except grpc.RpcError:  # the caller went away: there is nobody to answer
            code = ErrorCode.CANCELLED
            raise
        except Exception as error:  # noqa: BLE001  # the transport's border: log and convert
            code = ErrorCode.INTERNAL
            _abort_with_defect(context, call, error)
        finally:
            _CURRENT.reset(token)
            self._metrics.end(_PROTOCOL)
            self._metrics.count_request(
                AnsweredRequest(
                    protocol=_PROTOCOL,
                    code=code,
                    seconds=time.monotonic() - started,
                    request_id=call.request_id,
                    method=method.rpartition("/")[2],
                    path=method,
                    model=call.model,
                    version=call.version,
                    signature=call.signature,
                    num_rows=call.num_rows,
                    bytes_in=len(data),
                    bytes_out=len(response),
                    queue_seconds=call.caller.queue_seconds,
                    compute_seconds=call.caller.compute_seconds,
                    peer=_address(context.peer()),
                    refusal=refusal,
                )
            )

    def _caller(self, started_seconds: float, context: Any) -> Caller:
        remaining = context.time_remaining()
        seconds = self._timeout_seconds if remaining is None or remaining > _NO_DEADLINE_SECONDS else remaining
        host, _, _ = str(context.peer()).rpartition(":")
        caller = Caller(started_seconds + seconds, host)
        if not context.add_callback(caller.cancel):
            caller.cancel()
        return caller


def _address(peer: str) -> str:
    """Return the address in gRPC's `ipv4:127.0.0.1:4711`, `ipv6:%5B::1%5D:4711`, `unix:`."""
    kind, _, rest = str(peer).partition(":")
    return urllib.parse.unquote(rest.rpartition(":")[0]).strip("[]") if kind in {"ipv4", "ipv6"} else kind


def _parse(deserializer: Callable[[bytes], Any] | None, data: bytes) -> Any:
    if deserializer is None:
        return data
    try:
        return deserializer(data)
    except DecodeError as error:
        message = "the message does not parse. Send the protobuf message of this method."
        raise InvalidArgumentError(message) from error


def _serialize(serializer: Callable[[Any], bytes] | None, message: Any) -> bytes:
    return bytes(message) if serializer is None else serializer(message)


def _abort(context: grpc.ServicerContext, call: Call, code: ErrorCode, message: str) -> NoReturn:
    context.send_initial_metadata(tuple(call.initial_metadata))
    shortened = message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "...TRUNCATED"
    context.abort(grpc.StatusCode[code], shortened)


def _abort_with_defect(context: grpc.ServicerContext, call: Call, error: Exception) -> NoReturn:
    structlog.get_logger().error("request failed", request_id=call.request_id, exc_info=error)
    _abort(context, call, ErrorCode.INTERNAL, f"internal error, request_id={call.request_id}")


def _text(value: str | bytes | None) -> str | None:
    return value if isinstance(value, str) else None
