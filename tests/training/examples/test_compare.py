"""`make train` says truly whether the weights are the committed ones."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "training" / "examples" / "compare.py"
COMMITTED = {
    "certificate": {"weights_sha256": "a" * 64},
    "cpu": "processor one",
    "packages": {"tensorflow": "2.21.0"},
    "config": {"trainer": {"seed": 7}},
}
OTHER_WEIGHTS = {"certificate": {"weights_sha256": "b" * 64}}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("compare", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("trained", "expected", "words"),
    [
        ({}, True, "equals the committed one"),
        ({"cpu": "processor two"}, True, "equals the committed one"),
        (OTHER_WEIGHTS, False, "differs from the committed"),
        ({**OTHER_WEIGHTS, "cpu": "processor two"}, True, "another processor"),
        ({**OTHER_WEIGHTS, "packages": {"tensorflow": "2.22.0"}}, True, "another set of packages"),
        ({**OTHER_WEIGHTS, "config": {"trainer": {"seed": 8}}}, True, "another configuration"),
    ],
)
def test_compare_fails_only_when_the_same_machine_gives_other_weights(
    script: ModuleType, trained: dict[str, Any], expected: bool, words: str
) -> None:
    """Other weights are a fault where configuration, packages and processor are the manifest's, and only there."""
    as_promised, sentence = script.compare({**COMMITTED, **trained}, COMMITTED)
    assert expected is as_promised
    assert words in sentence
