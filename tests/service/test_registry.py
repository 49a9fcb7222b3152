"""The registry: who is lent what, what changes when, and a state machine over all of it."""

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.caller import Caller
from service.errors import (
    CancelledError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from service.model_version import Batching, ModelVersion
from service.pulse import HUNG_SECONDS
from service.registry import Registry, VersionState
from tests.service.fake_versions import LinearEngine, make_version
from tests.service.held_engine import FakeClock


def publish(registry, model="m", version=1, **options):
    """Bring one fake version through its life up to AVAILABLE."""
    registry.begin(model, version)
    return registry.publish(make_version(model, version, **options))


@pytest.fixture
def hold_engine(wait_until):
    """Return `hold_engine(registry, version)`, in which a request is in that version's engine."""

    @contextlib.contextmanager
    def hold(registry, version):
        with ThreadPoolExecutor(1) as pool, registry.acquire("m", version) as live:
            live.engine.gate.clear()
            row = np.zeros((1, 3), np.float32)
            future = pool.submit(live.submit, row, ("score",), Caller())
            try:
                wait_until(live.engine.entered.is_set)
                yield
            finally:
                live.engine.gate.set()
                future.result(10)

    return hold


def answering(registry, *target):
    """Return which version a request gets."""
    with registry.acquire(*target) as live:
        return live.signature.version


def test_acquire_lends_the_newest_available_version():
    """Without version or label the highest available number answers, in whatever order they were published."""
    registry = Registry()
    assert publish(registry, version=2) is True
    assert publish(registry, version=1) is False
    assert answering(registry, "m") == 2
    assert answering(registry, "m", 1) == 1


def test_acquire_keeps_its_version_when_a_newer_one_is_published():
    """A lease taken before a swap is the old version to its end; the next lease is the new one."""
    registry = Registry()
    publish(registry, version=1)
    with registry.acquire("m") as live:
        publish(registry, version=2)
        assert live.signature.version == 1
        assert answering(registry, "m") == 2


def test_acquire_says_unavailable_while_no_version_is_available():
    """A model that is known but refused or loading is UNAVAILABLE, not unknown."""
    registry = Registry()
    registry.begin("m", 1)
    with pytest.raises(UnavailableError, match="no version of model m is available"), registry.acquire("m"):
        pass
    with pytest.raises(UnavailableError, match="version 1 of model m is loading"), registry.acquire("m", 1):
        pass


def test_acquire_says_not_found_for_unknown_model_and_version():
    """An unknown model and a version that is not served are NOT_FOUND; the sentence lists what is."""
    registry = Registry()
    publish(registry, version=4)
    with pytest.raises(NotFoundError, match=r"there is no model 'x{40}'"), registry.acquire("x" * 99):
        pass
    with pytest.raises(NotFoundError, match=r"version 7 of model m is not served\. Available: 4"):
        answering(registry, "m", 7)


def test_acquire_refuses_version_together_with_label():
    """One target, not two."""
    registry = Registry()
    publish(registry)
    with pytest.raises(InvalidArgumentError, match="version and label: received both"), registry.acquire("m", 1, "a"):
        pass


def test_acquire_follows_labels():
    """A label answers with its version; an unknown label is INVALID_ARGUMENT and names those that exist."""
    registry = Registry()
    publish(registry, version=1)
    publish(registry, version=2)
    registry.set_labels("m", {"stable": 1})
    assert answering(registry, "m", None, "stable") == 1
    with pytest.raises(InvalidArgumentError, match=r"no label 'canary'\. Labels: stable"):
        answering(registry, "m", None, "canary")


@pytest.mark.parametrize(
    ("configured", "models", "expected"),
    [(None, ["a"], "a"), (None, ["a", "b"], None), ("b", ["a", "b"], "b"), ("c", ["a"], "c"), (None, [], None)],
)
def test_default_model_is_the_configured_or_the_only_one(configured, models, expected):
    """The configured name wins; without one the only model is the default, and among several there is none."""
    registry = Registry(configured)
    for model in models:
        publish(registry, model)
    assert expected == registry.default_model
    assert [name == expected for name in models] == [status.default for status in registry.models()]


def test_acquire_without_a_model_fails_when_there_is_no_default():
    """Among several models it is FAILED_PRECONDITION and lists them; with none, or an absent default, UNAVAILABLE."""
    registry = Registry()
    with pytest.raises(UnavailableError, match="no model is here yet"):
        answering(registry)
    publish(registry, "a")
    assert answering(registry) == 1
    publish(registry, "b")
    with pytest.raises(FailedPreconditionError, match="Name one of: a, b"):
        answering(registry)
    with pytest.raises(UnavailableError, match="the default model c has no version"):
        answering(Registry("c"))


def test_statuses_tell_state_reason_and_certificate_newest_first():
    """A refused version shows END, rule and reason; a live one its proof, engine, date and metrics."""
    registry = Registry()
    publish(registry, version=1, proved=False)
    registry.begin("m", 2)
    registry.refuse("m", 2, "nonneg-matmul", "weight -0.03")
    refused, live = registry.statuses("m")
    assert (2, VersionState.END, "nonneg-matmul", "weight -0.03") == (
        refused.version,
        refused.state,
        refused.rule,
        refused.reason,
    )
    assert (1, "AVAILABLE", "unproved", "program") == (live.version, live.state, live.convexity, live.engine)
    assert {"held_out": {"rows": 112}} == live.metrics
    with pytest.raises(NotFoundError):
        registry.statuses("nobody")


def test_models_tell_the_shape_of_the_newest_live_version():
    """The dimension is the newest live version's, and None where none is live."""
    registry = Registry()
    publish(registry, "a", dim=5)
    registry.begin("b", 1)
    first, second = registry.models()
    assert (5, None) == (first.dim, second.dim)


def test_retire_waits_for_leases_and_gives_up_in_time():
    """While a request holds the version it stays UNLOADING and takes no new request; afterwards it ends."""
    registry = Registry()
    publish(registry, version=1)
    publish(registry, version=2)
    with registry.acquire("m", 1):
        assert registry.retire("m", 1, 0.0) is False
        assert VersionState.UNLOADING is registry.statuses("m")[1].state
        with pytest.raises(NotFoundError):
            answering(registry, "m", 1)
    assert registry.retire("m", 1, 0.0) is True
    assert VersionState.END is registry.statuses("m")[1].state


def test_retire_is_woken_by_the_last_lease():
    """A waiting retire returns when the request that holds the version is done."""
    registry = Registry()
    publish(registry, version=1)
    publish(registry, version=2)
    results = []
    with contextlib.ExitStack() as held:
        held.enter_context(registry.acquire("m", 1))
        waiter = threading.Thread(target=lambda: results.append(registry.retire("m", 1, 30.0)))
        waiter.start()
    waiter.join(30)
    assert [True] == results


def test_retire_refuses_the_last_available_and_a_labelled_version():
    """A model that answers keeps answering: its only available version stays, and so does one that a label means."""
    registry = Registry()
    publish(registry, version=1)
    with pytest.raises(ValueError, match="it stays"):
        registry.retire("m", 1, 0.0)
    publish(registry, version=2)
    registry.set_labels("m", {"stable": 1})
    with pytest.raises(ValueError, match="it stays"):
        registry.retire("m", 1, 0.0)


def test_sweep_destroys_retired_objects_on_its_own_thread():
    """The object of a retired version lives until `sweep`, so that no request's thread has to destroy it."""
    registry = Registry()
    registry.begin("m", 1)
    live = make_version("m", 1)
    died_on = []
    weakref.finalize(live, lambda: died_on.append(threading.current_thread()))
    registry.publish(live)
    del live
    publish(registry, version=2)
    registry.retire("m", 1, 0.0)
    gc.collect()
    assert [] == died_on
    assert registry.sweep() is True
    gc.collect()
    assert [threading.current_thread()] == died_on
    assert registry.sweep() is False


def test_sweep_closes_a_retired_version_and_close_every_other(monkeypatch):
    """The batch threads of a version end when it has left and its last lease is back, all others with the server."""
    closed = []
    monkeypatch.setattr(ModelVersion, "close", lambda self: closed.append(self.signature.version) is None)
    registry = Registry()
    for version in (1, 2, 3):
        publish(registry, version=version)
    with registry.acquire("m", 1):
        assert registry.retire("m", 1, 0.0) is False
        registry.sweep()
        assert [] == closed
    assert registry.retire("m", 1, 0.0) is True
    assert registry.sweep() is True
    assert [1] == closed
    assert registry.close() is True
    assert [1, 2, 3] == closed


def test_check_room_refuses_only_when_every_version_is_full(hold_engine):
    """A model of which one version has room, an unknown one and a missing default pass; a refusal names its model."""
    batching = Batching(max_queue_rows=1)
    registry = Registry()
    registry.check_room()
    for version in (1, 2):
        registry.begin("m", version)
        registry.publish(ModelVersion(make_version("m", version).loaded, LinearEngine(version), batching))
    with contextlib.ExitStack() as full:
        for version in (2, 1):
            registry.check_room("m")
            full.enter_context(hold_engine(registry, version))
        for model in ("m", None):
            with pytest.raises(ResourceExhaustedError, match="the queue is full: 1 rows") as caught:
                registry.check_room(model)
            assert "m" == caught.value.model
        registry.check_room("other")
    registry.check_room("m")
    assert registry.close()


def test_trouble_names_the_version_whose_engine_hangs_until_it_has_left(hold_engine):
    """A hung engine is told of while its version is in memory, available or not, and no other state is trouble."""
    registry = Registry()
    publish(registry, version=1)
    publish(registry, version=2)
    clock = FakeClock()
    with registry.acquire("m", 1) as live:
        for batcher in live._batchers.values():
            batcher._clock = batcher.pulse._clock = clock
    assert "" == registry.trouble()
    with hold_engine(registry, 1):
        clock.now += HUNG_SECONDS
        assert "" == registry.trouble()
        clock.now += 1.0
        assert "batcher-m-1: the engine has computed one batch for 31 s" == registry.trouble()
        assert registry.retire("m", 1, 0.0) is False
        assert "batcher-m-1" in registry.trouble()
    assert "" == registry.trouble()
    assert registry.close()


def test_trouble_stays_when_the_version_left_and_its_engine_hangs_on(wait_until):
    """A version whose requests all gave up leaves; the thread that hangs in its engine is trouble until it ends."""
    registry = Registry()
    publish(registry, version=1)
    publish(registry, version=2)
    clock = FakeClock()
    with registry.acquire("m", 1) as live:
        engine, batcher = live.engine, live._batchers["score",]
        engine.gate.clear()
        batcher.pulse._clock = batcher._clock = clock
        batcher._num_calm_batches = 0  # two requests met a moment ago: the batch thread computes
        who = Caller()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(live.submit, np.zeros((1, 3), np.float32), ("score",), who)
            wait_until(engine.entered.is_set)
            who.cancel()
            assert isinstance(answer.exception(20), CancelledError)
    del live
    clock.now += HUNG_SECONDS + 1.0
    assert registry.retire("m", 1, 0.0) is True
    assert registry.sweep() is False
    assert "batcher-m-1: the engine has computed one batch for 31 s" == registry.trouble()
    engine.gate.set()
    wait_until(registry.sweep)
    assert "" == registry.trouble()
    assert registry.close()


def test_set_labels_keeps_a_label_where_its_new_version_is_not_available():
    """A label whose version is not available stays where it was and the status says why; the others move."""
    registry = Registry()
    for version in (1, 2):
        publish(registry, version=version)
    registry.set_labels("m", {"stable": 1, "canary": 1, "old": 1})
    registry.set_labels("m", {"stable": 2, "canary": 9, "new": 8})
    assert {"stable": 2, "canary": 1} == registry.labels("m")
    assert "version not available: canary=9, new=8" == registry.models()[0].label_problem
    registry.set_labels("m", {})
    assert ({}, "") == (registry.labels("m"), registry.models()[0].label_problem)


def test_ready_needs_a_scan_a_model_the_required_ones_and_no_drain():
    """Readiness is false before the first scan, without a model, without a required one, and while draining."""
    registry = Registry()
    publish(registry, "a")
    assert registry.ready() is False
    registry.scanned()
    assert registry.ready() is True
    assert registry.ready(("a", "b")) is False
    registry.begin("a", 2)
    registry.refuse("a", 2, "x", "y")
    assert registry.ready(("a",)) is True
    registry.start_draining()
    assert registry.ready() is False
    assert answering(registry, "a") == 1


def test_subscribers_are_told_of_every_change_and_once_at_the_start():
    """Health follows: the subscriber sees not ready, then ready, then not ready while draining."""
    registry = Registry()
    seen = []
    registry.subscribe(lambda: seen.append(registry.ready()))
    publish(registry)
    registry.scanned()
    registry.start_draining()
    assert seen[0] is False
    assert [True, False] == seen[-2:]


def test_forget_drops_what_ended_and_nothing_that_lives():
    """The status of an ended version can be dropped; a live one stays; the last one takes its model along."""
    registry = Registry()
    publish(registry, version=1)
    registry.begin("m", 2)
    registry.refuse("m", 2, "x", "y")
    registry.forget("m", 1)
    registry.forget("m", 2)
    assert [1] == [status.version for status in registry.statuses("m")]
    registry.wait("n", 1, "waits")
    registry.forget("n", 1)
    assert ["m"] == [status.name for status in registry.models()]
