r"""Log-sum-exp as libraries write it, recognised as one node: the largest is taken off before and added after.

.. math:: s + \log \sum_i \exp(u_i - s) = \log \sum_i \exp(u_i) \quad \text{for every } s,

so that what s is need not be known: it must be the same node, in the same places, with the sign turned. And for two
functions max(a, b) + log(1 + exp(-|a - b|)) = log(exp(a) + exp(b)). Beside the other families of `lifting`.
"""

import numpy as np
from numpy.typing import NDArray

from service.program.atoms import Abs, Exp
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder
from service.program.operators import Identity, Operator
from service.program.partial_atoms import Log, Log1p
from service.program.program import AffineNode, AtomNode, LogSumExpNode, MaximumNode, Node, Term
from service.program.selections import selection
from service.program.tensors import Rows

_MAX_ENTRIES = 1_000_000
Places = NDArray[np.int64]


def recognized(builder: Builder, node: GraphNode, output: Rows) -> Rows | None:
    """Return log-sum-exp, if the last program node is that, or None."""
    last = _written(builder, output.node)
    if not isinstance(last, AffineNode) or last.bias is not None or len(last.terms) != 2:
        return None
    if not all(isinstance(term.operator, Identity) for term in last.terms):
        return None
    first, second = (term.argument for term in last.terms)
    for logarithm, shift in ((first, second), (second, first)):
        found = _of_a_sum(builder, node, logarithm, shift) or _of_two(builder, node, logarithm, shift)
        if found is not None:
            return builder.append(LogSumExpNode(last.width, found, node.name), output, output.shape)
    return None


def is_maximum(builder: Builder, position: int) -> bool:
    """Whether a node is a maximum, or features chosen of one."""
    while (term := _only_term(builder, position)) is not None:
        position = term.argument
    return isinstance(_written(builder, position), MaximumNode)


def is_sum_and_difference(builder: Builder, total: int, difference: int) -> bool:
    """Whether two nodes are a + b and a - b of the same two: where the second is no number, the first is none."""
    node = _written(builder, total)
    if not isinstance(node, AffineNode) or node.bias is not None or len(node.terms) != 2:
        return False
    first, second = (term.argument for term in node.terms)
    return all(isinstance(term.operator, Identity) for term in node.terms) and _differ(
        builder, difference, first, second
    )


def _of_a_sum(builder: Builder, node: GraphNode, logarithm: int, shift: int) -> int | None:
    """Return a node of which runs of features are what the exponentials sum up, with the shift put back."""
    total = _argument(builder, logarithm, Log)
    summed = None if total is None else _only_term(builder, total)
    shifted = None if summed is None else _argument(builder, summed.argument, Exp)
    if summed is None or shifted is None:
        return None
    groups = _groups(summed.operator, builder.nodes[summed.argument].width, builder.nodes[logarithm].width)
    whole = _written(builder, shifted)
    if groups is None or not isinstance(whole, AffineNode) or whole.bias is not None or len(whole.terms) != 2:
        return None
    for plain, other in (whole.terms, whole.terms[::-1]):
        taken = _sources(builder, other, shift, whole.width)
        if isinstance(plain.operator, Identity) and taken is not None:
            places, signs = taken
            wanted = np.repeat(np.arange(len(groups)), groups.shape[1])
            if (places[groups.reshape(-1)] == wanted).all() and (signs[groups.reshape(-1)] == -1).all():
                return _arranged(builder, node, plain.argument, groups)
    return None


def _of_two(builder: Builder, node: GraphNode, logarithm: int, largest: int) -> int | None:
    """Return a node that holds a and b in turns, for max(a, b) + log1p(exp(-|a - b|))."""
    exponential = _argument(builder, logarithm, Log1p)
    falling = None if exponential is None else _argument(builder, exponential, Exp)
    negated = None if falling is None else _only_term(builder, falling)
    distance = None if negated is None else _argument(builder, negated.argument, Abs)
    maximum = _written(builder, largest)
    if negated is None or distance is None or not isinstance(maximum, MaximumNode):
        return None
    first, second = maximum.arguments
    width = maximum.width
    diagonal = negated.operator.exact_diagonal(width)
    if diagonal is None or any(factor != -1 for factor in diagonal) or not _differ(builder, distance, first, second):
        return None
    empty = np.full((width, 2), -1, np.int64)
    places = [empty.copy(), empty.copy()]
    places[0][:, 0] = places[1][:, 1] = np.arange(width)
    terms = tuple(
        Term(argument, selection(own.reshape(-1), width)) for argument, own in zip((first, second), places, strict=True)
    )
    builder.require(node.name, 2 * width)
    builder.require_places(node.name, 4 * width)
    joined = AffineNode(2 * width, terms, name=node.name)
    return builder.append(joined, Rows(first, (2 * width,)), (2 * width,)).node


def _differ(builder: Builder, position: int, first: int, second: int) -> bool:
    """Whether a node is the difference of two, in either order."""
    node = _written(builder, position)
    if not isinstance(node, AffineNode) or node.bias is not None or len(node.terms) != 2:
        return False
    factors = {term.argument: term.operator.exact_diagonal(node.width) for term in node.terms}
    one, other = factors.get(first), factors.get(second)
    if first == second or one is None or other is None:
        return False
    return all(abs(a) == 1 and a == -b and a == one[0] for a, b in zip(one, other, strict=True))


def _written(builder: Builder, position: int) -> Node:
    """Return a node as the graph writes it, if it was recognised as an atom."""
    return builder.nodes[builder.recognition.written.get(position, position)]


def _argument(builder: Builder, position: int, kind: type) -> int | None:
    node = _written(builder, position)
    return node.argument if isinstance(node, AtomNode) and type(node.atom) is kind else None


def _only_term(builder: Builder, position: int) -> Term | None:
    node = _written(builder, position)
    return node.terms[0] if isinstance(node, AffineNode) and node.bias is None and len(node.terms) == 1 else None


def _groups(operator: Operator, width: int, outputs: int) -> Places | None:
    """Return the features [outputs, k] that each output sums up, with factors 1 and the same k for all."""
    if operator.num_entries(width) > _MAX_ENTRIES:
        return None
    groups: list[list[int]] = [[] for _ in range(outputs)]
    for feature, output, factor in operator.exact_entries(width):
        if factor != 0:
            if factor != 1:
                return None
            groups[output].append(feature)
    sizes = {len(group) for group in groups}
    different = all(len(set(group)) == len(group) for group in groups)
    return np.array(groups, np.int64) if len(sizes) == 1 and sizes != {0} and different else None


def _sources(builder: Builder, term: Term, wanted: int, width: int) -> tuple[Places, Places] | None:
    """Return the feature of node `wanted` that each of a term's outputs is, and its sign, or None."""
    places, signs = np.arange(width), np.ones(width, np.int64)
    while True:
        inner = builder.nodes[term.argument].width
        found = _single_entries(term.operator, inner)
        if found is None or len(found[0]) <= int(places.max(initial=0)):
            return None
        signs, places = signs * found[1][places], found[0][places]
        if (places < 0).any():
            return None
        if term.argument == wanted:
            return places, signs
        following = _only_term(builder, term.argument)
        if following is None:
            return None
        term = following


def _single_entries(operator: Operator, width: int) -> tuple[Places, Places] | None:
    """Return of each output the one feature that it is, or -1, and the sign 1 or -1."""
    outputs = operator.output_width(width)
    if operator.num_entries(width) > _MAX_ENTRIES:
        return None
    places, signs = np.full(outputs, -1, np.int64), np.zeros(outputs, np.int64)
    for feature, output, factor in operator.exact_entries(width):
        if factor == 0:
            continue
        if factor not in (1, -1) or places[output] >= 0:
            return None
        places[output], signs[output] = feature, int(factor)
    return places, signs


def _arranged(builder: Builder, node: GraphNode, position: int, groups: Places) -> int:
    """Return a node whose runs of features are the groups."""
    width = _written(builder, position).width
    flat = groups.reshape(-1)
    if flat.size == width and (flat == np.arange(width)).all():
        return position
    return builder.select(node.name, Rows(position, (width,)), flat[None, :], "the terms of log-sum-exp").node
