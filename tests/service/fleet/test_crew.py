"""Versions and states over several workers: ready in all before they hold, and nobody waits for the dead."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import LoadFailedError, NotFoundError, VersionRefusedError
from service.fleet import crew as crew_module
from service.fleet import messages
from service.fleet.crew import Crew
from service.fleet.moment import Moment
from service.lifecycle import VersionState
from service.registry import Registry
from tests.service.fleet.loaded_versions import loaded_version

FACTS = messages.Facts("program", (4,), "0" * 64)


class FakeWorker:
    """What the crew sees of a worker: does at once what it is told, or what a test says.

    Args:
        slot: its place.
        outcome: of every version.
    """

    def __init__(self, slot, outcome=FACTS):
        self.slot, self.outcome = slot, outcome
        self.joined_seconds = 1.0
        self.received = -1
        self.is_late = self.is_gone = False
        self.reason = ""
        self.heard = []
        self.is_deaf = False
        self.crew = None

    def send(self, message, descriptors=()):
        """Take a message and follow it, unless the test does that."""
        self.heard.append(message)
        if self.is_deaf:
            return
        match message:
            case messages.Prepare():
                assert 1 == len(descriptors)
                self.crew.note(self, messages.Prepared(message.serial, self.outcome))
            case messages.State():
                self.crew.note(self, messages.Received(message.number))
            case messages.Discard():
                self.crew.note(self, messages.Released(message.serial))

    def kill(self):
        """End it."""
        self.crew.remove(self)

    def of(self, kind):
        """Return what it heard of a kind."""
        return [message for message in self.heard if isinstance(message, kind)]


class Server:
    """A registry, a crew and fake workers."""

    def __init__(self, moment):
        self.moment = moment
        self.registry = Registry("m")
        self.crew = Crew(self.registry, moment)

    def add(self, worker):
        """Let a worker join."""
        worker.crew = self.crew
        self.crew.add(worker)
        return worker

    def publish(self, version):
        """Load and publish a version of m, as the watcher does."""
        self.registry.begin("m", version)
        live = self.crew.prepare(loaded_version("m", version), False)
        self.registry.publish(live)
        return live


@pytest.fixture
def server():
    """Return a server without workers."""
    with contextlib.closing(Moment.create()) as moment:
        server = Server(moment)
        yield server
        server.crew.close()
        server.registry.close()
        for member in list(server.crew.members.values()):
            server.crew.remove(member)
        assert {} == server.crew._offers  # the descriptors of all parcels are closed


def test_version_is_ready_in_every_worker_before_a_state_names_it(server):
    """Each hears of the version, then of the state, then that it holds; the moment is the state's number."""
    workers = [server.add(FakeWorker(slot)) for slot in range(3)]
    live = server.publish(1)
    for worker in workers:
        kinds = [type(message) for message in worker.heard]
        assert kinds.index(messages.Prepare) < kinds.index(messages.State, kinds.index(messages.Prepare))
        newest = worker.of(messages.State)[-1]
        assert {("m", 1): live.serial} == newest.serials
        assert newest.number == server.moment.read() == worker.of(messages.Holds)[-1].number
    assert ("program", (4,), "unproved") == (live.engine.name, live.tile_rows, live.convexity)


def test_version_is_tried_in_one_worker_before_the_others_get_it(server):
    """One that ends the worker which makes it ready ends that one alone, and is a failed load."""
    first, second = (server.add(FakeWorker(slot)) for slot in range(2))
    first.send = lambda message, _=(): first.kill() if isinstance(message, messages.Prepare) else None
    with pytest.raises(LoadFailedError, match="the worker that made it ready ended"):
        server.crew.prepare(loaded_version(), False)
    assert first.is_gone
    assert [] == second.of(messages.Prepare)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (VersionRefusedError("warm-up", "it fails"), VersionRefusedError),
        (messages.Failure("no memory", ""), LoadFailedError),
        (messages.Facts("program", (4,), "1" * 64), VersionRefusedError),
        (messages.Facts("program", (8,), "0" * 64), VersionRefusedError),
    ],
)
def test_version_that_one_worker_refuses_or_answers_with_other_bits_is_dropped_by_all(server, outcome, error):
    """Whatever the second says that the first did not: the version is refused, and no worker keeps it."""
    workers = [server.add(FakeWorker(0)), server.add(FakeWorker(1, outcome))]
    with pytest.raises(error):
        server.crew.prepare(loaded_version(), False)
    assert all(1 == len(worker.of(messages.Discard)) for worker in workers)


def test_death_of_a_worker_while_a_version_is_made_ready_delays_nobody(server):
    """The others have it, and it is published."""
    first, second = (server.add(FakeWorker(slot)) for slot in range(2))
    second.is_deaf = True
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(server.crew.prepare, loaded_version(), False)
        while not second.of(messages.Prepare):
            threading.Event().wait(0.001)
        second.kill()
        live = loading.result(10)
    live.close()
    assert 1 == len(first.of(messages.Discard))


def test_worker_that_does_not_make_a_version_ready_in_time_is_replaced(server, monkeypatch):
    """It is killed as stuck; the version is served by the others."""
    first, second = (server.add(FakeWorker(slot)) for slot in range(2))
    second.is_deaf = True
    monkeypatch.setattr(crew_module, "LONGEST_READY_SECONDS", 0.01)
    monkeypatch.setattr(crew_module, "LONGEST_RECEIPT_SECONDS", 0.01)
    server.publish(1)
    assert ("stuck", True) == (second.reason, second.is_gone)
    assert {("m", 1)} == set(first.of(messages.State)[-1].serials)


def test_new_worker_gets_every_live_version_before_the_state(server):
    """What others have is handed to it first, then all that is told of it, however long ago it was published."""
    server.add(FakeWorker(0))
    server.publish(1)
    server.publish(2)
    newcomer = server.add(FakeWorker(1))
    assert [messages.Prepare] * 2 + [messages.State, messages.Holds] == [type(message) for message in newcomer.heard]
    state = newcomer.of(messages.State)[0]
    assert [2, 1] == [version.version for version in state.models["m"].versions]
    assert set(state.serials.values()) == {message.serial for message in newcomer.of(messages.Prepare)}


def test_states_tell_only_what_changed(server):
    """A model that stays as it was is not told again, and one that is gone is told once, as nothing."""
    worker = server.add(FakeWorker(0))
    server.publish(1)
    server.registry.begin("other", 1)
    assert ["other"] == list(worker.of(messages.State)[-1].models)
    server.registry.refuse("other", 1, "rule", "reason")
    server.registry.forget("other", 1)
    assert {"other": None} == worker.of(messages.State)[-1].models
    before = len(worker.heard)
    server.crew.tell()
    assert before == len(worker.heard)


def test_retired_version_stays_until_every_worker_has_let_it_go(server, monkeypatch):
    """Each is told to drop it once the state without it holds; the registry waits for the last, or its death."""
    first, second = (server.add(FakeWorker(slot)) for slot in range(2))
    server.publish(1)
    server.publish(2)
    monkeypatch.setattr(crew_module, "LONGEST_RECEIPT_SECONDS", 0.01)
    second.is_deaf = True
    first_serial = first.of(messages.Prepare)[0].serial
    with ThreadPoolExecutor(1) as pool:
        retiring = pool.submit(server.registry.retire, "m", 1, 0.05)
        assert retiring.result(10) is False
    assert [first_serial] == [message.serial for message in first.of(messages.Discard)]
    assert VersionState.UNLOADING is server.registry.statuses("m")[1].state
    server.crew.note(second, messages.Released(first_serial))
    assert server.registry.retire("m", 1, 1.0) is True
    server.registry.sweep()


def test_worker_that_does_not_take_a_state_is_waited_for_once_only(server, monkeypatch):
    """The switch goes on without it; it is late until it has the newest state, and not waited for until then."""
    monkeypatch.setattr(crew_module, "LONGEST_RECEIPT_SECONDS", 0.01)
    server.add(FakeWorker(0))
    slow = server.add(FakeWorker(1))
    server.publish(1)
    slow.is_deaf = True
    server.registry.scanned()
    assert slow.is_late
    assert server.moment.read() == slow.of(messages.State)[-1].number
    monkeypatch.setattr(crew_module, "LONGEST_RECEIPT_SECONDS", 60.0)
    server.registry.start_draining()  # waits for nobody
    server.crew.note(slow, messages.Received(server.moment.read() - 1))
    assert slow.is_late
    server.crew.note(slow, messages.Received(server.moment.read()))
    assert not slow.is_late


def test_load_is_given_up_when_the_server_ends(server):
    """Who waits for a worker is told so at once."""
    deaf = server.add(FakeWorker(0))
    deaf.is_deaf = True
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(server.crew.prepare, loaded_version(), False)
        while not deaf.of(messages.Prepare):
            threading.Event().wait(0.001)
        server.crew.close()
        with pytest.raises(LoadFailedError, match="about to end"):
            loading.result(10)


def test_rows_never_come_to_the_commander(server):
    """Its versions compute nothing: that would be an answer beside the workers'."""
    server.add(FakeWorker(0))
    live = server.publish(1)
    with pytest.raises(RuntimeError, match="expected a worker to be asked"):
        live.score([[1.0, 2.0, 3.0]])
    with pytest.raises(NotFoundError), server.registry.acquire("m", 2):
        pass
