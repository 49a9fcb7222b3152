"""One-variable subgraphs recognised as one atom of one node, where the rules of the proof need that.

`lifting` asks after every op that computes number by number; below: `expressions`, `facts`, `piecewise_atom`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from service.program.atoms import Atom
from service.program.expressions import Expression, candidates, columns, function, opened, parts
from service.program.facts import Knowledge
from service.program.piecewise import NotPiecewiseError
from service.program.piecewise_atom import atom_of
from service.program.program import Node

MAX_PARTS = 96
"""Most parts of an expression."""

MAX_COLUMNS = 4096
"""Most features of one node with constants of their own."""

MAX_EFFORT = 1_000_000
"""Most parts of expressions, times sets of constants, that one graph may cost: some ten seconds."""


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """An expression as an atom of a node.

    Args:
        argument: the node's number.
        atom: the atom.
        curved: whether the rules of the proof know the result to be convex, or concave, in every feature.
    """

    argument: int
    atom: Atom
    curved: bool


class Recognition:
    """Recognises expressions over a list of nodes that still grows.

    Args:
        nodes: the list.

    Attributes:
        written: of a node that stands for another one, the number of that: how the graph writes what it is.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self.knowledge = Knowledge(nodes)
        self.written: dict[int, int] = {}
        self._effort = 0

    def is_curved(self, position: int) -> bool:
        """Whether each feature of a node is known to be convex or concave."""
        return bool(self.knowledge.of(position).curved.all())

    def node(self, position: int) -> Match | None:
        """Return what a node is as an atom of an earlier one, if the rules of the proof then know its curvature."""
        expression = opened(self._nodes, position)
        if expression is None:
            return None
        try:
            match = self.expression(expression, self._nodes[position].width)
        except NotPiecewiseError:
            return None
        return match if match.curved else None

    def expression(self, expression: Expression, width: int) -> Match:
        """Return an expression as an atom: the first of its forms whose curvature is known, else the first at all.

        Raises:
            NotPiecewiseError: if it is none; with what was seen.
        """
        first: Match | None = None
        error: NotPiecewiseError | None = None
        for argument, form in candidates(self._nodes, expression, MAX_PARTS):
            try:
                atom = self._atom(form, width)
            except NotPiecewiseError as err:
                error = error or err
                continue
            match = Match(argument, atom, bool(self.knowledge.composed(atom, argument).curved.all()))
            if match.curved:
                return match
            first = first or match
        if first is None:
            raise error or NotPiecewiseError("joins several functions of the row in a way that is not understood")
        return first

    def _atom(self, expression: Expression, width: int) -> Atom:
        sets, index = columns(expression, width)
        self._effort += len(sets) * len(parts(expression))
        if len(sets) > MAX_COLUMNS or self._effort > MAX_EFFORT:
            message = "has too many features with constants of their own"
            raise NotPiecewiseError(message)
        functions = [function(expression, constants) for constants in sets]
        numbers = {found: number for number, found in enumerate(dict.fromkeys(functions))}
        return atom_of(list(numbers), np.array([numbers[found] for found in functions])[index])
