"""A worker's registry: it answers by the state whose number stands in the shared moment, at once."""

import contextlib
import threading

import pytest

from service.errors import NotFoundError, UnavailableError
from service.fleet import mirror as mirror_module
from service.fleet.messages import State
from service.fleet.mirror import MirrorRegistry
from service.fleet.moment import Moment
from service.lifecycle import ModelStatus, VersionState, VersionStatus
from tests.service.fake_versions import make_version


def status(labels=(), **states):
    """Return the status of model m; `v3="AVAILABLE"` is version 3."""
    versions = tuple(
        VersionStatus("m", int(name[1:]), VersionState(state)) for name, state in sorted(states.items(), reverse=True)
    )
    return ModelStatus("m", True, 3, (), dict(labels), "", versions)


def state(number, model, serials, *, is_draining=False):
    """Return a state of the model m; None: it is gone."""
    return State(
        number, {"m": model}, {("m", version): serial for version, serial in serials.items()}, True, is_draining
    )


@pytest.fixture
def moment():
    """Return a shared moment at 1."""
    with contextlib.closing(Moment.create()) as moment:
        moment.write(1)
        yield moment


@pytest.fixture
def registry(moment):
    """Return a mirror that follows a state with version 1, of serial 10, and has version 2 ready, of serial 20."""
    registry = MirrorRegistry(moment)
    registry.prepare(10, make_version(version=1))
    registry.prepare(20, make_version(version=2))
    registry.stage(state(1, status(v1="AVAILABLE"), {1: 10}))
    yield registry
    registry.close()


def newest(registry):
    """Return the version that a request without one gets."""
    with registry.acquire("m") as live:
        return live.signature.version


def test_state_holds_from_the_moment_that_has_its_number(registry, moment):
    """However long it is here already, and without anybody being told: the number alone switches."""
    registry.stage(state(2, status(v1="AVAILABLE", v2="AVAILABLE"), {1: 10, 2: 20}))
    assert [1, 1] == [newest(registry), newest(registry)]
    moment.write(2)
    assert 2 == newest(registry)


def test_request_waits_for_the_state_that_holds_already_and_has_not_come(registry, moment):
    """A worker that was held up answers by no older state: it waits until the thread that brings states has it."""
    moment.write(2)
    found = []
    asker = threading.Thread(target=lambda: found.append(newest(registry)))
    asker.start()
    asker.join(0.05)
    assert [] == found
    registry.stage(state(2, status(v1="UNLOADING", v2="AVAILABLE"), {2: 20}))
    asker.join(10)
    assert [2] == found


def test_request_is_told_to_try_again_when_the_state_never_comes(registry, moment, monkeypatch):
    """UNAVAILABLE, and not an old version."""
    monkeypatch.setattr(mirror_module, "_LONGEST_WAIT_SECONDS", 0.01)
    moment.write(2)
    with pytest.raises(UnavailableError, match="waits to be told"):
        newest(registry)


def test_thread_that_brings_states_waits_for_none(registry, moment):
    """It follows what is here and reads what was followed, while a newer state holds that it has not brought yet."""
    registry.holds()
    moment.write(5)
    registry.holds()
    models, is_draining = registry.followed()
    assert [1] == [each.version for each in models[0].versions]
    assert is_draining is False


def test_everything_that_is_asked_is_of_the_state_that_holds(registry, moment):
    """Models, statuses, labels, readiness, draining and the default model change together with the versions."""
    assert registry.ready() is True
    registry.stage(state(2, status({"steady": 2}, v2="AVAILABLE"), {2: 20}, is_draining=True))
    assert ({}, False) == (registry.labels("m"), registry.draining)
    moment.write(2)
    assert ({"steady": 2}, True, False) == (registry.labels("m"), registry.draining, registry.ready())
    assert [2] == [each.version for each in registry.statuses("m")]
    assert ["m"] == [each.name for each in registry.models()]
    assert "m" == registry.default_model
    registry.stage(state(3, None, {}))
    moment.write(3)
    with pytest.raises(NotFoundError):
        registry.statuses("m")


def test_discarded_version_is_released_when_its_last_request_has_ended(registry, moment):
    """While one holds it, it is kept, whatever states say; then it is handed out once; one never lent goes at once."""
    with registry.acquire("m") as live:
        registry.stage(state(2, status(v1="UNLOADING", v2="AVAILABLE"), {2: 20}))
        moment.write(2)
        registry.holds()
        registry.discard(10)
        assert [] == registry.released(0.0)
        assert 1 == live.signature.version
    ((serial, released),) = registry.released(1.0)
    assert (10, 1) == (serial, released.signature.version)
    released.close()
    registry.prepare(30, make_version(version=3))
    registry.discard(30)
    assert [30] == [serial for serial, version in registry.released(0.0) if version.close()]
    assert [] == registry.released(0.0)


def test_version_that_comes_back_under_its_number_is_another_one(registry, moment):
    """A folder that was replaced is loaded again: the serial tells the two apart."""
    again = make_version(version=1)
    registry.prepare(40, again)
    assert 1 == newest(registry)
    registry.stage(state(2, status(v1="AVAILABLE"), {1: 40}))
    moment.write(2)
    with registry.acquire("m") as live:
        assert live is again


def test_subscribers_are_told_of_a_state_once_it_holds(registry):
    """`holds` tells them, after which what they read is the new state."""
    heard = []
    registry.subscribe(lambda: heard.append(len(registry.followed()[0])))
    registry.holds()
    assert [0, 1] == heard
