"""Mutants of proved models: what the falsifier refutes is refused, and what is proved is the mutant's own function."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from service.errors import VersionRefusedError
from tests.contract.version_surgery import write_tensors
from tests.foreign.mutants import BASES, Judgement, judge, mutate
from tests.foreign.saved_zoo import SavedZoo, verdict
from tests.oracle.saved_function import read_message, read_variables

SIGNS = frozenset({"nonneg-matmul", "nonneg-scale"})


def judgements(zoo: SavedZoo, folder: Path, seeds: range, *, pairs: int = 400) -> list[Judgement]:
    """Return what became of the mutant of every seed; they take turns among the bases."""
    found = []
    for place, name in enumerate(BASES):
        copy = Path(shutil.copytree(zoo[name].folder, folder / name))
        message, tensors = read_message(copy), read_variables(copy)
        anchors = zoo[name].rows(24, seed=1).astype(float)
        own = [seed for seed in seeds if seed % len(BASES) == place]
        found.extend(judge(mutate(message, tensors, seed), copy, anchors, pairs=pairs) for seed in own)
    return found


def test_no_mutant_is_proved_that_the_falsifier_refutes(zoo: SavedZoo, tmp_path: Path) -> None:
    """Of some hundred mutants none is proved wrongly, many are refuted, and some are proved: the judges are awake."""
    found = judgements(zoo, tmp_path, range(160), pairs=100)
    assert [] == [judgement for judgement in found if judgement.wrong]
    counts = Counter((judgement.proved, bool(judgement.refuted)) for judgement in found)
    assert counts[False, True] >= 30
    assert counts[True, False] >= 20


@pytest.mark.parametrize("name", ["smooth_leaky", "shared_weights", "keras_input_convex_network"])
def test_every_flipped_sign_of_a_constrained_weight_is_refused_by_the_proof(
    zoo: SavedZoo, tmp_path: Path, name: str
) -> None:
    """In a small network each weight of a non-negative kernel is negated in turn, and each time a sign rule refuses."""
    copy = Path(shutil.copytree(zoo[name].folder, tmp_path / name))
    tensors = read_variables(copy)
    kernels = {key: value for key, value in tensors.items() if getattr(value, "ndim", 0) == 2 and (value > 0).all()}
    flips = 0
    for key, kernel in kernels.items():
        copies = [other for other, value in kernels.items() if np.array_equal(value, kernel)]
        if key != min(copies):
            continue
        for place in np.ndindex(kernel.shape):
            changed = kernel.copy()
            changed[place] = -changed[place]
            write_tensors(copy, {**tensors, **dict.fromkeys(copies, changed)})
            refusal = verdict(copy)
            assert isinstance(refusal, VersionRefusedError)
            assert refusal.rule in SIGNS
            flips += 1
    assert flips >= 30
