"""The gRPC server: services, interceptor, limits. Not started and on no port yet.

Above: `worker`, which binds, starts and stops it. Below: the services and `health`.
"""

import grpc

from service.metrics import Metrics
from service.registry import Registry
from service.rpc.call_gate import CallGate
from service.rpc.call_threads import CallThreads
from service.rpc.health import HealthService
from service.rpc.interceptors import CallInterceptor
from service.rpc.model_service import ModelService
from service.rpc.prediction_service import PredictionService
from service.scorer import Scorer
from service.settings import Settings

_MAX_CONCURRENT_CALLS = 1024
_MAX_METADATA_BYTES = 16 << 10
_MIN_PING_INTERVAL_MS = 10_000


def create_server(
    scorer: Scorer, registry: Registry, metrics: Metrics, settings: Settings, gate: CallGate | None = None
) -> grpc.Server:
    """Return the server with every service that is offered; the caller binds a port, starts it and stops it.

    Who closes the gate before the stop spares callers a CANCELLED.

    Threads are bounded by `settings.grpc_threads` (health has its own), calls that wait for one by
    `settings.max_waiting_requests` and by their deadlines: one more is RESOURCE_EXHAUSTED at once. So is any call while
    there are 1024, watchers of health among them.
    """
    server = grpc.server(
        CallThreads(settings.grpc_threads, settings.max_waiting_requests, settings.request_timeout_seconds),
        interceptors=[CallInterceptor(metrics, settings.request_timeout_seconds), gate or CallGate()],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
            ("grpc.so_reuseport", 0),  # else a second server would share the port silently
        ],
        maximum_concurrent_rpcs=_MAX_CONCURRENT_CALLS,
    )
    server.add_generic_rpc_handlers(
        (
            PredictionService(scorer, registry, settings).handlers(),
            ModelService(registry).handlers(),
            HealthService(registry, settings).handlers(),
        )
    )
    return server
