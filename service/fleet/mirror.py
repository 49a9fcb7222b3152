"""A worker's registry: what the commander says is live, from the moment on that it says so.

Above: `member`, and every transport, to which it is a registry like any other. Below: `registry`, `moment`.
"""

import collections
from collections.abc import Collection

from service.errors import UnavailableError
from service.fleet.messages import State
from service.fleet.moment import Moment
from service.lifecycle import ModelStatus, VersionState, VersionStatus
from service.lives import Life, LiveModel
from service.model_version import ModelVersion
from service.registry import Registry

_LONGEST_WAIT_SECONDS = 5.0


class MirrorRegistry(Registry):
    """What is live, as the commander has it.

    Guarantee: whatever it is asked, it answers by the newest state whose number stands in the shared moment when it is
    asked, or a newer one. So no two workers ever lend different versions for the same request, one after the other.

    A state is first received (`stage`), and holds once its number stands there; nobody needs to be told for that.

    Args:
        moment: shared with the commander and the other workers.
        default_model: as of `Registry`.

    Thread safety: every method may be called from any thread; `stage`, `prepare` and `discard` from one at a time.
    """

    def __init__(self, moment: Moment, default_model: str | None = None) -> None:
        super().__init__(default_model)
        self._moment = moment
        self._number = -1  # of the state that is followed
        self._staged: collections.deque[State] = collections.deque()
        self._ready: dict[int, ModelVersion] = {}  # serial -> version
        self._lives_of: dict[int, Life] = {}  # serial -> the life that lends it, or lent it
        self._discarded: set[int] = set()

    # ----------------------------------------------------------------------------------------------- what comes
    def prepare(self, serial: int, version: ModelVersion) -> None:
        """Have a version at hand for the states that will name it."""
        with self._changed:
            self._ready[serial] = version
            self._changed.notify_all()

    def stage(self, state: State) -> None:
        """Have a state at hand; it is followed from the moment on that its number stands in."""
        with self._changed:
            self._staged.append(state)
            self._changed.notify_all()

    def holds(self) -> None:
        """Follow what holds by now of what is at hand, waiting for nothing, and tell those who wait for a change."""
        with self._changed:
            self._follow_staged(self._moment.read())
        self._tell()

    def discard(self, serial: int) -> None:
        """Let a version be handed out by `released` once no request holds it."""
        with self._changed:
            self._discarded.add(serial)
            self._changed.notify_all()

    def released(self, timeout_seconds: float) -> list[tuple[int, ModelVersion | None]]:
        """Wait for discarded versions that nobody holds and return them; each is handed out once, and forgotten."""
        with self._changed:
            self._changed.wait_for(self._free, timeout_seconds)
            free = self._free()
            self._discarded.difference_update(free)
            for serial in free:
                self._lives_of.pop(serial, None)
            return [(serial, self._ready.pop(serial, None)) for serial in free]

    def _free(self) -> list[int]:
        held = {serial for serial in self._discarded if serial in self._lives_of and self._lives_of[serial].num_leases}
        return sorted(self._discarded - held)

    # ---------------------------------------------------------------------------------------------- what is asked
    def check_room(self, model: str | None = None) -> None:
        """Refuse a request for what is full, as `Registry.check_room`."""
        self._look()
        super().check_room(model)

    @property
    def default_model(self) -> str | None:
        """The model of requests that name none."""
        self._look()
        return super().default_model

    def models(self) -> list[ModelStatus]:
        """Return every known model, by name."""
        self._look()
        return super().models()

    def statuses(self, model: str) -> list[VersionStatus]:
        """Return the statuses of a model's versions, as `Registry.statuses`."""
        self._look()
        return super().statuses(model)

    def labels(self, model: str) -> dict[str, int]:
        """Return label -> version as they are now."""
        self._look()
        return super().labels(model)

    def ready(self, required: Collection[str] = ()) -> bool:
        """Whether to send requests here, as `Registry.ready`."""
        self._look()
        return super().ready(required)

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        self._look()
        return super().draining

    @property
    def is_following(self) -> bool:
        """Whether it has a state that holds: before that nothing is live here."""
        return self._number >= 0

    def followed(self) -> tuple[list[ModelStatus], bool]:
        """Return every model, and whether the server is about to end, as far as that is known here: waits for nothing.

        For the thread that brings the states, which would wait for itself, and for whoever can do with a moment ago.
        """
        with self._changed:
            return super().models(), self._is_draining

    # ------------------------------------------------------------------------------------------------------ within
    def _take(self, model: str | None, version: int | None, label: str | None) -> tuple[Life, ModelVersion]:
        self._look()
        return super()._take(model, version, label)

    def _look(self) -> None:
        """Follow a newer state where one holds by now: one comparison where none does."""
        if self._moment.read() > self._number:
            with self._changed:
                self._catch_up()

    def _catch_up(self) -> None:
        number = self._moment.read()
        if not self._changed.wait_for(lambda: self._has(number), _LONGEST_WAIT_SECONDS):
            raise UnavailableError("this worker waits to be told what is served. Try again.")
        self._follow_staged(number)

    def _follow_staged(self, number: int) -> None:
        while self._staged and self._staged[0].number <= number:
            self._follow(self._staged.popleft())
        self._changed.notify_all()

    def _has(self, number: int) -> bool:
        return self._number >= number or bool(self._staged and self._staged[-1].number >= number)

    def _follow(self, state: State) -> None:
        for name, status in state.models.items():
            if status is None:
                self._models.pop(name, None)
            else:
                self._models[name] = self._mirrored(status, state)
        self._is_scanned, self._is_draining = state.is_scanned, state.is_draining
        self._number = state.number

    def _mirrored(self, status: ModelStatus, state: State) -> LiveModel:
        model = LiveModel()
        model.labels, model.label_problem = dict(status.labels), status.label_problem
        model.policy, model.policy_problem = status.policy, status.policy_problem
        for version in status.versions:
            serial = state.serials.get((version.model, version.version))
            life = None if serial is None else self._lives_of.get(serial)
            if life is None:
                life = Life(version.model, version.version)
                if serial is not None and version.state is VersionState.AVAILABLE:
                    life.live = self._ready[serial]
                    self._lives_of[serial] = life
            life.status = version
            model.lives[version.version] = life
        return model

    def _in_memory(self) -> list[ModelVersion]:
        with self._changed:
            return list(self._ready.values())
