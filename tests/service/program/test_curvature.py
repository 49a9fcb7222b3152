"""The proof: what it accepts, what it refuses and by which rule, and the constant of strong convexity."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest

from service.errors import VersionRefusedError
from service.program.atoms import Abs, Atom, Elu, Exp, Softplus, Square, leaky_relu, relu, squared_leaky
from service.program.curvature import prove
from service.program.operators import Dense, Divide, Identity, Scale
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Program, Term
from tests.service.program.programs import DIM, atoms_after, build, draw_weights

FREE = np.array([[1, -2], [-3, 4], [0.5, -0.25]], np.float32)
POSITIVE = np.array([0.5, 2.0, 3.0], np.float32)
TINY = np.finfo(np.float32).smallest_subnormal


def refused(program: Program) -> VersionRefusedError:
    """Return the refusal of `program`."""
    with pytest.raises(VersionRefusedError) as caught:
        prove(program)
    return caught.value


def test_network_with_nonnegative_kernels_is_proved() -> None:
    """The constrained network is convex, whatever the signs of its passthroughs, biases and first kernel."""
    program = build(draw_weights())
    certificate = prove(program)
    assert (program.weights_sha256, program.program_sha256) == (certificate.weights_sha256, certificate.program_sha256)
    rules = {step.node: step.rule for step in certificate.steps}
    assert {
        "first/softplus": "convex-of-affine",
        "hidden": "nonneg-matmul",
        "hidden/softplus": "nondecreasing-of-convex",
        "square": "convex-of-affine",
        "scaled": "nonneg-scale",
        "score": "nonneg-matmul",
    } == rules


def test_steps_name_the_smallest_weight_that_was_looked_at() -> None:
    """The certificate's min_weight is the smallest coefficient on a convex argument, no passthrough's."""
    weights = draw_weights(1)
    steps = {step.node: step.to_document() for step in prove(build(weights)).steps}
    assert float(weights.kernel.min()) == steps["hidden"]["min_weight"]
    assert float(weights.quadratic.min()) == steps["scaled"]["min_weight"]
    assert "min_weight" not in steps["square"]


KERNELS = {"kernel": "hidden/kernel", "last_kernel": "output/kernel", "quadratic": "quadratic"}
FLIPS = [
    (name, place)
    for name in KERNELS
    for place in itertools.product(*(range(size) for size in getattr(draw_weights(), name).shape))
]


@pytest.mark.parametrize(("name", "place"), FLIPS)
def test_each_hidden_weights_sign_flipped_is_refused(name: str, place: tuple[int, ...]) -> None:
    """Any single weight on a convex argument made negative is refused, with node, label, value and place."""
    weights = draw_weights()
    value = -getattr(weights, name)[place]
    error = refused(build(weights.changed(name, place, value)))
    assert ("nonneg-scale" if name == "quadratic" else "nonneg-matmul") == error.rule
    node = {"kernel": "hidden", "last_kernel": "score", "quadratic": "scaled"}[name]
    assert f"node {node}: {KERNELS[name]} has 1 negative entries" in error.reason
    assert f"the smallest is {float(value)!r} at [{', '.join(map(str, place))}]" in error.reason


@pytest.mark.parametrize("name", ["first", "first_bias", "passthrough", "bias", "last_passthrough", "last_bias"])
def test_sign_of_a_free_weight_never_matters(name: str) -> None:
    """Every passthrough, bias and first-layer weight may have either sign."""
    weights = draw_weights()
    array = getattr(weights, name)
    for place in itertools.product(*(range(size) for size in array.shape)):
        prove(build(weights.changed(name, place, -array[place])))


@pytest.mark.parametrize("name", KERNELS)
def test_zeros_of_both_signs_pass_and_the_smallest_negative_number_does_not(name: str) -> None:
    """The test reads the sign bit: -0.0 is 0, the smallest negative denormal is negative; no tolerance."""
    weights = draw_weights()
    for value in (0.0, -0.0, TINY):
        prove(build(weights.changed(name, (0,) * getattr(weights, name).ndim, value)))
    error = refused(build(weights.changed(name, (0,) * getattr(weights, name).ndim, -TINY)))
    assert error.rule.startswith("nonneg-")
    assert f"{float(-TINY)!r}" in error.reason


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(draw_weights())])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weight_that_is_no_number_is_refused_wherever_it_stands(name: str, value: float) -> None:
    """NaN and infinity are refused before any sign is read, in free weights and biases too."""
    weights = draw_weights()
    error = refused(build(weights.changed(name, (0,) * getattr(weights, name).ndim, value)))
    assert "finite-weights" == error.rule


def test_convex_argument_divided_by_a_negative_number_is_refused() -> None:
    """softplus(x) / c is convex for c > 0 only; an affine argument may be divided by anything but 0."""
    assert "nonneg-scale" == refused(atoms_after(Softplus(), Divide(np.array([1, 1, -2], np.float32)))).rule
    assert "nonneg-scale" == refused(atoms_after(Softplus(), Divide(np.array([1, -TINY, 2], np.float32)))).rule
    prove(atoms_after(Softplus(), Divide(POSITIVE)))
    prove(atoms_after(Divide(np.array([1, -TINY, -2], np.float32)), Softplus()))


def test_convex_argument_subtracted_is_refused() -> None:
    """Taking softplus(x) from x is concave; softplus(x) - x is convex."""

    def difference(first: float, second: float) -> Program:
        ones = np.ones(DIM, np.float32)
        terms = (Term(1, Scale(ones * first, "a")), Term(0, Scale(ones * second, "b")))
        total = AffineNode(1, (Term(2, Dense(np.ones((DIM, 1), np.float32))),))
        return Program((InputNode(DIM), AtomNode(DIM, 0, Softplus()), AffineNode(DIM, terms, name="difference"), total))

    prove(difference(1, -1))
    error = refused(difference(-1, 1))
    assert "nonneg-scale" == error.rule
    assert "node difference: a" in error.reason


@pytest.mark.parametrize("atom", [Square(), Abs(), leaky_relu(-0.25), squared_leaky(0.2), squared_leaky(1.5)])
def test_falling_atom_needs_an_argument_that_is_affine_or_never_negative(atom: Atom) -> None:
    """On affine arguments and on softplus (proved >= 0) it passes; on elu (>= -1) and on softplus - 1 it is refused."""
    prove(atoms_after(Dense(FREE), atom))
    prove(atoms_after(Dense(FREE), Softplus(), atom))
    prove(atoms_after(Dense(FREE), Softplus(), Dense(np.abs(FREE[:2])), atom))
    prove(atoms_after(Exp(), atom))
    assert "atom-nondecreasing" == refused(atoms_after(Dense(FREE), Elu(), atom)).rule
    shifted = list(atoms_after(Softplus(), Identity(), atom).nodes)
    shifted[2] = dataclasses.replace(shifted[2], bias=np.array([0, 0, -TINY], np.float32))
    assert "atom-nondecreasing" == refused(Program(tuple(shifted))).rule


def test_square_of_a_sum_that_only_rounds_to_zero_is_refused() -> None:
    """0.1 + 0.2 + 0.3 less its own float64 sum is below 0 in real numbers: the range says so, and the square falls."""
    weights, bias = np.array([[0.1], [0.2], [0.3]]), -(0.1 + 0.2 + 0.3)
    assert sum(Fraction(float(weight)) for weight in weights[:, 0]) + Fraction(bias) < 0
    tenths = AffineNode(1, (Term(2, Dense(weights)),), np.array([bias]))
    program = Program(
        (
            InputNode(DIM),
            AtomNode(DIM, 0, relu()),
            AffineNode(DIM, (Term(1, Identity()),), np.ones(DIM, np.float32)),
            tenths,
            AtomNode(1, 3, Square(), "square"),
            AffineNode(1, (Term(4, Identity()),)),
        )
    )
    assert "atom-nondecreasing" == refused(program).rule


def test_atom_that_is_not_convex_is_refused() -> None:
    """A leaky ReLU of alpha above 1 is refused, on affine arguments too; on [0, inf) it is linear."""
    assert "atom-convex" == refused(atoms_after(leaky_relu(1.5))).rule
    assert "atom-convex" == refused(atoms_after(Elu(), leaky_relu(1.0000001))).rule
    prove(atoms_after(Elu(), leaky_relu(1.0)))
    prove(atoms_after(Softplus(), leaky_relu(1.5)))


def test_maximum_of_convex_functions_is_convex_and_its_negation_is_refused() -> None:
    """A maximum passes, minus a maximum (a minimum of concave functions) does not."""

    def maximum(sign: float) -> Program:
        return Program(
            (
                InputNode(DIM),
                AtomNode(DIM, 0, Softplus()),
                MaximumNode(DIM, (1, 0), "maximum"),
                AffineNode(1, (Term(2, Dense(np.full((DIM, 1), sign, np.float32))),)),
            )
        )

    assert "maximum" in {step.rule for step in prove(maximum(1)).steps}
    assert "nonneg-matmul" == refused(maximum(-1)).rule


def test_affine_program_is_convex_without_steps() -> None:
    """A linear score needs no rule and is not strongly convex."""
    certificate = prove(atoms_after(Dense(FREE)))
    assert ((), 0.0) == (certificate.steps, certificate.strong_convexity)


def test_certificate_document_is_what_the_manifest_holds() -> None:
    """The document names inputs, proof, gradient, constants, steps and both hashes, as plain JSON values."""
    certificate = prove(build(draw_weights()))
    document = certificate.to_document("checked", 1e-7)
    assert {
        "convex_in", "proved", "gradient", "strong_convexity", "rounding_margin", "steps", "weights_sha256",
        "program_sha256",
    } == set(document)  # fmt: skip
    assert (["x"], True, "checked", 1e-7) == tuple(
        document[key] for key in ("convex_in", "proved", "gradient", "rounding_margin")
    )
    assert len(certificate.steps) == len(document["steps"])
