"""The proof against the falsifier on random programs: what is proved is never refuted, in any of its claims.

Programs are drawn node by node from the public node types. Some are convex by construction, and must be proved;
the others have a few wrong signs, falling atoms or subtractions, and the proof must tell which of them do harm.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program import intervals
from service.program.atoms import (
    Abs,
    Atom,
    Elu,
    Exp,
    LeakyRelu,
    Softplus,
    Square,
    SquaredLeaky,
    leaky_relu,
    relu,
    squared_leaky,
)
from service.program.curvature import Certificate, prove
from service.program.evaluation import evaluate_both, node_values
from service.program.operators import Dense, Divide, Identity, Operator, Scale
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Node, Program, Term
from tests.oracle.falsifier import Refutation, falsify

Floats = NDArray[np.floating]

SEEDS = range(240)
MAGNITUDES = np.array([0.125, 0.25, 0.5, 1.0, 1.5])
TINY = (0.0, -0.0, float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float64).smallest_subnormal))
FALLING: tuple[Callable[[], Atom], ...] = (
    Square, Abs, lambda: leaky_relu(-0.5), lambda: leaky_relu(-0.0), lambda: squared_leaky(0.5),
    lambda: squared_leaky(1.5), lambda: squared_leaky(-0.0),
)  # fmt: skip
MISTAKEN: tuple[Callable[[], Atom], ...] = (
    Square, Abs, lambda: leaky_relu(-0.5), lambda: leaky_relu(1.5), lambda: squared_leaky(0.5),
    lambda: squared_leaky(-0.5),
)  # fmt: skip


def squared_relu() -> SquaredLeaky:
    """Return the square of the ReLU, the only squared leaky ReLU that rises everywhere."""
    return squared_leaky(0.0)


class Draw:
    """Draws one program; `mistakes` is how many weights or atoms it may get that convexity need not bear.

    Convexity by construction is kept track of here, node by node, and not asked of the proof.
    """

    def __init__(self, seed: int) -> None:
        """Draw the program of `seed`: every second one without mistakes, every fourth with one."""
        self.generator = np.random.default_rng(seed)
        self.mistakes = (0, 1, 0, 3)[seed % 4]
        self.careful = self.mistakes == 0
        self.nodes: list[Node] = [InputNode(int(self.generator.integers(1, 5)))]
        self.affine = [True]
        self.positive = [False]
        for _ in range(int(self.generator.integers(1, 9))):
            (self.add_affine, self.add_affine, self.add_atom, self.add_atom, self.add_maximum)[self.below(5)]()
        self.add_affine(width=1)

    def below(self, count: int) -> int:
        """Return a number below `count`."""
        return int(self.generator.integers(count))

    def careless(self) -> bool:
        """Return whether to do something wrong this time."""
        careless = self.mistakes > 0 and self.below(3) == 0
        self.mistakes -= careless
        return careless

    def argument(self) -> int:
        """Return an earlier node, mostly a late one; it may be shared."""
        return self.below(len(self.nodes)) if self.below(3) == 0 else len(self.nodes) - 1

    def append(self, node: Node, *, affine: bool = False, positive: bool = False) -> None:
        """Append a node and what is known of it."""
        self.nodes.append(node)
        self.affine.append(affine)
        self.positive.append(positive)

    def numbers(self, shape: tuple[int, ...], *, signed: bool, zeros: bool = True) -> Floats:
        """Return multiples of an eighth, a few zeros of both signs and denormals, negative ones where allowed."""
        values = self.generator.choice(MAGNITUDES, shape)
        special = self.generator.random(shape) < 0.1
        tiny = self.generator.choice(TINY, shape) if zeros else np.full(shape, 2.0)
        signs = np.where((self.generator.random(shape) < 0.4) & signed, -1.0, 1.0)
        dtype = (np.float32, np.float64)[self.below(2)]
        return np.asarray(np.where(special, tiny, values) * signs, dtype)

    def operator(self, argument: int, width: int) -> Operator:
        """Return an operator from the argument's width to `width`."""
        before = self.nodes[argument].width
        signed = self.affine[argument] or self.careless()
        if before != width or self.below(4) == 0:
            return Dense(self.numbers((before, width), signed=signed), "dense")
        kind = self.below(3)
        if kind == 0:
            return Identity()
        if kind == 1:
            return Scale(self.numbers((width,), signed=signed), "scale")
        return Divide(self.numbers((width,), signed=signed, zeros=False), "divide")

    def add_affine(self, width: int | None = None) -> None:
        """Append a sum of one to three operators, with or without a bias."""
        width = width or (self.nodes[-1].width if self.below(2) else int(self.generator.integers(1, 5)))
        chosen = [self.argument() for _ in range(int(self.generator.integers(1, 4)))]
        terms = tuple(Term(argument, self.operator(argument, width)) for argument in chosen)
        bias = self.numbers((width,), signed=True) if self.below(2) else None
        affine = all(self.affine[argument] for argument in chosen)
        self.append(AffineNode(width, terms, bias, f"affine_{len(self.nodes)}"), affine=affine)

    def add_atom(self) -> None:
        """Append an atom; one that falls only where its argument allows it, unless careless."""
        argument = self.argument()
        anything = self.affine[argument] or self.positive[argument]
        rising: tuple[Callable[[], Atom], ...] = (Softplus, relu, Elu, Exp, self.leaky, squared_relu)
        choices = MISTAKEN if self.careless() else rising + FALLING if anything else rising
        atom = choices[self.below(len(choices))]()
        positive = isinstance(atom, Softplus | Exp | Square | SquaredLeaky | Abs) or atom == relu()
        node = AtomNode(self.nodes[argument].width, argument, atom, f"atom_{len(self.nodes)}")
        self.append(node, positive=positive)

    def leaky(self) -> LeakyRelu:
        """Return a leaky ReLU that is convex and rises."""
        return leaky_relu(float(self.generator.choice([0.125, 0.5, 1.0])))

    def add_maximum(self) -> None:
        """Append the maximum of two nodes of equal width."""
        first = self.argument()
        equal = [position for position, node in enumerate(self.nodes) if node.width == self.nodes[first].width]
        second = equal[self.below(len(equal))]
        positive = self.positive[first] or self.positive[second]
        node = MaximumNode(self.nodes[first].width, (first, second), f"maximum_{len(self.nodes)}")
        self.append(node, positive=positive)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A drawn program, and its certificate or None."""

    program: Program
    certificate: Certificate | None
    by_construction: bool


@functools.cache
def case(seed: int) -> Case:
    """Return the program of a seed with the proof's verdict."""
    draw = Draw(seed)
    program = Program(tuple(draw.nodes))
    try:
        certificate = prove(program)
    except VersionRefusedError:
        certificate = None
    return Case(program, certificate, draw.careful)


def anchors(program: Program, seed: int) -> NDArray[np.float64]:
    """Return rows of halves, among them the origin: many of them sit exactly on kinks of eighths."""
    grid = np.random.default_rng(seed).integers(-2, 3, (40, program.dim)) / 2
    return np.concatenate([np.zeros((1, program.dim)), grid])


def refuted(program: Program, seed: int, curvature: float = 0.0) -> Refutation | None:
    """Return a counterexample to the convexity of f - curvature/2 |x|^2, or None."""

    def wide(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = x.astype(np.longdouble)  # sums that cancel must not cost the digits that the falsifier looks at
        score, gradient = evaluate_both(program, rows)
        score = score - np.longdouble(curvature) / 2 * (rows * rows).sum(axis=1)
        gradient = gradient - np.longdouble(curvature) * rows
        return score.astype(np.float64), gradient.astype(np.float64)

    with np.errstate(over="ignore", invalid="ignore"):  # exponentials of exponentials leave float64
        return falsify(
            lambda x: wide(x)[0], lambda x: wide(x)[1], anchors(program, seed), pairs=600, seed=seed, exact=True
        )


def test_proved_programs_are_never_refuted() -> None:
    """No midpoint, supporting hyperplane (at kinks too) or line refutes a program that the proof accepted."""
    proved = [seed for seed in SEEDS if case(seed).certificate is not None]
    assert {} == {seed: found for seed in proved if (found := refuted(case(seed).program, seed)) is not None}


def test_programs_convex_by_construction_are_all_proved() -> None:
    """The proof is no blanket refusal: it accepts every program drawn by the rules, and some of the careless ones."""
    careful = [seed for seed in SEEDS if case(seed).by_construction]
    assert len(careful) >= len(SEEDS) // 2
    assert [] == [seed for seed in careful if case(seed).certificate is None]
    careless = [seed for seed in SEEDS if not case(seed).by_construction]
    assert sum(case(seed).certificate is not None for seed in careless) >= len(careless) // 10


def test_refused_programs_are_mostly_not_convex() -> None:
    """The programs test the proof: the falsifier refutes a good part of those that it refuses."""
    refused = [seed for seed in SEEDS if case(seed).certificate is None]
    assert len(refused) >= len(SEEDS) // 8
    assert sum(refuted(case(seed).program, seed) is not None for seed in refused) >= len(refused) // 3


def fallen(seed: int) -> Program:
    """Return a drawn convex program, less its value at a row drawn near the origin, under an atom that may fall."""
    draw = Draw(4 * seed)
    drawn = Program(tuple(draw.nodes))
    row = draw.generator.integers(-4, 5, (1, drawn.dim)) / 4
    depth = np.nan_to_num(evaluate_both(drawn, row)[0], posinf=1.0) + draw.below(3) / 2
    draw.append(AffineNode(1, (Term(len(drawn.nodes) - 1, Identity()),), -depth, "bowl"))
    draw.append(AtomNode(1, len(drawn.nodes), FALLING[seed % len(FALLING)](), "fallen"))
    draw.append(AffineNode(1, (Term(len(drawn.nodes) + 1, Identity()),), name="score"))
    return Program(tuple(draw.nodes))


@pytest.mark.parametrize("remainder", range(len(FALLING)))
def test_atoms_that_fall_are_refused_wherever_they_are_refuted(remainder: int) -> None:
    """A falling atom after a random convex function is proved only where no counterexample is found, and some are."""
    programs = {seed: fallen(seed) for seed in range(remainder, 12 * len(FALLING), len(FALLING))}
    rules = {seed: rule_of(program) for seed, program in programs.items()}
    found = {seed for seed, program in programs.items() if refuted(program, seed) is not None}
    assert {None, "atom-nondecreasing"} >= set(rules.values())
    assert set() == {seed for seed in found if rules[seed] is None}
    rises_everywhere = FALLING[remainder]() in {relu(), squared_relu()}
    assert rises_everywhere == (set(rules.values()) == {None})
    assert len(found) == 0 if rises_everywhere else len(found) >= len(programs) // 4


def rule_of(program: Program) -> str | None:
    """Return the rule that refuses a program, or None if it is proved."""
    try:
        prove(program)
    except VersionRefusedError as err:
        return err.rule
    return None


def squares(seed: int) -> Program:
    """Return a drawn convex program plus scaled squares of scaled, shifted features, which make it strongly convex."""
    draw = Draw(4 * seed)
    dim, last = draw.nodes[0].width, len(draw.nodes) - 1
    draw.append(AffineNode(dim, (Term(0, Divide(draw.numbers((dim,), signed=True, zeros=False))),), name="scaled"))
    draw.append(AffineNode(dim, (Term(last + 1, Identity()),), draw.numbers((dim,), signed=True), "shifted"))
    draw.append(AtomNode(dim, last + 2, Square(), "square"))
    terms = (
        Term(last, Identity()),
        Term(last + 3, Dense(draw.numbers((dim, 1), signed=False, zeros=False))),
        Term(last + 3, Dense(draw.numbers((dim, 1), signed=False))),
    )
    draw.append(AffineNode(1, terms, name="score"))
    return Program(tuple(draw.nodes))


def test_claimed_strong_convexity_is_never_refuted() -> None:
    """Less m/2 |x|^2 the score stays convex, for the m that the certificate claims where squares are there."""
    programs = {seed: squares(seed) for seed in range(20)}
    claims = {seed: prove(program).strong_convexity for seed, program in programs.items()}
    assert all(claim > 0 for claim in claims.values())
    assert {} == {
        seed: found for seed, program in programs.items() if (found := refuted(program, seed, claims[seed])) is not None
    }


def mixed_squares(seed: int) -> Program:
    """Return a drawn convex program plus squares, and squared leaky ReLUs, of functions of several features."""
    draw = Draw(4 * seed)
    dim, last = draw.nodes[0].width, len(draw.nodes) - 1
    width = dim + draw.below(3)
    draw.append(AffineNode(dim, (Term(0, Divide(draw.numbers((dim,), signed=True, zeros=False))),), name="scaled"))
    terms = (Term(last + 1, Dense(draw.numbers((dim, width), signed=True))),)
    draw.append(AffineNode(width, terms, draw.numbers((width,), signed=True), "mixed"))
    draw.append(AtomNode(width, last + 2, (Square(), squared_leaky(0.5), squared_leaky(1.5))[draw.below(3)], "square"))
    square = Dense(draw.numbers((width, 1), signed=False, zeros=False))
    draw.append(AffineNode(1, (Term(last, Identity()), Term(last + 3, square)), name="score"))
    return Program(tuple(draw.nodes))


def test_claimed_strong_convexity_of_mixed_features_is_never_refuted() -> None:
    """Squares of sums of features claim an eigenvalue, mostly above 0, and the score less m/2 |x|^2 stays convex."""
    programs = {seed: mixed_squares(seed) for seed in range(16)}
    claims = {seed: prove(program).strong_convexity for seed, program in programs.items()}
    assert sum(claim > 0 for claim in claims.values()) >= 10
    assert {} == {
        seed: found for seed, program in programs.items() if (found := refuted(program, seed, claims[seed])) is not None
    }


def test_strong_convexity_of_twice_the_claim_is_refuted_somewhere() -> None:
    """The check of the claim has teeth: sums of squares alone are refuted with a little more than m."""
    squared = AffineNode(1, (Term(1, Dense(np.array([[0.5], [1.5]], np.float32))),))
    program = Program((InputNode(2), AtomNode(2, 0, Square()), squared))
    assert 1.0 == prove(program).strong_convexity
    assert refuted(program, 0, 1.0) is None
    assert refuted(program, 0, 1.001) is not None


@pytest.mark.parametrize("radius", [1e-3, 1.0, 1e3])
def test_ranges_hold_the_values_of_random_boxes(radius: float) -> None:
    """Each node's extended-precision values on rows of a box, its corners among them, lie in the node's range."""
    for seed in SEEDS:
        program = case(seed).program
        generator = np.random.default_rng(seed)
        center = generator.integers(-4, 5, program.dim) / 4 * radius
        reach = radius * generator.choice([0.0, 0.5, 1.0], program.dim)
        shares = generator.uniform(-1, 1, (60, program.dim))
        rows = center + reach * np.where(generator.random((60, program.dim)) < 0.5, np.sign(shares), shares)
        values = node_values(program, rows.astype(np.longdouble))
        for node, (low, high), value in zip(
            program.nodes, intervals.ranges(program, center - reach, center + reach), values, strict=True
        ):
            known = ~np.isnan(value)
            assert (low <= value)[known].all(), (seed, node, low, value.min(axis=0))
            assert (value <= high)[known].all(), (seed, node, high, value.max(axis=0))
