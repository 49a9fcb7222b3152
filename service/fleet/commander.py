"""The supervisor's process of several workers: binds the ports, keeps the workers, decides what they serve.

Above: `server`, to which it is what a lone `Worker` is. Below: `crew` (versions and states), `worker_process`,
`patience`, `tally`, and what keeps a registry in step with a folder: `watcher`, `version_loader`.
"""

import os
import queue
import threading
import time
from typing import Any

import structlog

from service import logs, ports
from service.fleet import messages, placement
from service.fleet.connections import Connections
from service.fleet.crew import Crew
from service.fleet.moment import Moment
from service.fleet.patience import Patience
from service.fleet.tally import Tally
from service.fleet.worker_process import WorkerProcess
from service.loading.process import LoadingProcess
from service.metrics import Metrics
from service.ports import Addresses, StartError
from service.program.kernel.library import why_missing
from service.registry import Registry
from service.repository import Repository
from service.schema_change import SteadySchema
from service.settings import Settings
from service.version_loader import VersionLoader
from service.watcher import Watcher

MOST_SILENT_TICKS = 30
"""Looks, a second apart, at which a worker was not heard of: then it is replaced."""

_MOST_TICKS_TO_JOIN = 300
_TICKS_TO_WAIT = 3  # a page does not wait for a worker that is silent for so long
_TICK_SECONDS = 1.0
_NUMBERS_SECONDS = 1.0
_LAST_SECONDS = 0.25
_END_SECONDS = 1.0


class Commander:
    """Several workers, as one object of the form of `Worker`.

    Both ports are bound when it is made, so that a port in use is known at once and before anything is started.

    Args:
        settings: all of it; `workers` is how many.
        process: loads versions; by default one is started.

    Raises:
        StartError: a port is in use, the address is not this machine's, or the system cannot share what is needed.

    Thread safety: the methods are for the owner, one at a time.
    """

    def __init__(self, settings: Settings, process: LoadingProcess | None = None) -> None:
        if not hasattr(os, "memfd_create"):
            raise StartError(f"--workers: received {settings.workers}; on this system expected 1 (several need Linux).")
        self.settings = settings
        self._listener = ports.bind_rest(settings)
        try:
            self._held = ports.hold(settings)
        except StartError:
            self._listener.close()
            raise
        self._grpc_port: int = self._held.getsockname()[1]
        rest = ports.address(settings.host, self._listener.getsockname()[1])
        self.addresses = Addresses(rest, ports.address(settings.host, self._grpc_port))
        self.metrics = Metrics()
        self.registry = Registry(settings.default_model)
        self._moment = Moment.create()
        self._connections = Connections.create(settings.workers)
        self._crew = Crew(self.registry, self._moment)
        self._loader = VersionLoader(settings, process=process, make=self._crew.prepare)
        make: Any = self._loader
        if not settings.allow_schema_change:
            make = SteadySchema(make, self.registry)
        repository = Repository(settings.models_dir, follow_model_links=settings.follow_model_links)
        self.watcher = Watcher(repository, self.registry, make, self.metrics, settings, give_up=self._loader.give_up)
        self._processors = placement.processors(settings.workers, os.sched_getaffinity(0))
        self._patience = Patience()
        self._tally = Tally(settings.workers)
        self._due = dict.fromkeys(range(settings.workers), 0.0)  # place -> when it is to be taken
        self._all: list[WorkerProcess] = []  # whose threads may run
        self._num_joined = 0
        self._last_ticket = 0
        self._lost = ""
        self._is_stopping = False
        self._pages: queue.SimpleQueue[tuple[WorkerProcess, messages.AskPage] | None] = queue.SimpleQueue()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._clerk = threading.Thread(target=self._make_pages, name="pages", daemon=True)
        self._log = structlog.get_logger()

    # ---------------------------------------------------------------------------------------------- start and end
    def start(self) -> None:
        """Start the workers, and look for versions; the workers accept requests as soon as they run."""
        self._loader.start()
        self._keeper.start()
        self._clerk.start()
        self.watcher.start()
        self._log.info("serving", rest=self.addresses.rest, grpc=self.addresses.grpc, workers=self.settings.workers)
        if self.settings.engine != "tensorflow" and (reason := why_missing()):
            self._log.warning("there is no compiled kernel: NumPy computes, in several times the time", reason=reason)

    def is_settled(self) -> bool:
        """Whether the first look at the folder is over, and each worker has joined once."""
        return self.watcher.first_scan_over.is_set() and self._num_joined >= self.settings.workers

    def drain(self) -> None:
        """Be not ready, and ask clients to go elsewhere, while every request is still answered."""
        self.registry.start_draining()

    def stop(self, timeout_seconds: float) -> bool:
        """Let every worker finish what it accepted, and end it; then end the watcher. For once.

        Args:
            timeout_seconds: most time for the accepted requests; a worker that does not end then is killed.

        Returns:
            Whether every worker finished everything, and every thread ended.
        """
        deadline = time.monotonic() + timeout_seconds
        self.drain()
        changed = self._crew.changed
        with changed:
            self._is_stopping = True
            members = list(self._crew.members.values())
            self._listener.close()  # the last worker that closes it ends it
            for process in members:
                process.send(messages.Stop(max(0.0, deadline - time.monotonic())))
            changed.notify_all()
            changed.wait_for(lambda: not self._crew.members, max(0.0, deadline - time.monotonic()) + _END_SECONDS)
            for process in self._crew.members.values():
                process.kill()
        self._crew.close()
        finished = self.watcher.stop(_LAST_SECONDS, self._loader.close)
        ended = [process.join(_END_SECONDS) for process in self._all]
        finished &= all(ended)
        self._pages.put(None)
        with changed:
            changed.notify_all()
        for thread in (self._clerk, self._keeper):
            if thread.ident is not None:
                thread.join(_END_SECONDS)
                finished &= not thread.is_alive()
        finished &= self.registry.close()
        self._held.close()
        self._moment.close()
        self._connections.close()
        return finished and all(process.finished for process in members)

    def lost(self) -> str:
        """Return why it can serve no more, as a sentence; empty while it can."""
        return self._lost

    # ------------------------------------------------------------------------------------------------ the keeper
    def _keep(self) -> None:
        """Start workers and look after them: on one thread that lives as long as they, for they end with it."""
        changed = self._crew.changed
        next_tick = time.monotonic() + _TICK_SECONDS
        while True:
            with changed:
                if self._is_stopping and not self._crew.members:
                    return
                now = time.monotonic()
                is_tick = now >= next_tick
                if is_tick:
                    next_tick = now + _TICK_SECONDS
                    self._look_after(now)
                due = [] if self._is_stopping or self._lost else [s for s, when in self._due.items() if when <= now]
            for slot in due:
                self._start(slot)
            with changed:
                soonest = min([next_tick, *([] if self._is_stopping else self._due.values())])
                changed.wait(max(0.0, soonest - time.monotonic()))

    def _start(self, slot: int) -> None:
        try:
            process = WorkerProcess(slot, self._hear, self._note_end)
        except OSError as error:
            self._log.warning("a worker cannot be started now", worker=slot, why=error.strerror)
            with self._crew.changed:
                self._due[slot] = time.monotonic() + self._patience.note_end(slot, 0.0)
            return
        welcome = messages.Welcome(self.settings, slot, self._processors[slot], self._grpc_port)
        with self._crew.changed:
            del self._due[slot]
            self._all = [*(other for other in self._all if not other.is_gone), process]
            if self._is_stopping:
                process.kill()
            else:
                shared = [self._listener.fileno(), self._connections.descriptor, self._moment.descriptor]
                process.send(welcome, shared)
            self._crew.add(process)
        process.start()

    def _look_after(self, now: float) -> None:
        """Replace workers that are silent, or could not end in time."""
        for process in self._crew.members.values():
            process.num_silent_ticks += 1
            most = _MOST_TICKS_TO_JOIN if process.joined_seconds is None else MOST_SILENT_TICKS
            if process.num_silent_ticks > most and not process.reason:
                self._log.error("a worker is silent; it is replaced", worker=process.slot, seconds=most)
                process.reason = "silent"
                process.kill()
            if process.kill_seconds is not None and process.kill_seconds <= now:
                process.kill()

    # -------------------------------------------------------------------------------------- what workers say and do
    def _hear(self, process: WorkerProcess, message: Any) -> None:
        changed = self._crew.changed
        with changed:
            process.num_silent_ticks = 0
            match message:
                case messages.Joined():
                    process.joined_seconds = time.monotonic()
                    self._num_joined += 1
                    changed.notify_all()
                case messages.Counted():
                    self._tally.note(process.slot, message.numbers)
                    process.counted = max(process.counted, message.ticket)
                    self._relieve(process, message.trouble)
                    changed.notify_all()
                case messages.AskPage():
                    self._pages.put((process, message))
                case messages.Stopped():
                    process.finished = message.finished
                case _:
                    self._crew.note(process, message)

    def _relieve(self, process: WorkerProcess, trouble: str) -> None:
        """Let a worker in trouble finish what it can, and be replaced."""
        if trouble and not process.reason and not self._is_stopping:
            self._log.error("a worker is stuck; it is replaced", worker=process.slot, why=trouble)
            process.reason = "stuck"
            process.kill_seconds = time.monotonic() + self.settings.drain_seconds + _END_SECONDS
            process.send(messages.Stop(self.settings.drain_seconds))

    def _note_end(self, process: WorkerProcess) -> None:
        with self._crew.changed:
            code, now = process.code, time.monotonic()
            is_asked = self._is_stopping and process.finished
            reason = "" if is_asked else process.reason or ("killed" if code is not None and code < 0 else "exit")
            self._tally.note_end(process.slot, reason)
            self._crew.remove(process)
            self._connections.forget(process.slot)
            if self._is_stopping:
                return
            lived = 0.0 if process.joined_seconds is None else now - process.joined_seconds
            pause = self._patience.note_end(process.slot, lived)
            self._due[process.slot] = now + pause
            num_alive = sum(other.joined_seconds is not None for other in self._crew.members.values())
            log = self._log.bind(worker=process.slot, reason=reason, code=code, lived_seconds=round(lived, 1))
            if self._patience.is_hopeless(num_alive):
                self._lost = f"no worker can be kept: the last one ended with {code} after {lived:.1f} s"
                log.error("a worker ended, as those before it; the server ends")
            else:
                log.error("a worker ended; it is replaced", pause_seconds=round(pause, 2))

    # ---------------------------------------------------------------------------------------------------- numbers
    def _make_pages(self) -> None:
        while (asked := self._pages.get()) is not None:
            process, message = asked
            process.send(messages.Page(message.ticket, self._page(with_names=message.with_tensorflow_names)))

    def _page(self, *, with_names: bool) -> bytes:
        """Return the page of numbers, as they are now; of a worker that does not answer, as it told them last."""
        models = self.registry.models()
        self.metrics.forget_gone(models)
        own = self.metrics.numbers(models, logs.num_dropped_lines())
        changed = self._crew.changed
        with changed:
            self._last_ticket += 1
            ticket = self._last_ticket
            asked = [process for process in self._crew.members.values() if process.joined_seconds is not None]
            for process in asked:
                process.send(messages.Count(ticket))
            awaited = [process for process in asked if process.num_silent_ticks < _TICKS_TO_WAIT]
            changed.wait_for(
                lambda: all(process.counted >= ticket or process.is_gone for process in awaited), _NUMBERS_SECONDS
            )
            num_workers = sum(process.joined_seconds is not None for process in self._crew.members.values())
            return self._tally.page(own, num_workers, models, with_tensorflow_names=with_names)
