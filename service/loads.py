"""The loads that run: those of different models side by side, each on a thread of its own, one of a model at a time.

Above: `watcher`, on whose thread everything is decided and done but the load itself. Below: `repository` and
`model_version`, for their names.
"""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable

from service.loading.bounds import PATIENCE_SECONDS
from service.model_version import ModelVersion
from service.repository import VersionFolder
from service.retries import Fingerprint

MOST_AT_ONCE = 4
"""Loads that have the processor and the memory among themselves; the others wait for their turn."""


@dataclasses.dataclass(eq=False)
class Load:
    """One load.

    Args:
        folder: of the version.
        fingerprint: of its files when it began.
        began_seconds: monotonic.
        live: what came of it, or None.
        error: why nothing did, or None.
    """

    folder: VersionFolder
    fingerprint: Fingerprint
    began_seconds: float
    live: ModelVersion | None = None
    error: Exception | None = None


class Loads:
    """Begins loads in the order they were asked for and hands back each when it has ended.

    Guarantees: of a model one runs at a time. At most `MOST_AT_ONCE` run that began within the last `PATIENCE_SECONDS`:
    a load waits for its turn that long at most for each `MOST_AT_ONCE` that were asked for before it, whatever they do.

    Args:
        load: makes a live version of a folder; called on a thread of its own.
        clock: monotonic seconds.

    Thread safety: for one thread, but for `wake`.
    """

    def __init__(self, load: Callable[[VersionFolder], ModelVersion], clock: Callable[[], float]) -> None:
        self._load = load
        self._clock = clock
        self._running: dict[str, Load] = {}
        self._waiting: dict[str, VersionFolder] = {}
        self._ended: queue.SimpleQueue[Load | None] = queue.SimpleQueue()

    def models(self) -> set[str]:
        """Return the models of which a version is loaded, or waits to be."""
        return self._running.keys() | self._waiting.keys()

    def running(self, model: str) -> Load | None:
        """Return the load of a model that runs."""
        return self._running.get(model)

    def ask(self, folder: VersionFolder) -> None:
        """Let a version be loaded when it is its model's turn; where another of the model waits, instead of that."""
        self._waiting[folder.model] = folder

    def withdraw(self, model: str) -> None:
        """Let nothing of a model wait any more."""
        self._waiting.pop(model, None)

    def withdraw_all(self) -> None:
        """Let nothing wait any more."""
        self._waiting.clear()

    def begin(self, prepare: Callable[[VersionFolder], Fingerprint | None]) -> None:
        """Begin what waits, as far as there is room.

        Args:
            prepare: called just before; returns the fingerprint of the version's files, or None: it is not loaded.
        """
        for model in list(self._waiting):
            if model in self._running:
                continue
            if self._num_fresh() >= MOST_AT_ONCE:
                return
            folder = self._waiting.pop(model)
            fingerprint = prepare(folder)
            if fingerprint is None:
                continue
            load = self._running[model] = Load(folder, fingerprint, self._clock())
            threading.Thread(target=self._run, args=(load,), name=f"load-{model}", daemon=True).start()

    def next_ended(self, timeout_seconds: float) -> Load | None:
        """Wait for a load to end and return it; None when the time is over, or after `wake`."""
        with contextlib.suppress(queue.Empty):
            load = self._ended.get(timeout=max(0.0, timeout_seconds))
            if load is not None:
                del self._running[load.folder.model]
            return load
        return None

    def wake(self) -> None:
        """Let who waits in `next_ended` go on."""
        self._ended.put(None)

    def _num_fresh(self) -> int:
        now = self._clock()
        return sum(now - load.began_seconds < PATIENCE_SECONDS for load in self._running.values())

    def _run(self, load: Load) -> None:
        try:
            load.live = self._load(load.folder)
        except Exception as error:  # noqa: BLE001  (the watcher's border; it tells apart what it was)
            load.error = error
        finally:
            self._ended.put(load)
