"""Version policies: what is read, what is wanted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policies import PolicyKind, VersionPolicy, parse_policies, parse_policy

LATEST, ALL, SPECIFIC = PolicyKind
_VERSIONS = st.sets(st.integers(1, 9))


@pytest.mark.parametrize(
    ("text", "expected", "written"),
    [
        ("latest", VersionPolicy(LATEST), "latest"),
        (" latest:3 ", VersionPolicy(LATEST, num_versions=3), "latest:3"),
        ("all", VersionPolicy(ALL), "all"),
        ("specific:4, 3", VersionPolicy(SPECIFIC, versions=frozenset({3, 4})), "specific:3,4"),
        (f"specific:{2**63 - 1}", VersionPolicy(SPECIFIC, versions=frozenset({2**63 - 1})), f"specific:{2**63 - 1}"),
    ],
)
def test_parse_policy_reads_the_three_kinds(text, expected, written):
    """Each kind is read, with or without its numbers, and written as it is read."""
    policy = parse_policy(text)
    assert (expected, written) == (policy, str(policy))
    assert policy == parse_policy(str(policy))


@pytest.mark.parametrize(
    "text",
    [
        *("", "newest", "latest:", "latest:0", "latest:101", "latest:1,2", "latest:-1", "all:3", "all:"),
        *("specific", "specific:", "specific:0", "specific:03", "specific:3,", "specific:x", f"specific:{2**63}"),
        "specific:\u0663",
    ],
)
def test_parse_policy_refuses_everything_else(text):
    """No kind, a number too many, too few, too large or not a version's: an error."""
    with pytest.raises(ValueError, match="no version policy"):
        parse_policy(text)


def test_parse_policies_reads_one_for_every_model_and_one_for_each_named():
    """Parts are separated by semicolons; the one without a model holds for every other."""
    expected = (
        ("", VersionPolicy(LATEST, num_versions=2)),
        ("tumours", VersionPolicy(SPECIFIC, versions=frozenset({3, 4}))),
        ("colours", VersionPolicy(ALL)),
    )
    assert expected == parse_policies("latest:2; tumours = specific:3,4;colours=all;")
    assert () == parse_policies(" ")


@pytest.mark.parametrize("text", ["latest; all", "m=all; m=latest", "=all", "a b=all", "m=", "a=b=all"])
def test_parse_policies_refuses_what_is_said_twice_or_of_no_model(text):
    """A model given twice, or a name that no model has, is an error."""
    with pytest.raises(ValueError, match=r"given twice|no version policy"):
        parse_policies(text)


def test_resolved_fills_in_the_number_of_latest_alone():
    """`latest` without a number takes that of --latest-versions; all others stay as they are."""
    assert VersionPolicy(LATEST, num_versions=4) == VersionPolicy(LATEST).resolved(4)
    assert VersionPolicy(LATEST, num_versions=2) == VersionPolicy(LATEST, num_versions=2).resolved(4)
    assert VersionPolicy(ALL) == VersionPolicy(ALL).resolved(4)


@pytest.mark.parametrize(
    ("policy", "usable", "live", "most", "expected"),
    [
        ("latest:2", {1, 2, 3}, {9}, 100, {2, 3}),
        ("latest:3", {1, 2, 3}, set(), 2, {2, 3}),
        ("all", {1, 2, 3}, {9}, 100, {1, 2, 3}),
        ("all", {1, 2, 3}, set(), 2, {2, 3}),
        ("specific:1,2,7", {1, 3}, {2}, 100, {1, 2}),
        ("specific:1,2,7", {1, 2, 7}, set(), 2, {2, 7}),
        ("specific:7", {1, 2}, {2}, 100, set()),
    ],
)
def test_want_returns_what_the_policy_names(policy, usable, live, most, expected):
    """The newest N, all, or those named that are there or live; of too many the newest."""
    assert expected == parse_policy(policy).want(usable, live, most)


@given(_VERSIONS, st.integers(1, 3), st.sampled_from(["latest:2", "all", "specific:2,3,5,8"]))
def test_may_want_finds_everything_that_is_wanted(usable, most, text):
    """Looking from the newest version down, and skipping what may not be wanted, leads to the same choice."""
    policy = parse_policy(text)
    found = set()
    for version in sorted(usable, reverse=True):
        if policy.may_want(version, found, most):
            found.add(version)
    assert policy.want(usable, (), most) == policy.want(found, (), most) == found
