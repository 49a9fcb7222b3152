"""Verification: a SavedModel that is not its program, or whose gradient is no subgradient, is refused by rule."""

import io
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.atoms import Exp, relu
from service.program.evaluation import evaluate_both
from service.program.operators import Dense
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Program, Term
from service.program.verification import Probe, Run, Verification, check_probe, verification_rows, verify
from tests.service.program.programs import DIM, atoms_after, build, closed_form, draw_weights

WEIGHTS = draw_weights(5)
PROGRAM = build(WEIGHTS)
KINKED = atoms_after(Dense(np.array([[1, 2, 0], [0, 1, -1], [3, 0, 1]], np.float32)), relu())
Change = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]], tuple[Any, Any]]


def honest(rows: NDArray[np.float32]) -> tuple[Any, Any]:
    """Answer the closed form, rounded to float32."""
    score, gradient = closed_form(WEIGHTS, rows)
    return score.astype(np.float32), gradient.astype(np.float32)


def changed(change: Change) -> Run:
    """Return the honest answers after a change."""

    def run(rows: NDArray[np.float32]) -> tuple[Any, Any]:
        score, gradient = closed_form(WEIGHTS, rows)
        score, gradient = change(score.copy(), gradient.copy(), rows)
        return score.astype(np.float32), None if gradient is None else gradient.astype(np.float32)

    return run


def probe() -> Probe:
    """Return a probe of the honest model."""
    x = np.random.default_rng(3).standard_normal((16, DIM)).astype(np.float32)
    return Probe(x, *honest(x))


def rule_of(run: Run, program: Program = PROGRAM, with_probe: Probe | None = None) -> str:
    """Return the rule by which the model is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        verify(program, run, with_probe)
    return caught.value.rule


def test_honest_model_is_verified() -> None:
    """The closed form passes against its program, and the record says how far apart they were."""
    received = verify(PROGRAM, honest, probe())
    assert (256, "checked", ()) == (received.rows, received.gradient, received.untaken)
    rows = verification_rows(DIM, probe(), PROGRAM.weights_sha256)
    score, gradient = closed_form(WEIGHTS, rows)
    assert received.score_scale == pytest.approx(np.abs(score).max(), rel=1e-6)
    assert received.gradient_scale == pytest.approx(np.abs(gradient).max(), rel=1e-6)
    assert 0 < received.score_difference <= 1e-6
    assert 0 < received.gradient_difference <= 1e-6
    assert 0 < received.rounding_margin < 1e-4


def test_model_without_a_gradient_has_it_derived() -> None:
    """Where the SavedModel answers no gradient, the program's own is served and said to be derived."""
    assert "derived" == verify(PROGRAM, changed(lambda s, _, __: (s, None)), None).gradient


def off_by_one_entry(score: Any, gradient: Any, _: Any) -> tuple[Any, Any]:
    """Spoil one entry of one row's gradient by a thousandth of the largest."""
    gradient[40, 1] += 1e-3 * np.abs(gradient).max()
    return score, gradient


GRADIENTS: dict[str, Change] = {
    "scaled": lambda s, g, _: (s, 1.001 * g),
    "one entry off": off_by_one_entry,
    "negated": lambda s, g, _: (s, -g),
    "zero, as of a stopped gradient": lambda s, g, _: (s, 0 * g),
    "without the quadratic part": lambda s, g, x: (s, g - 2 * WEIGHTS.quadratic * x),
    "features exchanged": lambda s, g, _: (s, g[:, ::-1]),
    "rows exchanged": lambda s, g, _: (s, np.roll(g, 1, axis=0)),
    "of the mean": lambda s, g, _: (s, g / len(g)),
    "off near the data only": lambda s, g, x: (s, np.where(np.abs(x).max(axis=1, keepdims=True) < 1, g + 1e-3, g)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_wrong_gradient_is_refused(name: str) -> None:
    """Each way of answering something else than the score's gradient is refused."""
    assert "gradient" == rule_of(changed(GRADIENTS[name]))


SCORES: dict[str, Change] = {
    "off by 1e-4": lambda s, g, _: (s * (1 + 1e-4), g),
    "shifted": lambda s, g, _: (s + 2e-6 * np.abs(s).max(), g),
    "one row off": lambda s, g, _: (np.where(np.arange(len(s)) == 77, s + 1e-3 * np.abs(s).max(), s), g),
    "rows mixed": lambda s, g, _: (s - s.mean(), g),
    "NaN": lambda s, g, _: (np.where(np.arange(len(s)) == 3, np.nan, s), g),
    "infinite": lambda s, g, _: (np.where(np.arange(len(s)) == 3, np.inf, s), g),
    "gradient NaN": lambda s, g, _: (s, np.where(g == g[0, 0], np.nan, g)),
    "all NaN": lambda s, g, _: (s * np.nan, g),
    "a column": lambda s, g, _: (s[:, None], g),
    "one score for all": lambda s, g, _: (s[:1], g),
    "gradient of another width": lambda s, g, _: (s, g[:, :2]),
    "off by a thousandth near the data only": lambda s, g, x: (np.where(np.abs(x).max(axis=1) < 1, s + 1e-3, s), g),
    "gradient in one line": lambda s, g, _: (s, g.reshape(-1)),
}


@pytest.mark.parametrize("name", SCORES)
def test_another_function_is_refused(name: str) -> None:
    """Other scores, numbers that are none, and answers of another shape are refused."""
    assert "agreement" == rule_of(changed(SCORES[name]))


@pytest.mark.parametrize("what", ["score", "gradient"])
def test_probe_that_does_not_come_out_again_is_refused(what: str) -> None:
    """A probe off by 1e-3 of its largest entry is refused, one off by 1e-6 is not."""
    good = probe()
    arrays = {"x": good.x, "score": good.score, "gradient": good.gradient}
    for share, refused in ((1e-3, True), (1e-6, False)):
        spoilt = arrays[what].copy()
        spoilt.flat[5] += share * np.abs(spoilt).max()
        other = Probe(**{**arrays, what: spoilt})
        if refused:
            assert "probe" == rule_of(honest, with_probe=other)
        else:
            verify(PROGRAM, honest, other)


def test_probe_of_another_width_is_refused() -> None:
    """A probe of two features does not belong to a model of three."""
    narrow = Probe(np.ones((4, 2), np.float32), np.ones(4, np.float32), np.ones((4, 2), np.float32))
    with pytest.raises(VersionRefusedError) as caught:
        check_probe(honest, narrow, DIM)
    assert "probe" == caught.value.rule


def test_probe_answered_with_nan_is_refused() -> None:
    """NaN compares false with every bound and must not pass."""
    with pytest.raises(VersionRefusedError) as caught:
        check_probe(changed(lambda s, g, _: (s * np.nan, g)), probe(), DIM)
    assert "probe" == caught.value.rule


def test_probe_survives_its_file() -> None:
    """Bytes and back: the same arrays; equal probes, equal bytes."""
    read = Probe.from_bytes(probe().to_bytes())
    for name in ("x", "score", "gradient"):
        np.testing.assert_array_equal(getattr(probe(), name), getattr(read, name))
    assert probe().to_bytes() == probe().to_bytes()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"x" * 100, probe().to_bytes()[:200], probe().to_bytes()[:-30]])
def test_probe_file_that_cannot_be_read_is_refused(data: bytes) -> None:
    """Empty, cut short or not a zip file at all."""
    with pytest.raises(VersionRefusedError) as caught:
        Probe.from_bytes(data)
    assert "probe" == caught.value.rule


@pytest.mark.parametrize(
    "arrays",
    [
        (np.ones((4, 3)), np.ones(4, np.float32), np.ones((4, 3), np.float32)),
        (np.ones((4, 3), np.float32), np.ones(5, np.float32), np.ones((4, 3), np.float32)),
        (np.ones((0, 3), np.float32), np.ones(0, np.float32), np.ones((0, 3), np.float32)),
        (np.full((4, 3), np.nan, np.float32), np.ones(4, np.float32), np.ones((4, 3), np.float32)),
        (np.array([["a"]]), np.ones(1, np.float32), np.ones((1, 1), np.float32)),
    ],
)
def test_probe_of_other_arrays_is_refused(arrays: tuple[Any, Any, Any]) -> None:
    """Another type, shapes that do not fit, no rows, or NaN."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(zip(("x", "score", "gradient"), arrays, strict=True)))
    with pytest.raises(VersionRefusedError) as caught:
        Probe.from_bytes(buffer.getvalue())
    assert "probe" == caught.value.rule


def test_rows_at_kinks_are_held_to_the_inequality_only() -> None:
    """At a kink any subgradient will do: slope 1 instead of 0 at the origin passes, a slope outside does not."""

    def run(at_kinks: float) -> Run:
        def answer(rows: NDArray[np.float32]) -> tuple[Any, Any]:
            matrix = KINKED.nodes[1].terms[0].operator.coefficients.astype(np.float64)
            u = rows.astype(np.float64) @ matrix
            slope = np.where(u > 0, 1.0, np.where(u < 0, 0.0, at_kinks))
            return np.maximum(u, 0).sum(axis=1).astype(np.float32), (slope @ matrix.T).astype(np.float32)

        return answer

    for at_kinks in (0.0, 0.5, 1.0):
        assert "checked" == verify(KINKED, run(at_kinks), None).gradient
    assert "gradient" == rule_of(run(3.0), KINKED)


def test_branches_that_no_row_takes_are_named() -> None:
    """A ReLU that no verification row switches on, and a maximum that one side always wins, are said to be untested."""
    far = np.full(DIM, -1e9, np.float32)
    program = Program(
        (
            InputNode(DIM),
            AffineNode(DIM, (Term(0, Dense(np.eye(DIM, dtype=np.float32))),), far),
            AtomNode(DIM, 1, relu(), "asleep"),
            AtomNode(DIM, 0, relu(), "awake"),
            MaximumNode(DIM, (3, 1), "one-sided"),
            AffineNode(
                1, (Term(4, Dense(np.ones((DIM, 1), np.float32))), Term(2, Dense(np.ones((DIM, 1), np.float32))))
            ),
        )
    )
    received = verify(program, lambda rows: evaluate_both(program, rows), None)
    assert {"asleep", "one-sided"} == set(received.untaken)


def test_overflowing_rows_are_left_out_where_both_sides_overflow() -> None:
    """Rows whose score leaves float32 cannot be compared; an ordinary row must be finite on both sides."""
    program = atoms_after(Exp())

    def run(rows: NDArray[np.float32]) -> tuple[Any, Any]:
        with np.errstate(over="ignore"):
            return np.exp(rows).sum(axis=1, dtype=np.float32), np.exp(rows)

    received = verify(program, run, None)
    assert 100 < received.rows < 256


def test_rows_are_those_of_the_seed_and_of_the_probe() -> None:
    """256 rows: the probe's, the origin, and four scales around the probe's mean; another hash, other rows."""
    rows = verification_rows(DIM, probe(), "ab" * 32)
    assert ((256, DIM), np.float32) == (rows.shape, rows.dtype)
    np.testing.assert_array_equal(probe().x, rows[:16])
    assert not rows[16].any()
    spread = [np.abs(rows[17 + k :: 4] - probe().x.mean(axis=0)).max() for k in range(4)]
    assert [True] * 3 == [10 * one < other for one, other in itertools.pairwise(spread)]
    np.testing.assert_array_equal(rows, verification_rows(DIM, probe(), "ab" * 32))
    assert (rows != verification_rows(DIM, probe(), "cd" * 32)).any()


def test_record_is_plain_data() -> None:
    """What was found is recorded in Python's own numbers, fit for a manifest."""
    received = verify(PROGRAM, honest, probe())
    assert isinstance(received, Verification)
    assert all(isinstance(value, int | float | str | tuple) for value in vars(received).values())
    assert not any(isinstance(value, np.generic) for value in vars(received).values())
