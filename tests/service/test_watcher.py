"""The watcher: real folders, a fake load, and a clock that the test turns."""

import errno
import itertools
import json
import os
import shutil
import threading

import pytest
import structlog

from service.errors import LoadFailedError, UnavailableError, VersionRefusedError
from service.garbage import GarbageCollection
from service.loading.bounds import PATIENCE_SECONDS
from service.metrics import Metrics
from service.outcomes import LOAD_ERROR
from service.registry import Registry, VersionState
from service.repository import Repository
from service.settings import Settings
from service.watcher import Watcher
from tests.service.fake_versions import make_version


class Rig:
    """A watcher over a folder; `load` notes what it was asked and raises what the test put under (model, version)."""

    def __init__(self, root, **texts):
        self.root = root
        self.registry = Registry()
        self.metrics = Metrics()
        self.errors = {}
        self.loads = []
        self.now = 1000.0
        self.num_tidied = 0
        self.watcher = Watcher(
            Repository(root),
            self.registry,
            self.load,
            self.metrics,
            Settings.read({"models_dir": str(root), **texts}, {}),
            clock=lambda: self.now,
            tidy=self.tidy,
        )

    def tidy(self):
        """Count."""
        self.num_tidied += 1

    def load(self, folder):
        """Load as the test says."""
        self.loads.append((folder.model, folder.version))
        error = self.errors.get((folder.model, folder.version))
        if error is not None:
            raise error
        return make_version(folder.model, folder.version)

    def add(self, model, version, *, sealed=True):
        """Put a version's folder there."""
        path = self.root / model / str(version)
        path.mkdir(parents=True)
        (path / "saved_model.pb").write_bytes(b"graph")
        if sealed:
            (path / "manifest.json").write_text("{}")
        return path

    def scan(self, times=1):
        """Look, several times."""
        for _ in range(times):
            self.watcher.scan()

    def available(self, model="m"):
        """Return the versions that answer."""
        return [status.version for status in self.registry.statuses(model) if status.state is VersionState.AVAILABLE]

    def counted(self, line):
        """Return whether a line of the metrics' text is there."""
        return line in self.metrics.render().decode().splitlines()


@pytest.fixture
def rig(tmp_path):
    """Return a rig over a models folder that is there and empty."""
    (tmp_path / "models").mkdir()
    return Rig(tmp_path / "models")


def test_scan_loads_only_the_newest_version(rig):
    """Latest 1: of three versions on disk the newest alone is loaded, and the first scan is then over."""
    for version in (1, 2, 3):
        rig.add("m", version)
    rig.scan()
    assert [("m", 3)] == rig.loads
    assert [3] == rig.available()
    assert rig.registry.ready() is True
    assert rig.watcher.first_scan_over.is_set()


def test_scan_swaps_to_a_new_version_and_drops_the_old(rig):
    """A new version is loaded first, the old one then goes; garbage is tidied; the swap is counted."""
    rig.add("m", 1)
    rig.scan()
    rig.add("m", 2)
    rig.scan(2)
    assert [2] == rig.available()
    assert VersionState.END is rig.registry.statuses("m")[1].state
    assert rig.counted('convex_swaps_total{model="m"} 1.0')
    assert rig.num_tidied == 3


def test_scan_falls_back_to_the_next_lower_version_that_loads(rig):
    """Refused versions do not count: of 3 and 2 refused, 1 serves; their rule and reason are in the status."""
    for version in (1, 2, 3):
        rig.add("m", version)
    rig.errors = {("m", 3): VersionRefusedError("nonneg-matmul", "weight -1"), ("m", 2): RuntimeError("/secret/path")}
    rig.scan()
    assert [("m", 3), ("m", 2), ("m", 1)] == rig.loads
    assert [1] == rig.available()
    third, second, _ = rig.registry.statuses("m")
    assert ("nonneg-matmul", "weight -1") == (third.rule, third.reason)
    assert (LOAD_ERROR, "RuntimeError while loading; it is tried again") == (second.rule, second.reason)
    assert rig.counted('convex_version_loads_total{model="m",outcome="refused",rule="nonneg-matmul"} 1.0')
    assert rig.counted('convex_version_loads_total{model="m",outcome="failed",rule="load-error"} 1.0')


def test_scan_keeps_the_old_version_when_the_new_one_is_refused(rig):
    """A refused newer version changes nothing of what is served, and readiness stays."""
    rig.add("m", 1)
    rig.scan()
    rig.errors[("m", 2)] = VersionRefusedError("file-hash", "no")
    rig.add("m", 2)
    rig.scan(3)
    assert [1] == rig.available()
    assert rig.registry.ready() is True


def test_scan_retries_a_refused_version_only_when_its_files_change(rig):
    """A verdict stands until the files differ, however much time passes."""
    path = rig.add("m", 1)
    rig.errors[("m", 1)] = VersionRefusedError("file-hash", "no")
    rig.scan()
    rig.now += 1e6
    rig.scan(3)
    assert [("m", 1)] == rig.loads
    (path / "saved_model.pb").write_bytes(b"another graph")
    rig.errors.clear()
    rig.scan()
    assert [1] == rig.available()


def test_scan_retries_other_errors_after_growing_pauses(rig):
    """An error that is no verdict is tried again after 1, 2, 4 ... 60 seconds of the clock, and then loads."""
    rig.add("m", 1)
    rig.errors[("m", 1)] = OSError("stale handle")
    tried_at = []
    for _ in range(200):
        before = len(rig.loads)
        rig.scan()
        if len(rig.loads) > before:
            tried_at.append(rig.now)
        rig.now += 1.0
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried_at)]
    assert [1, 2, 4, 8, 16, 32, 60, 60] == pauses
    rig.errors.clear()
    rig.now += 60
    rig.scan()
    assert [1] == rig.available()


def test_scan_tells_what_the_system_says_of_a_disk_and_no_path(rig):
    """A full or missing temporary folder is named in the status, so that the operator knows what to mend."""
    rig.add("m", 1)
    rig.errors[("m", 1)] = OSError(28, "No space left on device", "/secret/path")
    rig.scan()
    (status,) = rig.registry.statuses("m")
    assert "OSError (No space left on device) while loading; it is tried again" == status.reason


def test_scan_retries_an_unreadable_file(rig):
    """A file that could not be read is a state of the disk, not of the version: it is tried again in time."""
    rig.add("m", 1)
    rig.errors[("m", 1)] = VersionRefusedError("file-unreadable", "variables: Input/output error")
    rig.scan()
    rig.errors.clear()
    rig.now += 1
    rig.scan()
    assert [1] == rig.available()


def test_scan_waits_for_stable_files_without_a_manifest(rig):
    """A folder without a manifest that grows between two looks is not touched; once it rests, it is loaded."""
    path = rig.add("m", 1, sealed=False)
    for size in (10, 20, 30):
        (path / "saved_model.pb").write_bytes(b"x" * size)
        rig.scan()
        assert [] == rig.loads
    assert (VersionState.START, True) == (
        rig.registry.statuses("m")[0].state,
        "waiting" in rig.registry.statuses("m")[0].reason,
    )
    rig.scan()
    assert [1] == rig.available()


def test_scan_refuses_a_link_and_says_why(rig, tmp_path):
    """A version that is a symbolic link is handed to the load, whose refusal is shown, once; a folder replaces it."""
    rig.add("aside", 1)
    (rig.root / "aside").rename(tmp_path / "aside")
    (rig.root / "m").mkdir()
    (rig.root / "m" / "1").symlink_to(tmp_path / "aside" / "1")
    rig.errors[("m", 1)] = VersionRefusedError("symlink", "a symbolic link")
    rig.scan(4)
    assert [("m", 1)] == rig.loads
    assert "symlink" == rig.registry.statuses("m")[0].rule
    (rig.root / "m" / "1").unlink()
    rig.errors.clear()
    rig.add("m2", 1).rename(rig.root / "m" / "1")
    rig.scan(2)
    assert [1] == rig.available()


def test_scan_does_not_let_a_bad_model_stop_the_others(rig, monkeypatch):
    """A model whose folder cannot be listed is complained of; the models before and after it are loaded."""
    for model in ("a", "b", "c"):
        rig.add(model, 1)
    listing = Repository.versions

    def fail_for_b(repository, model):
        if model == "b":
            raise PermissionError(13, "Permission denied")
        return listing(repository, model)

    monkeypatch.setattr(Repository, "versions", fail_for_b)
    with structlog.testing.capture_logs() as lines:
        rig.scan(3)
    assert ["a", "c"] == [status.name for status in rig.registry.models()]
    assert 1 == sum("PermissionError" in line["event"] for line in lines)


@pytest.mark.parametrize("deed", ["removed", "emptied", "unreadable"])
def test_scan_keeps_what_is_served_when_the_models_folder_fails(rig, monkeypatch, deed):
    """A models folder that vanishes, empties or cannot be read changes nothing but one warning; it then recovers."""
    rig.add("m", 1)
    rig.scan()
    with monkeypatch.context() as patch:
        if deed == "unreadable":
            error = OSError(5, "Input/output error")
            patch.setattr(Repository, "models", lambda _: (_ for _ in ()).throw(error))
        else:
            shutil.rmtree(rig.root)
        if deed == "emptied":
            rig.root.mkdir()
        with structlog.testing.capture_logs() as lines:
            rig.scan(4)
    assert [1] == rig.available()
    assert rig.registry.ready() is True
    assert 1 == sum(line.get("about") == "models folder" for line in lines)
    rig.add("m", 2)
    rig.scan()
    assert [2] == rig.available()


def test_scan_serves_a_version_that_appears_in_a_missing_folder(tmp_path):
    """A server that starts without a models folder is not ready, and becomes so when a version is there."""
    rig = Rig(tmp_path / "later")
    rig.scan()
    assert rig.registry.ready() is False
    with pytest.raises(UnavailableError), rig.registry.acquire():
        pass
    rig.add("m", 1)
    rig.scan()
    assert rig.registry.ready() is True


def test_scan_takes_a_version_as_deleted_only_after_two_looks(rig):
    """One listing without the newest version changes nothing; two, and the lower one on disk takes over."""
    rig.add("m", 2)
    rig.scan()
    rig.add("m", 1)
    path = rig.root / "m" / "2"
    path.rename(rig.root / "aside")
    rig.scan()
    assert [2] == rig.available()
    rig.scan()
    assert [1] == rig.available()
    rig.scan(2)
    assert [1] == [status.version for status in rig.registry.statuses("m")]


def test_scan_loads_labelled_versions_beside_the_newest(rig):
    """Every labelled version is live beside the newest; when the label moves, the old one goes."""
    for version in (1, 2, 3):
        rig.add("m", version)
    labels = rig.root / "m" / "labels.json"
    labels.write_text(json.dumps({"stable": 1}))
    rig.scan()
    assert [3, 1] == rig.available()
    assert {"stable": 1} == rig.registry.labels("m")
    labels.write_text(json.dumps({"stable": 2}))
    rig.scan(2)
    assert ([3, 2], {"stable": 2}) == (rig.available(), rig.registry.labels("m"))


@pytest.mark.parametrize("content", ["{", '{"stable": 9}', '{"stable": "1"}'])
def test_scan_changes_no_label_for_a_bad_labels_file(rig, content):
    """A labels file that does not parse, or names a version that is not available, changes nothing and says why."""
    rig.add("m", 1)
    labels = rig.root / "m" / "labels.json"
    labels.write_text(json.dumps({"stable": 1}))
    rig.scan()
    labels.write_text(content)
    rig.scan(2)
    (status,) = rig.registry.models()
    assert ({"stable": 1}, True) == (status.labels, bool(status.label_problem))


def test_scan_keeps_an_old_version_until_its_requests_are_done(rig):
    """A version that a request still holds lingers as UNLOADING, and ends at a later look."""
    rig.add("m", 1)
    rig.scan()
    rig.watcher._retire_wait_seconds = 0.0
    with rig.registry.acquire("m", 1):
        rig.add("m", 2)
        rig.scan(2)
        assert VersionState.UNLOADING is rig.registry.statuses("m")[1].state
    rig.scan()
    assert VersionState.END is rig.registry.statuses("m")[1].state


def test_scan_loads_one_of_a_storm_of_versions(rig):
    """A hundred versions between two looks are one load: the newest."""
    for version in range(1, 101):
        rig.add("m", version)
    rig.scan()
    assert [("m", 100)] == rig.loads


def test_thread_starts_scans_and_stops(rig, wait_until):
    """The thread finds a version by itself and ends when told to."""
    rig.watcher.start()
    rig.add("m", 1)
    wait_until(rig.registry.ready)
    assert rig.watcher.stop(10.0) is True


def test_stop_before_start_is_done_at_once(rig):
    """A watcher that never ran is stopped."""
    assert rig.watcher.stop(0.0) is True


def test_garbage_collection_freezes_once(monkeypatch):
    """Every call collects; only the first freezes what is left."""
    calls = []
    monkeypatch.setattr("gc.collect", lambda: calls.append("collect"))
    monkeypatch.setattr("gc.freeze", lambda: calls.append("freeze"))
    collection = GarbageCollection()
    collection()
    collection()
    assert ["collect", "freeze", "collect"] == calls


def test_scan_loads_nothing_while_a_version_that_left_is_held(rig):
    """A slow request keeps its old version in memory; until it is done no third one is loaded, and then the newest."""
    rig.add("m", 1)
    rig.scan()
    with rig.registry.acquire("m"):
        rig.add("m", 2)
        rig.scan()
        assert VersionState.UNLOADING is rig.registry.statuses("m")[1].state
        for version in (3, 4):
            rig.add("m", version)
        rig.scan(2)
        assert [("m", 1), ("m", 2)] == rig.loads
        assert [2] == rig.available()
    rig.scan(3)
    assert [("m", 1), ("m", 2), ("m", 4)] == rig.loads
    assert [4] == rig.available()


def test_stop_is_no_failure_of_the_version_that_is_being_loaded(rig):
    """A load that is interrupted by the end of the server is neither counted nor told as a failure."""
    rig.add("m", 1)

    def load(_):
        assert rig.watcher.stop(0.0)
        raise OSError("interrupted")

    rig.watcher._loads._load = load
    with structlog.testing.capture_logs() as logs:
        rig.scan()
    assert [] == logs
    assert VersionState.END is rig.registry.statuses("m")[0].state
    assert 'outcome="failed"' not in rig.metrics.render().decode()


class Hanging:
    """Loads of a rig of which some hang until the test, or who gives them up, lets them go on.

    Args:
        rig: whose loads these are from now on.
        keys: (model, version) of those that hang.
    """

    def __init__(self, rig, *keys):
        self.rig = rig
        self.gates = {key: threading.Event() for key in keys}
        self.begun = {key: threading.Event() for key in keys}
        self.given_up = []
        rig.watcher._loads._load = self.load
        rig.watcher._give_up = self.give_up
        rig.watcher._poll_interval_seconds = 0.01

    def load(self, folder):
        """Load as the rig does, some later than others."""
        key = (folder.model, folder.version)
        if key in self.gates:
            self.begun[key].set()
            assert self.gates[key].wait(30.0)
            if key in self.given_up:
                raise LoadFailedError("it was given up for another version")
        return self.rig.load(folder)

    def give_up(self, folder):
        """Let a load fail."""
        self.given_up.append((folder.model, folder.version))
        self.gates[folder.model, folder.version].set()

    def end(self):
        """Let all go on, and end the watcher."""
        for gate in self.gates.values():
            gate.set()
        assert self.rig.watcher.stop(10.0)


@pytest.fixture
def hang(rig):
    """Return `hang(*keys)`, which starts the watcher with loads that hang; it is ended after the test."""
    made = []

    def start(*keys):
        made.append(Hanging(rig, *keys))
        rig.watcher.start()
        return made[-1]

    yield start
    for hanging in made:
        hanging.end()


def test_thread_loads_other_models_while_one_hangs(rig, hang, wait_until):
    """A model whose load hangs is LOADING; new versions of the others, and their labels, are followed meanwhile."""
    for model in ("a", "b"):
        rig.add(model, 1)
    hanging = hang(("a", 1))
    for version in (1, 2, 3):
        if version > 1:
            rig.add("b", version)
        wait_until(lambda wanted=version: has_live(rig, "b", wanted))
    (rig.root / "b" / "labels.json").write_text('{"stable": 3}')
    wait_until(lambda: {"stable": 3} == rig.registry.labels("b"))
    assert VersionState.LOADING is rig.registry.statuses("a")[0].state
    hanging.end()
    assert ([1], []) == (rig.available("a"), hanging.given_up)


def has_live(rig, model, version):
    """Whether this version of a model, and no other, answers."""
    return model in {status.name for status in rig.registry.models()} and [version] == rig.available(model)


def test_first_scan_is_over_when_a_model_hangs_and_nothing_else_has_happened_for_a_while(rig, hang, wait_until):
    """Readiness waits for the loads of the start while they end one after the other, and not for one that hangs."""
    for model in ("a", "b"):
        rig.add(model, 1)
    hang(("a", 1))
    wait_until(lambda: has_live(rig, "b", 1))
    assert not rig.watcher.first_scan_over.is_set()
    rig.now += PATIENCE_SECONDS
    wait_until(rig.registry.ready)


@pytest.mark.parametrize(("deed", "expected"), [("newer", 3), ("deleted", 1)])
def test_load_that_takes_long_is_given_up_when_another_version_is_wanted(rig, hang, wait_until, deed, expected):
    """A hanging version holds neither its successor nor the one before it, once patience is over."""
    path = rig.add("m", 2)
    rig.add("m", 1)
    hanging = hang(("m", 2))
    assert hanging.begun["m", 2].wait(30.0)
    if deed == "newer":
        rig.add("m", 3)
    else:
        shutil.rmtree(path)
    rig.now += PATIENCE_SECONDS
    wait_until(lambda: has_live(rig, "m", expected))
    assert {("m", 2)} == set(hanging.given_up)


def test_load_that_takes_long_goes_on_when_nothing_else_is_wanted(rig, hang, wait_until):
    """However long it takes, a version that is wanted is loaded, and then served."""
    for version in (1, 2):
        rig.add("m", version)
    hanging = hang(("m", 2))
    assert hanging.begun["m", 2].wait(30.0)
    rig.now += 100.0 * PATIENCE_SECONDS
    looks, sweep = [], rig.registry.sweep
    rig.registry.sweep = lambda: looks.append(1) or sweep()
    wait_until(lambda: len(looks) > 5)
    assert [] == hanging.given_up
    hanging.gates["m", 2].set()
    wait_until(lambda: has_live(rig, "m", 2))


def test_scan_tells_how_a_loading_process_ended(rig):
    """What the loading process says of its end is the status, with what happens next."""
    rig.add("m", 1)
    rig.errors[("m", 1)] = LoadFailedError("its process ended (SIGSEGV)", "a traceback with /a/path")
    rig.scan()
    (status,) = rig.registry.statuses("m")
    assert (LOAD_ERROR, "its process ended (SIGSEGV); it is tried again") == (status.rule, status.reason)


@pytest.mark.parametrize("path", ["", "m"])
def test_scan_keeps_what_is_served_when_a_folder_may_not_be_read(rig, monkeypatch, path):
    """The folder of all models, or of one, that nobody may open: the last good version answers, a new one is found."""
    rig.add("m", 1)
    rig.scan()
    closed, scandir, opened, num_refused = rig.root / path, os.scandir, os.open, 0

    def refuse(function):
        def call(place, *words, **options):
            nonlocal num_refused
            if str(place) in {str(closed), closed.name}:
                num_refused += 1
                raise PermissionError(errno.EACCES, "Permission denied", str(place))
            return function(place, *words, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse(scandir))
        patch.setattr(os, "open", refuse(opened))
        for _ in range(4):
            rig.scan()
            rig.now += 60.0
            assert [1] == rig.available()
    assert num_refused >= 4
    rig.add("m", 2)
    rig.scan()
    assert [2] == rig.available()
