"""What may come out of the loading process' pickles: arrays and the classes of a version, and nothing else."""

import importlib
import pickle
import pkgutil
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from service import program as program_room
from service.errors import VersionRefusedError
from service.loading.plain_data import NotPlainError, read
from service.program import atoms, operators, piecewise_operations
from service.program.convolutions import Convolution
from service.program.curvature import prove
from service.program.origins import Origin
from service.program.piecewise import polynomial
from service.program.piecewise_atom import atom_of
from service.program.selections import selection
from service.program.windows import Windows
from tests.service.program.programs import build, draw_weights


def naming(module: str, name: str) -> bytes:
    """Return a pickle whose value is what a module calls by a name."""
    texts = (b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + b"".join(texts) + b"\x93."


@pytest.mark.parametrize("protocol", [4, 5])
def test_read_returns_what_versions_are_made_of(protocol: int) -> None:
    """Programs with every kind of node, certificates, arrays in either order and refusals arrive as they were."""
    program = build(draw_weights(1, 3, (5, 4)))
    matrix = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    sent = (True, program, prove(program), matrix, VersionRefusedError("probe", "no"), {"rows": [1, 0.5, None, "x"]})
    received = read(pickle.dumps(sent, protocol))
    assert program.program_sha256 == received[1].program_sha256
    assert sent[2] == received[2]
    np.testing.assert_array_equal(matrix, received[3], strict=True)
    assert ("probe", "no") == (received[4].rule, received[4].reason)
    assert (True, sent[5]) == (received[0], received[5])


def kinds_of(base: type) -> list[type]:
    """Return every class of the program's room that is of this kind."""
    found = [base]
    for module in pkgutil.iter_modules(program_room.__path__):
        if module.name not in {"graph", "kernel"}:
            importlib.import_module(f"service.program.{module.name}")
    for kind in found:
        found.extend(other for other in kind.__subclasses__() if other.__module__.startswith("service."))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("base", [atoms.Atom, operators.Operator])
def test_read_returns_every_atom_and_operator(base: type) -> None:
    """An atom or operator in a module that is not listed would keep its models from being served."""
    kinds = kinds_of(base)
    assert len(kinds) > 6
    assert kinds == [read(pickle.dumps(kind)) for kind in kinds]


def tables() -> list[Any]:
    """Return operators and an atom that keep tables of what they are made of, each of them used once."""
    windows = Windows(1, (4,), (2,), (1,), (1,), ((0, 0),))
    kernel = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    numbers = np.float64([[1.0, 2.0, 3.0, 4.0]])
    used = [
        Convolution(kernel, "kernel", Origin((2, 1, 3)).then(np.negative), windows=windows),
        selection(np.array([[0, 2], [3, -1]]), 4),
        operators.Dense(np.ones((4, 2), np.float32), "kernel", Origin((4, 2)).then(np.negative)),
    ]
    for operator in used:
        operator.pull_back(operator.apply(numbers, np.float64, np), np.float64, np)
        assert operator.text
    return used


def test_read_returns_operators_without_what_they_computed_and_without_their_origins() -> None:
    """What arrives computes the same, and neither functions nor hashes came along with the numbers."""
    numbers = np.float64([[1.0, -2.0, 3.0, 4.0]])
    for operator in tables():
        received = read(pickle.dumps(operator))
        assert received.origin is None
        assert "fingerprint" not in vars(received)
        assert operator.text == received.text
        np.testing.assert_array_equal(operator.apply(numbers, np.float64, np), received.apply(numbers, np.float64, np))


def test_read_returns_a_piecewise_atom_without_its_tables() -> None:
    """An atom that was evaluated arrives with its functions alone, and computes the same."""
    u = np.float64([[1.0, -2.0]])
    leaky = [piecewise_operations.leaky(polynomial(Fraction(0), Fraction(1)), Fraction(1, part)) for part in (3, 4)]
    atom = atom_of(leaky, np.arange(2))
    expected = atom.value_and_slope(u, np)
    received = read(pickle.dumps(atom))
    assert "groups" not in vars(received)
    np.testing.assert_array_equal(expected, received.value_and_slope(u, np))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("numpy", "load"),
        ("service.loading.process", "subprocess.Popen"),
        ("service.loading.process", "LoadingProcess"),
        ("service.loading.fork_server", "ForkServer"),
        ("service.loading.bounds", "stand_back"),
        ("service.loader", "Path"),
        ("service.line_writer", "LineWriter"),
        ("service.program.graph", "restore"),
    ],
)
def test_read_refuses_what_is_no_class_of_a_version(module: str, name: str) -> None:
    """Functions, other modules' classes, and what our modules import are refused by name."""
    with pytest.raises(NotPlainError, match=f"{module}.{name}"):
        read(naming(module, name))


def test_read_takes_a_pickle_made_by_hand() -> None:
    """The form of the pickles that are refused is right: with a class of ours in it, it is read."""
    assert "Dense" == read(naming("service.program.operators", "Dense")).__name__
