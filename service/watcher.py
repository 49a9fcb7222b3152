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
from service.errors import NotFoundError, VersionRefusedError
from service.garbage import GarbageCollection
from service.lifecycle import Choice, VersionState, choose
from service.loading.bounds import PATIENCE_SECONDS
from service.loads import Load, Loads
from service.metrics import Metrics
from service.model_version import ModelVersion
from service.outcomes import Outcomes
from service.plan import Plan, Wish
from service.policies import PolicyKind
from service.registry import Registry
from service.repository import Repository, VersionFolder
from service.retries import Fingerprint, Retries
from service.settings import Settings

_LONGEST_RETIRE_WAIT_SECONDS = 0.05  # what is held longer is waited for at the next looks
_LONGEST_PAUSE_SECONDS = 1.0
_MISSING = "the version policy names it, and it is not in the models folder"
_NOT_LISTED = "the model config file does not name it: nothing new is loaded, what is live stays until the server ends"
_MOST_NAMED = 10
_WAITING = "waiting until its files stay the same between two looks at the folder"


@dataclasses.dataclass
class _Look:
    """What a look at a model's folder found, and what became of its versions since.

    Args:
        folders: version -> its folder.
        listed: versions that are there, or were at the look before.
        wish: which versions are wanted then.
        labels: label -> version, as wanted.
        problem: what is wrong with the labels.
        live: versions that answered then.
        judged: version -> whether it is worth a load, or loaded.
    """

    folders: Mapping[int, VersionFolder]
    listed: set[int]
    wish: Wish
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
        settings: version_policy, latest_versions, max_live_versions, model_config_file, models_dir,
            poll_interval_seconds.
        clock: monotonic seconds.
        tidy: called after loads and drops.
        give_up: lets the load of a folder raise, soon; called from the watcher's thread.

    Raises:
        SettingError: the model config file cannot be followed.

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
        self._plan = Plan(settings)
        self._most = settings.max_live_versions
        self._poll_interval_seconds = settings.poll_interval_seconds
        self._retire_wait_seconds = min(settings.poll_interval_seconds, _LONGEST_RETIRE_WAIT_SECONDS)
        self._clock = clock
        self._tidy = tidy if tidy is not None else GarbageCollection()
        self._log = structlog.get_logger()
        self._retries = Retries()
        self._outcomes = Outcomes(registry, self._retries, metrics, clock)
        self._looks: dict[str, _Look] = {}
        self._seen_files: dict[tuple[str, int], tuple[object, ...]] = {}
        self._listed: dict[str, set[int]] = {}
        self._complaints: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._first_models: set[str] | None = None
        self._last_end_seconds: float | None = None
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
        self._read_plan()
        models = {status.name for status in self._registry.models()}.union(self._list_models())
        for model in self._plan.listed():
            absent = "" if model in models else "the model config file names it, and it is not in the models folder"
            self._complain(f"model {model} of the model config file", absent)
        for model in sorted(models):
            with self._guarding(model):
                self._scan_model(model)
        if self._first_models is None:
            self._first_models = set(self._loads.models())
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
                self._looks[model].judged[version] = self._outcomes.follow(ended, is_stopping=self._stopping.is_set())
                self._tidy()
                self._advance(model, self._looks[model])
            self._last_end_seconds = self._clock()
        if self._stopping.is_set():
            self._loads.withdraw_all()
            return
        self._loads.begin(self._begin)
        if self._first_models is not None and not self.first_scan_over.is_set():
            # Of the first models one that hangs must not keep the others' clients away.
            last = self._last_end_seconds
            is_stuck = last is not None and self._clock() - last >= PATIENCE_SECONDS
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
        wish = self._plan.of(model)
        folders = {folder.version: folder for folder in self._repository.versions(model)}
        listed = set(folders) | self._listed.get(model, set())
        self._listed[model] = set(folders)
        self._forget(model, listed, wish)
        if not wish.is_listed:
            self._loads.withdraw(model)
            self._retire(model, ())
            self._registry.set_policy(model, "", _NOT_LISTED)
            return
        labels, problem = self._read_labels(model, wish)
        look = self._looks[model] = _Look(folders, listed, wish, labels, problem, self._live(model))
        running = self._loads.running(model)
        if running is None:
            self._advance(model, look)
            return
        self._registry.set_labels(model, labels, problem)  # those of live versions need not wait for a load
        if self._clock() - running.began_seconds >= PATIENCE_SECONDS:
            wanted = self._choose(model, folders, listed, labels, dict(look.judged)).load[:1]
            if wanted != (running.folder.version,):
                self._give_up(running.folder)

    def _advance(self, model: str, look: _Look) -> None:
        """Ask for the next load that follows from a look; where there is none, settle what follows without."""
        if not self._plan.of(model).is_listed:  # since that look
            self._loads.withdraw(model)
            self._looks.pop(model, None)
            return
        choice = self._choose(model, look.folders, look.listed, look.labels, look.judged)
        self._registry.set_labels(model, look.labels, look.problem)
        # What was overtaken while it loaded goes first, and its memory with the next look, before another comes.
        if choice.load and not choice.retire and not self._stopping.is_set() and not self._lingering(model):
            self._loads.ask(look.folders[choice.load[0]])
            return
        self._loads.withdraw(model)
        self._retire(model, choice.retire)
        after = self._live(model)
        self._tell_policy(model, look.wish, len(look.listed), set(after))
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
        """Return what to do, looking at no version that neither the policy nor a label may want."""
        policy = self._plan.of(model).policy
        states = self._states(model)
        live = {version for version, state in states.items() if state is VersionState.AVAILABLE}
        labelled = set(labels.values()) | set(self._registry.labels(model).values())
        usable: set[int] = set()
        for version in sorted(listed, reverse=True):
            if not policy.may_want(version, usable, self._most) and version not in labelled:
                continue
            if version in live:
                usable.add(version)
            elif version in folders and states.get(version) is not VersionState.UNLOADING:
                if version not in judged:
                    judged[version] = self._may_try(folders[version])
                usable |= {version} if judged[version] else set()
        return choose(usable, live, labelled, policy, self._most)

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
    def _begin(self, folder: VersionFolder) -> Fingerprint | None:
        """Show that a version is being loaded; return the fingerprint of its files, or None where it cannot be."""
        with self._guarding(folder.model):
            self._registry.begin(folder.model, folder.version)
            return self._repository.fingerprint(folder)
        return None

    def _retire(self, model: str, versions: tuple[int, ...]) -> None:
        labelled = self._registry.labels(model).values()
        for version in sorted({*versions, *self._lingering(model)}.difference(labelled)):
            if self._registry.retire(model, version, self._retire_wait_seconds):
                self._log.info("version unloaded", model=model, version=version)

    def _forget(self, model: str, listed: set[int], wish: Wish) -> None:
        """Drop what is remembered of versions that are no longer on disk and not live; show those that are named."""
        states = self._states(model)
        is_there = bool(listed) or VersionState.AVAILABLE in states.values()
        missing = wish.policy.versions - listed if is_there and wish.is_listed else frozenset()
        for version, state in states.items():
            never_began = state is VersionState.START
            if version not in listed and (state is VersionState.END or (never_began and version not in missing)):
                self._registry.forget(model, version)
                self._retries.forget((model, version))
                self._seen_files.pop((model, version), None)
        for version in sorted(missing, reverse=True)[: self._most]:
            self._registry.wait(model, version, _MISSING)

    # ------------------------------------------------------------------------------------------------------- asking
    def _read_plan(self) -> None:
        if self._plan.refresh():
            self._log.info("model config file read", models=len(self._plan.listed()))
        self._complain("model config file", self._plan.problem)

    def _tell_policy(self, model: str, wish: Wish, num_listed: int, live: set[int]) -> None:
        """Show the policy that is followed, and what of it is not."""
        policy = wish.policy
        absent = sorted(policy.versions - live)
        shown = ", ".join(map(str, absent[:_MOST_NAMED])) + (", ..." if len(absent) > _MOST_NAMED else "")
        num_wanted = {PolicyKind.ALL: num_listed, PolicyKind.SPECIFIC: len(policy.versions)}.get(
            policy.kind, policy.num_versions
        )
        problems = [
            self._plan.problem,
            f"not available: {shown}" if absent else "",
            f"of {num_wanted} versions the newest {self._most} are kept (--max-live-versions)"
            if num_wanted > self._most
            else "",
        ]
        problem = "; ".join(filter(None, problems))
        self._registry.set_policy(model, str(policy), problem)
        self._complain(f"version policy of {model}", problem)

    def _read_labels(self, model: str, wish: Wish) -> tuple[dict[str, int], str]:
        """Return what the labels file says, beside what the model config file says of other labels."""
        try:
            labels = {**wish.labels, **self._repository.labels(model)}
        except VersionRefusedError as error:
            self._complain(f"labels of {model}", error.reason)
            return self._registry.labels(model), error.reason
        self._complain(f"labels of {model}", "")
        return labels, ""

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
        """Log a warning once, until it changes or, with nothing to say, is over."""
        if not what:
            self._complaints.pop(about, None)
        elif self._complaints.get(about) != what:
            self._complaints[about] = what
            self._log.warning(what, about=about)
