"""Loads side by side: their order and number, and what becomes of those that hang; the test turns the clock."""

import threading

import pytest

from service.loading.bounds import PATIENCE_SECONDS
from service.loads import MOST_AT_ONCE, Loads
from service.repository import VersionFolder

SECONDS = 30.0


class Bench:
    """Loads that end when the test says so."""

    def __init__(self, root):
        self.root = root
        self.now = 0.0
        self.begun = []
        self.gates = {}
        self.loads = Loads(self.load, lambda: self.now)

    def folder(self, model, version=1):
        """Return a version's folder."""
        return VersionFolder(model, version, self.root / model / str(version))

    def ask(self, *models):
        """Ask for the load of version 1 of models and begin what may begin."""
        for model in models:
            self.gates[model] = threading.Event()
            self.loads.ask(self.folder(model))
        self.begin()

    def begin(self):
        """Begin what may begin."""
        self.loads.begin(lambda folder: self.begun.append(folder.model) or ("fingerprint", folder.version))

    def load(self, folder):
        """Wait for the test's word; then fail."""
        assert self.gates[folder.model].wait(SECONDS)
        raise RuntimeError(folder.model)

    def end(self, model):
        """Let a load end and return it."""
        self.gates[model].set()
        return self.loads.next_ended(SECONDS)


@pytest.fixture
def bench(tmp_path):
    """Return a bench; its loads are ended after the test."""
    bench = Bench(tmp_path)
    yield bench
    for gate in bench.gates.values():
        gate.set()


def test_load_comes_back_with_its_error_and_fingerprint(bench):
    """What a load raised is handed over with what was known when it began, and its model may be loaded again."""
    bench.now = 5.0
    bench.ask("a")
    assert {"a"} == bench.loads.models()
    ended = bench.end("a")
    assert ("a", ("fingerprint", 1), 5.0, None, "a") == (
        ended.folder.model,
        ended.fingerprint,
        ended.began_seconds,
        ended.live,
        str(ended.error),
    )
    assert set() == bench.loads.models()


def test_few_loads_run_at_once_and_the_others_follow_in_order(bench):
    """Of seven models the first four begin; each end lets the one begin that waits longest."""
    bench.ask(*"abcdefg")
    assert list("abcd") == bench.begun
    assert MOST_AT_ONCE == len(bench.begun)
    for ending, expected in (("c", "abcde"), ("a", "abcdef")):
        assert ending == bench.end(ending).folder.model
        bench.begin()
        assert list(expected) == bench.begun


def test_loads_that_hang_keep_nobody_waiting_when_patience_is_over(bench):
    """Four that hang make room for four more after ten seconds, and those again, without an end."""
    bench.ask(*"abcdefghi")
    bench.now = PATIENCE_SECONDS - 0.1
    bench.begin()
    assert list("abcd") == bench.begun
    bench.now = PATIENCE_SECONDS
    bench.begin()
    assert list("abcdefgh") == bench.begun
    assert "f" == bench.end("f").folder.model
    bench.begin()
    assert list("abcdefghi") == bench.begun


def test_one_version_of_a_model_is_loaded_at_a_time(bench):
    """A second version of a model waits for the first, the newest wish counts, and it can be withdrawn."""
    bench.ask("a")
    for version in (2, 3):
        bench.loads.ask(bench.folder("a", version))
        bench.begin()
    assert ["a"] == bench.begun
    assert 1 == bench.loads.running("a").folder.version
    bench.end("a")
    bench.begin()
    assert 3 == bench.loads.running("a").folder.version
    bench.loads.ask(bench.folder("a", 4))
    bench.loads.withdraw("a")
    bench.end("a")
    assert set() == bench.loads.models()


def test_version_that_cannot_be_begun_is_not_loaded(bench):
    """Where there is no fingerprint nothing begins, and the next model does."""
    bench.gates["b"] = threading.Event()
    for model in "ab":
        bench.loads.ask(bench.folder(model))
    bench.loads.begin(lambda folder: None if folder.model == "a" else ("fingerprint",))
    assert {"b"} == bench.loads.models()
    bench.end("b")


def test_waiting_for_an_end_is_over_when_woken(bench):
    """Nobody who ends the server waits for a load that runs, or for the time to pass."""
    bench.loads.wake()
    assert bench.loads.next_ended(SECONDS) is None
    assert bench.loads.next_ended(0.0) is None
