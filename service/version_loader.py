"""From a folder to a live version: proved in the loading process, given an engine, made warm.

Above: `worker` and `fleet`, which give it to the watcher. Below: `loading`, `engines`, `model_version`. Proving
and making warm are two steps, because where several processes serve the first is done once and the second in each.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

import structlog

from service import engines, logs
from service.errors import VersionRefusedError
from service.loader import LoadedVersion
from service.loading.fork_server import Order
from service.loading.process import LoadingProcess
from service.metrics import Metrics
from service.model_version import Batching, ModelVersion
from service.repository import VersionFolder
from service.settings import Settings

_TURN_SECONDS = 0.0005

Make = Callable[[LoadedVersion, bool], ModelVersion]
"""Makes a live version of a loaded one; the second argument says whether TensorFlow sees a GPU."""


class VersionLoader:
    """Makes a live version of a folder: proved in the loading process, on the engine of the settings, warm.

    Args:
        settings: engine, allow_uncertified, and what `VersionMaker` needs.
        metrics: counts what the batchers do; None: nobody counts.
        process: loads.
        make: makes a live version of what was loaded; by default here.

    Thread safety: may be called from several threads at once: loads run side by side. `start` and `close` are for the
    owner.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        process: LoadingProcess | None = None,
        make: Make | None = None,
    ) -> None:
        self._settings = settings
        self._make = make or VersionMaker(settings, metrics)
        self._process = process or LoadingProcess()
        self._has_loaded = False

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
        live = self._make(loaded, self._process.sees_gpu())
        self._has_loaded = True
        return live


class VersionMaker:
    """Makes live versions of loaded ones, in the process that serves them: on the engine of the settings, and warm.

    Args:
        settings: engine, allow_tf32, intra_op_threads, and the bounds of batches and queue.
        metrics: counts what the batchers do; None: nobody counts.

    Thread safety: may be called from several threads at once; one version after the other is made warm, because that
    takes Python's lock from requests.
    """

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self._settings = settings
        counts = metrics or Metrics()
        self._batching = Batching(
            max_batch_rows=settings.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            max_queue_bytes=settings.max_queue_bytes,
            statistics=counts.batch_statistics,
        )
        self._warming = threading.Lock()
        self._is_configured = False

    def __call__(self, loaded: LoadedVersion, sees_gpu: bool) -> ModelVersion:
        """Return the version.

        Raises:
            VersionRefusedError: its engine fails, or does not give the probe's answers again.
        """
        with self._warming, _short_turns():
            live = ModelVersion(loaded, self._create_engine(loaded, sees_gpu=sees_gpu), self._batching)
            live.make_ready()
        return live

    def _create_engine(self, loaded: LoadedVersion, *, sees_gpu: bool) -> engines.Engine:
        """Return the engine; without a GPU or need for it TensorFlow is not imported into this process."""
        settings = self._settings
        if settings.engine == "auto" and loaded.program is not None and not sees_gpu:
            return engines.create(loaded, "program", num_threads=settings.intra_op_threads)
        if settings.engine != "program" and not self._is_configured:
            # Here, on the watcher's thread: TensorFlow takes seconds to import, and the ports answer meanwhile.
            with logs.without_native_noise():
                from service.engines.tensorflow import configure_devices

                configure_devices(allow_tf32=settings.allow_tf32, intra_op_threads=settings.intra_op_threads)
            self._is_configured = True
        return engines.create(
            loaded, settings.engine, allow_tf32=settings.allow_tf32, num_threads=settings.intra_op_threads
        )


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
