"""Random histories of registry and watcher, the short form; and that it finds each rule that is broken deliberately."""

import pytest
from hypothesis import Phase

import service.watcher
from service.lifecycle import Choice, choose
from service.lives import LiveModel
from service.policies import VersionPolicy, parse_policy
from service.registry import Registry
from tests.service.histories import live_histories
from tests.service.registry_machine import RegistryMachine
from tests.service.watcher_machine import WatcherMachine

SHORT_FORM = 40
"""Histories; the long form of tests/chaos/test_histories.py lives ten thousand."""


@pytest.mark.parametrize("machine", [RegistryMachine, WatcherMachine])
def test_invariants_hold_when_histories_are_lived(machine):
    """States only forward, never none once there was one, two in memory, leases and labels kept, one truth for all."""
    live_histories(machine, SHORT_FORM)


def drop_at_once(usable, live, labelled, policy, most):
    """Drop what is not wanted without a look whether what is wanted is live."""
    wanted = policy.want(usable, live, most) | set(labelled)
    return Choice(choose(usable, live, labelled, policy, most).load, tuple(sorted(set(live) - wanted)))


def drop_when_nothing_is_wanted(usable, live, labelled, policy, most):
    """Drop all when the folder vanishes, or the policy names versions that are not there."""
    choice = choose(usable, live, labelled, policy, most)
    is_lost = not policy.want(usable, live, most)
    return Choice(choice.load, tuple(sorted(set(live) - set(labelled)))) if is_lost else choice


def drop_never(usable, live, labelled, policy, most):
    """Keep every version for ever."""
    return Choice(choose(usable, live, labelled, policy, most).load, ())


def forget_labels(usable, live, _labelled, policy, most):
    """Load and keep what the policy wants alone."""
    return choose(usable, live, (), policy, most)


def forget_policy(usable, live, labelled, _policy, most):
    """Want the newest version whatever the policy says."""
    return choose(usable, live, labelled, parse_policy("latest:1"), most)


def want_the_oldest(usable, live, labelled, policy, most):
    """Take the oldest versions for the newest."""
    oldest = choose([-version for version in usable], [-version for version in live], (), policy, most)
    load, retire = ([-version for version in versions] for versions in (oldest.load, oldest.retire))
    return Choice(tuple(load), tuple(sorted(set(retire) - set(labelled))))


@pytest.mark.parametrize(
    "broken",
    [
        drop_at_once,
        drop_when_nothing_is_wanted,
        drop_never,
        forget_labels,
        forget_policy,
        want_the_oldest,
    ],
)
def test_histories_find_a_broken_choice(monkeypatch, broken):
    """A watcher that chooses wrongly is found out within the short form."""
    monkeypatch.setattr(service.watcher, "choose", broken)
    with pytest.raises(AssertionError):
        live_histories(WatcherMachine, SHORT_FORM, [Phase.generate])


def want_what_is_on_disk_alone(policy, usable, live, most, want=VersionPolicy.want):
    """Let a named version go when its folder does."""
    return want(policy, usable, set(live) & set(usable), most)


def move_labels_at_once(model, labels, problem):
    """Let labels mean what the file says, whether it is there or not."""
    model.labels, model.label_problem = dict(labels), problem


def drop_unheard_labels(model, labels, problem, set_labels=LiveModel.set_labels):
    """Drop a label while its new version is not there."""
    model.labels = {}
    set_labels(model, labels, problem)


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (VersionPolicy, "want", want_what_is_on_disk_alone),
        (LiveModel, "set_labels", move_labels_at_once),
        (LiveModel, "set_labels", drop_unheard_labels),
    ],
)
def test_histories_find_a_broken_rule_below_the_choice(monkeypatch, owner, name, broken):
    """Policies that let go of named versions, and labels that move before they may or are lost, are found out too."""
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((AssertionError, KeyError)):
        live_histories(WatcherMachine, SHORT_FORM, [Phase.generate])


def retire_without_waiting(registry, model, version, timeout_seconds, retire=Registry.retire):
    """Drop a version under the requests that hold it."""
    registry._models[model].lives[version].num_leases = 0
    return retire(registry, model, version, timeout_seconds)


def retire_anything(registry, model, version, timeout_seconds, retire=Registry.retire):
    """Drop a labelled version too."""
    registry._models[model].labels = {}
    return retire(registry, model, version, timeout_seconds)


@pytest.mark.parametrize("broken", [retire_without_waiting, retire_anything])
def test_histories_of_the_registry_find_a_version_that_goes_too_early(monkeypatch, broken):
    """A registry that lets a held or a labelled version go is found out."""
    monkeypatch.setattr(Registry, "retire", broken)
    with pytest.raises(AssertionError):
        live_histories(RegistryMachine, 2 * SHORT_FORM, [Phase.generate])
