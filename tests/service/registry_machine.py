"""Random histories of the registry alone: lives of four versions under leases, and what must hold at every moment."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import NotFoundError, UnavailableError
from service.registry import Registry, VersionState
from tests.service.fake_versions import make_version


class RegistryMachine(RuleBasedStateMachine):
    """Random lives of four versions under leases: what must hold at every moment."""

    def __init__(self):
        super().__init__()
        self.registry = Registry()
        self.last_state = {}
        self.held = []
        self.was_available = False

    @initialize(versions=st.sampled_from([(1, 2, 3), (), (2,)]))
    def load_some(self, versions):
        """Some versions are live from the start."""
        for version in versions:
            self.begin(version)
            self.publish(version)

    def states(self):
        """Return version -> state."""
        try:
            return {status.version: status.state for status in self.registry.statuses("m")}
        except NotFoundError:
            return {}

    @rule(version=st.integers(1, 4))
    def begin(self, version):
        """Begin where a life may begin; anywhere else it is an error."""
        state = self.states().get(version)
        if state in {None, VersionState.START, VersionState.END}:
            self.registry.begin("m", version)
            self.last_state.pop(version, None)
        else:
            with pytest.raises(ValueError, match="cannot go"):
                self.registry.begin("m", version)

    @rule(version=st.integers(1, 4))
    def publish(self, version):
        """Finish a load."""
        if self.states().get(version) is VersionState.LOADING:
            self.registry.publish(make_version("m", version))
            self.was_available = True

    @rule(version=st.sampled_from([2, 3, 1, 4]))
    def load(self, version):
        """Load from beginning to end."""
        if self.states().get(version) in {None, VersionState.START, VersionState.END}:
            self.begin(version)
        self.publish(version)

    @rule(version=st.integers(1, 4))
    def refuse(self, version):
        """End a load."""
        if self.states().get(version) is VersionState.LOADING:
            self.registry.refuse("m", version, "rule", "reason")

    @rule(version=st.sampled_from([2, 3, 1, 4]))
    def retire(self, version):
        """Retire what is live: done at once unless a request holds it or it must stay."""
        states, labelled = self.states(), self.registry.labels("m").values()
        if states.get(version) not in {VersionState.AVAILABLE, VersionState.UNLOADING}:
            return
        is_held = any(live.signature.version == version for _, live in self.held)
        try:
            assert self.registry.retire("m", version, 0.0) is not is_held
            assert version not in labelled
        except ValueError:
            available = [number for number, state in states.items() if state is VersionState.AVAILABLE]
            assert [version] == available or version in labelled

    @precondition(lambda self: self.was_available)
    @rule(version=st.sampled_from([None, 2, 3, 1, 4]))
    def acquire(self, version):
        """A request takes the newest or a given version."""
        lease = self.registry.acquire("m", version)
        available = [number for number, state in self.states().items() if state is VersionState.AVAILABLE]
        if version is None or version in available:
            live = lease.__enter__()
            assert live.signature.version == (version or max(available))
            self.held.append((lease, live))
        else:
            with pytest.raises((NotFoundError, UnavailableError)):
                lease.__enter__()

    @precondition(lambda self: self.registry.labels("m"))
    @rule()
    def acquire_labelled(self):
        """A request takes a labelled version: where there is a label it is always answered."""
        label, version = min(self.registry.labels("m").items())
        lease = self.registry.acquire("m", label=label)
        live = lease.__enter__()
        assert version == live.signature.version
        self.held.append((lease, live))

    @rule(version=st.integers(1, 4))
    def forget(self, version):
        """The folder of a version goes, which changes nothing of one that lives."""
        state = self.states().get(version)
        if state is not None:
            self.registry.forget("m", version)
            is_gone = state in {VersionState.START, VersionState.END}
            assert is_gone is (version not in self.states())
            self.last_state.pop(version, None) if is_gone else None

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0, 9))
    def release(self, index):
        """A request ends."""
        lease, _ = self.held.pop(index % len(self.held))
        lease.__exit__(None, None, None)

    @rule(version=st.sampled_from([1, 2, 3, 4, 5]), label=st.sampled_from(["stable", "canary"]))
    def label(self, version, label):
        """The labels file changes, also to a version that is not there."""
        self.registry.set_labels("m", {**self.registry.labels("m"), label: version})

    @rule()
    def unlabel(self):
        """The labels file goes."""
        self.registry.set_labels("m", {})

    @rule()
    def sweep(self):
        """The watcher lets go."""
        self.registry.sweep()

    @invariant()
    def states_only_forward(self):
        """No life runs backward."""
        order = list(VersionState)
        for version, state in self.states().items():
            assert order.index(state) >= order.index(self.last_state.get(version, VersionState.START))
            self.last_state[version] = state

    @invariant()
    def never_empty_once_available(self):
        """A model that answered once always answers."""
        available = [state for state in self.states().values() if state is VersionState.AVAILABLE]
        assert available or not self.was_available

    @invariant()
    def leased_versions_are_not_gone(self):
        """What a request holds is there."""
        states = self.states()
        for _, live in self.held:
            assert states[live.signature.version] in {VersionState.AVAILABLE, VersionState.UNLOADING}

    @invariant()
    def labels_mean_available_versions(self):
        """A label always leads to a version that answers."""
        states = self.states()
        for version in self.registry.labels("m").values():
            assert states[version] is VersionState.AVAILABLE

    def teardown(self):
        """Give every lease back."""
        for lease, _ in self.held:
            lease.__exit__(None, None, None)
