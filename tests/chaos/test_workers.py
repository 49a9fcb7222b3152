"""Several workers as one server: the same bits, no version twice, a death that nobody else notices, one sum."""

import contextlib
import json
import signal
import threading

import psutil
import pytest

from tests.chaos.checking_clients import CheckingClient, Pace
from tests.chaos.fleets import FleetHere, FleetProcess
from tests.chaos.ramp_versions import MODEL, RampVersions
from tests.chaos.test_termination import Round
from tests.end_to_end.clients import GrpcClient, RestClient

READY_SECONDS = 60.0
LOST_CONNECTION = ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError", "IncompleteRead")
LONG = [pytest.mark.chaos, pytest.mark.timeout(1800)]


class Served:
    """A server of two workers over ramps, of which version 1 is published.

    Args:
        ramps: the versions.
        models_dir: a folder that is not there yet.
        start: models_dir -> the server.
        wait_until: the fixture.
    """

    def __init__(self, ramps, models_dir, start, wait_until):
        self.ramps, self.models_dir, self.wait_until = ramps, models_dir, wait_until
        self.newest = 1
        ramps.publish(models_dir, 1)
        self.server = start(models_dir)
        wait_until(lambda: self.server.is_ready() and len(self.server.workers()) == 2, READY_SECONDS)
        wait_until(lambda: self.server.number("convex_workers") == 2, READY_SECONDS)

    def rest(self):
        """Return a client on a connection of its own that was asked once, with what it answered."""
        client = RestClient(self.server.address("rest"), self.ramps.rows, MODEL, raw=True)
        return client, client.ask()

    def clients_of_both(self, *, least=2, most=200):
        """Return {pid: clients}, `least` of each worker at least."""
        found = {pid: [] for pid in self.server.workers()}
        for _ in range(most):
            client, _ = self.rest()
            found[self.server.owner(client)].append(client)
            if min(map(len, found.values())) >= least:
                return found
        pytest.fail(f"{most} connections went to {[len(clients) for clients in found.values()]}")

    def publish_next(self):
        """Publish a version and return its number once it answers."""
        self.newest += 1
        self.ramps.publish(self.models_dir, self.newest)
        client, _ = self.rest()
        with contextlib.closing(client):
            self.wait_until(lambda: client.ask()[0] == self.newest)
        if self.newest > 3:
            self.ramps.remove(self.models_dir, self.newest - 3)
        return self.newest


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return the versions of all short tests."""
    return RampVersions(tmp_path_factory.mktemp("prepared"))


@contextlib.contextmanager
def serving_here(ramps, models_dir, wait_until):
    """Serve by two workers of a commander in this process until the block ends."""
    server = []

    def start(folder):
        server.append(FleetHere(folder, drain_seconds=60.0))  # however busy the machine is
        return server[0]

    try:
        yield Served(ramps, models_dir, start, wait_until)
    finally:
        unfinished = [each for each in server if not each.is_over and not each.kill()]
        assert [] == unfinished


@pytest.fixture(scope="module")
def served(prepared, tmp_path_factory, wait_until):
    """Serve by two workers, to the tests that end none, one after the other."""
    with serving_here(prepared, tmp_path_factory.mktemp("fleet") / "models", wait_until) as served:
        yield served


@pytest.fixture
def mortal(prepared, tmp_path, wait_until):
    """Serve by two workers that a test may end."""
    with serving_here(prepared, tmp_path / "models", wait_until) as served:
        yield served


@pytest.fixture
def served_long(ramps, tmp_path, wait_until):
    """Serve by two workers of a server in a process of its own."""
    server = []

    def start(models_dir):
        server.append(FleetProcess(models_dir, "--workers", 2, "--poll-interval-seconds", 0.05))
        return server[0]

    try:
        yield Served(ramps, tmp_path / "models", start, wait_until)
    finally:
        for each in server:
            each.kill()


def check_answers(answers, ramps):
    """Require of each answer the bits of the version that it names."""
    for version, score, gradient in answers:
        expected = ramps.expected(version)
        assert [values.tobytes() for values in expected] == [score.tobytes(), gradient.tobytes()]


def test_both_workers_answer_with_the_same_bits_on_both_protocols(served):
    """Each connection has its worker, both have some, and every answer has the bits of the closed form."""
    before = [served.server.number("convex_worker_requests_total", worker=name) for name in "01"]
    clients = served.clients_of_both()
    calls = [GrpcClient(served.server.address("grpc"), served.ramps.rows, MODEL) for _ in range(4)]
    everyone = [*calls, *(client for each in clients.values() for client in each)]
    answers = [client.ask() for client in everyone for _ in range(3)]
    for client in everyone:
        client.close()
    check_answers(answers, served.ramps)
    after = [served.server.number("convex_worker_requests_total", worker=name) for name in "01"]
    assert all(later - earlier >= 6 for earlier, later in zip(before, after, strict=True))


def test_numbers_of_all_workers_are_one_sum_whichever_is_asked(served):
    """After so many answers by both the page of each counts them all; gauges of the state are there once."""
    server = served.server
    before = server.number("convex_requests_total", model=MODEL, code="OK")
    clients = served.clients_of_both()
    asked = sum(len(each) for each in clients.values())
    pages = []
    for each in clients.values():
        for _ in range(5):
            check_answers([each[0].ask()], served.ramps)
            asked += 1
    for each in clients.values():
        each[1].connection.request("GET", "/metrics")
        pages.append(each[1].connection.getresponse().read().decode())
    for client in (client for each in clients.values() for client in each):
        client.close()
    for page in pages:
        assert f'convex_newest_version{{model="{MODEL}"}} {float(served.newest)}' in page
        assert "\nconvex_workers 2.0\n" in page
    assert before + asked <= server.number("convex_requests_total", model=MODEL, code="OK") <= before + asked + 200


class Newcomer:
    """Asks on a new connection each time, and knows which version anybody has seen before it asked.

    Args:
        served: the server.
        seen: a list of one number that all newcomers share: the highest version that answered one of them.
        lock: of the list.
        protocol: "rest" or "grpc".
    """

    def __init__(self, served, seen, lock, protocol):
        self.served, self.seen, self.lock, self.protocol = served, seen, lock, protocol

    def ask(self):
        """Return an answer; one of a version below those that were seen before is an error."""
        with self.lock:
            (before,) = self.seen
        rows, address = self.served.ramps.rows, self.served.server.address(self.protocol)
        client = (
            RestClient(address, rows, MODEL, raw=True) if self.protocol == "rest" else GrpcClient(address, rows, MODEL)
        )
        with contextlib.closing(client):
            answer = client.ask()
        if answer[0] < before:
            raise RuntimeError(f"version {answer[0]} after somebody had seen {before}")
        with self.lock:
            self.seen[0] = max(self.seen[0], answer[0])
        return answer

    def close(self):
        """Nothing stays open."""


def swap_under_newcomers(served, num_swaps):
    """Publish versions while clients connect anew for each request; return them, ended."""
    seen, lock = [1], threading.Lock()
    askers = [Newcomer(served, seen, lock, protocol) for protocol in ("rest", "rest", "rest", "grpc")]
    clients = [CheckingClient(each.ask, each.close, served.ramps.expected, Pace()) for each in askers]
    for client in clients:
        client.start()
    try:
        for _ in range(num_swaps):
            served.publish_next()
            assert [] == [fault for client in clients for fault in client.faults]
    finally:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join(30)
    assert [] == [fault for client in clients for fault in client.faults]
    return clients


def test_no_version_goes_back_for_anybody_while_versions_are_swapped(served):
    """Whatever worker takes a new connection: no version older than one that any client had seen before it asked."""
    before = [served.server.number("convex_worker_requests_total", worker=name) for name in "01"]
    clients = swap_under_newcomers(served, 5)
    after = [served.server.number("convex_worker_requests_total", worker=name) for name in "01"]
    assert all(later - earlier >= 5 for earlier, later in zip(before, after, strict=True))
    assert len({version for client in clients for version in client.versions}) >= 3


def kill_one(served):
    """Kill a worker under load; return what the others' clients and newcomers saw, and how long one was missing."""
    server, wait_until = served.server, served.wait_until
    counted = server.number("convex_requests_total", model=MODEL, code="OK")
    killed_before = max(0.0, server.number("convex_workers_ended_total", reason="killed"))
    victim, other = server.workers()
    groups = {
        pid: [CheckingClient(each.ask, each.close, served.ramps.expected, Pace()) for each in clients]
        for pid, clients in served.clients_of_both().items()
    }
    seen, lock = [1], threading.Lock()
    newcomers = [
        CheckingClient(each.ask, each.close, served.ramps.expected, Pace(0.01))
        for each in (Newcomer(served, seen, lock, "rest") for _ in range(2))
    ]
    for client in (*groups[victim], *groups[other]):
        client.start()
    try:
        wait_until(lambda: all(client.num_answers > 10 for client in (*groups[victim], *groups[other])))
        server.end_worker(victim)
        for client in newcomers:
            client.start()
        wait_until(lambda: all(client.faults for client in groups[victim]))
        answered = [client.num_answers for client in groups[other]]
        wait_until(lambda: len(server.workers()) == 2 and victim not in server.workers(), READY_SECONDS)
        wait_until(lambda: server.number("convex_workers") == 2, READY_SECONDS)
        wait_until(lambda: min(client.num_answers for client in groups[other]) > min(answered) + 20)
    finally:
        for client in (*groups[victim], *groups[other], *newcomers):
            client.stopping.set()
        for client in (*groups[victim], *groups[other], *newcomers):
            if client.ident is not None:
                client.join(30)
    assert [] == [fault for client in (*groups[other], *newcomers) for fault in client.faults]
    lost = [fault for client in groups[victim] for fault in client.faults]
    assert [] == [fault for fault in lost if not any(name in fault for name in LOST_CONNECTION)]
    assert victim not in server.workers()
    assert killed_before + 1 == server.number("convex_workers_ended_total", reason="killed")
    assert server.number("convex_requests_total", model=MODEL, code="OK") >= counted
    return groups, newcomers


def test_death_of_a_worker_is_unnoticed_by_the_others_clients_and_mended(mortal):
    """Killed under load: the other's connections go on, new ones are answered, and its successor has the bits."""
    kill_one(mortal)
    clients = mortal.clients_of_both(least=1)
    answers = [client.ask() for each in clients.values() for client in each]
    for client in (client for each in clients.values() for client in each):
        client.close()
    check_answers(answers, mortal.ramps)
    assert {mortal.newest} == {answer[0] for answer in answers}


def lose_nothing(served):
    """End a server under load by SIGTERM; return how many requests were answered meanwhile."""
    workers = served.server.workers()
    this = Round(served.server, served.ramps)
    code, seconds = this.run(lambda: None)
    assert [] == this.lost
    assert 0 == code
    assert this.outcomes["answered"] > 0
    assert not any(psutil.pid_exists(pid) for pid in workers)
    return this.outcomes["answered"], seconds


def version_of(client, label):
    """Return the version that answers a label on a client's connection."""
    body, kind = client.rows.tobytes(), "application/octet-stream"
    client.connection.request("POST", f"/models/{MODEL}/score?label={label}", body, {"Content-Type": kind})
    response = client.connection.getresponse()
    response.read()
    return int(response.headers["X-Model-Version"])


def test_worker_that_stood_still_during_a_switch_answers_nothing_old_afterwards(served):
    """A label moves without waiting for a stopped worker, whose first answer once it goes on is by the new place."""
    labels = served.models_dir / MODEL / "labels.json"
    old, new = served.newest, served.publish_next()
    labels.write_text(json.dumps({"steady": new}))
    clients = served.clients_of_both(least=1)
    stopped, other = ((pid, each[0]) for pid, each in clients.items())
    served.wait_until(lambda: "steady" in served.server.get("/models")[1].decode())
    assert new == version_of(stopped[1], "steady") == version_of(other[1], "steady") > old
    newest = served.publish_next()
    served.server.end_worker(stopped[0], signal.SIGSTOP)
    try:
        labels.write_text(json.dumps({"steady": newest}))
        served.wait_until(lambda: version_of(other[1], "steady") == newest)
    finally:
        served.server.end_worker(stopped[0], signal.SIGCONT)
    assert newest == version_of(stopped[1], "steady")
    labels.unlink()
    for client in (client for each in clients.values() for client in each):
        client.close()


@pytest.mark.parametrize("num_swaps", [pytest.param(100, marks=LONG)])
def test_no_version_goes_back_for_anybody_over_many_swaps(num_swaps, served_long, report):
    """As in the short form, a hundred times."""
    clients = swap_under_newcomers(served_long, num_swaps)
    report(swaps=num_swaps, answers=sum(client.num_answers for client in clients), faults=0)


@pytest.mark.parametrize("num_deaths", [pytest.param(20, marks=LONG)])
def test_every_death_of_a_worker_is_unnoticed_by_the_others_clients(num_deaths, served_long, report):
    """As in the short form, twenty times: one worker or the other, and no request of the one that lives is lost."""
    answers = 0
    for _ in range(num_deaths):
        groups, newcomers = kill_one(served_long)
        answers += sum(client.num_answers for each in (*groups.values(), newcomers) for client in each)
    report(deaths=num_deaths, answers=answers, lost_by_others=0)


@pytest.mark.parametrize("num_rounds", [pytest.param(20, marks=LONG)])
def test_nothing_is_lost_when_several_workers_are_ended_under_load(num_rounds, ramps, tmp_path, wait_until, report):
    """Twenty servers of two workers: each accepted request has a whole, exact answer; exit 0; nothing stays."""
    answered = durations = 0
    for number in range(num_rounds):

        def start(models_dir):
            return FleetProcess(models_dir, "--workers", 2)

        served = Served(ramps, tmp_path / f"models-{number}", start, wait_until)
        try:
            count, seconds = lose_nothing(served)
        finally:
            served.server.kill()
        answered, durations = answered + count, max(durations, seconds)
    report(rounds=num_rounds, answered=answered, lost=0, longest_seconds=round(durations, 2))


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_workers_end_with_their_commander_whatever_they_do(served_long, report):
    """Killed without a word to them, even while one stands still: none is left, and the ports are free."""
    server = served_long.server
    workers = server.workers()
    server.end_worker(workers[0], signal.SIGSTOP)
    server.process.kill()
    server.process.wait(20)
    served_long.wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers), 20)
    report(workers=len(workers), left=0)
