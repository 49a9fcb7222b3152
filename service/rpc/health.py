"""`grpc.health.v1`: the truth about every model, and about the whole server under the empty name.

Above: `server`. Below: `registry`, which is asked at every Check and tells of every change.

The messages are those of the stock package; its servicer is not used, because it sends to every watcher under one lock:
a single client that does not read would hold up the others, every Check, and the registry that tells of the change.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from service.errors import NotFoundError
from service.registry import Registry
from service.settings import Settings

SERVICE = "grpc.health.v1.Health"
MAX_WATCHERS = 64

_SERVING = int(health_pb2.HealthCheckResponse.SERVING)
_NOT_SERVING = int(health_pb2.HealthCheckResponse.NOT_SERVING)
_SERVICE_UNKNOWN = int(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
_THREADS_FOR_CHECKS = 4
_LONGEST_WAIT_SECONDS = 60.0


class _Changes:
    """Counts changes and lets watchers wait for the next one; noting one never waits for a watcher's network."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._num_changes = 0

    def note(self) -> None:
        with self._condition:
            self._num_changes += 1
            self._condition.notify_all()

    def count(self) -> int:
        with self._condition:
            return self._num_changes

    def wait(self, seen: int, timeout_seconds: float) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._num_changes != seen, timeout_seconds)


class HealthService:
    """The methods of the service. A service name is a model's name, or empty for the whole server.

    A model is SERVING while it has an available version and the server is not about to end; the empty name is what
    `/readyz` says. A name that is no model's is NOT_FOUND (Check) or SERVICE_UNKNOWN (Watch).

    Checks and watchers run on threads of their own: neither load nor watchers keep a probe or a request waiting. When
    the server is about to end, a watcher is told NOT_SERVING and its stream ends, so that it does not delay the end.

    Args:
        registry: asked at every Check, subscribed to for the watchers.
        settings: `require_models` counts for the empty name.
        max_watchers: one more is RESOURCE_EXHAUSTED.

    Thread safety: every method may be called from any thread.
    """

    def __init__(self, registry: Registry, settings: Settings, *, max_watchers: int = MAX_WATCHERS) -> None:
        self._registry = registry
        self._required = settings.require_models
        self._places = threading.BoundedSemaphore(max_watchers)
        self._changes = _Changes()
        self._pool = futures.ThreadPoolExecutor(max_watchers + _THREADS_FOR_CHECKS, thread_name_prefix="grpc-health")
        registry.subscribe(self._changes.note)  # not a method of ours: the threads go when the server goes

    def handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """Return the handlers to add to a server."""
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(
                self._on_own_threads(self.check),
                health_pb2.HealthCheckRequest.FromString,
                health_pb2.HealthCheckResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._on_own_threads(self.watch), None, health_pb2.HealthCheckResponse.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def check(self, request: Any, _context: grpc.ServicerContext) -> Any:
        """Return the status of a service, as it is now.

        Raises:
            NotFoundError: no model has that name.
        """
        status = self._status(request.service)
        if status == _SERVICE_UNKNOWN:
            raise NotFoundError(
                f"there is no model '{request.service[:40]}'. Ask for a model's name, or the empty one."
            )
        return health_pb2.HealthCheckResponse(status=status)

    def watch(self, data: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
        """Yield the status of a service now and after each change, until the caller goes away or the server ends.

        Args:
            data: a serialized `HealthCheckRequest`.
            context: of the call.
        """
        try:
            service = health_pb2.HealthCheckRequest.FromString(data).service
        except DecodeError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message does not parse. Send a HealthCheckRequest.")
        if not self._places.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watchers. Use Check, or try again later.")
        try:
            yield from self._follow(service, context)
        finally:
            self._places.release()

    def _follow(self, service: str, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(self._changes.note)  # the caller went away: do not wait for the next change
        told: int | None = None
        while context.is_active():
            seen = self._changes.count()
            is_last = self._registry.draining
            status = self._status(service)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            if is_last:
                return
            self._changes.wait(seen, _LONGEST_WAIT_SECONDS)

    def _status(self, service: str) -> int:
        if not service:
            return _SERVING if self._registry.ready(self._required) else _NOT_SERVING
        try:
            versions = self._registry.statuses(service)
        except NotFoundError:
            return _SERVICE_UNKNOWN
        is_available = any(version.state == "AVAILABLE" for version in versions)
        return _SERVING if is_available and not self._registry.draining else _NOT_SERVING

    def _on_own_threads(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def on_own_threads(request: Any, context: grpc.ServicerContext) -> Any:
            return method(request, context)

        on_own_threads.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        return on_own_threads
