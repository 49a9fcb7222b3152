"""The composition root: everything that one serving process is made of, and the order in which it starts and stops.

Above: `server`, which owns signals and the process. Below: every part of the service.
"""

import contextlib
import dataclasses
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures

import flask
import grpc
import structlog

from service import engines, logs
from service.access_log import AccessLog
from service.answered import AnsweredRequest
from service.errors import VersionRefusedError
from service.loader import LoadedVersion
from service.loading.fork_server import Order
from service.loading.process import LoadingProcess
from service.metrics import Metrics
from service.model_version import Batching, ModelVersion
from service.program.kernel.library import why_missing
from service.registry import Registry
from service.repository import Repository, VersionFolder
from service.rest.app import SCORE_ROUTES, create_app
from service.rest.native import room_check
from service.rest.server import HttpServer
from service.rpc.call_gate import CallGate
from service.rpc.server import create_server
from service.schema_change import SteadySchema
from service.scorer import Scorer
from service.settings import Settings
from service.watcher import Watcher

_QUIET_SECONDS = 0.05
_LAST_SECONDS = 0.25
_TURN_SECONDS = 0.0005
_LAST_CALL_SECONDS = 0.5
"""How long before the end what waits is refused; of a shorter time a share."""
_LAST_CALL_SHARE = 0.25


class StartError(Exception):
    """The server cannot start; the text says what to do and is all that a person needs to read."""


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Where the two protocols are bound: `host:port`, the port being the one that was got where 0 was asked for."""

    rest: str
    grpc: str


def serve_http(
    app: flask.Flask,
    settings: Settings,
    check_room: Callable[[bytes], None],
    tell: Callable[[AnsweredRequest], None],
) -> HttpServer:
    """Bind the REST port for `app`; `start` of what is returned begins to accept.

    Args:
        app: the application.
        settings: as for `HttpServer`.
        check_room: refuses a request by its path, before its body is read.
        tell: told of what the application never saw.

    Raises:
        StartError: the address cannot be listened on.
    """
    try:
        begin = app.extensions[SCORE_ROUTES].begin
        return HttpServer(app, settings, check_room=check_room, tell=tell, begin=begin)
    except OSError as error:
        raise _cannot_listen("--rest-port", settings.host, settings.rest_port, error) from error


class Worker:
    """The process that serves, as one object.

    Both ports are bound when it is made, so that a port in use is known at once and before anything is loaded.

    Args:
        settings: all of it.
        load: makes a live version of a folder; by default it is proved, verified and warmed up.

    Raises:
        StartError: a port is in use, or the address is not this machine's.

    Thread safety: the methods are for the owner, one at a time.
    """

    def __init__(self, settings: Settings, *, load: Callable[[VersionFolder], ModelVersion] | None = None) -> None:
        self.settings = settings
        access_log = AccessLog(logs.write_later, settings.log_format, settings.log_level)
        self.metrics = Metrics(access_log.log if settings.access_log else None)
        self.registry = Registry(settings.default_model)
        self.registry.subscribe(lambda: self.metrics.forget_gone(self.registry.models()))
        repository = Repository(settings.models_dir, follow_model_links=settings.follow_model_links)
        self._loader = VersionLoader(settings, self.metrics)
        make = load or self._loader
        if not settings.allow_schema_change:
            make = SteadySchema(make, self.registry)
        self.watcher = Watcher(repository, self.registry, make, self.metrics, settings, give_up=self._loader.give_up)
        self._loads_itself = load is None
        scorer = Scorer(self.registry, settings.max_request_rows)
        self.app = create_app(scorer, self.registry, self.metrics, settings)
        _check_free(settings)
        self._gate = CallGate()
        server = create_server(scorer, self.registry, self.metrics, settings, self._gate)
        self._grpc: grpc.Server | None = server
        self._http = serve_http(self.app, settings, room_check(scorer), self.metrics.count_request)
        self.metrics.watch_http(lambda: self._http.load)
        try:
            grpc_port = server.add_insecure_port(_address(settings.host, settings.grpc_port))
        except RuntimeError as error:
            self._http.stop(0.0)
            raise _cannot_listen("--grpc-port", settings.host, settings.grpc_port, error) from error
        self.addresses = Addresses(_address(settings.host, self._http.port), _address(settings.host, grpc_port))
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Look for versions and accept requests; before the first version is live they are answered UNAVAILABLE."""
        if self._loads_itself:
            self._loader.start()
        self.watcher.start()
        if self._grpc is not None:
            self._grpc.start()
        self._http.start()
        self._log.info("serving", rest=self.addresses.rest, grpc=self.addresses.grpc)
        if self.settings.engine != "tensorflow" and (reason := why_missing()):
            self._log.warning("there is no compiled kernel: NumPy computes, in several times the time", reason=reason)

    def drain(self) -> None:
        """Be not ready, and ask clients to go elsewhere, while every request is still answered."""
        self.registry.start_draining()
        self._http.close_gently()

    def stop(self, timeout_seconds: float) -> bool:
        """Stop in the reverse order: accept nothing more, finish what was accepted, end the watcher. For once.

        What still waits for its turn shortly before the time is over is answered UNAVAILABLE, so that there is time to
        send it; until then every accepted request is computed.

        Args:
            timeout_seconds: most time for the accepted requests; a load that runs gets half a second more.

        Returns:
            Whether everything was finished and every thread ended.
        """
        deadline = time.monotonic() + timeout_seconds
        self.drain()
        self._gate.close()
        last_call_seconds = timeout_seconds - min(_LAST_CALL_SECONDS, timeout_seconds * _LAST_CALL_SHARE)
        last_call = threading.Timer(last_call_seconds, self.registry.refuse_waiting)
        last_call.start()
        with futures.ThreadPoolExecutor(1, thread_name_prefix="stop") as pool:  # the two protocols have the same time
            http_ended = pool.submit(self._http.stop, timeout_seconds)
            finished = self._stop_grpc(deadline) & http_ended.result()
        last_call.cancel()
        last_call.join()
        finished &= self.watcher.stop(_LAST_SECONDS, self._loader.close)
        return self.registry.close() and finished

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


class VersionLoader:
    """Makes a live version of a folder: proved in the loading process, on the engine of the settings, warm.

    Args:
        settings: engine, allow_tf32, allow_uncertified, intra_op_threads, and the bounds of batches and queue.
        metrics: counts what the batchers do; None: nobody counts.
        process: loads.

    Thread safety: may be called from several threads at once: loads run side by side, and one version after the other
    is made warm, because that takes Python's lock from requests. `start` and `close` are for the owner.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics | None = None, process: LoadingProcess | None = None
    ) -> None:
        self._settings = settings
        counts = metrics or Metrics()
        self._batching = Batching(
            max_batch_rows=settings.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            max_queue_bytes=settings.max_queue_bytes,
            statistics=counts.batch_statistics,
        )
        self._process = process or LoadingProcess()
        self._warming = threading.Lock()
        self._has_loaded = False
        self._is_configured = False

    def start(self) -> None:
        """Let the loading process import TensorFlow, so that the first version need not wait for it."""
        try:
            self._process.start()
        except OSError as error:  # no memory or no process left for now: what the watcher does is tried again
            structlog.get_logger().warning("the loading process cannot be started now", why=error.strerror)

    def close(self) -> None:
        """End the loading process; a load that runs fails."""
        self._process.close()

    def give_up(self, folder: VersionFolder) -> None:
        """Let the load of a folder fail, if one runs."""
        self._process.give_up(folder.path)

    def __call__(self, folder: VersionFolder) -> ModelVersion:
        """Return the version.

        Raises:
            VersionRefusedError: it must not be served.
            LoadFailedError: it could not be loaded now.
        """
        settings = self._settings
        order = Order(folder.path, folder.model, folder.version, settings.allow_uncertified, gently=self._has_loaded)
        loaded = self._process.load(order)
        if settings.engine == "program" and loaded.program is None:
            raise VersionRefusedError("engine", "it is not proved, so that --engine program cannot run it")
        with self._warming, _short_turns():
            live = ModelVersion(loaded, self._create_engine(loaded), self._batching)
            try:
                live.warm_up()
                live.reproduce(loaded.probe)
            except BaseException:
                live.close()
                raise
        self._has_loaded = True
        return live

    def _create_engine(self, loaded: LoadedVersion) -> engines.Engine:
        """Return the engine; without a GPU or need for it TensorFlow is not imported into this process."""
        settings = self._settings
        if settings.engine == "auto" and loaded.program is not None and not self._process.sees_gpu():
            return engines.create(loaded, "program")
        if settings.engine != "program" and not self._is_configured:
            # Here, on the watcher's thread: TensorFlow takes seconds to import, and the ports answer meanwhile.
            with logs.without_native_noise():
                from service.engines.tensorflow import configure_devices

                configure_devices(allow_tf32=settings.allow_tf32, intra_op_threads=settings.intra_op_threads)
            self._is_configured = True
        return engines.create(loaded, settings.engine, allow_tf32=settings.allow_tf32)


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """Let requests wait a tenth as long as usual for Python's lock while this thread computes an engine's trials.

    A thread that computes keeps the lock for 5 ms at a time, and a request takes it several times.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _check_free(settings: Settings) -> None:
    """Try the gRPC port with a plain socket first: gRPC's own complaint is five lines of its internals."""
    if settings.grpc_port == 0:
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.grpc_port), family=family).close()
    except OSError as error:
        raise _cannot_listen("--grpc-port", settings.host, settings.grpc_port, error) from error


def _cannot_listen(flag: str, host: str, port: int, error: Exception) -> StartError:
    why = (error.strerror or str(error)) if isinstance(error, OSError) else "the address cannot be bound"
    return StartError(
        f"cannot listen on {_address(host, port)}: {why}. "
        f"Stop the server that uses it, or choose another with {flag} (0: any free one)."
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
