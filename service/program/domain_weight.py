r"""The domain weight: the one function that a model's `support` output may be, beside its convex score.

.. math:: w(u) = \exp\left(1 - \frac{1}{(1 - v)(1 + v)}\right), \quad v = u / s, \quad \text{for } u < l, \quad 0
          \text{ else}; \qquad 0 < l < s

of a distance u >= 0, for which w lies in [0, 1]: u < l < s makes 0 <= v < 1, so that 0 < (1 - v)(1 + v) <= 1, one over
that is at least 1, and the exponent at most 0. No curvature is asked for, and none is there: an atom of its own, which
no rule of the proof takes for convex. Above: `lifting`; below: `expressions`, `atoms`.
"""

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.program.atoms import Abs, Array, Atom, Exp
from service.program.expressions import Call, Expression, Fixed, Leaf
from service.program.partial_atoms import Sqrt
from service.program.program import AtomNode, Node

_Pattern = str | float | tuple[Any, ...]

_CHOSEN: _Pattern = ("divide", ("select", ("less", "distance", "limit"), "distance", 0.0), "radius")
_PATTERN: _Pattern = (
    "select",
    ("less", "distance", "limit"),
    (
        "exp",
        ("subtract", 1.0, ("divide", 1.0, ("multiply", ("subtract", 1.0, _CHOSEN), ("add", 1.0, _CHOSEN)))),
    ),
    0.0,
)
"""What the graph must be, operation by operation: a name is a number or a node, the same wherever it stands."""


@dataclasses.dataclass(frozen=True)
class DomainWeight(Atom):
    """w(u) of the module's formula.

    Args:
        radius: s.
        limit: l.

    Raises:
        ValueError: not 0 < l < s.
    """

    radius: float
    limit: float
    name = "domain_weight"

    def __post_init__(self) -> None:
        """Refuse numbers for which the formula divides by zero or leaves [0, 1]."""
        if not 0.0 < self.limit < self.radius < np.inf:
            message = f"expected 0 < limit < radius, received {self.limit} and {self.radius}"
            raise ValueError(message)

    @property
    def is_convex(self) -> bool:
        """Never."""
        return False

    def is_nondecreasing_from(self, lower: float) -> bool:
        """Not known."""
        del lower
        return False

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return w(u) and -2 v w / (s t^2), t = (1 - v)(1 + v); both 0 from the limit on."""
        inside = u < namespace.asarray(self.limit, dtype=u.dtype)
        zero = namespace.zeros_like(u)
        radius = namespace.asarray(self.radius, dtype=u.dtype)
        v = namespace.where(inside, u, zero) / radius
        t = (1 - v) * (1 + v)
        value = namespace.where(inside, namespace.exp(1 - 1 / t), zero)
        return value, -2 * v * value / (radius * t * t)

    def image(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return 0 and 1, for arguments that are not negative."""
        del upper
        known = lower >= 0.0
        return np.where(known, 0.0, -np.inf), np.where(known, 1.0, np.inf)

    @property
    def text(self) -> str:
        """The name and both numbers, exactly."""
        return f"{self.name}({float(self.radius).hex()}, {float(self.limit).hex()})"


def recognized(nodes: Sequence[Node], expression: Expression) -> tuple[int, DomainWeight] | None:
    """Return the node and the atom that an expression of it is, or None where it is no domain weight.

    Args:
        nodes: the program so far.
        expression: of one number for each row.
    """
    found: dict[str, int | float] = {}
    if not _matches(_PATTERN, expression, found):
        return None
    distance, radius, limit = int(found["distance"]), float(found["radius"]), float(found["limit"])
    if nodes[distance].width != 1 or not 0.0 < limit < radius < np.inf:
        return None
    return (distance, DomainWeight(radius, limit)) if _is_distance(nodes[distance]) else None


def _is_distance(node: Node) -> bool:
    """Whether a node is never negative: a root, or an absolute value."""
    return isinstance(node, AtomNode) and isinstance(node.atom, Sqrt | Abs)


def _matches(pattern: _Pattern, expression: Expression, found: dict[str, int | float]) -> bool:
    """Whether an expression is what the pattern says; names are bound in `found` where they are met first."""
    value = _value(expression)
    match pattern:
        case str():
            return (
                value is not None
                and found.setdefault(pattern, value) == value
                and (isinstance(expression, Leaf) == (pattern == "distance"))
            )
        case float():
            return isinstance(expression, Fixed) and value == pattern
        case (operation, *arguments):
            if not isinstance(expression, Call) or len(expression.arguments) != len(arguments):
                return False
            name = "exp" if isinstance(expression.atom, Exp) else expression.operation
            return name == operation and all(
                _matches(part, argument, found) for part, argument in zip(arguments, expression.arguments, strict=True)
            )
    return False


def _value(expression: Expression) -> int | float | None:
    """Return a node's number, or a number that is the same for each feature."""
    match expression:
        case Leaf(node):
            return node
        case Fixed(values) if values.size and (values == values[0]).all():
            return float(values[0])
    return None
