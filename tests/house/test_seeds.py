"""The seeds: what a test draws depends on its name, not on what ran before it."""

import random
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.plugins.seeds import seed

ROOT = Path(__file__).parents[2]

DRAWS = """
import random

import numpy as np
import pytest
from hypothesis import given, strategies as st

AT_IMPORT = random.random()

def draw():
    return random.random(), np.random.normal()

@pytest.fixture(scope="module")
def shared():
    return draw()

def note(name, *numbers):
    print("DRAWN", name, *numbers)

def test_first(shared):
    note("first", AT_IMPORT, *shared, *draw())

@pytest.mark.parametrize("x", [1, 2])
def test_second(shared, x):
    note("second", AT_IMPORT, *shared, *draw())

@given(st.integers())
def test_property(x):
    note("property", x)
"""
SEEDED = ("-p", "tests.plugins.seeds")


@pytest.fixture
def drawn(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs a test file in a process of its own, and returns what each of its tests drew."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    monkeypatch.delenv("CI", raising=False)
    pytester.makepyfile(test_some=DRAWS)

    def run_tests(*arguments: str) -> dict[str, list[str]]:
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-s", *arguments)
        assert pytest.ExitCode.OK == result.ret
        found: dict[str, list[str]] = {}
        for line in result.outlines:
            _, mark, words = line.partition("DRAWN ")
            if mark:
                name, _, numbers = words.partition(" ")
                found.setdefault(name, []).append(numbers)
        return found

    return run_tests


def test_tests_draw_the_same_numbers_in_every_selection_of_them(drawn) -> None:
    """A test, a module and a fixture that tests share draw what they did when others ran before; each has its own."""
    whole, some = drawn(*SEEDED), drawn(*SEEDED, "-k", "second or property")
    assert (whole["second"], whole["property"]) == (some["second"], some["property"])
    (first,), second = whole["first"], whole["second"]
    own = [line.split()[3:] for line in (first, *second)]
    assert [2, 2, 2] == [len(numbers) for numbers in own]
    assert 6 == len({number for numbers in own for number in numbers})
    assert {tuple(first.split()[:3])} == {tuple(line.split()[:3]) for line in second}
    assert len(set(whole["property"])) > 10


def test_tests_draw_other_numbers_when_nothing_seeds_them(drawn) -> None:
    """Without the seeds no number of a test is that of another run of it, so that the check above can fail."""
    first, second = drawn("-k", "second"), drawn("-k", "second")
    numbers = [number for lines in (first, second) for line in lines["second"] for number in line.split()[3:]]
    assert 8 == len(numbers) == len(set(numbers))
    assert first["second"][0].split()[0] != second["second"][0].split()[0]


def weights() -> list[float]:
    """Return what each generator draws, and weights of a layer whose initialiser has no seed."""
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    numbers = [random.gauss(), np.random.normal(), keras.random.normal(())]  # noqa: NPY002
    return [*map(float, numbers), *layer.kernel.numpy().ravel().tolist()]


def test_weights_without_a_seed_of_their_own_are_the_same_after_the_same_name() -> None:
    """Keras and its initialisers draw the same again after the same name, and something else after another."""
    found = []
    for name in ("one", "one", "other"):
        seed(name)
        found.append(weights())
    first, again, other = found
    assert first == again
    assert all(left != right for left, right in zip(first, other, strict=True))
