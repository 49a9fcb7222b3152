"""What may come out of the loading process' pickles: arrays and the classes of a version, and nothing else."""

import pickle

import numpy as np
import pytest

from service.errors import VersionRefusedError
from service.plain_data import NotPlainError, read
from service.program import atoms
from service.program.curvature import prove
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


def test_read_returns_every_atom() -> None:
    """An atom that is added is read at once: none has to be listed."""
    kinds = [kind for kind in vars(atoms).values() if isinstance(kind, type) and issubclass(kind, atoms.Atom)]
    assert len(kinds) > 6
    assert kinds == [read(pickle.dumps(kind)) for kind in kinds]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("numpy", "load"),
        ("service.loading_process", "subprocess.Popen"),
        ("service.loading_process", "subprocess"),
        ("service.loading_process", "stand_back"),
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
