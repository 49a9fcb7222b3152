"""The shipped model, sabotaged weight by weight: the proof refuses what the hashes can no longer tell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service import loader
from service.errors import VersionRefusedError
from service.program.certification import certify
from tests.contract.version_surgery import (
    Tensors,
    constrained_keys,
    flipped,
    read_tensors,
    reseal,
    variable_keys,
    write_tensors,
)

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "tumours" / "1"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Return a copy of the shipped version, to be sabotaged."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "tumours" / "1"))


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """Return the shipped version's numbers."""
    return read_tensors(SHIPPED)


def places(values: np.ndarray) -> list[tuple[int, ...]]:
    """Return the places of the numbers that are not zero."""
    return [tuple(int(i) for i in place) for place in np.argwhere(values != 0)]


def test_certify_refuses_the_flip_by_layer_and_rule_when_one_hidden_weight_is_negated(
    version: Path, tensors: Tensors
) -> None:
    """One flipped sign in a hidden kernel is refused by the sign rule, which names the layer and the place."""
    for name, key in constrained_keys(tensors).items():
        nonzero = places(tensors[key])
        for index in nonzero[:: max(1, len(nonzero) // 25)]:
            write_tensors(version, flipped(tensors, key, index))
            with pytest.raises(VersionRefusedError) as refusal:
                certify(version)
            assert "nonneg-matmul" == refusal.value.rule
            assert f"{name} has 1 negative entries" in refusal.value.reason
            assert f"at [{', '.join(map(str, index))}]" in refusal.value.reason


def test_certify_accepts_the_flip_when_the_weight_is_free(version: Path, tensors: Tensors) -> None:
    """A flipped sign in a passthrough or a bias gives another convex function: nothing to refuse."""
    free = {name: key for name, key in variable_keys(tensors).items() if name.endswith(("/passthrough", "/bias"))}
    assert len(free) >= 4
    for key in free.values():
        index = places(tensors[key])[0]
        write_tensors(version, flipped(tensors, key, index))
        assert 30 == certify(version).dim


def test_load_refuses_by_the_proof_when_every_hash_was_rewritten(version: Path, tensors: Tensors) -> None:
    """The loader refuses a resealed flip by the sign rule, and the same surgery without a flip passes the hashes."""
    key = next(iter(constrained_keys(tensors).values()))
    write_tensors(version, tensors)
    reseal(version)
    assert "proved" == loader.load(version, model="tumours", version=1).convexity

    write_tensors(version, flipped(tensors, key, places(tensors[key])[0]))
    reseal(version)
    with pytest.raises(VersionRefusedError) as refusal:
        loader.load(version, model="tumours", version=1)
    assert "nonneg-matmul" == refusal.value.rule


def test_load_refuses_by_the_hash_when_only_the_weights_were_changed(version: Path, tensors: Tensors) -> None:
    """Without new hashes the changed file is refused before anything reads it."""
    key = next(iter(constrained_keys(tensors).values()))
    write_tensors(version, flipped(tensors, key, places(tensors[key])[0]))
    with pytest.raises(VersionRefusedError) as refusal:
        loader.load(version, model="tumours", version=1)
    assert "file-hash" == refusal.value.rule


def test_certify_command_exits_3_naming_layer_and_rule_when_a_weight_is_negated(
    version: Path, tensors: Tensors
) -> None:
    """`python -m training certify` says which layer and which rule, and exits 3."""
    name, key = list(constrained_keys(tensors).items())[-1]
    write_tensors(version, flipped(tensors, key, places(tensors[key])[-1]))
    reseal(version)
    command = [sys.executable, "-m", "training", "certify", str(version)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert 3 == result.returncode
    assert "nonneg-matmul" in result.stderr
    assert name in result.stderr
