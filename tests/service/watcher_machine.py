"""Random histories of a models folder, its watcher and the requests: what everybody is told at every single change.

Policies, labels, folders, files and loads change as they like; what must then be live is said here once more, in sets,
without a look at the code.
"""

import contextlib
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import flask
from grpc_health.v1 import health_pb2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service import manifest
from service.caller import Caller
from service.errors import NotFoundError, UnavailableError, VersionRefusedError
from service.lifecycle import check_transition
from service.metrics import Metrics
from service.protos import tensorflow_serving as protos
from service.registry import Registry, VersionState
from service.repository import VersionFolder
from service.rest import operations
from service.rpc import interceptors
from service.rpc.health import HealthService
from service.rpc.model_service import ModelService
from service.settings import Settings
from service.watcher import Watcher
from tests.service.fake_versions import make_version

MODEL = "m"
KINDS = ("good", "good", "good", "refused", "failing", "unsealed", "slow", "vanishing")
LOADABLE = frozenset({"good", "unsealed", "slow"})
LABELS = ("stable", "canary")
SETTINGS = Settings(poll_interval_seconds=0.05)
MOST = 4
"""What the bound on live versions is here."""

POLICIES = {
    "latest 1": ("latest:1",),
    "latest": ("latest:1", "latest:3"),
    "any": ("latest:1", "latest:2", "all", "specific:2", "specific:3,5", "specific:1,2,3,4,5,6"),
}
"""Three sorts of histories and the policies that the operator changes between."""

SLOW_LOAD_SECONDS = 7.0


class FakeRepository:
    """A models folder in memory: version -> (kind, number of its change).

    Args:
        root: a real folder with two others, `sealed`, in which lies a manifest, and `unsealed`.
    """

    def __init__(self, root):
        self.root = root
        self.entries = {}
        self.wanted_labels = {}
        self.is_spoilt = False
        self.is_there = True

    def models(self):
        """Return the models' names; none, or an error, while the folder is away."""
        if not self.is_there:
            raise OSError(5, "Input/output error")
        return [MODEL] if self.entries else []

    def versions(self, model):
        """Return the versions' folders."""
        if not self.is_there:
            return []
        places = {number: self.root / ("un" * (kind == "unsealed") + "sealed") for number, (kind, _) in self.listed()}
        return [VersionFolder(model, number, place) for number, place in places.items()]

    def listed(self):
        """Return the entries by number."""
        return sorted(self.entries.items())

    def labels(self, _):
        """Return what the labels file says; where it is spoilt, the refusal."""
        if self.is_spoilt:
            raise VersionRefusedError("labels-schema", "labels.json: not one strict JSON object of labels.")
        return dict(self.wanted_labels)

    def fingerprint(self, folder):
        """Return what changes when a version's files do."""
        return self.entries.get(folder.version, ())


def write_policy(path, policy):
    """Write a model config file with a policy such as `specific:3,5`."""
    kind, _, numbers = policy.partition(":")
    fields = {
        "latest": f"num_versions: {numbers}",
        "all": "",
        "specific": " ".join(f"versions: {number}" for number in numbers.split(",")),
    }
    body = f"model_version_policy {{ {kind} {{ {fields[kind]} }} }}"
    path.write_text(f"model_config_list {{ config {{ name: '{MODEL}' {body} }} }}")


def wanted_by(policy, loadable, live):
    """Return what a policy wants of the versions that load and those that are live: the claim, said anew in sets."""
    kind, _, numbers = policy.partition(":")
    named = {int(number) for number in numbers.split(",")} if kind == "specific" else set()
    candidates = named & (loadable | live) if named else loadable
    return set(sorted(candidates)[-min(MOST, int(numbers)) if kind == "latest" else -MOST :])


class WatcherMachine(RuleBasedStateMachine):
    """A folder that changes as it likes, a watcher that looks from time to time, requests that hold versions."""

    def __init__(self):
        super().__init__()
        self.place = TemporaryDirectory()
        root = Path(self.place.name)
        for name in ("sealed", "unsealed"):
            (root / name).mkdir()
        (root / "sealed" / manifest.FILE_NAME).touch()
        self.repository = FakeRepository(root)
        self.registry = Registry()
        self.now = 0.0
        self.config_file = root / "models.config"
        self.policy = "latest:1"
        write_policy(self.config_file, self.policy)
        self.watcher = Watcher(
            self.repository,
            self.registry,
            self.load,
            Metrics(),
            Settings(
                models_dir=root,
                max_live_versions=MOST,
                model_config_file=self.config_file,
                poll_interval_seconds=0.0,
            ),
            clock=lambda: self.now,
            tidy=lambda: None,
        )
        self.watcher._log = self.watcher._outcomes._log = Mock()  # which spares a traceback for each failing load
        self.app = flask.Flask("operations")
        self.app.register_blueprint(operations.routes(self.registry, Metrics(), SETTINGS))
        self.health = HealthService(self.registry, SETTINGS)
        self.model_service = ModelService(self.registry)
        self.alive = weakref.WeakSet()
        self.leases = []
        self.num_changes = 0
        self.was_available = False
        self.told = {}
        self.is_labelling = False
        self.policies = POLICIES["latest 1"]
        self.has_deleted = False
        self.newest_answer = 0
        self.answered_labels = set()
        self.named = ("", set())
        self.faults = []
        self.registry.subscribe(self.on_change)

    @initialize(
        is_labelling=st.booleans(),
        sort=st.sampled_from(sorted(POLICIES)),
        index=st.integers(0, 9),
        num_versions=st.sampled_from([4, 0, 1]),
        num_looks=st.integers(0, 1),
    )
    def begin(self, is_labelling, sort, index, num_versions, num_looks):
        """Half of the histories have labels, a third keep the policy, and some versions are there."""
        self.is_labelling = is_labelling
        self.policies = POLICIES[sort]
        self.policy = self.policies[index % len(self.policies)]
        write_policy(self.config_file, self.policy)
        for version in range(1, 1 + num_versions):
            self.publish(version, "good", 0)
        self.publish(3, "good", num_looks)

    # ------------------------------------------------------------------------------------------------- what happens
    def on_change(self):
        """Look at every change that is told of; the watcher would take a failed comparison for a failed load."""
        with self.noting_faults():
            self.check_change(self.states())
        with self.noting_faults():
            self.look()

    @contextlib.contextmanager
    def noting_faults(self):
        """Keep a failed comparison for the end of the step."""
        try:
            yield
        except AssertionError as fault:
            self.faults.append(fault)

    def load(self, folder):
        """Load as the entry says; look around meanwhile, when the most is in memory."""
        kind, _ = self.repository.entries[folder.version]
        if kind == "refused":
            raise VersionRefusedError("nonneg-matmul", "weight -1")
        if kind == "failing":
            raise OSError(5, "Input/output error")
        if kind == "slow":
            self.now += SLOW_LOAD_SECONDS
        if kind == "vanishing":
            self.has_deleted = True
            del self.repository.entries[folder.version]
        version = make_version(folder.model, folder.version)
        self.alive.add(version)
        with self.noting_faults():
            self.look()
        return version

    @rule(version=st.integers(1, 6), kind=st.sampled_from(KINDS), num_looks=st.integers(0, 3))
    def publish(self, version, kind, num_looks):
        """A version appears, or changes."""
        self.num_changes += 1
        self.repository.entries[version] = (kind, self.num_changes)
        self.scan(num_looks)

    @rule(num_looks=st.integers(1, 2))
    def succeed(self, num_looks):
        """The nightly job publishes the next version."""
        self.publish(max(self.repository.entries, default=0) + 1, "good", num_looks)

    @rule(versions=st.sets(st.integers(1, 6), min_size=1), num_looks=st.integers(0, 3))
    def delete(self, versions, num_looks):
        """Folders of versions go."""
        self.has_deleted = True
        for version in versions:
            self.repository.entries.pop(version, None)
        self.scan(num_looks)

    @rule(num_looks=st.integers(1, 3))
    def unmount(self, num_looks):
        """The models folder goes away for a while."""
        self.repository.is_there = False
        self.scan(num_looks)
        self.repository.is_there = True

    @precondition(lambda self: self.is_labelling)
    @rule(label=st.sampled_from(LABELS), version=st.integers(1, 7), num_looks=st.integers(0, 1))
    def label(self, label, version, num_looks):
        """A label is to mean a version, be it there or not."""
        self.repository.wanted_labels = {**self.repository.wanted_labels, label: version}
        self.scan(num_looks)

    @precondition(lambda self: self.repository.wanted_labels)
    @rule(num_looks=st.integers(0, 1))
    def unlabel(self, num_looks):
        """A label goes."""
        *kept, _ = sorted(self.repository.wanted_labels.items())
        self.repository.wanted_labels = dict(kept)
        self.scan(num_looks)

    @precondition(lambda self: self.is_labelling)
    @rule(num_looks=st.integers(1, 2))
    def spoil_labels(self, num_looks):
        """The labels file does not parse for a while, which changes nothing."""
        before = self.registry.labels(MODEL)
        self.repository.is_spoilt = True
        self.scan(num_looks)
        assert before == self.registry.labels(MODEL)
        self.repository.is_spoilt = False

    @precondition(lambda self: self.is_labelling and self.repository.wanted_labels and self.repository.entries)
    @rule(num_looks=st.integers(0, 1))
    def roll_back(self, num_looks):
        """Older files come back under the next number, and every label that meant the newest version moves there."""
        newest = max(self.repository.entries)
        self.publish(newest + 1, "good", 0)
        labels = self.repository.wanted_labels
        self.repository.wanted_labels = {
            label: newest + 1 if version == newest else version for label, version in labels.items()
        }
        self.scan(num_looks)

    @precondition(lambda self: len(self.policies) > 1)
    @rule(index=st.integers(0, 9), num_looks=st.integers(0, 1))
    def change_policy(self, index, num_looks):
        """The operator wants other versions."""
        self.policy = self.policies[index % len(self.policies)]
        write_policy(self.config_file, self.policy)
        self.scan(num_looks)

    @precondition(lambda self: len(self.policies) > 1)
    @rule(num_looks=st.integers(1, 2))
    def spoil_policy(self, num_looks):
        """The model config file is half there for a while, which changes nothing."""
        before = self.watcher._plan.of(MODEL)
        whole = self.config_file.read_text()
        self.config_file.write_text(whole[: len(whole) // 2])
        self.scan(num_looks)
        assert before == self.watcher._plan.of(MODEL)
        self.config_file.write_text(whole)

    @rule()
    def settle(self):
        """Everybody waits until nothing more happens: then what is live is what the policy and the labels want."""
        self.release_all()
        before, labels_before = set(self.available()), self.registry.labels(MODEL)
        self.now += 1e6
        self.scan(5)
        entries = {version: kind for version, (kind, _) in self.repository.entries.items()}
        live, labels = set(self.available()), self.registry.labels(MODEL)
        loadable = {version for version, kind in entries.items() if kind in LOADABLE} | (live & entries.keys())
        wanted_labels = self.repository.wanted_labels
        labelled = {version for version in {*wanted_labels.values(), *labels.values()} if version in loadable | live}
        wanted = wanted_by(self.policy, loadable, live)
        assert wanted | labelled | (set() if wanted else before) == live
        followed = {label: version for label, version in wanted_labels.items() if version in live}
        kept = {label: labels_before[label] for label in wanted_labels.keys() - followed if label in labels_before}
        assert {**kept, **followed} == labels
        assert len(self.registry._in_memory()) == len(live)
        (model,) = self.app.test_client().get("/models").json["models"] or [{"labels": {}}]
        assert labels == model["labels"]
        assert not live or self.policy == model["policy"]

    @rule(seconds=st.sampled_from([0.5, 90.0]))
    def wait(self, seconds):
        """Time passes, after which what failed is tried again."""
        self.now += seconds
        self.scan(1)

    def scan(self, num_looks):
        """The watcher looks at the folder, so many times."""
        for _ in range(num_looks):
            self.watcher.scan()

    @precondition(lambda self: self.was_available)
    @rule()
    def acquire(self):
        """A request takes the newest version: there is always one."""
        lease = self.registry.acquire(MODEL)
        live = lease.__enter__()
        assert live.signature.version == max(self.available())
        self.leases.append((lease, live))

    @precondition(lambda self: self.registry.labels(MODEL))
    @rule(index=st.integers(0, 9))
    def acquire_labelled(self, index):
        """A request takes a labelled version: where there is a label there is always one."""
        label, version = sorted(self.registry.labels(MODEL).items())[index % len(self.registry.labels(MODEL))]
        lease = self.registry.acquire(MODEL, label=label)
        live = lease.__enter__()
        assert version == live.signature.version
        self.leases.append((lease, live))

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 9))
    def release(self, index):
        """A request ends."""
        lease, _ = self.leases.pop(index % len(self.leases))
        lease.__exit__(None, None, None)

    def release_all(self):
        """Give every lease back."""
        for lease, _ in self.leases:
            lease.__exit__(None, None, None)
        self.leases.clear()

    # --------------------------------------------------------------------------------------------- what must be true
    def states(self):
        """Return version -> state."""
        try:
            return {status.version: status.state for status in self.registry.statuses(MODEL)}
        except NotFoundError:
            return {}

    def available(self):
        """Return the versions that answer."""
        return [version for version, state in self.states().items() if state is VersionState.AVAILABLE]

    @invariant()
    def nothing_was_wrong(self):
        """Raise what was noted, or look now."""
        if self.faults:
            raise self.faults[0]
        self.look()

    def look(self):
        """Compare everything that is told."""
        states, available = self.states(), self.available()
        self.was_available |= bool(available)
        assert available or not self.was_available
        assert states == self.told  # each change was told of
        assert f"model {MODEL}" not in self.watcher._complaints  # nothing was tried that the registry refuses
        num_by_policy = {"latest 1": 1, "latest": 3, "any": MOST}
        sort = next(sort for sort, policies in POLICIES.items() if policies is self.policies)
        num_served = num_by_policy[sort] + len(LABELS) * self.is_labelling
        assert len(self.registry._in_memory()) <= 2 * num_served
        assert len(self.alive) <= 2 * num_served
        for _, live in self.leases:
            assert states[live.signature.version] in {VersionState.AVAILABLE, VersionState.UNLOADING}
        labels = self.registry.labels(MODEL)
        assert set(labels.values()) <= set(available)
        assert self.answered_labels.intersection(self.repository.wanted_labels) <= labels.keys()  # none is lost
        self.answered_labels = set(labels)
        self.check_named(set(available))
        if sort != "any" and not self.has_deleted:  # no client is answered by an older version than before
            assert max(available, default=0) >= self.newest_answer
            self.newest_answer = max(available, default=0)
        self.check_what_is_told(states, bool(available))

    def check_named(self, available):
        """Compare with the look before: what the operator names and is live stays, whatever becomes of its folder."""
        policy = self.watcher._plan.of(MODEL).policy
        before, kept = self.named
        if before == str(policy) and len(policy.versions) <= MOST:
            assert kept <= available
        self.named = (str(policy), policy.versions & available)

    def check_change(self, states):
        """Compare with the change before: one step at most, forward; a new life only after an end."""
        changed = {
            version: (self.told.get(version, VersionState.START), state)
            for version, state in states.items()
            if self.told.get(version) is not state
        }
        assert len(changed) <= 1
        for before, state in changed.values():
            if state is not VersionState.START:
                check_transition(VersionState.START if before is VersionState.END else before, state)
        for version in self.told.keys() - states.keys():
            assert self.told[version] in {VersionState.START, VersionState.END}
        self.told = states

    def check_what_is_told(self, states, is_available):
        """Compare REST and gRPC with the states."""
        is_ready = is_available and self.registry._is_scanned
        assert is_ready == self.is_ready_by_rest()
        listed = {model["name"]: model["versions"] for model in self.ask("models").json["models"]}
        assert states == {version["version"]: version["state"] for version in listed.get(MODEL, [])}
        serving = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}
        request = health_pb2.HealthCheckRequest
        assert serving[is_ready] == self.health.check(request(), None).status
        if states:
            assert serving[is_available] == self.health.check(request(service=MODEL), None).status
            assert states == self.states_of_model_service()

    def ask(self, name):
        """Return the answer of a route that shows state; without a client, which would take most of the time."""
        return self.app.view_functions[f"operations.{name}"]()

    def is_ready_by_rest(self):
        """Return whether `/readyz` says so."""
        try:
            return self.ask("ready").status_code == 200
        except UnavailableError:
            return False

    def states_of_model_service(self):
        """Return what GetModelStatus says."""
        token = interceptors._CURRENT.set(interceptors.Call("id", Caller()))
        try:
            request = protos.GetModelStatusRequest(model_spec={"name": MODEL})
            response = self.model_service.get_model_status(request, None)
        finally:
            interceptors._CURRENT.reset(token)
        names = {number: name for name, number in protos.VERSION_STATES.items()}
        return {status.version: names[status.state] for status in response.model_version_status}

    def teardown(self):
        """Settle, whatever the history was, and end everything."""
        try:
            if not self.faults:
                self.settle()
        finally:
            self.release_all()
            assert self.registry.close()
            self.place.cleanup()
