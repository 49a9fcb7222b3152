"""The choice of versions and the order of states."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.lifecycle import Choice, VersionState, check_transition, choose

_VERSIONS = st.sets(st.integers(1, 9))


@pytest.mark.parametrize(
    ("usable", "live", "labelled", "latest", "expected"),
    [
        ({1, 2, 3}, set(), set(), 1, Choice((3,), ())),
        ({1, 2, 3}, set(), set(), 2, Choice((3, 2), ())),
        ({1, 2}, {1}, set(), 1, Choice((2,), ())),
        ({1, 2}, {1, 2}, set(), 1, Choice((), (1,))),
        ({1, 2}, {1, 2}, {1}, 1, Choice((), ())),
        ({1, 2, 3}, {3}, {1}, 1, Choice((1,), ())),
        (set(), {3}, set(), 1, Choice((), ())),
        ({1}, {3}, set(), 1, Choice((1,), ())),
        ({1}, {1, 3}, set(), 1, Choice((), (3,))),
        (set(), set(), {7}, 1, Choice((), ())),
        ({1, 2}, {1, 2, 3}, {3}, 1, Choice((), (1,))),
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
    ],
)
def test_choose_returns_loads_and_drops(usable, live, labelled, latest, expected):
    """The newest usable and the labelled versions are wanted; a live one goes only when the newest are live."""
    assert expected == choose(usable, live, labelled, latest)


@given(_VERSIONS, _VERSIONS, _VERSIONS, st.integers(1, 4))
def test_choose_never_empties_a_model(usable, live, labelled, latest):
    """What is retired leaves at least one live version, labelled ones stay, and nothing live is loaded again."""
    choice = choose(usable, live, labelled, latest)
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
