"""One-variable functions that a graph writes in several ops, recognised as one atom where the pattern is exact.

`lifting` asks while it appends nodes; reads `program` and `atoms`. What is not exactly a pattern stays as it is: the
proof then has to do with the parts.
"""

from collections.abc import Sequence

from service.program.atoms import Atom, LeakyRelu, Square, squared_leaky
from service.program.operators import Scale
from service.program.program import AffineNode, AtomNode, MaximumNode, Node


def squared(nodes: Sequence[Node], position: int) -> tuple[int, Atom]:
    """Return the number of a node u and an atom phi such that phi(u) is the square of node number `position`.

    A square whose argument is a leaky ReLU of u is one convex function of u, while the leaky ReLU itself is convex and
    may be negative, so that its square alone would not be proved. Any other square is `Square` of its own argument.

    Args:
        nodes: the nodes so far.
        position: of the node that is squared.
    """
    leaky = _leaky(nodes, position)
    if leaky is None:
        return position, Square()
    argument, alpha = leaky
    return argument, squared_leaky(alpha)


def _leaky(nodes: Sequence[Node], position: int) -> tuple[int, float] | None:
    """Return u and alpha if node number `position` is u for u > 0 and alpha u else, or None.

    The atom itself, for any alpha; or max(u, c u), in either order, for 0 <= c <= 1: then c u <= u where u > 0, and
    c u >= u where u <= 0. For c > 1 that maximum is another function, c u for u > 0.
    """
    node = nodes[position]
    if isinstance(node, AtomNode) and isinstance(node.atom, LeakyRelu):
        return node.argument, node.atom.alpha
    if isinstance(node, MaximumNode):
        first, second = node.arguments
        for argument, other in ((first, second), (second, first)):
            factor = _factor(nodes, other, argument)
            if factor is not None and 0.0 <= factor <= 1.0:
                return argument, factor
    return None


def _factor(nodes: Sequence[Node], position: int, argument: int) -> float | None:
    """Return c if node number `position` is c times node number `argument`, the same c for each feature, or None."""
    node = nodes[position]
    if not isinstance(node, AffineNode) or node.bias is not None or len(node.terms) != 1:
        return None
    (term,) = node.terms
    if term.argument != argument or not isinstance(term.operator, Scale):
        return None
    factors = term.operator.coefficients
    return float(factors[0]) if (factors == factors[0]).all() else None
