"""The watcher and what the operator wants: policies, the model config file and labels, over real folders."""

import json

import pytest
import structlog

from service.errors import InvalidArgumentError, VersionRefusedError
from service.registry import VersionState
from tests.service.test_watcher import Rig


@pytest.fixture
def make_rig(tmp_path):
    """Return a function that makes a rig of settings as texts over a models folder with versions 1 to 5 of `m`."""

    def make_rig(**texts):
        rig = Rig(tmp_path / "models", **texts)
        for version in range(1, 6):
            rig.add("m", version)
        return rig

    return make_rig


@pytest.fixture
def config_file(tmp_path):
    """Return a function that writes the model config file of one model and returns its path as text."""

    def config_file(fields="", model="m"):
        path = tmp_path / "models.config"
        path.write_text(f"model_config_list {{ config {{ name: '{model}' {fields} }} }}")
        return str(path)

    return config_file


def policy(text):
    """Return the fields of a model config file for a policy in protobuf's text form."""
    return f"model_version_policy {{ {text} }}"


def status_of(rig, model="m"):
    """Return what is told of a model."""
    return next(status for status in rig.registry.models() if status.name == model)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({}, [5]),
        ({"latest_versions": "2"}, [5, 4]),
        ({"version_policy": "latest:3", "latest_versions": "2"}, [5, 4, 3]),
        ({"version_policy": "all"}, [5, 4, 3, 2, 1]),
        ({"version_policy": "all", "max_live_versions": "2"}, [5, 4]),
        ({"version_policy": "specific:2,4"}, [4, 2]),
        ({"version_policy": "latest; m=specific:3"}, [3]),
        ({"version_policy": "latest; n=specific:3"}, [5]),
    ],
)
def test_scan_follows_the_policy_of_the_settings(make_rig, texts, expected):
    """The newest N, all up to the bound, or those named are live, newest loaded first, for one model or for all."""
    rig = make_rig(**texts)
    rig.scan(2)
    assert expected == rig.available() == [version for _, version in rig.loads]


def test_scan_loads_no_more_of_a_thousand_versions_than_the_bound(tmp_path):
    """Of 1,000 versions under `all` as many are loaded as the bound says, and the status tells that it is so."""
    rig = Rig(tmp_path / "models", version_policy="all", max_live_versions="3")
    for version in range(1, 1001):
        (tmp_path / "models" / "m" / str(version)).mkdir(parents=True)
        (tmp_path / "models" / "m" / str(version) / "manifest.json").touch()
    rig.scan(2)
    assert [("m", 1000), ("m", 999), ("m", 998)] == rig.loads
    assert "of 1000 versions the newest 3 are kept (--max-live-versions)" == status_of(rig).policy_problem


def test_scan_drops_and_adds_when_a_version_goes_and_comes_under_all(make_rig):
    """Under `all` a deleted version goes after two looks, a refused one does not count, a new one comes."""
    rig = make_rig(version_policy="all")
    rig.errors[("m", 4)] = VersionRefusedError("file-hash", "no")
    rig.scan()
    assert [5, 3, 2, 1] == rig.available()
    (rig.root / "m" / "2").rename(rig.root / ".aside")
    rig.add("m", 6)
    rig.scan(3)
    assert [6, 5, 3, 1] == rig.available()


@pytest.mark.parametrize("why", ["missing", "refused"])
def test_scan_serves_the_other_named_versions_when_one_is_not_there(make_rig, why):
    """Under `specific` the others serve and the status says which one does not, and why, until it does."""
    rig = make_rig(version_policy="specific:2,4,7")
    if why == "refused":
        rig.errors[("m", 7)] = VersionRefusedError("file-hash", "no")
        path = rig.add("m", 7)
    rig.scan(3)
    assert [4, 2] == rig.available()
    seventh = rig.registry.statuses("m")[0]
    expected = {
        "missing": (VersionState.START, "", "the version policy names it, and it is not in the models folder"),
        "refused": (VersionState.END, "file-hash", "no"),
    }
    assert expected[why] == (seventh.state, seventh.rule, seventh.reason)
    assert ("specific:2,4,7", "not available: 7") == (status_of(rig).policy, status_of(rig).policy_problem)
    rig.errors.clear()
    if why == "missing":
        rig.add("m", 7)
    else:
        (path / "saved_model.pb").write_bytes(b"another graph")
    rig.scan()
    assert ([7, 4, 2], "") == (rig.available(), status_of(rig).policy_problem)


def test_scan_serves_what_was_live_when_the_policy_names_only_missing_versions(make_rig, config_file):
    """A policy that names what is not there unloads nothing; once one of them is there, it takes over."""
    rig = make_rig(model_config_file=config_file())
    rig.scan()
    config_file(policy("specific { versions: 8 versions: 9 }"))
    rig.scan(3)
    assert ([5], "not available: 8, 9") == (rig.available(), status_of(rig).policy_problem)
    rig.add("m", 8)
    rig.scan()
    assert ([8], "not available: 9") == (rig.available(), status_of(rig).policy_problem)


def test_scan_loads_before_it_unloads_when_the_policy_changes(make_rig, config_file):
    """At every change that is told of while policies follow each other, the model has an available version."""
    rig = make_rig(model_config_file=config_file())
    rig.scan()
    told = []
    rig.registry.subscribe(lambda: told.append(rig.available()))
    live = []
    for text in (
        "specific { versions: 2 }",
        "all {}",
        "latest { num_versions: 2 }",
        "specific { versions: 1 }",
        "all {}",
    ):
        config_file(policy(text))
        rig.scan(2)
        live.append(rig.available())
    assert [[2], [5, 4, 3, 2, 1], [5, 4], [1], [5, 4, 3, 2, 1]] == live
    assert all(told)
    assert [5, 2] in told


def test_scan_keeps_a_named_version_whose_folder_went(make_rig):
    """What `specific` names and is live stays, whatever removed its folder; so does everything else named."""
    rig = make_rig(version_policy="specific:2,3")
    rig.scan()
    (rig.root / "m" / "2").rename(rig.root / ".aside")
    rig.scan(4)
    assert [3, 2] == rig.available()


def test_scan_serves_only_the_models_that_the_file_names(make_rig, config_file):
    """A model that the file does not name is not loaded; one that it no longer names stays as it is and says so."""
    rig = make_rig(model_config_file=config_file())
    rig.add("n", 1)
    rig.scan(2)
    assert [("m", 5)] == rig.loads
    config_file(model="n")
    rig.add("m", 6)
    rig.scan(2)
    assert ([5], [1]) == (rig.available("m"), rig.available("n"))
    assert "does not name it" in status_of(rig).policy_problem
    config_file()
    rig.scan()
    assert ([6], "") == (rig.available("m"), status_of(rig).policy_problem)


def test_scan_warns_once_of_a_model_that_the_file_names_and_nobody_published(make_rig, config_file):
    """A name in the file without a folder is logged once, until the folder is there."""
    rig = make_rig(model_config_file=config_file(model="n"))
    with structlog.testing.capture_logs() as lines:
        rig.scan(3)
        rig.add("n", 1)
        rig.scan(2)
    assert 1 == sum("the model config file names it" in line["event"] for line in lines)
    assert [1] == rig.available("n")


def test_scan_changes_nothing_when_the_file_is_spoilt_and_says_why(make_rig, config_file, tmp_path):
    """A model config file that does not parse leaves every policy as it was, with the reason in status and metric."""
    rig = make_rig(model_config_file=config_file(policy("specific { versions: 2 }")))
    rig.scan()
    (tmp_path / "models.config").write_text("model_config_list {")
    rig.scan(2)
    assert ([2], "specific:2") == (rig.available(), status_of(rig).policy)
    assert status_of(rig).policy_problem.startswith("model config file: not a ModelServerConfig")
    page = rig.metrics.render(rig.registry.models()).decode().splitlines()
    assert 'convex_model_problems{model="m",about="policy"} 1' in [line.removesuffix(".0") for line in page]
    config_file(policy("specific { versions: 3 }"))
    rig.scan(2)
    assert ([3], "") == (rig.available(), status_of(rig).policy_problem)


def test_scan_takes_labels_of_the_file_and_lets_the_models_own_win(make_rig, config_file):
    """Labels of the model config file are followed beside labels.json, which wins where both have one."""
    labels = "version_labels { key: 'stable' value: 2 } version_labels { key: 'canary' value: 3 }"
    rig = make_rig(model_config_file=config_file(labels))
    rig.scan()
    assert {"stable": 2, "canary": 3} == rig.registry.labels("m")
    assert [5, 3, 2] == rig.available()
    (rig.root / "m" / "labels.json").write_text('{"stable": 4}')
    rig.scan(2)
    assert {"stable": 4, "canary": 3} == rig.registry.labels("m")
    assert [5, 4, 3] == rig.available()


def test_scan_moves_a_label_as_soon_as_its_version_is_live(make_rig):
    """A label waits for the load of its own version alone, not for those that come after it."""
    rig = make_rig(version_policy="all")
    (rig.root / "m" / "labels.json").write_text('{"stable": 4}')
    seen = []
    rig.registry.subscribe(lambda: seen.append((rig.registry.labels("m"), len(rig.loads))))
    rig.scan()
    assert 2 == min(num_loads for labels, num_loads in seen if labels == {"stable": 4})


def test_scan_never_leaves_a_label_without_a_version_while_it_moves(make_rig):
    """Before, during and after a move to a version that must be loaded first it is answered; once removed it is not."""
    rig = make_rig()
    labels = rig.root / "m" / "labels.json"
    answers = []

    def ask():
        with rig.registry.acquire("m", label="stable") as live:
            answers.append(live.signature.version)

    labels.write_text(json.dumps({"stable": 1}))
    rig.scan(2)
    rig.registry.subscribe(ask)
    labels.write_text(json.dumps({"stable": 3}))
    rig.scan(2)
    assert [1, 3] == sorted(set(answers))
    assert answers == sorted(answers)
    labels.write_text("{}")
    rig.registry._subscribers.clear()
    rig.scan(2)
    with pytest.raises(InvalidArgumentError, match="has no label 'stable'"):
        ask()
    assert [5] == rig.available()
