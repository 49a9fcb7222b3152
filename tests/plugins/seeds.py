"""Begins every test from random numbers that follow from its name alone, in any order and any selection of tests.

Python's, NumPy's, Keras's and TensorFlow's global generators; what Hypothesis tries is derived from its tests. A
module and a fixture that outlives a test begin from their own names. Loaded by `tests/conftest.py`;
`tests/house/test_seeds.py` shows it at work.
"""

import random
import sys
import zlib
from collections.abc import Generator
from typing import Any

import hypothesis
import numpy as np
import pytest

hypothesis.settings.load_profile("ci")  # derandomised and without deadlines; `--hypothesis-profile` names another


def seed(name: str) -> None:
    """Seed all global generators that are there.

    Keras draws a seed for every initialiser without one from Python's generator. It is not imported for this: where it
    comes later it starts from that one too.
    """
    number = zlib.crc32(name.encode())
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  (libraries use it where they are given no generator)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(number)


def pytest_configure(config: pytest.Config) -> None:
    """Seed from now on."""
    config.pluginmanager.register(Seeds(), "seeds")


class Seeds:
    """Seeds before each thing that runs code of tests."""

    def __init__(self) -> None:
        self.test = ""

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """Seed for what a module draws when it is imported."""
        seed(collector.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Seed for a test and its own fixtures."""
        self.test = item.nodeid
        seed(self.test)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        """Seed for a fixture that several tests share, whichever of them comes first, and for that test again."""
        if fixturedef.scope == "function":
            return (yield)
        seed(f"{fixturedef.argname}[{getattr(request, 'param_index', 0)}] of {fixturedef.baseid}")
        try:
            return (yield)
        finally:
            seed(self.test)
