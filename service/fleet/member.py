"""A worker: both protocols over a registry that mirrors the commander's. What runs in each process of a fleet.

Above: `worker_process`, which starts it as a fresh interpreter. Below: `worker` (the protocols), `mirror`, `channel`.
"""

import contextlib
import hashlib
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from service import freed_memory, logs
from service.answered import AnsweredRequest
from service.errors import UnavailableError, VersionRefusedError
from service.fleet import messages, parcel
from service.fleet.channel import Channel
from service.fleet.connections import Connections
from service.fleet.mirror import MirrorRegistry
from service.fleet.moment import Moment
from service.garbage import GarbageCollection
from service.lifecycle import ModelStatus
from service.loading import bounds
from service.metrics import Metrics
from service.model_version import ModelVersion
from service.version_loader import VersionMaker
from service.worker import Protocols, SharedPorts, access_log_of

TELL_SECONDS = 1.0
"""How often a worker tells its numbers unasked."""

_PAGE_SECONDS = 5.0
_ARGUMENTS = 3


class AskingMetrics(Metrics):
    """The counters of one worker, whose page is that of all of them.

    Args:
        ask: returns the page, with or without TensorFlow Serving's names.
        tell: as of `Metrics`.
    """

    def __init__(self, ask: Callable[[bool], bytes], tell: Callable[[AnsweredRequest], None] | None = None) -> None:
        super().__init__(tell)
        self._ask = ask

    def render(
        self,
        models: Sequence[ModelStatus] | None = None,  # noqa: ARG002  (the commander knows better)
        num_dropped_lines: int = 0,  # noqa: ARG002  (each worker tells its own)
        *,
        with_tensorflow_names: bool = False,
    ) -> bytes:
        """Return the page of all workers."""
        return self._ask(with_tensorflow_names)


class Member:
    """A worker of a fleet.

    Args:
        welcome: what it is.
        channel: to the commander.
        ports: of the server.
        moment: shared by all.

    Thread safety: `run` is for the main thread.
    """

    def __init__(self, welcome: messages.Welcome, channel: Channel, ports: SharedPorts, moment: Moment) -> None:
        self._welcome = welcome
        self._settings = welcome.settings
        self._channel = channel
        self._ports = ports
        self._metrics = AskingMetrics(self._ask_page, access_log_of(welcome.settings))
        self._registry = MirrorRegistry(moment, welcome.settings.default_model)
        self._make = VersionMaker(welcome.settings, self._metrics)
        self._tidy = GarbageCollection()
        self._protocols: Protocols | None = None
        self._log = structlog.get_logger()
        self._orders: queue.SimpleQueue[tuple[messages.Prepare, int] | None] = queue.SimpleQueue()
        self._preparing = threading.Condition()
        self._prepared: dict[int, bool] = {}  # serial -> whether it is ready
        self._pages: dict[int, queue.SimpleQueue[bytes]] = {}
        self._last_ticket = 0
        self._has_stopped = threading.Event()

    def run(self) -> None:
        """Do what the commander says until it says stop, or is gone."""
        for target, name in ((self._prepare_all, "prepare"), (self._keep, "keep")):
            threading.Thread(target=target, name=name, daemon=True).start()
        try:
            while True:
                message, descriptors = self._channel.receive()
                self._follow(message, descriptors)
        except EOFError:
            if not self._has_stopped.is_set():
                self._log.error("the server's first process is gone: this worker ends")

    def _follow(self, message: Any, descriptors: list[int]) -> None:
        match message:
            case messages.Prepare():
                self._orders.put((message, descriptors[0]))
            case messages.State():
                self._stage(message)
            case messages.Holds():
                self._registry.holds()
                self._join()
            case messages.Discard():
                self._registry.discard(message.serial)
            case messages.Count():
                self._tell(message.ticket)
            case messages.Page():
                with contextlib.suppress(KeyError):
                    self._pages[message.ticket].put(message.text)
            case messages.Stop():
                threading.Thread(target=self._stop, args=(message.seconds,), name="stop", daemon=True).start()

    # ------------------------------------------------------------------------------------------------- what is live
    def _stage(self, state: messages.State) -> None:
        """Have a state and every version that it names, and say so; what was told at the start may take a while."""
        with self._preparing:
            self._preparing.wait_for(lambda: all(serial in self._prepared for serial in state.serials.values()))
            missing = [key for key, serial in state.serials.items() if not self._prepared[serial]]
        if missing:
            self._log.error("a version that is served cannot be made ready here: this worker ends", versions=missing)
            os._exit(1)
        self._metrics.know_models([name for name, status in state.models.items() if status is not None])
        self._registry.stage(state)
        self._say(messages.Received(state.number))
        self._registry.holds()
        self._join()

    def _join(self) -> None:
        """Accept requests, once it is known what is live."""
        if self._protocols is not None or not self._registry.is_following or self._has_stopped.is_set():
            return
        self._protocols = Protocols(self._settings, self._registry, self._metrics, self._ports)
        self._registry.subscribe(self._note_change)
        self._protocols.start()
        self._say(messages.Joined())
        self._log.info("worker serves", pid=os.getpid(), processor=self._welcome.processor)

    def _note_change(self) -> None:
        models, is_draining = self._registry.followed()
        self._metrics.forget_gone(models)
        if self._protocols is not None and is_draining:
            self._protocols.close_gently()

    # --------------------------------------------------------------------------------------------------- versions
    def _prepare_all(self) -> None:
        while (order := self._orders.get()) is not None:
            message, descriptor = order
            outcome = self._prepare(message, descriptor)
            with self._preparing:
                self._prepared[message.serial] = isinstance(outcome, messages.Facts)
                self._preparing.notify_all()
            self._say(messages.Prepared(message.serial, outcome))
            self._tidy()

    def _prepare(
        self, message: messages.Prepare, descriptor: int
    ) -> messages.Facts | VersionRefusedError | messages.Failure:
        try:
            live = self._make(parcel.unpack(descriptor), message.sees_gpu)
            self._registry.prepare(message.serial, live)
            return messages.Facts(live.engine.name, live.tile_rows, answers_sha256(live))
        except VersionRefusedError as refusal:
            return VersionRefusedError(refusal.rule, refusal.reason)
        except MemoryError:
            return messages.Failure("a worker has no memory for it", traceback.format_exc())
        except Exception as error:  # noqa: BLE001  # the border of the process: what it is, the commander says
            return messages.Failure(f"{type(error).__name__} while a worker made it ready", traceback.format_exc())
        finally:
            os.close(descriptor)

    def _keep(self) -> None:
        """Let discarded versions go, and tell the numbers now and then."""
        while not self._has_stopped.is_set():
            for serial, live in self._registry.released(TELL_SECONDS):
                if live is not None:
                    live.close()
                del live
                with self._preparing:
                    self._prepared.pop(serial, None)
                self._say(messages.Released(serial))
                self._tidy()
            self._metrics.forget_gone(self._registry.followed()[0])
            self._tell(0)

    # ---------------------------------------------------------------------------------------------------- numbers
    def _tell(self, ticket: int) -> None:
        numbers = self._metrics.numbers(num_dropped_lines=logs.num_dropped_lines())
        self._say(messages.Counted(ticket, numbers, self._registry.trouble()))

    def _ask_page(self, with_tensorflow_names: bool) -> bytes:
        answer: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        with self._preparing:
            self._last_ticket += 1
            ticket = self._last_ticket
        self._pages[ticket] = answer
        try:
            self._say(messages.AskPage(ticket, with_tensorflow_names))
            return answer.get(timeout=_PAGE_SECONDS)
        except queue.Empty as err:
            raise UnavailableError("the numbers of all workers could not be had in time. Try again.") from err
        finally:
            del self._pages[ticket]

    # -------------------------------------------------------------------------------------------------------- end
    def _stop(self, seconds: float) -> None:
        self._has_stopped.set()
        finished = True if self._protocols is None else self._protocols.stop(seconds)
        finished &= self._registry.close()
        self._tell(0)
        self._say(messages.Stopped(finished))
        self._channel.end()

    def _say(self, message: object) -> None:
        with contextlib.suppress(OSError):  # the commander is gone, and `run` ends
            self._channel.send(message)


def answers_sha256(live: ModelVersion) -> str:
    """Return the hash of the bits that a version answers to the rows of its probe, all outputs."""
    digest = hashlib.sha256()
    for name, values in sorted(live.run(live.loaded.probe.rows, live.signature.outputs).items()):
        digest.update(name.encode() + values.astype("<f4").tobytes())
    return digest.hexdigest()


def main() -> None:
    """Be a worker: `DESCRIPTOR COMMANDER`; serve until told to stop, or the commander is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the commander says when it is over
        signal.signal(number, signal.SIG_IGN)
    descriptor, commander = map(int, sys.argv[1:_ARGUMENTS])
    bounds.die_with(commander)
    os.set_inheritable(descriptor, False)  # what TensorFlow starts shall not keep it open
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        welcome, (listening, counts, shared) = channel.receive()
    except EOFError:
        return
    if welcome.processor is not None:
        with contextlib.suppress(OSError):  # it was taken away meanwhile
            os.sched_setaffinity(0, {welcome.processor})
    freed_memory.return_large_blocks()
    logs.configure(welcome.settings.log_format, welcome.settings.log_level, worker=welcome.slot)
    try:
        shares = Connections(counts, welcome.slot)
        ports = SharedPorts(socket.socket(fileno=listening), shares, welcome.grpc_port)
        Member(welcome, channel, ports, Moment(shared)).run()
    except Exception as error:  # noqa: BLE001  # the border of the process: log and end; the commander starts another
        structlog.get_logger().error("a worker fails", exc_info=error)
        logs.close()
        os._exit(1)
    logs.close()
    os._exit(0)  # what Python and the libraries would tidy up goes with the process
