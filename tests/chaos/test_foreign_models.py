"""The zoo at length: ten thousand mutants, every surgery on every specimen, every hostile model under a clock."""

import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from service.errors import VersionRefusedError
from service.program.certification import Certified
from tests.foreign.graph_surgery import CHANGES
from tests.foreign.hostile import HOSTILE, WRITTEN, build_all
from tests.foreign.mutants import BASES, judge, mutate
from tests.foreign.saved_zoo import Runner, SavedZoo, summary, verdict
from tests.foreign.zoo import ZOO
from tests.oracle.saved_function import read_message, read_variables
from tests.service.program.foreign_models import edited

MUTANTS = 10_000
SECONDS = 5.0
"""How long a refusal may take here; on a quiet machine the slowest takes less than one second."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> SavedZoo:
    """Return the zoo; a specimen is saved when a test first asks for it."""
    return SavedZoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save the hostile models; the session of TensorFlow 1 that one of them takes stays open as long as the process."""
    return build_all(tmp_path_factory.mktemp("hostile"))


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_ten_thousand_mutants_are_never_proved_where_the_falsifier_refutes(
    zoo: SavedZoo, tmp_path: Path, report
) -> None:
    """Of the mutants that the falsifier refutes none is proved, and what is proved is the mutant's own function."""
    counts: Counter[tuple[bool, str]] = Counter()
    wrong = []
    for place, name in enumerate(BASES):
        copy = Path(shutil.copytree(zoo[name].folder, tmp_path / name))
        message, tensors = read_message(copy), read_variables(copy)
        anchors = zoo[name].rows(24, seed=1).astype(float)
        for seed in range(place, MUTANTS, len(BASES)):
            judgement = judge(mutate(message, tensors, seed), copy, anchors)
            found = "refuted" if judgement.refuted else "not interpreted" if judgement.invalid else "not refuted"
            counts[judgement.proved, found] += 1
            wrong.extend([(name, seed, judgement)] if judgement.wrong else [])
    report(**{f"{'proved' if proved else 'refused'} and {found}": count for (proved, found), count in counts.items()})
    assert [] == wrong
    assert sum(counts.values()) == MUTANTS
    assert counts[False, "refuted"] >= MUTANTS // 5
    assert counts[True, "not refuted"] >= MUTANTS // 10


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_every_surgery_leaves_every_verdict_and_every_answer_the_same(zoo: SavedZoo, tmp_path: Path, report) -> None:
    """Renamed, reordered, wrapped and all three: the same verdict and hash, and the same answers to rounding."""
    compared = 0
    for name, specimen in ZOO.items():
        for kind, change in CHANGES.items():
            other = edited(zoo[name].folder, tmp_path / name / kind, change)
            assert summary(zoo[name].verdict) == summary(verdict(other)), (name, kind)
            compared += 1
        if isinstance(zoo[name].verdict, Certified):
            rows = zoo[name].rows(9)
            answers = [Runner(folder, specimen.dtype)(rows)[0] for folder in (zoo[name].folder, other)]
            assert abs(answers[0] - answers[1]).max() <= 1e-6 * (1 + abs(answers[0]).max()), name
    report(verdicts=compared)
    assert compared == len(ZOO) * len(CHANGES)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_every_hostile_model_is_refused_soon(hostile: dict[str, Path], report) -> None:
    """None keeps the prover busy, and none has written its file when all have been refused."""
    slowest = 0.0
    for name, folder in hostile.items():
        start = time.perf_counter()
        refusal = verdict(folder)
        seconds = time.perf_counter() - start
        slowest = max(slowest, seconds)
        assert isinstance(refusal, VersionRefusedError), name
        assert refusal.rule in HOSTILE[name][1], name
        assert seconds < SECONDS, name
    report(refused=len(HOSTILE), slowest_seconds=round(slowest, 3))
    assert not (hostile["empty_folder"].parent / WRITTEN).exists()
