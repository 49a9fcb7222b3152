"""One-variable expressions: what a graph computes of one node, feature by feature, as a tree that can be evaluated.

A tree comes from ops that no program node stands for (`pending`), and from program nodes that are opened again: atoms,
maxima, and sums with a factor for each feature. Above: `recognition`; below: `piecewise_operations`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from service.program import piecewise_operations as operations
from service.program.atoms import Abs, Atom, Elu, Exp, LeakyRelu, Softplus, Square, SquaredLeaky
from service.program.operators import Divide, Identity, Scale
from service.program.partial_atoms import Expm1, Log, Log1p, Sqrt
from service.program.piecewise import NotPiecewiseError, Piecewise, polynomial
from service.program.piecewise_atom import PiecewiseAtom
from service.program.program import AffineNode, AtomNode, MaximumNode, Node
from service.program.selections import Selection


@dataclasses.dataclass(frozen=True)
class Leaf:
    """The value of a program node."""

    node: int


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed:
    """A number for each feature [width], exactly."""

    values: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """An operation on expressions.

    Args:
        operation: a key of `_OPERATIONS`, or `atom`.
        arguments: what it is applied to.
        atom: of `atom`.
    """

    operation: str
    arguments: tuple["Expression", ...]
    atom: Atom | None = None


Expression = Leaf | Fixed | Call

_ONE = Fraction(1)
_ZERO_FUNCTION, _ONE_FUNCTION = polynomial(Fraction(0)), polynomial(_ONE)
_IDENTITY = polynomial(Fraction(0), _ONE)


def parts(expression: Expression) -> list[Expression]:
    """Return the different nodes of a tree, arguments first."""
    found: dict[int, Expression] = {}
    waiting: list[tuple[Expression, bool]] = [(expression, False)]
    while waiting:
        part, done = waiting.pop()
        if id(part) in found:
            continue
        if done or not isinstance(part, Call):
            found[id(part)] = part
        else:
            waiting.append((part, True))
            waiting.extend((argument, False) for argument in part.arguments)
    return list(found.values())


def leaves(expression: Expression) -> set[int]:
    """Return the numbers of the program nodes that a tree reads."""
    return {part.node for part in parts(expression) if isinstance(part, Leaf)}


def opened(nodes: Sequence[Node], position: int) -> Expression | None:
    """Return what a program node computes of the nodes that it reads, or None where features are mixed."""
    match nodes[position]:
        case AtomNode() as node:
            index = [Fixed(np.array(node.atom.index, float))] if isinstance(node.atom, PiecewiseAtom) else []
            return Call("atom", (Leaf(node.argument), *index), node.atom)
        case MaximumNode() as node:
            return Call("maximum", (Leaf(node.arguments[0]), Leaf(node.arguments[1])))
        case AffineNode() as node if node.terms:
            terms = [_term(term.operator, term.argument, nodes[term.argument].width, node.width) for term in node.terms]
            known = [term for term in terms if term is not None]
            if len(known) != len(terms):
                return None
            bias = [] if node.bias is None else [Fixed(node.bias.astype(np.float64))]
            total: Expression = known[0]
            for other in itertools.chain(known[1:], bias):
                total = Call("add", (total, other))
            return total
    return None


def constant_of(node: Node) -> Fixed | None:
    """Return the numbers of a node that is the same for every row, or None."""
    if not isinstance(node, AffineNode):
        return None
    for term in node.terms:
        if not isinstance(term.operator, Selection) or (term.operator.places >= 0).any():
            return None
    return Fixed(np.zeros(node.width) if node.bias is None else node.bias.astype(np.float64))


def _term(operator: object, argument: int, width: int, wanted: int) -> Expression | None:
    leaf = Leaf(argument)
    if width != wanted:
        return None
    match operator:
        case Identity():
            return leaf
        case Scale(coefficients):
            return Call("multiply", (leaf, Fixed(coefficients.astype(np.float64))))
        case Divide(coefficients):
            return Call("divide", (leaf, Fixed(coefficients.astype(np.float64))))
    return None


def replaced(expression: Expression, node: int, by: Expression) -> Expression:
    """Return the tree with another one in the place of a node."""
    new: dict[int, Expression] = {}
    for part in parts(expression):
        if isinstance(part, Call):
            changed = tuple(new[id(argument)] for argument in part.arguments)
            same = all(one is other for one, other in zip(changed, part.arguments, strict=True))
            new[id(part)] = part if same else dataclasses.replace(part, arguments=changed)
        else:
            new[id(part)] = by if part == Leaf(node) else part
    return new[id(expression)]


def columns(expression: Expression, width: int) -> tuple[list[dict[int, Fraction]], NDArray[np.intp]]:
    """Return the different sets of constants that features have, and of each feature the number of its set [width]."""
    fixed = [part for part in parts(expression) if isinstance(part, Fixed)]
    if not fixed:
        return [{}], np.zeros(width, np.intp)
    table = np.stack([part.values for part in fixed])
    different, index = np.unique(table, axis=1, return_inverse=True)
    sets = [
        {id(part): Fraction(value) for part, value in zip(fixed, column, strict=True)}
        for column in different.T.tolist()
    ]
    return sets, index.reshape(-1)


def function(expression: Expression, constants: Mapping[int, Fraction]) -> Piecewise:
    """Return a tree with one leaf as an exact function of that leaf, for one feature's constants.

    Raises:
        NotPiecewiseError: saying what was seen that is not understood, or jumps.
    """
    known: dict[int, Piecewise | operations.Condition] = {}
    for part in parts(expression):
        if isinstance(part, Leaf):
            known[id(part)] = _IDENTITY
        elif isinstance(part, Fixed):
            known[id(part)] = polynomial(constants[id(part)])
        else:
            arguments = [known[id(argument)] for argument in part.arguments]
            known[id(part)] = _called(part, arguments)
    result = known[id(expression)]
    if not isinstance(result, Piecewise):
        message = "compares, where a number is expected"
        raise NotPiecewiseError(message)
    return result


def _called(part: Call, arguments: list[Piecewise | operations.Condition]) -> Piecewise | operations.Condition:
    numbers = [argument for argument in arguments if isinstance(argument, Piecewise)]
    truths = [argument for argument in arguments if not isinstance(argument, Piecewise)]
    if part.operation == "select" and len(truths) == 1 and len(numbers) == 2 and arguments[0] is truths[0]:
        return operations.chosen(truths[0], *numbers)
    if part.operation in _LOGIC and not numbers:
        return _LOGIC[part.operation](*truths)
    if truths or part.operation in {"select", *_LOGIC}:
        message = "computes with truths and numbers in a way that is not understood"
        raise NotPiecewiseError(message)
    if part.atom is not None:
        return _applied(part.atom, numbers)
    if part.operation not in _OPERATIONS:
        message = "asks whether a number is finite"
        raise NotPiecewiseError(message)
    return _OPERATIONS[part.operation](*numbers)


def _applied(atom: Atom, arguments: list[Piecewise]) -> Piecewise:
    argument = arguments[0]
    match atom:
        case LeakyRelu(alpha):
            return operations.leaky(argument, Fraction(alpha))
        case SquaredLeaky(alpha):
            leaky = operations.leaky(argument, Fraction(alpha))
            return operations.product(leaky, leaky)
        case PiecewiseAtom(functions):
            number = arguments[1].pieces[0].polynomial[0]
            return operations.composed(functions[int(number)], argument)
    for kind, operation in _ATOMS:
        if type(atom) is kind:
            return operation(argument)
    message = f"applies {atom.name}, which is not understood as a part of a larger expression"
    raise NotPiecewiseError(message)


def _logarithm(argument: Piecewise) -> Piecewise:
    """Return log(1 + (v - 1))."""
    return operations.logarithm_of_one_plus(argument.plus(_ONE_FUNCTION.negated()))


_ATOMS: tuple[tuple[type[Atom], Callable[[Piecewise], Piecewise]], ...] = (
    (Abs, lambda v: operations.maximum(v, v.negated())),
    (Elu, operations.elu),
    (Exp, operations.exponential),
    (Expm1, lambda v: operations.exponential(v).plus(_ONE_FUNCTION.negated())),
    (Log, _logarithm),
    (Log1p, operations.logarithm_of_one_plus),
    (Softplus, operations.softplus),
    (Sqrt, operations.square_root),
    (Square, lambda v: operations.product(v, v)),
)

_OPERATIONS: Mapping[str, Callable[..., Piecewise | operations.Condition]] = {
    "add": lambda a, b: a.plus(b),
    "subtract": lambda a, b: a.plus(b.negated()),
    "negate": lambda a: a.negated(),
    "multiply": operations.product,
    "divide": operations.quotient,
    "maximum": operations.maximum,
    "minimum": lambda a, b: operations.maximum(a.negated(), b.negated()).negated(),
    "greater": lambda a, b: operations.compared(a, b, strict=True),
    "greater_equal": lambda a, b: operations.compared(a, b, strict=False),
    "less": lambda a, b: operations.compared(b, a, strict=True),
    "less_equal": lambda a, b: operations.compared(b, a, strict=False),
}

_LOGIC: Mapping[str, Callable[..., operations.Condition]] = {
    "and": lambda a, b: operations.combined(a, b, lambda p, q: p and q),
    "or": lambda a, b: operations.combined(a, b, lambda p, q: p or q),
    "not": lambda a: (a[0], tuple(not truth for truth in a[1])),
}

TRUTHS = frozenset({"greater", "greater_equal", "less", "less_equal", "is_finite", "is_nan", *_LOGIC})
"""Operations of which the result is no number."""


def candidates(nodes: Sequence[Node], expression: Expression, most_parts: int) -> Iterator[tuple[int, Expression]]:
    """Yield trees with one leaf, and its node: first the expression itself, then with more and more nodes opened.

    The last of several nodes is opened first: the others cannot read it.
    """
    for leaf in leaves(expression):
        constant = constant_of(nodes[leaf])
        expression = expression if constant is None else replaced(expression, leaf, constant)
    while len(parts(expression)) <= most_parts:
        found = leaves(expression)
        if not found:
            return
        if len(found) == 1:
            yield min(found), expression
        by = opened(nodes, max(found))
        if by is None:
            return
        expression = replaced(expression, max(found), by)
        for leaf in leaves(by):
            constant = constant_of(nodes[leaf])
            expression = expression if constant is None else replaced(expression, leaf, constant)
