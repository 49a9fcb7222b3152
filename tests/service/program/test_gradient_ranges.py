"""Gradient ranges: closed forms of small networks, samples that must lie inside, and what is said to be unbounded."""

import numpy as np
import pytest

from service.program.atoms import Abs, Elu, Exp, LeakyRelu, Softplus, Square, relu
from service.program.convolutions import Convolution
from service.program.evaluation import evaluate_both
from service.program.gradient_ranges import gradient_ranges
from service.program.operators import Dense, Divide, Identity, Operator, Scale
from service.program.partial_atoms import Sqrt
from service.program.program import AffineNode, AtomNode, InputNode, LogSumExpNode, MaximumNode, Program, Term
from service.program.selections import selection
from service.program.windows import Windows
from tests.service.program.programs import DIM, build, draw_weights

W = np.array([[2.0, -1.0, 0.0, 0.5], [0.0, 3.0, -4.0, 0.25], [1.0, 1.0, 1.0, -8.0]], np.float32)
C = np.array([[1.0], [0.5], [2.0], [3.0]], np.float32)


def layer(*last: Operator, atom=None) -> Program:
    """Return c . phi(x W), after further operators of width 4."""
    nodes = [InputNode(3), AffineNode(4, (Term(0, Dense(W)),)), AtomNode(4, 1, atom or Softplus())]
    for operator in last:
        nodes.append(AffineNode(4, (Term(len(nodes) - 1, operator),)))
    nodes.append(AffineNode(1, (Term(len(nodes) - 1, Dense(C)),)))
    return Program(tuple(nodes))


def contributions(weights=W, factor=1.0):
    """Return c_k w_jk, in float64."""
    return np.asarray(weights, np.float64) * np.asarray(C, np.float64)[:, 0] * factor


@pytest.mark.parametrize(
    ("atom", "least", "most"),
    [(Softplus(), 0.0, 1.0), (Elu(), 0.0, 1.0), (relu(), 0.0, 1.0), (LeakyRelu(0.25), 0.25, 1.0), (Abs(), -1.0, 1.0)],
)
def test_range_of_one_layer_is_the_sum_of_its_weights_times_the_extreme_slopes(atom, least, most):
    """df/dx_j = sum_k c_k w_jk phi'(.), and each slope takes every value between the extreme ones on its own."""
    parts = contributions()
    lower = np.where(parts > 0, least * parts, most * parts).sum(axis=1)
    upper = np.where(parts > 0, most * parts, least * parts).sum(axis=1)
    found = gradient_ranges(layer(atom=atom))
    np.testing.assert_allclose(found, (lower, upper), rtol=1e-12, atol=1e-12)
    assert (found[0] <= lower).all()
    assert (found[1] >= upper).all()


def test_factors_and_divisors_of_either_sign_are_followed():
    """A scale and a division by numbers of mixed signs move, and turn round, the bounds."""
    scale, divisor = np.array([2.0, 1.0, 0.0, 4.0], np.float32), np.array([4.0, -0.5, 1.0, 3.0], np.float32)
    parts = contributions(factor=(scale / divisor).astype(np.float64))
    found = gradient_ranges(layer(Scale(scale), Divide(divisor)))
    np.testing.assert_allclose(found, (np.minimum(parts, 0).sum(axis=1), np.maximum(parts, 0).sum(axis=1)), rtol=1e-6)


def test_square_is_unbounded_and_an_exponential_on_one_side_only():
    """2 u takes every value; exp(u) every positive one, so that an entry of one sign is bounded by 0."""
    lower, upper = gradient_ranges(layer(atom=Square()))
    assert (np.isinf(lower) & np.isinf(upper)).all()
    one_sided = Program(
        (InputNode(2), AtomNode(2, 0, Exp()), AffineNode(1, (Term(1, Dense(np.array([[1.0], [0.0]], np.float32))),)))
    )
    assert ([0.0, 0.0], [np.inf, 0.0]) == tuple(end.tolist() for end in gradient_ranges(one_sided))


def test_affine_function_has_its_gradient_as_its_range():
    """The gradient of w . x is w; a feature that nothing reads has 0."""
    program = Program((InputNode(3), AffineNode(1, (Term(0, Dense(W[:, :1])),))))
    np.testing.assert_allclose(gradient_ranges(program), (W[:, 0], W[:, 0]), rtol=1e-12)


def test_side_of_a_maximum_that_is_never_the_larger_has_no_share():
    """max(softplus(x), relu(x) - 1) is softplus(x): the bound of its slope is not 2."""
    nodes = (
        InputNode(1),
        AtomNode(1, 0, Softplus()),
        AtomNode(1, 0, Softplus()),
        AffineNode(1, (Term(2, Scale(np.zeros(1, np.float32))),), np.array([-1.0], np.float32)),
        MaximumNode(1, (1, 3)),
        AffineNode(1, (Term(4, Identity()),)),
    )
    np.testing.assert_allclose(gradient_ranges(Program(nodes)), ([0.0], [1.0]), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_of_a_deep_network_lie_within_their_ranges(seed):
    """Float64 gradients on 400 rows of four scales lie inside, and the bounds without the quadratic part are finite."""
    weights = draw_weights(seed)
    weights.quadratic[:] = 0
    program = build(weights)
    lower, upper = gradient_ranges(program)
    rows = np.random.default_rng(seed).standard_normal((400, DIM)) * np.resize([0.01, 1.0, 100.0, 1e4], 400)[:, None]
    gradient = evaluate_both(program, rows)[1]
    assert np.isfinite(lower).all()
    assert ((lower <= gradient) & (gradient <= upper)).all()
    assert (gradient.max(axis=0) > 0.2 * upper).any()  # the bounds are of the gradients' own size


def test_log_sum_exp_shares_its_slope_among_its_run():
    """The gradient of log(sum of exp) is a softmax: each entry between 0 and 1, times what follows."""
    nodes = (InputNode(4), LogSumExpNode(2, 0), AffineNode(1, (Term(1, Dense(np.array([[2.0], [3.0]], np.float32))),)))
    np.testing.assert_allclose(gradient_ranges(Program(nodes)), ([0.0] * 4, [2.0, 2.0, 3.0, 3.0]), rtol=1e-12)


def test_slopes_of_a_concave_atom_that_is_subtracted_fall():
    """-sqrt(1 + softplus(x)) has slopes between -1/2 and 0: those of the root fall from 1/2 to 0."""
    nodes = (
        InputNode(1),
        AtomNode(1, 0, Softplus()),
        AffineNode(1, (Term(1, Identity()),), np.array([1.0], np.float32)),
        AtomNode(1, 2, Sqrt()),
        AffineNode(1, (Term(3, Scale(np.array([-1.0], np.float32))),)),
    )
    np.testing.assert_allclose(gradient_ranges(Program(nodes)), ([-0.5], [0.0]), rtol=1e-9, atol=1e-12)


def test_convolution_of_mixed_signs_and_sums_of_windows_are_followed():
    """Float64 gradients of a convolutional network lie inside, and the bounds are those of its kernel's sums."""
    windows = Windows(1, (5,), (2,), (1,), (1,), ((0, 0),))
    kernel = np.array([[[1.0, -2.0]], [[-0.5, 3.0]]], np.float32)
    nodes = (
        InputNode(5),
        AffineNode(8, (Term(0, Convolution(kernel, windows=windows)),)),
        AtomNode(8, 1, Softplus()),
        AffineNode(1, (Term(2, selection(np.arange(8)[None, :], 8)),)),
    )
    program = Program(nodes)
    lower, upper = gradient_ranges(program)
    np.testing.assert_allclose(lower, [-2.0, -2.5, -2.5, -2.5, -0.5], rtol=1e-12)
    np.testing.assert_allclose(upper, [1.0, 4.0, 4.0, 4.0, 3.0], rtol=1e-12)
    gradient = evaluate_both(program, np.random.default_rng(9).standard_normal((200, 5)) * 10)[1]
    assert ((lower <= gradient) & (gradient <= upper)).all()


class Mirror(Identity):
    """y = -v, of which the intervals know nothing but that an entry is negative."""

    def pull_back(self, adjoint, dtype, namespace):
        """Turn every sign."""
        return -super().pull_back(adjoint, dtype, namespace)


def test_unknown_map_with_negative_entries_is_unbounded():
    """What is not understood has no range."""
    assert np.isinf(gradient_ranges(layer(Mirror(-np.ones(1, np.float32))))).all()
