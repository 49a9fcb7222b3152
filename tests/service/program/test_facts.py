"""Facts of each feature: composition rules at the boundary of their conditions, and what one feature may not spoil."""

import dataclasses

import numpy as np
import pytest

from service.errors import VersionRefusedError
from service.program.atoms import Abs, Atom, Exp, Softplus, Square, leaky_relu, relu
from service.program.curvature import prove
from service.program.facts import Knowledge, spread
from service.program.operators import Dense, Divide, Identity, Scale
from service.program.partial_atoms import Log, Log1p, Power, Sqrt
from service.program.program import AffineNode, AtomNode, InputNode, LogSumExpNode, MaximumNode, Node, Program, Term

TINY = np.finfo(np.float32).smallest_subnormal
MIXED = np.array([[1, -2, 0], [-3, 0, 4]], np.float32)


def described(*nodes: Node) -> str:
    """Return for each feature of the last node what is known: affine, convex, v concave, or a question mark."""
    facts = Knowledge(nodes).of(len(nodes) - 1)
    letters = {(True, True): "a", (True, False): "c", (False, True): "v", (False, False): "?"}
    return "".join(letters[pair] for pair in zip(facts.convex.tolist(), facts.concave.tolist(), strict=True))


def affine(argument: int, *factors: float, bias: list[float] | None = None) -> AffineNode:
    """Return features times factors, plus a bias."""
    vector = None if bias is None else np.array(bias, np.float32)
    return AffineNode(len(factors), (Term(argument, Scale(np.array(factors, np.float32))),), vector)


def test_sign_of_each_coefficient_decides_for_its_own_output() -> None:
    """A row of a matrix meets one feature: where that is convex, only a negative entry turns its outputs."""
    kernel = Dense(np.array([[1, -1, 0, TINY], [0, 0, -TINY, 1]], np.float32))
    nodes = (InputNode(2), AtomNode(2, 0, Softplus()), AffineNode(4, (Term(1, kernel),)))
    assert "c??c" == described(*nodes)
    joined = AffineNode(4, (Term(1, kernel), Term(0, Dense(-np.ones((2, 4), np.float32)))))
    assert "c??c" == described(*nodes[:2], joined)


def test_feature_with_coefficient_zero_is_read_all_the_same() -> None:
    """A weight of 0, of either sign, on what is not known leaves the output unknown, and on a convex one convex."""
    for number in (0.0, -0.0, TINY, -TINY):
        kernel = Dense(np.array([[number], [number]], np.float32))
        total = AffineNode(1, (Term(1, kernel),))
        assert "?" == described(InputNode(2), AtomNode(2, 0, Power(3)), total)
        expected = "v" if number < 0 else "c"
        assert expected == described(InputNode(2), AtomNode(2, 0, Softplus()), total)


def test_negation_is_carried_and_undone() -> None:
    """Minus a convex function is concave, minus that is convex, and a sum of both kinds is nothing."""
    nodes = [InputNode(1), AtomNode(1, 0, Softplus()), affine(1, -1), affine(2, -2)]
    assert ["a", "c", "v", "c"] == [described(*nodes[: count + 1]) for count in range(4)]
    both = AffineNode(1, (Term(2, Identity()), Term(3, Identity())))
    assert "?" == described(*nodes, both)
    divided = AffineNode(1, (Term(2, Divide(np.array([-3], np.float32))),))
    assert "c" == described(*nodes[:3], divided)


@pytest.mark.parametrize(
    ("inner", "shift", "outer", "known"),
    [
        (Softplus(), 0.0, Square(), "c"), (Softplus(), -TINY, Square(), "?"), (Softplus(), 0.0, Abs(), "c"),
        (Softplus(), 0.0, leaky_relu(2.0), "c"), (Softplus(), -TINY, leaky_relu(2.0), "?"),
        (Softplus(), 0.0, leaky_relu(-1.0), "c"), (Softplus(), -TINY, leaky_relu(-1.0), "?"),
        (Exp(), 0.0, Power(3), "c"), (Exp(), -TINY, Power(3), "?"), (Exp(), 1.0, Power(-1), "?"),
        (Exp(), 0.0, Log(), "?"), (Exp(), 0.0, Sqrt(), "?"),
    ],
)  # fmt: skip
def test_convex_argument_is_judged_on_its_proved_interval(inner: Atom, shift: float, outer: Atom, known: str) -> None:
    """One denormal below 0 is enough to lose what holds on [0, inf) only."""
    nodes = (InputNode(1), AtomNode(1, 0, inner), affine(1, 1, bias=[shift]), AtomNode(1, 2, outer))
    expected = "c" if isinstance(outer, Log) and shift == 0 else known
    assert expected == described(*nodes)


def test_interval_of_each_feature_is_its_own() -> None:
    """The square of one feature that may be negative is unknown; its neighbour's is convex."""
    nodes = (InputNode(2), AtomNode(2, 0, Softplus()), affine(1, 1, 1, bias=[0.0, -1.0]), AtomNode(2, 2, Square()))
    assert "c?" == described(*nodes)


def test_falling_functions_of_concave_arguments_are_convex() -> None:
    """1/u of a concave u above 0 is convex; of one that reaches 0 it is nothing; minus the logarithm is convex."""
    concave = [InputNode(1), AtomNode(1, 0, relu()), affine(1, -1), AtomNode(1, 2, Exp())]
    assert "?" == described(*concave)
    below = affine(2, 1, bias=[-1.0])
    assert "?" == described(*concave[:3], below, AtomNode(1, 3, Power(-1)))
    assert "c" == described(*concave[:3], below, AtomNode(1, 3, Power(2)))
    bounded = [InputNode(1), AtomNode(1, 0, leaky_relu(0.0)), affine(1, 1, bias=[1.0])]
    assert "?" == described(*bounded, AtomNode(1, 2, Log()))
    assert "?" == described(*bounded, AtomNode(1, 2, Power(-1)))


def log_of_sum(weight: float, bias: float, atom: Atom) -> str:
    """Return what is known of atom(exp(x) + weight exp(softplus(x)) + bias)."""
    total = AffineNode(
        1, (Term(1, Identity()), Term(3, Scale(np.array([weight], np.float32)))), np.array([bias], np.float32)
    )
    nodes = (InputNode(1), AtomNode(1, 0, Exp()), AtomNode(1, 0, Softplus()), AtomNode(1, 2, Exp()), total)
    return described(*nodes, AtomNode(1, 4, atom))


@pytest.mark.parametrize("atom", [Log(), Log1p()])
@pytest.mark.parametrize(
    ("weight", "bias", "known"), [(2, 1, "c"), (0, 0, "c"), (-TINY, 0, "?"), (1, -TINY, "?"), (TINY, TINY, "c")]
)
def test_logarithm_of_a_sum_of_exponentials_is_convex(atom: Atom, weight: float, bias: float, known: str) -> None:
    """Any coefficient or constant that is not negative may stand there, and no negative one."""
    assert known == log_of_sum(weight, bias, atom)


def test_logarithm_of_a_sum_with_anything_else_is_refused() -> None:
    """exp(x) + softplus(x), the exponential of a concave function, or a sum that may be empty: none is log-convex."""
    start = (InputNode(1), AtomNode(1, 0, Exp()), AtomNode(1, 0, Softplus()))
    mixed = AffineNode(1, (Term(1, Identity()), Term(2, Identity())))
    assert "?" == described(*start, mixed, AtomNode(1, 3, Log()))
    assert "?" == described(*start, affine(2, -1), AtomNode(1, 3, Exp()), AtomNode(1, 4, Log()))
    assert "a" == described(*start, affine(1, 0), AtomNode(1, 3, relu()))[0].replace("c", "a")
    assert "?" == described(*start, affine(1, 0), AtomNode(1, 3, Log()))
    assert "?" == described(*start, AffineNode(1, (Term(1, Identity()),), np.array([-1.0])), AtomNode(1, 3, Log()))


@pytest.mark.parametrize(
    ("weights", "bias", "known"),
    [((1, 1), 0.0, "c"), ((2, 0), 3.0, "c"), ((1, -TINY), 0.0, "?"), ((1, 1), -TINY, "?"), ((0, 0), 1.0, "c")],
)
def test_root_of_a_sum_of_squares_is_convex(weights: tuple[float, float], bias: float, known: str) -> None:
    """A norm may have weights and an epsilon, none of them negative."""
    kernel = Dense(np.array([[weights[0]], [weights[1]]], np.float32))
    total = AffineNode(1, (Term(2, kernel),), np.array([bias], np.float32))
    first = AffineNode(2, (Term(0, Dense(MIXED[:, :2])),))
    assert known == described(InputNode(2), first, AtomNode(2, 1, Square()), total, AtomNode(1, 3, Sqrt()))


def test_root_of_squares_of_convex_arguments_needs_them_not_negative() -> None:
    """The norm of softplus is convex; that of softplus - 1, or the root of what is no sum of squares, is not."""
    start = (InputNode(2), AtomNode(2, 0, Softplus()))
    kernel = Dense(np.ones((2, 1), np.float32))
    ending = (AtomNode(2, 2, Square()), AffineNode(1, (Term(3, kernel),)), AtomNode(1, 4, Sqrt()))
    assert "c" == described(*start, affine(1, 1, 1), *ending)
    assert "?" == described(*start, affine(1, 1, 1, bias=[0.0, -1.0]), *ending)
    both = AffineNode(2, (Term(1, Identity()), Term(2, Identity())))
    assert "??" == described(*start, AtomNode(2, 0, Square()), both, AtomNode(2, 3, Sqrt()))
    assert "??" == described(*start, AtomNode(2, 1, Sqrt()))


def test_log_sum_exp_of_a_run_needs_every_one_of_its_features() -> None:
    """Of six features in two runs, one that is not convex spoils its own run."""
    spoiled = AffineNode(6, (Term(1, Scale(np.array([1, 1, 1, 1, -1, 1], np.float32))),))
    nodes = (InputNode(6), AtomNode(6, 0, Softplus()), spoiled, LogSumExpNode(2, 2))
    assert "c?" == described(*nodes)
    assert "cc" == described(*nodes[:2], LogSumExpNode(2, 1))


def test_maximum_keeps_roots_and_logarithms() -> None:
    """The larger of two sums of exponentials has a convex logarithm, that of two squares a convex root."""
    exps = (InputNode(1), AtomNode(1, 0, Exp()), affine(1, 2), MaximumNode(1, (1, 2)), AtomNode(1, 3, Log()))
    squares = (InputNode(1), AtomNode(1, 0, Square()), affine(1, 2), MaximumNode(1, (1, 2)), AtomNode(1, 3, Sqrt()))
    assert ("c", "c") == (described(*exps), described(*squares))
    assert "?" == described(*exps[:2], AtomNode(1, 0, Softplus()), *exps[3:])


@pytest.mark.parametrize("operator", [Dense(MIXED), Scale(MIXED[0]), Divide(np.array([-1, 2, TINY], np.float32))])
def test_spread_finds_coefficients_of_one_sign_bit_by_bit(operator: Dense) -> None:
    """An output is found exactly where a chosen feature has a coefficient of that sign."""
    matrix = operator.coefficients if operator.coefficients.ndim == 2 else np.diag(operator.coefficients)
    width = matrix.shape[0]
    for number in range(2**width):
        mask = np.array([number >> bit & 1 for bit in range(width)], np.bool_)
        for positive in (True, False):
            for zeros in (True, False):
                own = np.eye(width, dtype=bool) if operator.coefficients.ndim == 1 else np.ones_like(matrix, np.bool_)
                entries = (matrix < 0) if not positive else (matrix > 0) | (own & (matrix == 0) & zeros)
                expected = (entries & mask[:, None]).any(axis=0)
                np.testing.assert_array_equal(expected, spread(operator, mask, positive=positive, zeros=zeros))


def refusal(*nodes: Node) -> VersionRefusedError:
    """Return why a program is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        prove(Program(nodes))
    return caught.value


def test_refusal_names_what_made_the_score_concave() -> None:
    """The negation is to blame, not the activation after it, and not an earlier negation that was undone."""
    start = (InputNode(1), AtomNode(1, 0, Softplus(), "softplus"))
    undone = (dataclasses.replace(affine(1, -1), name="first"), dataclasses.replace(affine(2, -1), name="undone"))
    guilty = dataclasses.replace(affine(3, -1), name="guilty")
    error = refusal(*start, *undone, guilty, AtomNode(1, 4, Softplus(), "late"))
    assert ("nonneg-scale", True) == (error.rule, error.reason.startswith("node guilty:"))
    error = refusal(*start, *undone, guilty)
    assert ("nonneg-scale", True) == (error.rule, error.reason.startswith("node guilty:"))
    assert prove(Program((*start, *undone))).steps[-1].curvature == "convex"


def test_steps_tell_which_rule_was_used() -> None:
    """Norms, logarithms, carried negations and falling functions have steps of their own."""
    root = np.array([1.0], np.float32)
    steps = prove(
        Program(
            (
                InputNode(1),
                AtomNode(1, 0, Square(), "square"),
                AffineNode(1, (Term(1, Identity()),), root, "eps"),
                AtomNode(1, 2, Sqrt(), "root"),
                dataclasses.replace(affine(3, -1, bias=[-1.0]), name="negated"),
                AtomNode(1, 4, Power(2), "falling"),
            )
        )
    ).steps
    rules = {step.node: (step.rule, step.curvature) for step in steps}
    assert ("norm", "convex") == rules["root"]
    assert ("nonneg-scale", "concave") == rules["negated"]
    assert ("nonincreasing-of-concave", "convex") == rules["falling"]
