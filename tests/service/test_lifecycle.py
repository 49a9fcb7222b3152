"""The choice of versions and the order of states."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.lifecycle import Choice, VersionState, check_transition, choose
from service.policies import parse_policy

_VERSIONS = st.sets(st.integers(1, 9))


@pytest.mark.parametrize(
    ("usable", "live", "labelled", "policy", "expected"),
    [
        ({1, 2, 3}, set(), set(), "latest:1", Choice((3,), ())),
        ({1, 2, 3}, set(), set(), "latest:2", Choice((3, 2), ())),
        ({1, 2}, {1}, set(), "latest:1", Choice((2,), ())),
        ({1, 2}, {1, 2}, set(), "latest:1", Choice((), (1,))),
        ({1, 2}, {1, 2}, {1}, "latest:1", Choice((), ())),
        ({1, 2, 3}, {3}, {1}, "latest:1", Choice((1,), ())),
        (set(), {3}, set(), "latest:1", Choice((), ())),
        ({1}, {3}, set(), "latest:1", Choice((1,), ())),
        ({1}, {1, 3}, set(), "latest:1", Choice((), (3,))),
        (set(), set(), {7}, "latest:1", Choice((), ())),
        ({1, 2}, {1, 2, 3}, {3}, "latest:1", Choice((), (1,))),
        ({1, 2, 3}, {3}, set(), "all", Choice((2, 1), ())),
        ({1, 2}, {1, 2, 3}, set(), "all", Choice((), (3,))),
        ({1, 2, 3}, {3}, set(), "specific:2", Choice((2,), ())),
        ({1, 2, 3}, {2, 3}, set(), "specific:2", Choice((), (3,))),
        ({1, 3}, {3}, set(), "specific:2", Choice((), ())),
        ({1, 3}, {1, 3}, set(), "specific:1,2", Choice((), (3,))),
        ({3}, {1, 3}, set(), "specific:1", Choice((), (3,))),
        ({1, 2, 3}, {3}, {1}, "specific:2", Choice((2, 1), ())),
        (set(range(1, 9)), {1}, set(), "all", Choice((8, 7, 6, 5), ())),
    ],
    ids=[
        "loads only the newest",
        "loads the newest two, newest first",
        "keeps the old one until the new one is live",
        "drops the old one once the new one is live",
        "keeps a labelled old one",
        "loads a labelled old one",
        "keeps what is live when the folder vanished",
        "falls back when the newest was deleted, first loading",
        "falls back when the newest was deleted, then dropping",
        "ignores a label of a version that is nowhere",
        "keeps a labelled version whose folder vanished",
        "loads all, newest first",
        "drops of all what was deleted",
        "loads the named one and keeps the other until it is live",
        "drops what is not named once the named one is live",
        "keeps what is live when every named one is missing or refused",
        "follows the named ones that are there when one is missing",
        "keeps a named one whose folder vanished",
        "loads a labelled one beside the named one",
        "loads no more than the most, the newest of all",
    ],
)
def test_choose_returns_loads_and_drops(usable, live, labelled, policy, expected):
    """What the policy wants and the labelled versions are wanted; a live one goes only when what is wanted is live."""
    assert expected == choose(usable, live, labelled, parse_policy(policy), 4)


@given(_VERSIONS, _VERSIONS, _VERSIONS, st.sampled_from(["latest:1", "latest:3", "all", "specific:2,5"]))
def test_choose_never_empties_a_model(usable, live, labelled, policy):
    """What is retired leaves at least one live version, labelled ones stay, and nothing live is loaded again."""
    choice = choose(usable, live, labelled, parse_policy(policy), 4)
    assert not live or live - set(choice.retire)
    assert not set(choice.retire) & labelled
    assert not set(choice.load) & live
    assert set(choice.load) <= usable


@pytest.mark.parametrize(("before", "after"), list(itertools.product(VersionState, VersionState)))
def test_states_run_only_forward(before, after):
    """A life goes START, LOADING, AVAILABLE, UNLOADING, END, may end early before it was available, and never back."""
    order = list(VersionState)
    step = order.index(after) - order.index(before)
    early_end = after is VersionState.END and before in {VersionState.START, VersionState.LOADING}
    if step == 1 or early_end:
        check_transition(before, after)
    else:
        with pytest.raises(ValueError, match="cannot go"):
            check_transition(before, after)
