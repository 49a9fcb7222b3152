"""What is live: the versions of every model, their states, their labels, and who holds them right now.

Above `model_version`, below the scorer and the watcher. Pure: no disk, no thread; time only as the bound of a wait.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Collection, Iterator, Mapping

from service.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnavailableError
from service.lifecycle import ModelStatus, VersionState, VersionStatus
from service.lives import Life, LiveModel
from service.model_version import ModelVersion

__all__ = ["ModelStatus", "Registry", "VersionState", "VersionStatus"]


class Registry:
    """The live versions of all models.

    Guarantees, kept here whatever the caller does: states of a life run only forward; a leased version is not dropped;
    a retired version's object is let go by `sweep`, on the watcher's thread, never on a request's; a model that has an
    available version keeps at least one; a label means an available version or is not there.

    Args:
        default_model: the model of requests that name none; None: the only model there is.

    Thread safety: every method may be called from any thread. No lock is held while a version computes or loads.
    """

    def __init__(self, default_model: str | None = None) -> None:
        self._configured_default = default_model
        self._models: dict[str, LiveModel] = {}
        self._changed = threading.Condition()
        self._is_scanned = False
        self._is_draining = False
        self._retired: list[ModelVersion] = []
        self._subscribers: list[Callable[[], None]] = []
        self._telling = threading.RLock()

    # ------------------------------------------------------------------------------------------------ requests
    @contextlib.contextmanager
    def acquire(
        self, model: str | None = None, version: int | None = None, label: str | None = None
    ) -> Iterator[ModelVersion]:
        """Lend the version that a request means: the named one, the labelled one, else the newest available.

        Args:
            model: model name; None for the default model.
            version: exact version, or None.
            label: label, or None.

        Raises:
            InvalidArgumentError: both version and label, or a label that the model does not have.
            FailedPreconditionError: no model is named and there is no default.
            NotFoundError: unknown model; a version that is not served.
            UnavailableError: the model, or the wanted version, is not available yet.
        """
        life, live = self._take(model, version, label)
        try:
            yield live
        finally:
            del live
            with self._changed:
                life.num_leases -= 1
                if life.num_leases == 0:
                    self._changed.notify_all()

    def check_room(self, model: str | None = None) -> None:
        """Refuse a request for a model of which every available version is full; unknown models pass.

        Raises:
            ResourceExhaustedError: too much waits for each of them.
        """
        with self._changed:  # under which no version leaves
            entry = self._models.get(self._default_name() or "" if model is None else model)
            lives = [] if entry is None else [entry.lives[version].live for version in entry.live_versions()]
            versions = [live for live in lives if live is not None]
            if versions and not any(live.has_room() for live in versions):
                versions[-1].check_room()  # the newest says why

    @property
    def default_model(self) -> str | None:
        """The model of requests that name none: the configured one, else the only one, else None."""
        with self._changed:
            return self._default_name()

    def models(self) -> list[ModelStatus]:
        """Return every known model, by name."""
        with self._changed:
            return [
                model.describe(name, is_default=name == self._default_name())
                for name, model in sorted(self._models.items())
            ]

    def statuses(self, model: str) -> list[VersionStatus]:
        """Return the statuses of a model's versions, newest first.

        Raises:
            NotFoundError: no version of that model was ever seen.
        """
        with self._changed:
            return self._known(model).versions_newest_first()

    def ready(self, required: Collection[str] = ()) -> bool:
        """Whether to send requests here: scanned, not draining, at least one and every required model available."""
        with self._changed:
            available = {name for name, model in self._models.items() if model.live_versions()}
            return self._is_scanned and not self._is_draining and bool(available) and available.issuperset(required)

    @property
    def is_scanned(self) -> bool:
        """Whether the models folder was looked through once."""
        with self._changed:
            return self._is_scanned

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        with self._changed:
            return self._is_draining

    # --------------------------------------------------------------------------------------------- life of a version
    def begin(self, model: str, version: int) -> None:
        """Begin a life of a version: from START to LOADING; after an END, a new life.

        Raises:
            ValueError: while the version is loading or live.
        """
        with self._changed:
            lives = self._models.setdefault(model, LiveModel()).lives
            life = lives.get(version)
            if life is None or life.status.state is VersionState.END:
                life = lives[version] = Life(model, version)
            life.move(VersionState.LOADING)
        self._tell()

    def wait(self, model: str, version: int, reason: str) -> None:
        """Show a version in START with the reason that it is not tried yet; nothing happens to one already begun."""
        with self._changed:
            life = self._models.setdefault(model, LiveModel()).lives.setdefault(version, Life(model, version))
            is_new = life.status.state is VersionState.START and life.status.reason != reason
            if is_new:
                life.status = dataclasses.replace(life.status, reason=reason)
        if is_new:
            self._tell()

    def publish(self, model_version: ModelVersion) -> bool:
        """Make a loaded version available, in one step for all requests that come after.

        Returns:
            Whether it is now the newest available version of its model.

        Raises:
            ValueError: it was not LOADING.
        """
        signature = model_version.signature
        proof = model_version.proof() or {"num_steps": 0, "steps": []}
        with self._changed:
            model = self._models[signature.model]
            life = model.lives[signature.version]
            life.move(VersionState.AVAILABLE)
            life.live = model_version
            life.status = dataclasses.replace(
                life.status,
                convexity=model_version.convexity,
                engine=model_version.engine.name,
                tile_rows=model_version.tile_rows,
                created=model_version.created,
                metrics=model_version.metrics,
                made_elsewhere=signature.made_elsewhere,
                num_steps=proof["num_steps"],
                steps=tuple(proof["steps"]),
            )
            newest = model.live_versions()[-1] == signature.version
        self._tell()
        return newest

    def refuse(self, model: str, version: int, rule: str, reason: str) -> None:
        """End the life of a version that must not, or cannot, be served; the reason is shown in its status."""
        with self._changed:
            self._models[model].lives[version].move(VersionState.END, reason=reason, rule=rule)
        self._tell()

    def retire(self, model: str, version: int, timeout_seconds: float) -> bool:
        """Stop lending a version and wait for its requests. To be called again where that was not done.

        Args:
            model: model name.
            version: an available version, or one that an earlier call left UNLOADING.
            timeout_seconds: longest wait for the requests that hold it.

        Returns:
            Whether the version is gone (END). False: requests still hold it; it stays UNLOADING.

        Raises:
            ValueError: it is not live, it is the model's only available version, or a label means it.
        """
        with self._changed:
            entry = self._models[model]
            life = entry.lives[version]
            if life.status.state is not VersionState.UNLOADING:
                if entry.live_versions() == [version] or version in entry.labels.values():
                    message = f"version {version} of {model} is the only available one, or labelled: it stays"
                    raise ValueError(message)
                life.move(VersionState.UNLOADING)
        self._tell()
        with self._changed:
            if not self._changed.wait_for(lambda: life.num_leases == 0, timeout_seconds):
                return False
            life.move(VersionState.END)
            if life.live is not None:
                self._retired.append(life.live)
                life.live = None
        self._tell()
        return True

    def sweep(self) -> bool:
        """Close the retired versions and let go of those that have ended; return whether there were any.

        Not done by `retire`: a request that gave its lease back a moment ago may still name the object, and would then
        be the one that destroys it. One whose engine hangs is kept, and stays trouble: its thread holds it anyway.
        """
        with self._changed:
            retired = list(self._retired)
        ended = [version for version in retired if version.close()]
        with self._changed:
            self._retired = [version for version in self._retired if version not in ended]
        return bool(ended)

    def forget(self, model: str, version: int) -> None:
        """Drop the status of a version that ended, or never began, and is no longer on disk."""
        with self._changed:
            lives = self._models[model].lives
            if lives[version].status.state in {VersionState.START, VersionState.END}:
                del lives[version]
                if not lives:
                    del self._models[model]
        self._tell()

    def set_labels(self, model: str, labels: Mapping[str, int], problem: str = "") -> None:
        """Let labels mean what the labels file says, as far as those versions are available.

        A label whose version is not available stays where it was; a label that the file no longer has is dropped.

        Args:
            model: a model name; one of which no version was seen is left alone.
            labels: label -> wanted version.
            problem: shown in the status, e.g. that the file does not parse; then pass the present labels.
        """
        with self._changed:
            entry = self._models.get(model)
            if entry is None:
                return
            before = (entry.labels, entry.label_problem)
            entry.set_labels(labels, problem)
            is_new = before != (entry.labels, entry.label_problem)
        if is_new:
            self._tell()

    def labels(self, model: str) -> dict[str, int]:
        """Return label -> version as they are now; none for an unknown model."""
        with self._changed:
            return dict(self._models[model].labels) if model in self._models else {}

    def set_policy(self, model: str, policy: str, problem: str = "") -> None:
        """Show which version policy of a model is followed and, as `problem`, what of it is not and why.

        Args:
            model: a model name; one of which no version was seen is left alone.
            policy: the policy, e.g. `latest:1`.
            problem: what is not followed; empty while all is well.
        """
        with self._changed:
            entry = self._models.get(model)
            if entry is None or (entry.policy, entry.policy_problem) == (policy, problem):
                return
            entry.policy, entry.policy_problem = policy, problem
        self._tell()

    # ------------------------------------------------------------------------------------------- life of the server
    def scanned(self) -> None:
        """Note that the models folder was looked through once."""
        with self._changed:
            if self._is_scanned:
                return
            self._is_scanned = True
        self._tell()

    def start_draining(self) -> None:
        """Be not ready from now on; requests that still come are answered."""
        with self._changed:
            self._is_draining = True
        self._tell()

    def trouble(self) -> str:
        """Return what only a new process can mend, as a sentence (an engine hangs); empty where all is well."""
        return next(filter(None, (version.trouble() for version in self._in_memory())), "")

    def refuse_waiting(self) -> None:
        """Answer UNAVAILABLE to every request that waits or comes; what is computed now is answered."""
        for version in self._in_memory():
            version.refuse_waiting()

    def close(self) -> bool:
        """Close every version: who still waits is answered UNAVAILABLE; return whether all their threads ended."""
        ended = [version.close() for version in self._in_memory()]
        return all(ended)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` now and after every change of a state, a label or readiness, one call at a time.

        It reads the registry itself; because calls never overlap, what it read last is the truth.
        """
        with self._telling:
            self._subscribers.append(callback)
            callback()

    # ------------------------------------------------------------------------------------------------------ within
    def _in_memory(self) -> list[ModelVersion]:
        with self._changed:
            lives = [life.live for model in self._models.values() for life in model.lives.values()]
            return [live for live in lives if live is not None] + self._retired

    def _tell(self) -> None:
        with self._telling:
            for callback in self._subscribers:
                callback()

    def _take(self, model: str | None, version: int | None, label: str | None) -> tuple[Life, ModelVersion]:
        if version is not None and label is not None:
            raise InvalidArgumentError("version and label: received both. Send one of them.")
        with self._changed:
            name = self._default_or_error() if model is None else model
            entry = self._known(name)
            if label is not None:
                version = self._labelled(name, entry, label)
            available = entry.live_versions()
            life = entry.lives.get(version if version is not None else (available or [0])[-1])
            if life is None or life.status.state is not VersionState.AVAILABLE or life.live is None:
                raise self._not_available(name, entry, version)
            life.num_leases += 1
            return life, life.live

    def _default_name(self) -> str | None:
        if self._configured_default is not None:
            return self._configured_default
        return next(iter(self._models)) if len(self._models) == 1 else None

    def _default_or_error(self) -> str:
        name = self._default_name()
        if name is not None:
            if name not in self._models:
                raise UnavailableError(f"the default model {name} has no version here yet. Try again later.")
            return name
        if not self._models:
            raise UnavailableError("no model is here yet. Try again later.")
        names = ", ".join(sorted(self._models))
        raise FailedPreconditionError(f"model: none named and no default among several. Name one of: {names}.")

    def _known(self, name: str) -> LiveModel:
        if name not in self._models:
            raise NotFoundError(f"there is no model '{name[:40]}'. GET /models lists those that are here.")
        return self._models[name]

    def _labelled(self, name: str, entry: LiveModel, label: str) -> int:
        if label not in entry.labels:
            has = ", ".join(sorted(entry.labels)) or "none"
            message = f"label: model {name} has no label '{label[:40]}'. Labels: {has}."
            raise InvalidArgumentError(message)
        return entry.labels[label]

    def _not_available(self, name: str, entry: LiveModel, version: int | None) -> Exception:
        if version is None:
            return UnavailableError(f"no version of model {name} is available. GET /models says why.")
        served = ", ".join(map(str, entry.live_versions())) or "none"
        life = entry.lives.get(version)
        if life is not None and life.status.state in {VersionState.START, VersionState.LOADING}:
            return UnavailableError(f"version {version} of model {name} is loading. Try again later; now: {served}.")
        return NotFoundError(f"version {version} of model {name} is not served. Available: {served}.")
