"""What is known of each feature of each node as a function of x: the rules of the proof, without its words.

The composition rules of convex analysis (Boyd and Vandenberghe, sections 3.2.4 and 3.5), feature by feature, applied
to the exact floats of the weights: sign checks without any tolerance. Above: `curvature`, which makes the certificate,
and `lifting`, which asks whether a one-variable subgraph needs to be recognised; below: `program`, `intervals`.

Where a program has a context, all of this is for each context, held fixed: what depends on the context alone is a
*parameter* in the sense of disciplined parametrised programming (Agrawal et al., 2019, section 4), a constant whose
number is not known and whose sign is what its range says.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.program.atoms import Atom, Exp, Square
from service.program.intervals import Ranges
from service.program.operators import Dense, Divide, Operator, is_negative
from service.program.partial_atoms import Log, Log1p, Sqrt
from service.program.program import AffineNode, AtomNode, InputNode, LogSumExpNode, MaximumNode, Node, ProductNode

Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a node, feature by feature. What is both convex and concave is affine.

    Args:
        convex: [width].
        concave: [width].
        log_convex: positive, with a convex logarithm.
        norm_squared: never negative, with a convex square root.
        parameter: depends on the context alone; so it is affine in x, as every constant is.
    """

    convex: Mask
    concave: Mask
    log_convex: Mask
    norm_squared: Mask
    parameter: Mask

    @property
    def affine(self) -> Mask:
        """Which features are affine."""
        return self.convex & self.concave

    @property
    def curved(self) -> Mask:
        """Which features are either convex or concave, or affine."""
        return self.convex | self.concave


class Knowledge:
    """Facts and ranges of a list of nodes that may still grow, each computed when it is asked for, and once.

    Args:
        nodes: the list; what is in it does not change.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._has_context = bool(nodes) and isinstance(nodes[0], InputNode) and nodes[0].context > 0
        self._facts: list[Facts] = []
        self.ranges = Ranges(nodes)

    def of(self, position: int) -> Facts:
        """Return the facts of a node."""
        while len(self._facts) <= position:
            self._facts.append(self._next(len(self._facts)))
        return self._facts[position]

    def forget(self, position: int) -> None:
        """Forget everything from a node on: the list was cut there."""
        del self._facts[position:]
        self.ranges.forget(position)

    def _next(self, position: int) -> Facts:
        match self._nodes[position]:
            case InputNode(width, context=context):
                known = _plain(np.ones(width, np.bool_), np.ones(width, np.bool_))
                return dataclasses.replace(known, parameter=np.arange(width) >= width - context)
            case AffineNode() as node:
                return self._affine(node)
            case AtomNode() as node:
                return self.composed(node.atom, node.argument)
            case MaximumNode() as node:
                return self._maximum(node)
            case ProductNode() as node:
                return self._product(node)
            case LogSumExpNode() as node:
                facts = self._facts[node.argument]
                masks = (facts.convex, facts.parameter)
                convex, still = (np.asarray(mask.reshape(node.width, -1).all(axis=1)) for mask in masks)
                return dataclasses.replace(_plain(convex, still), parameter=still)

    def _affine(self, node: AffineNode) -> Facts:
        """A sum is convex where no coefficient is positive on what is not convex, or negative on what is not concave.

        A log-convex sum (Boyd and Vandenberghe, 3.5.2): nothing but log-convex functions with positive coefficients,
        and constants that are not negative. A squared norm: the same of squared norms, by Minkowski's inequality
        sqrt(sum f_i^2) is convex for convex f_i >= 0, because the norm never falls where its arguments grow.
        """
        arguments = [(term.operator, self._facts[term.argument]) for term in node.terms]
        no: Mask = np.zeros(node.width, np.bool_)

        def meets(select: Callable[[Facts], Mask], *, positive: bool, zeros: bool = True) -> Mask:
            found = no
            for operator, facts in arguments:
                found = found | spread(operator, select(facts), positive=positive, zeros=zeros)
            return found

        convex = ~(meets(lambda f: ~f.convex, positive=True) | meets(lambda f: ~f.concave, positive=False))
        concave = ~(meets(lambda f: ~f.concave, positive=True) | meets(lambda f: ~f.convex, positive=False))
        logarithmic = norm = no
        if any(facts.log_convex.any() or facts.norm_squared.any() for _, facts in arguments):
            falls = no if node.bias is None else is_negative(node.bias)
            falls = falls | meets(lambda f: np.ones_like(f.convex), positive=False)
            something = meets(lambda f: f.log_convex, positive=True, zeros=False)
            logarithmic = something & ~falls & ~meets(lambda f: ~f.log_convex, positive=True)
            norm = ~falls & ~meets(lambda f: ~f.norm_squared, positive=True)
        parameter = no
        if self._has_context:
            parameter = ~(meets(lambda f: ~f.parameter, positive=True) | meets(lambda f: ~f.parameter, positive=False))
        return Facts(convex, concave, logarithmic, norm, parameter)

    def _product(self, node: ProductNode) -> Facts:
        """P v, with p a parameter: affine where v is; p >= 0 keeps what v is, p <= 0 turns it around.

        For a fixed context p is a number: p v is a multiple of v. So is sqrt(p v) of sqrt(v) where p >= 0.
        """
        sides = [(self._facts[argument], self.ranges.of(argument)) for argument in node.arguments]
        convex, concave, norm = (np.zeros(node.width, np.bool_) for _ in range(3))
        for (factor, (lower, upper)), (other, _) in (sides, sides[::-1]):
            never_negative, never_positive = factor.parameter & (lower >= 0), factor.parameter & (upper <= 0)
            affine = factor.parameter & other.affine
            convex |= affine | (never_negative & other.convex) | (never_positive & other.concave)
            concave |= affine | (never_negative & other.concave) | (never_positive & other.convex)
            norm |= never_negative & other.norm_squared
        still = sides[0][0].parameter & sides[1][0].parameter
        return Facts(convex, concave, np.zeros(node.width, np.bool_), norm, still)

    def composed(self, atom: Atom, argument: int) -> Facts:
        """Return the facts of an atom of a node, whose own facts and ranges are known.

        phi(u) is convex if phi is convex on the range of u, and u is affine; or u convex and phi never falls there; or
        u concave and phi never rises there. Concave: the same for -phi. Of a parameter any phi that is defined on its
        range is a parameter.
        """
        found, facts = self._composed(atom, argument), self.of(argument)
        if not facts.parameter.any():
            return found
        still = facts.parameter & atom.defined_on(*self.ranges.of(argument))
        return dataclasses.replace(found, convex=found.convex | still, concave=found.concave | still, parameter=still)

    def _composed(self, atom: Atom, argument: int) -> Facts:
        facts = self.of(argument)
        special = _special(atom, facts)
        if special is not None and special.all():
            return _plain(special, np.zeros_like(special))
        everywhere = np.full(facts.convex.shape, np.inf)
        found = _composed(atom, facts, -everywhere, everywhere)
        if not found.convex.all():
            found = _composed(atom, facts, *self.ranges.of(argument))
        if special is not None:
            found = dataclasses.replace(found, convex=found.convex | special)
        if isinstance(atom, Exp):
            return dataclasses.replace(found, log_convex=facts.convex)
        return dataclasses.replace(found, norm_squared=self._squared(argument)) if isinstance(atom, Square) else found

    def _squared(self, argument: int) -> Mask:
        """Return where |u| is convex: u affine, or convex and not negative, or concave and not positive."""
        facts = self._facts[argument]
        if facts.affine.all():
            return facts.affine
        lower, upper = self.ranges.of(argument)
        return facts.affine | (facts.convex & (lower >= 0)) | (facts.concave & (upper <= 0))

    def _maximum(self, node: MaximumNode) -> Facts:
        """A maximum of convex functions is convex; it keeps convexity of logarithms and of roots, which never fall."""
        first, second = (self._facts[argument] for argument in node.arguments)
        still = first.parameter & second.parameter
        return Facts(
            first.convex & second.convex,
            still,
            first.log_convex & second.log_convex,
            first.norm_squared & second.norm_squared,
            still,
        )


def spread(operator: Operator, mask: Mask, *, positive: bool, zeros: bool = True) -> Mask:
    """Return the outputs of an operator in which a feature of the mask has a positive (or negative) coefficient.

    A weight of 0 counts as positive unless `zeros` is False: what a trained weight of 0 hides is no part of a proof,
    which a last step of training may undo.
    """
    nothing = np.zeros(operator.output_width(mask.size), np.bool_)
    if not mask.any() or not (positive or operator.has_negative):
        return nothing
    if positive and zeros and mask.all() and operator.has_weights and not operator.has_negative:
        return ~nothing
    negative = operator.negative_entries()
    if isinstance(operator, Divide):
        return np.asarray(mask & (negative != positive))
    if operator.has_weights:
        above = ~negative if zeros else is_negative(-operator.coefficients)
        chosen = above if positive else negative
        if isinstance(operator, Dense):
            return np.asarray((chosen if mask.all() else chosen[mask]).any(axis=0))
        operator = dataclasses.replace(operator, coefficients=chosen.astype(np.float64))
    return np.asarray(operator.apply(mask[None, :].astype(np.float64), np.float64, np)[0] > 0)


def _composed(atom: Atom, facts: Facts, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> Facts:
    rises, falls = atom.rises_on(lower, upper), atom.falls_on(lower, upper)
    allowed = (facts.affine | (facts.convex & rises) | (facts.concave & falls)) & atom.convex_on(lower, upper)
    opposite = (facts.affine | (facts.concave & rises) | (facts.convex & falls)) & atom.concave_on(lower, upper)
    return _plain(allowed, opposite)


def _special(atom: Atom, facts: Facts) -> Mask | None:
    """Return where the facts say what an atom is for: the logarithm of log-convex, the root of a squared norm.

    log(1 + v) is the logarithm of a sum of the log-convex functions 1 and v.
    """
    if isinstance(atom, Log | Log1p):
        return facts.log_convex
    return facts.norm_squared if isinstance(atom, Sqrt) else None


def _plain(convex: Mask, concave: Mask) -> Facts:
    no = np.zeros(convex.shape, np.bool_)
    return Facts(convex, concave, no, no, no)
