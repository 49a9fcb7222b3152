"""Expressions: random trees of ops are the functions that NumPy computes, and their claims hold on a grid."""

import numpy as np
import pytest
from numpy.typing import NDArray

from service.program.atoms import Abs, Atom, Elu, Exp, Softplus, Square, leaky_relu, relu
from service.program.expressions import Call, Expression, Fixed, Leaf, candidates, columns, function, opened, parts
from service.program.operators import Dense, Scale
from service.program.piecewise import NotPiecewiseError
from service.program.piecewise_atom import PiecewiseAtom, atom_of
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Node, Term

GRID = np.unique(np.concatenate([np.linspace(-4, 4, 161), np.linspace(-1, 1, 101)]))
NUMBERS = (-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 1.5)
ATOMS: tuple[Atom, ...] = (Abs(), Elu(), Exp(), Softplus(), Square(), relu(), leaky_relu(0.25), leaky_relu(1.5))
Floats = NDArray[np.float64]
Tree = tuple[Expression, Floats]


def drawn(generator: np.random.Generator, depth: int) -> Tree:
    """Return a random tree of one leaf and its values on the grid, computed by NumPy alone."""
    kind = int(generator.integers(0, 7)) if depth else 6
    if kind == 6:
        return Leaf(0), GRID
    first, one = drawn(generator, depth - 1)
    number = float(generator.choice(NUMBERS))
    fixed = Fixed(np.array([number]))
    if kind == 0:
        atom = ATOMS[int(generator.integers(len(ATOMS)))]
        return Call("atom", (first,), atom), atom.value_and_slope(one, np)[0]
    if kind == 1:
        return Call("multiply", (first, fixed)), one * number
    if kind == 2:
        return Call("add", (fixed, first)), one + number
    if kind == 3:
        return Call("maximum", (first, fixed)), np.maximum(one, number)
    second, other = drawn(generator, depth - 1)
    if kind == 4:
        return Call("subtract", (first, second)), one - other
    truth = Call(("greater", "less_equal")[int(generator.integers(2))], (first, fixed))
    holds = one > number if truth.operation == "greater" else one <= number
    return Call("select", (truth, first, second)), np.where(holds, one, other)


def understood(seed: int) -> tuple[PiecewiseAtom | Atom, Floats] | None:
    """Return the atom of a drawn tree and its values on the grid, or None where it is refused."""
    tree, values = drawn(np.random.default_rng(seed), 4)
    sets, index = columns(tree, 1)
    try:
        return atom_of([function(tree, sets[0])], index), values
    except NotPiecewiseError:
        return None


def test_random_trees_are_the_functions_that_numpy_computes() -> None:
    """Whatever is understood has the values of the ops, one after the other, and enough of it is."""
    with np.errstate(all="ignore"):
        found = {seed: pair for seed in range(500) if (pair := understood(seed)) is not None}
    assert len(found) >= 200
    for seed, (atom, values) in found.items():
        received = atom.value_and_slope(GRID[:, None], np)[0][:, 0]
        ordinary = np.abs(values) < 1e12
        scale = np.maximum(1.0, np.abs(values[ordinary]))
        assert (np.abs(received - values)[ordinary] <= 1e-9 * scale).all(), seed


def test_claims_about_random_trees_hold_on_a_grid() -> None:
    """What is called convex has no second difference below 0, what is said never to fall does not, on each interval."""
    claims = 0
    with np.errstate(all="ignore"):
        found = {seed: pair for seed in range(500) if (pair := understood(seed)) is not None}
    even = np.linspace(-4, 4, 161)
    for seed, (atom, _) in found.items():
        for low, high in ((-np.inf, np.inf), (-1.0, np.inf), (0.0, 2.0), (-3.0, 0.5)):
            ends = np.array([low]), np.array([high])
            u = even[(even >= low) & (even <= high)]
            value = atom.value_and_slope(u[:, None], np)[0][:, 0]
            slack = 1e-9 * max(1.0, float(np.abs(value).max()))
            bend, step = np.diff(value, 2), np.diff(value)
            assert not atom.convex_on(*ends)[0] or (bend >= -slack).all(), (seed, low, high)
            assert not atom.concave_on(*ends)[0] or (bend <= slack).all(), (seed, low, high)
            assert not atom.rises_on(*ends)[0] or (step >= -slack).all(), (seed, low, high)
            assert not atom.falls_on(*ends)[0] or (step <= slack).all(), (seed, low, high)
            below, above = atom.image(*ends)
            assert below[0] - slack <= value.min(), (seed, low, high)
            assert value.max() <= above[0] + slack, (seed, low, high)
            claims += bool(atom.convex_on(*ends)[0])
    assert claims >= 200


def nodes() -> list[Node]:
    """Return x W, softplus of it, twice that, and the maximum of both."""
    return [
        InputNode(2),
        AffineNode(3, (Term(0, Dense(np.ones((2, 3), np.float32))),)),
        AtomNode(3, 1, Softplus()),
        AffineNode(3, (Term(2, Scale(np.array([2, 3, 4], np.float32))),), np.ones(3, np.float32)),
        MaximumNode(3, (2, 3)),
    ]


def test_nodes_are_opened_down_to_what_mixes_features() -> None:
    """From the maximum the way goes through scale and atom to the matrix, which is not opened."""
    found = [(node, len(parts(tree))) for node, tree in candidates(nodes(), Leaf(4), 50)]
    assert [4, 2, 1] == [node for node, _ in found]
    assert opened(nodes(), 1) is None
    assert opened(nodes(), 0) is None
    assert [] == list(candidates(nodes(), Leaf(4), 0))


def test_features_with_equal_constants_are_one_function() -> None:
    """Constants are compared as sets of all that a feature has: two of these three features are alike."""
    tree = Call("add", (Call("multiply", (Leaf(0), Fixed(np.array([1.0, 2, 1])))), Fixed(np.array([3.0, 3, 3]))))
    sets, index = columns(tree, 3)
    assert (2, True, False) == (len(sets), index[0] == index[2], index[0] == index[1])


@pytest.mark.parametrize("operation", ["greater", "and", "not"])
def test_truth_where_a_number_is_expected_is_refused(operation: str) -> None:
    """A comparison is no number, and logic of numbers is none."""
    tree = Call(operation, (Leaf(0), Leaf(0))[: 1 if operation == "not" else 2])
    with pytest.raises(NotPiecewiseError):
        function(tree, {})
