"""A version that would break the clients of the one that serves is refused; any is taken where none serves."""

import dataclasses
from pathlib import Path

import pytest

from service.errors import VersionRefusedError
from service.registry import Registry
from service.repository import VersionFolder
from service.schema_change import RULE, Schema, SteadySchema
from tests.service.fake_versions import make_version

BEFORE = Schema(2, ("area", "rooms"), 1, ("season",), ("score", "gradient"), "regression")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dim": 3, "features": ("area", "rooms", "age")}, "features: 2 before, 3 now"),
        ({"features": ("rooms", "area")}, "features: 'area' before, 'rooms' now in its place"),
        ({"features": ()}, "features: with names before, without any now"),
        ({"context_dim": 0, "context_features": ()}, "context features: 1 before, none now"),
        ({"context_features": ("place",)}, "context features: 'season' before, 'place' now in its place"),
        ({"context_features": ()}, "context features: with names before, without any now"),
        ({"task": "classification"}, "task: regression before, classification now"),
        ({"task": ""}, "task: regression before, none now"),
        ({"outputs": ("score",)}, "outputs: gradient before, not now"),
        ({"outputs": ("score", "gradient", "support")}, ""),
        ({}, ""),
    ],
)
def test_change_names_what_a_client_would_stumble_over(change, said):
    """Width, names, their order, context, task and outputs that are gone; one output more is nothing."""
    assert said == BEFORE.change_to(dataclasses.replace(BEFORE, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"features": ("a", "b"), "context_features": ("c",)},
        {"task": "classification"},
        {"outputs": ("score", "gradient")},
    ],
)
def test_change_is_none_when_what_is_told_was_not_told_before(change):
    """Names and a task may be given to a model that had none."""
    bare = Schema(2, (), 1, (), ("score",), "")
    assert "" == bare.change_to(dataclasses.replace(bare, **change))


@pytest.fixture
def registry():
    """Return a registry that serves version 1 of m, of 3 features."""
    registry = Registry()
    registry.begin("m", 1)
    registry.publish(make_version("m", 1, dim=3))
    yield registry
    registry.close()


def folder(version, model="m"):
    """Return where a version lies."""
    return VersionFolder(model, version, Path(model, str(version)))


def test_version_of_another_width_is_refused_and_closed_while_one_serves(registry):
    """The refusal names both widths and what to do; what was loaded leaves no thread behind."""
    made = make_version("m", 2, dim=4)
    with pytest.raises(VersionRefusedError) as caught:
        SteadySchema(lambda _: made, registry)(folder(2))
    assert (RULE, True) == (caught.value.rule, made.close(0.0))
    assert (
        "features: 3 before, 4 now: the clients of version 1 would break. Publish it under another model's name, or "
        "start the server with --allow-schema-change." == caught.value.reason
    )


def test_version_of_the_same_schema_is_returned_as_it_was_loaded(registry):
    """The control: what fits is let through."""
    made = make_version("m", 2, dim=3)
    assert made is SteadySchema(lambda _: made, registry)(folder(2))
    assert made.close()


def test_version_of_any_schema_is_returned_when_its_model_serves_none(registry):
    """Another model's clients are not asked, nor those of a model that has no version yet."""
    made = make_version("n", 1, dim=9)
    assert made is SteadySchema(lambda _: made, registry)(folder(1, "n"))
    registry.begin("n", 1)
    assert made is SteadySchema(lambda _: made, registry)(folder(1, "n"))
    assert made.close()


def test_refusal_of_the_loader_comes_through_as_it_is(registry):
    """What does not load is not compared."""

    def refuse(_):
        raise VersionRefusedError("file-hash", "no")

    with pytest.raises(VersionRefusedError) as caught:
        SteadySchema(refuse, registry)(folder(2))
    assert "file-hash" == caught.value.rule
