"""The thread that keeps what is live in step with what is on disk: new versions are loaded, old ones are dropped.

Above `registry` (what is live) and `repository` (what is on disk); `worker` starts it and gives it the way to load.
"""

import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Mapping

import structlog

from service import manifest
from service.errors import NotFoundError, VersionRefusedError
from service.garbage import GarbageCollection
from service.lifecycle import Choice, VersionState, choose
from service.metrics import Metrics
from service.model_version import ModelVersion
from service.plan import Plan, Wish
from service.policies import PolicyKind
from service.registry import Registry
from service.repository import Repository, VersionFolder
from service.settings import Settings

LOAD_ERROR = "load-error"
"""Rule of a version whose load failed with an error that is no verdict; it is tried again."""

_TRANSIENT_RULES = frozenset({"file-unreadable"})
_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0
_LONGEST_RETIRE_WAIT_SECONDS = 1.0
_MISSING = "the version policy names it, and it is not in the models folder"
_NOT_LISTED = "the model config file does not name it: nothing new is loaded, what is live stays until the server ends"
_MOST_NAMED = 10
_WAITING = "waiting until its files stay the same between two looks at the folder"


@dataclasses.dataclass(frozen=True)
class _Failure:
    """What is remembered of a version that did not load."""

    fingerprint: tuple[object, ...]
    retry_at_seconds: float
    num_attempts: int


class Watcher:
    """Polls the repository and loads, publishes, refuses and retires versions, one at a time, on one thread.

    Guarantees: a model that cannot be read or loaded does not keep another from being loaded; a refused version is
    tried again only when its files change, any other failure after a growing pause; a folder that is empty or gone
    changes nothing of what is served; a version is taken as deleted only after two looks without it. Of a
    model no more is in memory than what is served and what replaces it (two versions, without labels, where the latest
    one is served): none is loaded while one that left is held.

    Args:
        repository: what is on disk.
        registry: what is live.
        load: makes a warm live version of a folder; raises VersionRefusedError for one that must not be served.
        metrics: loads and swaps are counted there.
        settings: version_policy, latest_versions, max_live_versions, model_config_file, models_dir,
            poll_interval_seconds.
        clock: monotonic seconds.
        tidy: called after loads and drops.

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
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._load = load
        self._metrics = metrics
        self._plan = Plan(settings)
        self._most = settings.max_live_versions
        self._poll_interval_seconds = settings.poll_interval_seconds
        self._retire_wait_seconds = min(settings.poll_interval_seconds, _LONGEST_RETIRE_WAIT_SECONDS)
        self._clock = clock
        self._tidy = tidy if tidy is not None else GarbageCollection()
        self._log = structlog.get_logger()
        self._failures: dict[tuple[str, int], _Failure] = {}
        self._seen_files: dict[tuple[str, int], tuple[object, ...]] = {}
        self._listed: dict[str, set[int]] = {}
        self._complaints: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
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
        interrupt()
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.scan()
            self._stopping.wait(self._poll_interval_seconds)

    # --------------------------------------------------------------------------------------------------------- scan
    def scan(self) -> None:
        """Look through the repository once and do all that follows from it. Never raises."""
        if self._registry.sweep():
            self._tidy()
        self._read_plan()
        models = {status.name for status in self._registry.models()}.union(self._list_models())
        for model in self._plan.listed():
            absent = "" if model in models else "the model config file names it, and it is not in the models folder"
            self._complain(f"model {model} of the model config file", absent)
        for model in sorted(models):
            try:
                self._scan_model(model)
            except Exception as error:  # noqa: BLE001  (the watcher's border: one model must not stop the others)
                self._complain(f"model {model}", f"its folder was not read: {type(error).__name__}: {error}")
            else:
                self._complaints.pop(f"model {model}", None)
        if not self._stopping.is_set():
            self._registry.scanned()
            self.first_scan_over.set()

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
            self._retire(model, ())
            self._registry.set_policy(model, "", _NOT_LISTED)
            return
        labels, problem = self._read_labels(model, wish)
        judged: dict[int, bool] = {}
        before = self._live(model)
        choice = self._choose(model, folders, listed, labels, judged)
        self._registry.set_labels(model, labels, problem)  # those of live versions need not wait for a load
        while choice.load and not self._stopping.is_set() and not self._lingering(model):
            judged[choice.load[0]] = self._attempt(folders[choice.load[0]])
            self._registry.set_labels(model, labels, problem)
            choice = self._choose(model, folders, listed, labels, judged)
        self._retire(model, choice.retire)
        after = self._live(model)
        self._tell_policy(model, wish, len(listed), set(after))
        if before and max(before) != max(after):
            self._metrics.count_swap(model)

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
        failure = self._failures.get(key)
        if not fingerprint and not os.path.lexists(folder.path):
            return False  # gone since it was listed; a link or an unreadable folder is tried, to say why it is refused
        if failure and failure.fingerprint == fingerprint and self._clock() < failure.retry_at_seconds:
            return False
        seen, self._seen_files[key] = self._seen_files.get(key), fingerprint
        if seen == fingerprint or os.path.lexists(folder.path / manifest.FILE_NAME):
            return True
        self._registry.wait(folder.model, folder.version, _WAITING)
        return False

    # -------------------------------------------------------------------------------------------------- one version
    def _attempt(self, folder: VersionFolder) -> bool:
        """Load and publish one version, or refuse it; return whether it is live."""
        fingerprint = self._repository.fingerprint(folder)
        log = self._log.bind(model=folder.model, version=folder.version)
        self._registry.begin(folder.model, folder.version)
        started = self._clock()
        try:
            live = self._load(folder)
        except VersionRefusedError as error:
            self._metrics.count_load(folder.model, "refused", error.rule, self._clock() - started)
            self._end(folder, fingerprint, error.rule, error.reason)
            log.warning("version refused", rule=error.rule, reason=error.reason)
            return False
        except Exception as error:  # the disk, or the loading process
            if self._stopping.is_set():  # it was interrupted
                self._registry.refuse(folder.model, folder.version, LOAD_ERROR, "the server ended meanwhile")
                return False
            self._metrics.count_load(folder.model, "failed", LOAD_ERROR, self._clock() - started)
            self._end(folder, fingerprint, LOAD_ERROR, f"{_kind(error)} while loading; it is tried again")
            log.exception("version failed to load; it is tried again")
            return False
        finally:
            self._tidy()
        self._failures.pop((folder.model, folder.version), None)
        self._metrics.count_load(folder.model, "available", seconds=self._clock() - started)
        self._registry.publish(live)
        log.info(
            "version available",
            convexity=live.convexity,
            engine=live.engine.name,
            seconds=round(self._clock() - started, 3),
        )
        return True

    def _end(self, folder: VersionFolder, fingerprint: tuple[object, ...], rule: str, reason: str) -> None:
        key = (folder.model, folder.version)
        before = self._failures.get(key)
        attempts = before.num_attempts + 1 if before and before.fingerprint == fingerprint else 1
        pause = min(_FIRST_RETRY_SECONDS * 2.0 ** (attempts - 1), _LAST_RETRY_SECONDS)
        transient = rule == LOAD_ERROR or rule in _TRANSIENT_RULES
        retry_at = self._clock() + pause if transient else math.inf
        self._failures[key] = _Failure(fingerprint, retry_at, attempts)
        self._registry.refuse(folder.model, folder.version, rule, reason)

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
                self._failures.pop((model, version), None)
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


def _kind(error: Exception) -> str:
    """Return what may be told of an error: its class, and what the system says of a disk; never a path."""
    said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    return type(error).__name__ + (f" ({said})" if said else "")
