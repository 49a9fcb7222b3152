"""Programs: canonical text, hashes that see every number and no name, fusing, and lists that are no programs."""

import dataclasses
import itertools

import numpy as np
import pytest

from service.program.atoms import Softplus, leaky_relu, relu
from service.program.evaluation import evaluate_both
from service.program.operators import Dense, Identity, Scale
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Program, Term, fuse
from tests.service.program.programs import DIM, atoms_after, build, draw_weights

ROWS = np.random.default_rng(0).standard_normal((32, DIM))


def test_hash_does_not_depend_on_names_and_labels() -> None:
    """Names carry counters of whoever traced the model: renaming every node and variable changes no hash."""
    program = build(draw_weights())
    renamed = []
    for number, node in enumerate(program.nodes):
        changes: dict = {"name": f"other_{number}"}
        if isinstance(node, AffineNode):
            changes["terms"] = tuple(
                Term(term.argument, dataclasses.replace(term.operator, label="other")) for term in node.terms
            )
        renamed.append(dataclasses.replace(node, **changes))
    assert program.program_sha256 == Program(tuple(renamed)).program_sha256
    assert program.weights_sha256 == Program(tuple(renamed)).weights_sha256


def test_hashes_see_every_single_number() -> None:
    """The next float in any place of any weight or bias is another program with other weights."""
    weights = draw_weights()
    seen = {build(weights).program_sha256}
    count = 1
    for field in dataclasses.fields(weights):
        array = getattr(weights, field.name)
        for place in itertools.product(*(range(size) for size in array.shape)):
            other = build(weights.changed(field.name, place, np.nextafter(array[place], np.float32(9))))
            assert other.weights_sha256 != build(weights).weights_sha256
            seen.add(other.program_sha256)
            count += 1
    assert count == len(seen)


def test_hash_sees_atoms_arguments_and_order() -> None:
    """Another activation, parameter, argument or order of a maximum is another program."""

    def maximum(*order: int) -> Program:
        return Program(
            (
                InputNode(DIM),
                AtomNode(DIM, 0, relu()),
                MaximumNode(DIM, order),
                AffineNode(1, (Term(2, Dense(np.ones((DIM, 1), np.float32))),)),
            )
        )

    programs = [
        atoms_after(relu()), atoms_after(Softplus()), atoms_after(leaky_relu(0.1)), atoms_after(leaky_relu(0.2)),
        maximum(0, 1), maximum(1, 0), maximum(1, 1),
    ]  # fmt: skip
    assert len(programs) == len({program.program_sha256 for program in programs})


def test_weights_are_listed_in_program_order_without_identities() -> None:
    """Every coefficient array and bias comes once."""
    weights = draw_weights()
    shapes = [array.shape for array in build(weights).weights()]
    assert [(3, 5), (5,), (5, 4), (3, 4), (4,), (3,), (4, 1), (3, 1), (3, 1), (1,)] == shapes
    assert [] == list(Program((InputNode(1), AffineNode(1, (Term(0, Identity()),)))).weights())


def test_fusing_merges_sums_and_keeps_the_function() -> None:
    """The chain x A, then + b, then + x B is one node; values are the same numbers up to rounding."""
    a, b = (np.random.default_rng(seed).standard_normal((DIM, 1)).astype(np.float32) for seed in (1, 2))
    program = Program(
        (
            InputNode(DIM),
            AffineNode(1, (Term(0, Dense(a)),)),
            AffineNode(1, (Term(0, Dense(b)),)),
            AffineNode(1, (Term(1, Identity()), Term(2, Identity()))),
            AffineNode(1, (Term(3, Identity()),), np.array([2.0], np.float32)),
        )
    )
    fused = fuse(program)
    assert 2 == len(fused.nodes)
    for received, expected in zip(evaluate_both(fused, ROWS), evaluate_both(program, ROWS), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "middle",
    [
        AffineNode(DIM, (Term(1, Identity()), Term(1, Identity()))),
        AffineNode(DIM, (Term(1, Scale(np.full(DIM, 2, np.float32))),)),
        AffineNode(DIM, (Term(1, Identity()),), np.ones(DIM, np.float32)),
    ],
)
def test_fusing_leaves_what_is_read_twice_scaled_or_biased_twice(middle: AffineNode) -> None:
    """A node read twice or through a scale, and two biases, stay apart: no number is computed."""
    first = AffineNode(DIM, (Term(0, Scale(np.full(DIM, 3, np.float32))),), np.full(DIM, 0.1, np.float32))
    last = AffineNode(1, (Term(2, Dense(np.ones((DIM, 1), np.float32))),))
    program = Program((InputNode(DIM), first, middle, last))
    fused = fuse(program)
    assert program.program_sha256 == fused.program_sha256


@pytest.mark.parametrize(
    "nodes",
    [
        (),
        (AffineNode(1, (Term(0, Identity()),)),),
        (InputNode(2),),
        (InputNode(1), AffineNode(1, (Term(1, Identity()),))),
        (InputNode(1), AtomNode(1, 2, relu()), AtomNode(1, 0, relu())),
    ],
)
def test_list_that_is_no_program_is_refused(nodes: tuple) -> None:
    """No input, a vector as the score, or a node that reads itself or a later one."""
    with pytest.raises(ValueError, match=r"a program|does not precede"):
        Program(nodes)
