"""The thread that keeps what is live in step with what is on disk: new versions are loaded, old ones are dropped.

Above `registry` (what is live) and `repository` (what is on disk); `worker` starts it and gives it the way to load.
"""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import structlog

from service import manifest
from service.errors import LoadFailedError, NotFoundError, VersionRefusedError
from service.garbage import GarbageCollection
from service.lifecycle import Choice, VersionState, choose
from service.loads import PATIENCE_SECONDS, Load, Loads
from service.metrics import Metrics
from service.model_version import ModelVersion
from service.registry import Registry
from service.repository import Repository, VersionFolder
from service.retries import Fingerprint, Retries
from service.settings import Settings

LOAD_ERROR = "load-error"
"""Rule of a version whose load failed with an error that is no verdict; it is tried again."""

_TRANSIENT_RULES = frozenset({"file-unreadable"})
_LONGEST_RETIRE_WAIT_SECONDS = 0.05  # what is held longer is waited for at the next looks
_LONGEST_PAUSE_SECONDS = 1.0
_WAITING = "waiting until its files stay the same between two looks at the folder"


@dataclasses.dataclass
class _Look:
    """What a look at a model's folder found, and what became of its versions since.

    Args:
        folders: version -> its folder.
        listed: versions that are there, or were at the look before.
        labels: label -> version, as wanted.
        problem: what is wrong with the labels.
        live: versions that answered then.
        judged: version -> whether it is worth a load, or loaded.
    """

    folders: Mapping[int, VersionFolder]
    listed: set[int]
    labels: Mapping[str, int]
    problem: str
    live: list[int]
    judged: dict[int, bool] = dataclasses.field(default_factory=dict)


class Watcher:
    """Polls the repository and publishes, refuses and retires versions on one thread; loads run beside it.

    Guarantees: a model that cannot be read or loaded, or whose load takes long, does not keep another from being
    loaded; of one model one version is loaded at a time, and a load that takes long is given up once another version
    is to be loaded instead. A refused version is tried again only when its files change, any other failure after a
    growing pause too; a folder that is empty or gone changes nothing of what is served; a version is taken as deleted
    only after two looks without it. Of a model no more is in memory than what is served and what replaces it (two
    versions, without labels, where the latest one is served): none is loaded while one that left is held.

    Args:
        repository: what is on disk.
        registry: what is live.
        load: makes a warm live version of a folder; raises VersionRefusedError for one that must not be served. It is
            called on threads of their own, several at once.
        metrics: loads and swaps are counted there.
        settings: latest_versions, poll_interval_seconds.
        clock: monotonic seconds.
        tidy: called after loads and drops.
        give_up: lets the load of a folder raise, soon; called from the watcher's thread.

    Thread safety: `scan` is for one thread at a time; `start` and `stop` for the owner.
    """

    def __init__(  # noqa: PLR0913  (a seam for each of disk, life, loading, counting, time and garbage)
        self,
        repository: Repository,
        registry: Registry,
        load: Callable[[VersionFolder], ModelVersion],
        metrics: Metrics,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        tidy: Callable[[], None] | None = None,
        give_up: Callable[[VersionFolder], None] = lambda _: None,
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._loads = Loads(load, clock)
        self._give_up = give_up
        self._metrics = metrics
        self._latest = settings.latest_versions
        self._poll_interval_seconds = settings.poll_interval_seconds
        self._retire_wait_seconds = min(settings.poll_interval_seconds, _LONGEST_RETIRE_WAIT_SECONDS)
        self._clock = clock
        self._tidy = tidy if tidy is not None else GarbageCollection()
        self._log = structlog.get_logger()
        self._retries = Retries()
        self._looks: dict[str, _Look] = {}
        self._seen_files: dict[tuple[str, int], tuple[object, ...]] = {}
        self._listed: dict[str, set[int]] = {}
        self._complaints: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._first_models: set[str] | None = None
        self._progress_seconds = 0.0
        self.first_scan_over = threading.Event()

    # ------------------------------------------------------------------------------------------------------- thread
    def start(self) -> None:
        """Start the thread; the first look at the folder begins at once."""
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float, interrupt: Callable[[], None] = lambda: None) -> bool:
        """Ask the thread to end and wait for it; return whether it ended.

        Args:
            timeout_seconds: longest wait for the thread.
            interrupt: ends a load that runs, by letting it raise; it is called whether or not one does.
        """
        self._stopping.set()
        self._loads.wake()
        interrupt()
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            next_look_seconds = time.monotonic() + self._poll_interval_seconds
            self._look()
            while not self._stopping.is_set() and (left := next_look_seconds - time.monotonic()) > 0.0:
                self._go_on(self._loads.next_ended(min(left, _LONGEST_PAUSE_SECONDS)))
        self._finish()

    # --------------------------------------------------------------------------------------------------------- scan
    def scan(self) -> None:
        """Look through the repository once and do all that follows from it, loads and all. Never raises."""
        self._look()
        self._finish()

    def _look(self) -> None:
        """Look through the repository once and begin what follows from it."""
        if self._registry.sweep():
            self._tidy()
        known = {status.name for status in self._registry.models()}
        for model in sorted(known.union(self._list_models())):
            with self._guarding(model):
                self._scan_model(model)
        if self._first_models is None:
            self._first_models = set(self._loads.models())
            self._progress_seconds = self._clock()
        self._go_on(None)

    def _finish(self) -> None:
        """Wait for all loads, and for those that follow from them; when stopping, for those alone that run."""
        self._go_on(None)
        while self._loads.models():
            self._go_on(self._loads.next_ended(_LONGEST_PAUSE_SECONDS))

    def _go_on(self, ended: Load | None) -> None:
        """Follow the end of a load, begin the next ones, and tell when the first look is over."""
        if ended is not None:
            model, version = ended.folder.model, ended.folder.version
            with self._guarding(model):
                self._looks[model].judged[version] = self._conclude(ended)
                self._advance(model, self._looks[model])
            self._progress_seconds = self._clock()
        if self._stopping.is_set():
            self._loads.withdraw_all()
            return
        self._loads.begin(self._begin)
        if self._first_models is not None and not self.first_scan_over.is_set():
            # Of the first models' loads one that hangs must not keep the others' clients away.
            is_stuck = self._clock() - self._progress_seconds >= PATIENCE_SECONDS
            if is_stuck or not self._first_models & self._loads.models():
                self._registry.scanned()
                self.first_scan_over.set()

    @contextlib.contextmanager
    def _guarding(self, model: str) -> Iterator[None]:
        """Be the watcher's border: one model must not stop the others."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (the watcher's border)
            self._complain(f"model {model}", f"its folder was not read: {type(error).__name__}: {error}")
        else:
            self._complaints.pop(f"model {model}", None)

    def _list_models(self) -> list[str]:
        try:
            models = self._repository.models()
        except OSError as error:
            self._complain("models folder", f"not readable ({error.strerror}); what is served stays")
            return []
        if models:
            self._complaints.pop("models folder", None)
        else:
            self._complain("models folder", "missing, or no model in it; what is served stays")
        return models

    def _scan_model(self, model: str) -> None:
        folders = {folder.version: folder for folder in self._repository.versions(model)}
        listed = set(folders) | self._listed.get(model, set())
        self._listed[model] = set(folders)
        self._forget(model, listed)
        labels, problem = self._read_labels(model)
        look = self._looks[model] = _Look(folders, listed, labels, problem, self._live(model))
        self._registry.set_labels(model, labels, problem)  # those of live versions need not wait for a load
        running = self._loads.running(model)
        if running is None:
            self._advance(model, look)
        elif self._clock() - running.began_seconds >= PATIENCE_SECONDS:
            wanted = self._choose(model, folders, listed, labels, dict(look.judged)).load[:1]
            if wanted != (running.folder.version,):
                self._give_up(running.folder)

    def _advance(self, model: str, look: _Look) -> None:
        """Ask for the next load that follows from a look; where there is none, settle what follows without."""
        choice = self._choose(model, look.folders, look.listed, look.labels, look.judged)
        self._registry.set_labels(model, look.labels, look.problem)
        if choice.load and not self._stopping.is_set() and not self._lingering(model):
            self._loads.ask(look.folders[choice.load[0]])
            return
        self._loads.withdraw(model)
        self._retire(model, choice.retire)
        after = self._live(model)
        if look.live and max(look.live) != max(after):
            self._metrics.count_swap(model)
        self._looks.pop(model, None)

    def _choose(
        self,
        model: str,
        folders: Mapping[int, VersionFolder],
        listed: set[int],
        labels: Mapping[str, int],
        judged: dict[int, bool],
    ) -> Choice:
        """Return what to do, looking no further down than the newest usable versions and the labelled ones."""
        states = self._states(model)
        live = {version for version, state in states.items() if state is VersionState.AVAILABLE}
        labelled = set(labels.values()) | set(self._registry.labels(model).values())
        usable: set[int] = set()
        for version in sorted(listed, reverse=True):
            if len(usable) >= self._latest and version not in labelled:
                continue
            if version in live:
                usable.add(version)
            elif version in folders and states.get(version) is not VersionState.UNLOADING:
                if version not in judged:
                    judged[version] = self._may_try(folders[version])
                usable |= {version} if judged[version] else set()
        return choose(usable, live, labelled, self._latest)

    def _may_try(self, folder: VersionFolder) -> bool:
        """Whether a version that is not live is worth a load now. Once a scan: it compares with the scan before."""
        key = (folder.model, folder.version)
        fingerprint = self._repository.fingerprint(folder)
        if not fingerprint and not os.path.lexists(folder.path):
            return False  # gone since it was listed; a link or an unreadable folder is tried, to say why it is refused
        if not self._retries.may_try(key, fingerprint, self._clock()):
            return False
        seen, self._seen_files[key] = self._seen_files.get(key), fingerprint
        if seen == fingerprint or os.path.lexists(folder.path / manifest.FILE_NAME):
            return True
        self._registry.wait(folder.model, folder.version, _WAITING)
        return False

    # -------------------------------------------------------------------------------------------------- one version
    def _begin(self, folder: VersionFolder) -> Fingerprint:
        """Show that a version is being loaded; return the fingerprint of its files."""
        self._registry.begin(folder.model, folder.version)
        return self._repository.fingerprint(folder)

    def _conclude(self, load: Load) -> bool:
        """Publish what was loaded, or refuse it; return whether it is live."""
        try:
            if load.live is None:
                self._refuse(load)
                return False
            self._publish(load, load.live)
            return True
        finally:
            load.live = load.error = None
            self._tidy()

    def _publish(self, load: Load, live: ModelVersion) -> None:
        model, version = load.folder.model, load.folder.version
        seconds = self._clock() - load.began_seconds
        self._retries.forget((model, version))
        self._metrics.count_load(model, "available", seconds=seconds)
        self._registry.publish(live)
        log = self._log.bind(model=model, version=version)
        log.info("version available", convexity=live.convexity, engine=live.engine.name, seconds=round(seconds, 3))

    def _refuse(self, load: Load) -> None:
        model, version, error = load.folder.model, load.folder.version, load.error
        now, log = self._clock(), self._log.bind(model=model, version=version)
        seconds = now - load.began_seconds
        if isinstance(error, VersionRefusedError) and error.rule not in _TRANSIENT_RULES:
            self._retries.note_refusal((model, version), load.fingerprint)
        elif self._stopping.is_set():  # it was interrupted
            self._registry.refuse(model, version, LOAD_ERROR, "the server ended meanwhile")
            return
        else:
            self._retries.note_failure((model, version), load.fingerprint, now, seconds)
        if isinstance(error, VersionRefusedError):
            self._metrics.count_load(model, "refused", error.rule, seconds)
            self._registry.refuse(model, version, error.rule, error.reason)
            log.warning("version refused", rule=error.rule, reason=error.reason)
        else:
            self._metrics.count_load(model, "failed", LOAD_ERROR, seconds)
            self._registry.refuse(model, version, LOAD_ERROR, f"{_told(error)}; it is tried again")
            log.error("version failed to load; it is tried again", exc_info=error)

    def _retire(self, model: str, versions: tuple[int, ...]) -> None:
        labelled = self._registry.labels(model).values()
        for version in sorted({*versions, *self._lingering(model)}.difference(labelled)):
            if self._registry.retire(model, version, self._retire_wait_seconds):
                self._log.info("version unloaded", model=model, version=version)

    def _forget(self, model: str, listed: set[int]) -> None:
        """Drop what is remembered of versions that are no longer on disk and not live."""
        for version, state in self._states(model).items():
            if version not in listed and state in {VersionState.START, VersionState.END}:
                self._registry.forget(model, version)
                self._retries.forget((model, version))
                self._seen_files.pop((model, version), None)

    # ------------------------------------------------------------------------------------------------------- asking
    def _read_labels(self, model: str) -> tuple[dict[str, int], str]:
        try:
            return self._repository.labels(model), ""
        except VersionRefusedError as error:
            self._complain(f"labels of {model}", error.reason)
            return self._registry.labels(model), error.reason

    def _states(self, model: str) -> dict[int, VersionState]:
        try:
            return {status.version: status.state for status in self._registry.statuses(model)}
        except NotFoundError:
            return {}

    def _lingering(self, model: str) -> list[int]:
        """Return the versions that left and are still held by requests."""
        return [version for version, state in self._states(model).items() if state is VersionState.UNLOADING]

    def _live(self, model: str) -> list[int]:
        return [version for version, state in self._states(model).items() if state is VersionState.AVAILABLE]

    def _complain(self, about: str, what: str) -> None:
        """Log a warning once, until it changes or is over."""
        if self._complaints.get(about) != what:
            self._complaints[about] = what
            self._log.warning(what, about=about)


def _told(error: Exception | None) -> str:
    """Return what may be told of an error: its class, and what the system says of a disk; never a path."""
    if isinstance(error, LoadFailedError):
        return error.told
    said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    return type(error).__name__ + (f" ({said})" if said else "") + " while loading"
