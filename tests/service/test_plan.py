"""The plan: which policy is followed for which model, and the file when it changes."""

import pytest

from service.plan import Plan
from service.settings import SettingError, Settings


@pytest.fixture
def make_plan(tmp_path):
    """Return a function that makes a plan of settings as texts, with a model config file where one is given."""

    def make_plan(file=None, **texts):
        if file is not None:
            texts["model_config_file"] = str(tmp_path / "models.config")
            (tmp_path / "models.config").write_text(file)
        return Plan(Settings.read({"models_dir": str(tmp_path), **texts}, {}))

    return make_plan


def one(name, body=""):
    """Return a file that lists one model."""
    return f"model_config_list {{ config {{ name: '{name}' {body} }} }}"


def test_plan_follows_the_latest_versions_without_more(make_plan):
    """Without any policy the number of --latest-versions holds for every model, and every model is listed."""
    wish = make_plan(latest_versions="3").of("m")
    assert ("latest:3", {}, True) == (str(wish.policy), wish.labels, wish.is_listed)


def test_plan_prefers_file_over_model_over_every_other(make_plan):
    """The file's policy wins over the setting for that model, which wins over the setting for all."""
    first = "config { name: 'a' model_version_policy { all {} } }"
    file = f"model_config_list {{ {first} config {{ name: 'b' }} config {{ name: 'c' }} }}"
    plan = make_plan(file, version_policy="latest; a=specific:1; b=specific:2", latest_versions="5")
    assert ["all", "specific:2", "latest:5"] == [str(plan.of(model).policy) for model in "abc"]
    assert [True, False] == [plan.of(model).is_listed for model in "ad"]
    assert {"a", "b", "c"} == plan.listed()


def test_plan_is_not_made_of_a_file_that_cannot_be_followed(make_plan):
    """At the start such a file is an error that names the setting and what was expected."""
    with pytest.raises(SettingError, match=r"--model-config-file / CONVEX_MODEL_CONFIG_FILE: .*at least one model"):
        make_plan("")


def test_refresh_follows_the_file_when_it_changes_and_not_otherwise(make_plan, tmp_path):
    """A changed file is read once, an unchanged one never again."""
    plan = make_plan(one("m", "version_labels { key: 'stable' value: 3 }"))
    assert plan.refresh() is False
    assert {"stable": 3} == plan.of("m").labels
    (tmp_path / "models.config").write_text(one("m", "model_version_policy { specific { versions: 4 } }"))
    assert plan.refresh() is True
    assert ("specific:4", {}) == (str(plan.of("m").policy), plan.of("m").labels)
    assert plan.refresh() is False


@pytest.mark.parametrize("deed", ["spoilt", "emptied", "removed", "half bad"])
def test_refresh_changes_nothing_when_the_file_cannot_be_followed(make_plan, tmp_path, deed):
    """A file that is spoilt, empty, gone or bad in one model changes nothing, says why, and recovers."""
    good = one("m", "model_version_policy { specific { versions: 4 } }")
    plan = make_plan(good)
    path = tmp_path / "models.config"
    if deed == "removed":
        path.unlink()
    else:
        half_bad = "model_config_list { config { name: 'm' } config { name: 'n' base_path: '/etc' } }"
        path.write_text({"spoilt": "model_config_list {", "emptied": "", "half bad": half_bad}[deed])
    assert plan.refresh() is False
    assert plan.problem.startswith("model config file: ")
    assert "specific:4" == str(plan.of("m").policy)
    assert {"m"} == plan.listed()
    path.write_text(good)
    assert plan.refresh() is True
    assert ("", "specific:4") == (plan.problem, str(plan.of("m").policy))
