"""The workers that live, the versions that they hold, and the state that holds for all of them at once.

Above: `commander`, which starts and ends workers. Below: `registry` (what should be live), `worker_process`, `parcel`,
`moment`.
"""

import contextlib
import dataclasses
import itertools
import os
import threading
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from service.errors import LoadFailedError, ScoringError, VersionRefusedError
from service.fleet import messages, parcel
from service.fleet.messages import Key
from service.fleet.moment import Moment
from service.fleet.worker_process import WorkerProcess
from service.lifecycle import ModelStatus, VersionState
from service.loader import LoadedVersion
from service.model_version import ModelVersion
from service.registry import Registry

RULE = "workers-differ"
LONGEST_READY_SECONDS = 300.0
"""A worker that takes longer to make a version ready is stuck, and replaced."""
LONGEST_RECEIPT_SECONDS = 2.0
"""So long a switch waits for a worker to have the new state. One that is late follows all the same: see `mirror`."""
_LONGEST_ABSENCE_SECONDS = 60.0


class SharedEngine:
    """What is known here of the engines that compute a version in the workers."""

    thread_safe = True

    def __init__(self, facts: messages.Facts) -> None:
        self.name = facts.engine
        self.tile_rows = facts.tile_rows

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Refuse: rows never come here."""
        message = f"the commander was asked for {outputs} of {len(rows)} rows; expected a worker to be asked"
        raise RuntimeError(message)


class SharedVersion(ModelVersion):
    """A version that every worker has ready: what the commander's registry keeps of it.

    Args:
        loaded: the version; what only engines need is not kept.
        facts: of its engines.
        serial: of this load.
        discard: lets the workers drop it.
    """

    def __init__(
        self, loaded: LoadedVersion, facts: messages.Facts, serial: int, discard: Callable[[int], None]
    ) -> None:
        bare = dataclasses.replace(loaded, saved_model={}, program=None, support=None)
        super().__init__(bare, SharedEngine(facts))
        self.serial = serial
        self._discard = discard

    def close(self, timeout_seconds: float = 1.0) -> bool:
        """Let the workers drop it."""
        self._discard(self.serial)
        return super().close(timeout_seconds)


@dataclasses.dataclass(eq=False)
class _Offer:
    """A version that workers have, or make ready.

    Args:
        serial: of this load.
        descriptor: of its parcel.
        sees_gpu: as of `Prepare`.
        is_tried: whether a worker has it ready: then a new one gets it too.
        is_discarded: whether the workers were told to drop it.
        outcomes: worker -> what it said.
        holders: workers that were sent it and have not let it go.
        lease: keeps it from being dropped in the registry while workers hold it.
    """

    serial: int
    descriptor: int
    sees_gpu: bool
    is_tried: bool = False
    is_discarded: bool = False
    outcomes: dict[WorkerProcess, Any] = dataclasses.field(default_factory=dict)
    holders: set[WorkerProcess] = dataclasses.field(default_factory=set)
    lease: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)


class Crew:
    """The workers of a server, as far as versions and states go.

    Guarantees: a version is ready in every worker that lives before a state names it; a state holds in all of them from
    one moment on; a worker that ends, or joins, in between delays nobody and misses nothing.

    Args:
        registry: what is live; this subscribes to it.
        moment: shared with the workers.

    Thread safety: every method may be called from any thread; `changed` guards and tells of everything here.
    """

    def __init__(self, registry: Registry, moment: Moment) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.members: dict[int, WorkerProcess] = {}
        self._registry = registry
        self._moment = moment
        self._serials = itertools.count(1)
        self._offers: dict[int, _Offer] = {}
        self._published: dict[Key, int] = {}
        self._state = messages.State(0, {}, {}, is_scanned=False, is_draining=False)
        self._is_closed = False
        self._log = structlog.get_logger()
        registry.subscribe(self.tell)

    # ---------------------------------------------------------------------------------------------------- workers
    def add(self, process: WorkerProcess) -> None:
        """Give a new worker all that the others have; from now on it is told what they are told."""
        with self.changed:
            self.members[process.slot] = process
            for offer in self._offers.values():
                if offer.is_tried and not offer.is_discarded:
                    self._hand_out(offer, process)
            process.send(self._state)
            if self._moment.read() >= self._state.number:
                process.send(messages.Holds(self._state.number))
            self.changed.notify_all()

    def remove(self, process: WorkerProcess) -> None:
        """Forget a worker that has ended: nobody waits for it."""
        with self.changed:
            process.is_gone = True
            if self.members.get(process.slot) is process:
                del self.members[process.slot]
            for offer in list(self._offers.values()):
                offer.holders.discard(process)
                self._settle(offer)
            self.changed.notify_all()

    def note(self, process: WorkerProcess, message: Any) -> None:
        """Take note of what a worker said."""
        with self.changed:
            match message:
                case messages.Prepared():
                    if message.serial in self._offers:
                        self._offers[message.serial].outcomes[process] = message.outcome
                case messages.Received():
                    process.received = message.number
                    process.is_late &= message.number < self._state.number
                case messages.Released():
                    if message.serial in self._offers:
                        self._offers[message.serial].holders.discard(process)
                        self._settle(self._offers[message.serial])
            self.changed.notify_all()

    def close(self) -> None:
        """Wait for nobody any more; who waits raises."""
        with self.changed:
            self._is_closed = True
            self.changed.notify_all()

    # --------------------------------------------------------------------------------------------------- versions
    def prepare(self, loaded: LoadedVersion, sees_gpu: bool) -> SharedVersion:
        """Make a version ready in every worker: in one first, which alone ends if that ends it, then in the others.

        Raises:
            VersionRefusedError: a worker refuses it, or two answer its probe with other bits.
            LoadFailedError: it could not be made ready now.
        """
        descriptor = parcel.pack(loaded)
        with self.changed:
            serial = next(self._serials)
            offer = self._offers[serial] = _Offer(serial, descriptor, sees_gpu)
            try:
                facts = self._make_ready(offer)
            except BaseException:
                self.discard(serial)
                raise
        return SharedVersion(loaded, facts, serial, self.discard)

    def discard(self, serial: int) -> None:
        """Let workers drop a version that no state names; nothing happens where that was said before."""
        with self.changed:
            offer = self._offers.get(serial)
            if offer is not None and not offer.is_discarded:
                offer.is_discarded = True
                for process in list(offer.holders):
                    process.send(messages.Discard(serial))
                self._settle(offer)

    def _make_ready(self, offer: _Offer) -> messages.Facts:
        if not self._wait(lambda: bool(self.members), _LONGEST_ABSENCE_SECONDS):
            raise LoadFailedError("no worker lives to make it ready")
        first = min(self.members.values(), key=lambda process: (process.joined_seconds is None, process.slot))
        self._hand_out(offer, first)
        facts = self._heard(offer, [first])
        if facts is None:
            raise LoadFailedError("the worker that made it ready ended")
        offer.is_tried = True
        others = [process for process in self.members.values() if process not in offer.holders]
        for process in others:
            self._hand_out(offer, process)
        self._heard(offer, sorted(offer.holders, key=lambda process: process.slot))
        return facts

    def _hand_out(self, offer: _Offer, process: WorkerProcess) -> None:
        offer.holders.add(process)
        process.send(messages.Prepare(offer.serial, offer.sees_gpu), [offer.descriptor])

    def _heard(self, offer: _Offer, asked: Collection[WorkerProcess]) -> messages.Facts | None:
        """Wait until each has said what came of it or ended; return the facts, None where all ended.

        Raises:
            VersionRefusedError: one refuses it, or they differ.
            LoadFailedError: it failed in one.
        """
        self._wait(
            lambda: all(process in offer.outcomes or process.is_gone for process in asked), LONGEST_READY_SECONDS
        )
        if self._is_closed:
            raise LoadFailedError("the server is about to end")
        found: messages.Facts | None = None
        for process in asked:
            match offer.outcomes.get(process):
                case None if not process.is_gone:
                    process.reason = "stuck"
                    process.kill()
                case VersionRefusedError() as refusal:
                    raise VersionRefusedError(refusal.rule, refusal.reason)
                case messages.Failure() as failure:
                    raise LoadFailedError(failure.told, failure.details)
                case messages.Facts() as facts if found is not None and facts != found:
                    raise VersionRefusedError(RULE, "two workers answer the probe's rows with other bits, or tiles")
                case messages.Facts() as facts:
                    found = facts
        return found

    def _settle(self, offer: _Offer) -> None:
        """Forget an offer that nobody holds any more."""
        if offer.is_discarded and not offer.holders and self._offers.pop(offer.serial, None) is not None:
            os.close(offer.descriptor)
            offer.lease.close()

    # ------------------------------------------------------------------------------------------------------ states
    def tell(self) -> None:
        """Let what the registry says hold in all workers, from one moment on."""
        models = {status.name: status for status in self._registry.models()}
        is_scanned, is_draining = self._registry.is_scanned, self._registry.draining
        with self.changed:
            left = self._publish(models)
            before = self._state
            state = messages.State(before.number + 1, models, dict(self._published), is_scanned, is_draining)
            if dataclasses.replace(state, number=before.number) == before:
                return
            self._state = state
            gone = dict.fromkeys(name for name in before.models if name not in models)
            news = {name: status for name, status in models.items() if before.models.get(name) != status}
            for process in list(self.members.values()):
                process.send(dataclasses.replace(state, models={**news, **gone}))
            self._wait_for_receipts(state.number)
            self._moment.write(state.number)
            for process in list(self.members.values()):
                process.send(messages.Holds(state.number))
            for serial in left:
                self.discard(serial)

    def _publish(self, models: dict[str, ModelStatus]) -> list[int]:
        """Note which loads the available versions are of, and hold them; return those that are available no more."""
        available = {
            (status.model, status.version)
            for model in models.values()
            for status in model.versions
            if status.state is VersionState.AVAILABLE
        }
        for key in available - self._published.keys():
            lease = contextlib.ExitStack()
            with contextlib.suppress(ScoringError):  # it left since: the registry tells of that next
                live = lease.enter_context(self._registry.acquire(*key))
                if isinstance(live, SharedVersion) and live.serial in self._offers:
                    self._published[key] = live.serial
                    self._offers[live.serial].lease = lease.pop_all()
            lease.close()
        return [self._published.pop(key) for key in self._published.keys() - available]

    def _wait_for_receipts(self, number: int) -> None:
        asked = [process for process in self.members.values() if process.joined_seconds and not process.is_late]
        if not self._wait(
            lambda: all(process.received >= number or process.is_gone for process in asked), LONGEST_RECEIPT_SECONDS
        ):
            for process in asked:
                if process.received < number and not process.is_gone and not self._is_closed:
                    process.is_late = True
                    self._log.warning("a worker is late; the others go on", worker=process.slot)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until it is true, or the server ends; return whether it is."""
        self.changed.wait_for(lambda: self._is_closed or condition(), seconds)
        return condition()
