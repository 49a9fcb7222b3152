"""The convex program: a list of nodes over feature vectors, its canonical text and its hashes.

A node is a function of one row. `lifting` builds programs from graphs; `curvature`, `evaluation` and `intervals`
interpret them. Built on `operators` and `atoms`.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.program.atoms import Atom
from service.program.operators import Identity, Operator, fingerprint
from service.program.selections import Selection


@dataclasses.dataclass(frozen=True, eq=False)
class InputNode:
    """The row itself, `width` features: x and, of the last `context` features, the context."""

    width: int
    name: str = "x"
    context: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """T(v) for the node numbered `argument`."""

    argument: int
    operator: Operator


@dataclasses.dataclass(frozen=True, eq=False)
class AffineNode:
    """The sum of T_i(v_i) over its terms, plus a constant `bias` [width] (or None for 0)."""

    width: int
    terms: tuple[Term, ...]
    bias: NDArray[np.floating] | None = None
    name: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class AtomNode:
    """phi(v), feature by feature."""

    width: int
    argument: int
    atom: Atom
    name: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class MaximumNode:
    """max(v_1, v_2), feature by feature; the slope of a tie goes to the first, as in TensorFlow."""

    width: int
    arguments: tuple[int, int]
    name: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class LogSumExpNode:
    """log(sum of exp(v_i)) over each run of k features, k = the argument's width / `width`.

    Convex in v and non-decreasing in each v_i: its Hessian is a covariance, its gradient the softmax of the run.
    """

    width: int
    argument: int
    name: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class ProductNode:
    """v_1 v_2, feature by feature, of which one depends on the context alone: of x only one factor is a function."""

    width: int
    arguments: tuple[int, int]
    name: str = ""


Node = InputNode | AffineNode | AtomNode | MaximumNode | LogSumExpNode | ProductNode


def arguments(node: Node) -> tuple[int, ...]:
    """Return the numbers of the nodes that `node` reads."""
    match node:
        case InputNode():
            return ()
        case AffineNode():
            return tuple(term.argument for term in node.terms)
        case AtomNode() | LogSumExpNode():
            return (node.argument,)
        case MaximumNode() | ProductNode():
            return node.arguments


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function of one row x [dim] to one number, as a list of nodes in evaluation order.

    Node 0 is the input, the last node is the score (width 1), and a node reads earlier nodes only. A program with a
    context is such a function for each context: its rows are [x | context], and gradients are by x.

    Args:
        nodes: the nodes. Frozen arrays: a program is never changed after it was built.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        """Refuse a list that is no program."""
        if not self.nodes or not isinstance(self.nodes[0], InputNode):
            message = "a program starts with its input"
            raise ValueError(message)
        if self.nodes[-1].width != 1:
            message = f"a program ends with one number per row, received {self.nodes[-1].width}"
            raise ValueError(message)
        for position, node in enumerate(self.nodes):
            if any(argument >= position for argument in arguments(node)):
                message = f"node {position} reads a node that does not precede it"
                raise ValueError(message)

    @property
    def width(self) -> int:
        """Number of features of a row, the context's included."""
        return self.nodes[0].width

    @property
    def context(self) -> int:
        """Number of features of the context; 0 without one."""
        return self.nodes[0].context if isinstance(self.nodes[0], InputNode) else 0

    @property
    def dim(self) -> int:
        """Number of features of x."""
        return self.width - self.context

    @functools.cached_property
    def fixed(self) -> frozenset[int]:
        """Numbers of nodes that depend on the context alone, so that no gradient by x passes through them."""
        found: set[int] = set()
        if self.context:
            for position, node in enumerate(self.nodes[1:], start=1):
                terms = node.terms if isinstance(node, AffineNode) else ()
                own = {term.argument for term in terms if term.argument == 0 and self._leaves_x(term.operator)}
                if found.issuperset(set(arguments(node)) - own):
                    found.add(position)
        return frozenset(found)

    def _leaves_x(self, operator: Operator) -> bool:
        """Whether an operator of the input reads the context alone."""
        if not isinstance(operator, Selection):
            return False
        return not bool(((operator.places >= 0) & (operator.places < self.dim)).any())

    @property
    def text(self) -> str:
        """The canonical text: one line a node, weights by hash, no names."""
        return "\n".join(f"%{position} = {_line(node)}" for position, node in enumerate(self.nodes)) + "\n"

    @property
    def program_sha256(self) -> str:
        """SHA-256 of the canonical text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def weights_sha256(self) -> str:
        """SHA-256 over the fingerprints of all weights in program order."""
        digest = hashlib.sha256()
        for node in self.nodes:
            if isinstance(node, AffineNode):
                for term in node.terms:
                    digest.update(term.operator.fingerprint.encode() if term.operator.has_weights else b"")
                digest.update(b"" if node.bias is None else fingerprint(node.bias).encode())
        return digest.hexdigest()

    def weights(self) -> Iterator[NDArray[np.floating]]:
        """Yield every coefficient array and bias, in program order."""
        for node in self.nodes:
            if isinstance(node, AffineNode):
                for term in node.terms:
                    if term.operator.has_weights:
                        yield term.operator.coefficients
                if node.bias is not None:
                    yield node.bias


def _line(node: Node) -> str:
    match node:
        case InputNode():
            return f"input {node.width}" + (f" context {node.context}" if node.context else "")
        case AffineNode():
            terms = " + ".join(f"%{term.argument} {term.operator.text}" for term in node.terms)
            bias = "" if node.bias is None else f" + bias {fingerprint(node.bias)}"
            return f"affine {node.width} {terms}{bias}"
        case AtomNode():
            return f"atom {node.width} {node.atom.text} %{node.argument}"
        case MaximumNode():
            return f"maximum {node.width} %{node.arguments[0]} %{node.arguments[1]}"
        case LogSumExpNode():
            return f"log_sum_exp {node.width} %{node.argument}"
        case ProductNode():
            return f"product {node.width} %{node.arguments[0]} %{node.arguments[1]}"


def fuse(program: Program) -> Program:
    """Return the same function with chains of sums merged: one affine node for z W + x A + b.

    An affine node that is read once, through an identity, by another affine node is absorbed by it, unless both have
    a bias. No number is computed: the terms and the bias move, the real-arithmetic function stays the same.
    """
    readers = [0] * len(program.nodes)
    for node in program.nodes:
        for argument in arguments(node):
            readers[argument] += 1
    merged: list[Node] = list(program.nodes)
    absorbed: set[int] = set()
    for position, node in enumerate(merged):
        if not isinstance(node, AffineNode):
            continue
        terms: list[Term] = []
        bias = node.bias
        for term in node.terms:
            child = merged[term.argument]
            if (
                isinstance(term.operator, Identity)
                and isinstance(child, AffineNode)
                and readers[term.argument] == 1
                and (bias is None or child.bias is None)
            ):
                terms.extend(child.terms)
                bias = child.bias if bias is None else bias
                absorbed.add(term.argument)
            else:
                terms.append(term)
        merged[position] = dataclasses.replace(node, terms=tuple(terms), bias=bias)
    return Program(renumbered(merged, absorbed))


def renumbered(nodes: Sequence[Node], dropped: set[int]) -> tuple[Node, ...]:
    """Return `nodes` without those `dropped`, which no other reads, with every reference moved along."""
    number: dict[int, int] = {}
    kept: list[Node] = []
    for position, node in enumerate(nodes):
        if position in dropped:
            continue
        number[position] = len(kept)
        match node:
            case AffineNode():
                terms = tuple(Term(number[term.argument], term.operator) for term in node.terms)
                kept.append(dataclasses.replace(node, terms=terms))
            case AtomNode() | LogSumExpNode():
                kept.append(dataclasses.replace(node, argument=number[node.argument]))
            case MaximumNode() | ProductNode():
                first, second = node.arguments
                kept.append(dataclasses.replace(node, arguments=(number[first], number[second])))
            case InputNode():
                kept.append(node)
    return tuple(kept)
