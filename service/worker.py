"""The composition root: everything that one serving process is made of, and the order in which it starts and stops.

Above: `server`, which owns signals and the process, and `fleet`, of whose processes each has `Protocols`. Below: every
part of the service.
"""

import dataclasses
import socket
import threading
import time
from collections.abc import Callable
from concurrent import futures

import flask
import grpc
import structlog

from service import logs, ports
from service.access_log import AccessLog
from service.answered import AnsweredRequest
from service.loading.process import LoadingProcess
from service.metrics import Metrics
from service.model_version import ModelVersion
from service.ports import Addresses, StartError
from service.program.kernel.library import why_missing
from service.registry import Registry
from service.repository import Repository, VersionFolder
from service.rest.acceptor import Shares
from service.rest.app import SCORE_ROUTES, create_app
from service.rest.native import room_check
from service.rest.server import HttpServer
from service.rpc.call_gate import CallGate
from service.rpc.server import create_server
from service.schema_change import SteadySchema
from service.scorer import Scorer
from service.settings import Settings
from service.version_loader import VersionLoader
from service.watcher import Watcher

__all__ = ["Addresses", "Protocols", "StartError", "VersionLoader", "Worker"]

_QUIET_SECONDS = 0.25
"""So long no call has arrived at the gate: more than a busy machine takes from a call's bytes to its arrival there."""
_LAST_SECONDS = 0.25
_LAST_CALL_SECONDS = 0.5
"""How long before the end what waits is refused; of a shorter time a share."""
_LAST_CALL_SHARE = 0.25


def serve_http(
    app: flask.Flask,
    settings: Settings,
    check_room: Callable[[bytes], None],
    tell: Callable[[AnsweredRequest], None],
    shared: tuple[socket.socket, Shares] | None = None,
) -> HttpServer:
    """Bind the REST port for `app`; `start` of what is returned begins to accept.

    Args:
        app: the application.
        settings: as for `HttpServer`.
        check_room: refuses a request by its path, before its body is read.
        tell: told of what the application never saw.
        shared: what several processes accept from, and their shares; None: a socket of its own.

    Raises:
        StartError: the address cannot be listened on.
    """
    try:
        begin = app.extensions[SCORE_ROUTES].begin
        return HttpServer(app, settings, shared=shared, check_room=check_room, tell=tell, begin=begin)
    except OSError as error:
        raise ports.cannot_listen("--rest-port", settings.host, settings.rest_port, error) from error


def access_log_of(settings: Settings) -> Callable[[AnsweredRequest], None] | None:
    """Return what writes a line for each request, where the settings ask for it."""
    log = AccessLog(logs.write_later, settings.log_format, settings.log_level)
    return log.log if settings.access_log else None


@dataclasses.dataclass(frozen=True)
class SharedPorts:
    """The two ports, where several processes answer on them.

    Args:
        listener: of REST, which listens; each process accepts from it.
        shares: of its connections.
        grpc_port: bound by each process again.
    """

    listener: socket.socket
    shares: Shares
    grpc_port: int


class Protocols:
    """REST and gRPC over one registry.

    Both ports are bound when it is made, so that a port in use is known at once and before anything is loaded.

    Args:
        settings: all of it.
        registry: what is live.
        metrics: counts.
        shared: the ports, where other processes answer on them too; None: ports of its own.

    Raises:
        StartError: a port is in use, or the address is not this machine's.

    Thread safety: the methods are for the owner, one at a time.
    """

    def __init__(
        self, settings: Settings, registry: Registry, metrics: Metrics, shared: SharedPorts | None = None
    ) -> None:
        self._registry = registry
        scorer = Scorer(registry, settings.max_request_rows)
        self.app = create_app(scorer, registry, metrics, settings)
        grpc_port = settings.grpc_port
        if shared is None:
            ports.check_free(settings)
        else:
            grpc_port = shared.grpc_port
        self._gate = CallGate()
        server = create_server(scorer, registry, metrics, settings, self._gate, shares_port=shared is not None)
        self._grpc: grpc.Server | None = server
        rest = None if shared is None else (shared.listener, shared.shares)
        self._http = serve_http(self.app, settings, room_check(scorer), metrics.count_request, rest)
        metrics.watch_http(lambda: self._http.load)
        try:
            grpc_port = server.add_insecure_port(ports.address(settings.host, grpc_port))
        except RuntimeError as error:
            self._http.stop(0.0)
            raise ports.cannot_listen("--grpc-port", settings.host, grpc_port, error) from error
        rest_address = ports.address(settings.host, self._http.port)
        self.addresses = Addresses(rest_address, ports.address(settings.host, grpc_port))

    def start(self) -> None:
        """Accept requests."""
        if self._grpc is not None:
            self._grpc.start()
        self._http.start()

    def close_gently(self) -> None:
        """Ask clients to go elsewhere, while every request is still answered."""
        self._http.close_gently()

    def stop(self, timeout_seconds: float) -> bool:
        """Accept nothing more and finish what was accepted; return whether everything was. For once.

        What still waits for its turn shortly before the time is over is answered UNAVAILABLE, so that there is time to
        send it; until then every accepted request is computed.
        """
        deadline = time.monotonic() + timeout_seconds
        self._gate.close()
        last_call_seconds = timeout_seconds - min(_LAST_CALL_SECONDS, timeout_seconds * _LAST_CALL_SHARE)
        last_call = threading.Timer(last_call_seconds, self._registry.refuse_waiting)
        last_call.start()
        with futures.ThreadPoolExecutor(1, thread_name_prefix="stop") as pool:  # the two protocols have the same time
            http_ended = pool.submit(self._http.stop, timeout_seconds)
            finished = self._stop_grpc(deadline) & http_ended.result()
        last_call.cancel()
        last_call.join()
        return finished

    def _stop_grpc(self, deadline_seconds: float) -> bool:
        server, self._grpc = self._grpc, None  # the threads of its services end with it
        if server is None:
            return True
        self._gate.wait_until_quiet(_QUIET_SECONDS, max(0.0, deadline_seconds - time.monotonic()) / 2)
        ended = server.stop(max(0.0, deadline_seconds - time.monotonic()))
        self._gate.release()
        has_ended = ended.wait(max(0.0, deadline_seconds - time.monotonic()) + _LAST_SECONDS)
        if has_ended:
            self._gate.end()
        return has_ended


class Worker:
    """The process that serves alone, as one object.

    Both ports are bound when it is made, so that a port in use is known at once and before anything is loaded.

    Args:
        settings: all of it.
        load: makes a live version of a folder; by default it is proved, verified and warmed up.
        process: proves them; by default one is started.

    Raises:
        StartError: a port is in use, or the address is not this machine's.

    Thread safety: the methods are for the owner, one at a time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[VersionFolder], ModelVersion] | None = None,
        process: LoadingProcess | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics(access_log_of(settings))
        self.registry = Registry(settings.default_model)
        self.registry.subscribe(lambda: self.metrics.forget_gone(self.registry.models()))
        repository = Repository(settings.models_dir, follow_model_links=settings.follow_model_links)
        self._loader = VersionLoader(settings, self.metrics, process)
        make = load or self._loader
        if not settings.allow_schema_change:
            make = SteadySchema(make, self.registry)
        self.watcher = Watcher(repository, self.registry, make, self.metrics, settings, give_up=self._loader.give_up)
        self._loads_itself = load is None
        self._protocols = Protocols(settings, self.registry, self.metrics)
        self.app, self.addresses = self._protocols.app, self._protocols.addresses
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Look for versions and accept requests; before the first version is live they are answered UNAVAILABLE."""
        if self._loads_itself:
            self._loader.start()
        self.watcher.start()
        self._protocols.start()
        self._log.info("serving", rest=self.addresses.rest, grpc=self.addresses.grpc)
        if self.settings.engine != "tensorflow" and (reason := why_missing()):
            self._log.warning("there is no compiled kernel: NumPy computes, in several times the time", reason=reason)

    def is_settled(self) -> bool:
        """Whether the first look at the folder is over."""
        return self.watcher.first_scan_over.is_set()

    def drain(self) -> None:
        """Be not ready, and ask clients to go elsewhere, while every request is still answered."""
        self.registry.start_draining()
        self._protocols.close_gently()

    def stop(self, timeout_seconds: float) -> bool:
        """Stop in the reverse order: accept nothing more, finish what was accepted, end the watcher. For once.

        Args:
            timeout_seconds: most time for the accepted requests; a load that runs gets a moment more.

        Returns:
            Whether everything was finished and every thread ended.
        """
        self.drain()
        finished = self._protocols.stop(timeout_seconds)
        finished &= self.watcher.stop(_LAST_SECONDS, self._loader.close)
        return self.registry.close() and finished

    def lost(self) -> str:
        """Return why it can serve no more: never, for it is this process."""
        return ""
