"""Two hundred models that this project has never seen: what is proved, what is refused and by which rule."""

import numpy as np
import pytest

from service.errors import VersionRefusedError
from service.program.certification import Certified
from service.program.evaluation import evaluate
from service.program.verification import verify
from tests.foreign.saved_zoo import Runner, SavedZoo, summary
from tests.foreign.zoo import PROVABLE, REFUSED
from tests.oracle.falsifier import falsify
from tests.oracle.saved_function import NotInterpretedError

MISSING: dict[str, str] = {
    "keras_repeated_vector": "row-axis",
    "reduced_euclidean_norm": "not-lifted",
    "sum_of_squares": "not-lifted",
}
"""Provable specimens that are not proved yet, and the rule that refuses them."""

REFUSED_AT_LOAD = {
    "steep_by_maximum": "TensorFlow's graph optimiser takes max(u, 1.5 u) for a leaky ReLU of slope 1.5, which is "
    "another function, and not convex",
    "keras_separable_series": "TensorFlow computes elu as exp(u) - 1, which near 0 errs by more than is allowed there",
}
"""Specimens that are proved, and whose answers by TensorFlow are not their program's: why."""

PROVED = [specimen.name for specimen in PROVABLE if specimen.name not in MISSING]
NOT_CONVEX = [specimen.name for specimen in REFUSED if not specimen.convex]
ROW_LOCAL_CONTROL = 0.95


def test_zoo_holds_enough_of_both_kinds() -> None:
    """At least eighty models, about half of them provable, and of those at most one in twenty is not proved."""
    assert len(PROVABLE) + len(REFUSED) >= 80
    assert 0.4 <= len(PROVABLE) / (len(PROVABLE) + len(REFUSED)) <= 0.6
    assert set(MISSING) <= {specimen.name for specimen in PROVABLE}
    assert len(MISSING) <= len(PROVABLE) / 20


@pytest.mark.parametrize("name", PROVED)
def test_provable_specimen_is_proved_and_its_program_is_the_files_function(zoo: SavedZoo, name: str) -> None:
    """It is proved, its program gives what the file says in float64, and TensorFlow agrees with the program."""
    saved = zoo[name]
    certified = saved.verdict
    assert isinstance(certified, Certified), str(certified)
    rows = saved.rows(60)
    expected = saved.oracle(rows)
    scale = max(1.0, abs(expected).max())
    assert abs(evaluate(certified.program, rows.astype(float))[0] - expected).max() <= 1e-6 * scale
    if name in REFUSED_AT_LOAD:
        return
    verification = verify(certified.program, Runner(saved.folder, saved.specimen.dtype), None)
    assert "derived" == verification.gradient
    assert verification.score_difference <= 1e-6


@pytest.mark.parametrize("name", REFUSED_AT_LOAD)
def test_specimen_that_tensorflow_computes_otherwise_is_refused_at_load(zoo: SavedZoo, name: str) -> None:
    """The proof is of the file; where TensorFlow makes something else of it, the verification refuses."""
    certified = zoo[name].verdict
    assert isinstance(certified, Certified)
    with pytest.raises(VersionRefusedError) as refusal:
        verify(certified.program, Runner(zoo[name].folder), None)
    assert "agreement" == refusal.value.rule


@pytest.mark.parametrize("name", [specimen.name for specimen in PROVABLE])
def test_falsifier_refutes_no_provable_specimen(zoo: SavedZoo, name: str) -> None:
    """The file's own function, and the program with its gradient where there is one, are never refuted in float64."""
    saved = zoo[name]
    anchors = saved.rows(40, seed=1).astype(float)
    assert falsify(saved.oracle, None, anchors, pairs=1000, exact=True) is None
    if isinstance(saved.verdict, Certified):
        program = saved.verdict.program
        score, gradient = (lambda x, place=place: evaluate(program, x)[place] for place in range(2))
        assert falsify(score, gradient, anchors, pairs=500, exact=True) is None


@pytest.mark.parametrize("name", MISSING)
def test_listed_specimen_is_still_refused_by_its_rule(zoo: SavedZoo, name: str) -> None:
    """A specimen on the list of what is missing is not proved yet; once it is, it leaves the list."""
    refusal = zoo[name].verdict
    assert isinstance(refusal, VersionRefusedError)
    assert MISSING[name] == refusal.rule


@pytest.mark.parametrize("specimen", REFUSED, ids=lambda specimen: specimen.name)
def test_specimen_that_cannot_be_proved_is_refused_by_name(zoo: SavedZoo, specimen) -> None:
    """It is refused, and by a rule that fits what is wrong with it."""
    outcome = summary(zoo[specimen.name].verdict)
    assert outcome in specimen.rules, str(zoo[specimen.name].verdict)


def test_falsifier_refutes_the_specimens_that_are_not_convex(zoo: SavedZoo) -> None:
    """Of those that read one row at a time in float64, the falsifier refutes at least 95 %: it is no idle judge."""
    refuted, survived = [], []
    for name in NOT_CONVEX:
        try:
            score = zoo[name].oracle
            some, all_of_them = score(zoo[name].rows(6)[2:4]), score(zoo[name].rows(6))[2:4]
            one_by_one = np.isfinite(some).all() and abs(some - all_of_them).max() < 1e-9
        except (NotInterpretedError, ValueError):
            continue
        if not one_by_one:
            continue
        found = falsify(score, None, zoo[name].rows(40, seed=1).astype(float), pairs=1000, exact=True)
        (survived if found is None else refuted).append(name)
    assert len(refuted) >= 50
    assert len(refuted) >= ROW_LOCAL_CONTROL * (len(refuted) + len(survived)), survived
