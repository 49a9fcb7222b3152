"""Program to certificate: the proof that a program is convex in its row, or the rule that refused it.

The composition rules of convex analysis (Boyd and Vandenberghe, section 3.2.4; Amos, Xu and Kolter, Proposition 1),
applied to the exact floats of the weights: sign checks without any tolerance. Reads `program` and `intervals`.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.errors import VersionRefusedError
from service.program import intervals
from service.program.operators import Dense, Divide
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Program, Term
from service.program.strong_convexity import strong_convexity


class Curvature(enum.IntEnum):
    """What is known of a node as a function of the row."""

    CONSTANT = 0
    AFFINE = 1
    CONVEX = 2


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the proof.

    Args:
        node: the node's name in the model.
        rule: stable name of the rule that was applied.
        curvature: what the step established, `affine` or `convex`.
        min_weight: smallest coefficient on a convex argument, where the rule looked at signs.
        reason: the rule in words.
    """

    node: str
    rule: str
    curvature: str
    reason: str
    min_weight: float | None = None

    def to_document(self) -> dict[str, Any]:
        """Return the step as the manifest holds it."""
        document: dict[str, Any] = {"node": self.node, "rule": self.rule, "curvature": self.curvature}
        if self.min_weight is not None:
            document["min_weight"] = self.min_weight
        return document


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The claim that the program is convex in `convex_in`, in real arithmetic, for the exact weights, with its proof.

    Args:
        steps: the proof, one step for each node that needed a rule.
        strong_convexity: m >= 0 such that f(x) - m/2 |x|^2 is convex, from squares of affine functions only, never
            above what exact arithmetic confirms.
        weights_sha256: hash of the weights that the proof read.
        program_sha256: hash of the program's canonical text.
        convex_in: the inputs in which the program is jointly convex.
    """

    steps: tuple[Step, ...]
    strong_convexity: float
    weights_sha256: str
    program_sha256: str
    convex_in: tuple[str, ...] = ("x",)

    def to_document(self, gradient: str, rounding_margin: float) -> Mapping[str, Any]:
        """Return the manifest's `certificate` object.

        Args:
            gradient: `checked` or `derived`, from the verification.
            rounding_margin: largest float32 rounding error seen on the verification rows.
        """
        return {
            "convex_in": list(self.convex_in),
            "proved": True,
            "gradient": gradient,
            "strong_convexity": self.strong_convexity,
            "rounding_margin": rounding_margin,
            "steps": [step.to_document() for step in self.steps],
            "weights_sha256": self.weights_sha256,
            "program_sha256": self.program_sha256,
        }


def prove(program: Program) -> Certificate:
    """Return the certificate of a convex program.

    Raises:
        VersionRefusedError: naming node, rule and weight, where a rule does not hold: `finite-weights`,
            `nonneg-matmul`, `nonneg-scale`, `atom-convex`, `atom-nondecreasing`.
    """
    _require_finite(program)
    values = intervals.unbounded(program)
    known: list[Curvature] = []
    steps: list[Step] = []
    for node in program.nodes:
        match node:
            case InputNode():
                known.append(Curvature.AFFINE)
            case AffineNode():
                known.append(_affine(node, known, steps))
            case AtomNode():
                lower = float(values[node.argument][0].min())
                known.append(_atom(node, known[node.argument], lower, steps))
            case MaximumNode():
                known.append(Curvature.CONVEX)
                steps.append(Step(node.name, "maximum", "convex", "a maximum of convex functions is convex"))
    return Certificate(
        steps=tuple(steps),
        strong_convexity=strong_convexity(program),
        weights_sha256=program.weights_sha256,
        program_sha256=program.program_sha256,
    )


def _require_finite(program: Program) -> None:
    for node in program.nodes:
        if not isinstance(node, AffineNode):
            continue
        labelled = [(term.operator.label, term.operator.coefficients) for term in node.terms]
        if node.bias is not None:
            labelled.append(("bias", node.bias))
        for label, array in labelled:
            if not np.isfinite(array).all():
                count = int((~np.isfinite(array)).sum())
                reason = f"node {node.name}: {label or 'a weight'} has {count} entries that are NaN or infinite"
                raise VersionRefusedError("finite-weights", reason)


def _affine(node: AffineNode, known: list[Curvature], steps: list[Step]) -> Curvature:
    result = Curvature.CONSTANT
    least: float | None = None
    matrix = False
    for term in node.terms:
        curvature = known[term.argument]
        result = max(result, curvature)
        if curvature == Curvature.CONVEX:
            smallest = _require_nonnegative(node, term)
            least = smallest if least is None else min(least, smallest)
            matrix = matrix or isinstance(term.operator, Dense)
    if least is not None:
        rule = "nonneg-matmul" if matrix else "nonneg-scale"
        reason = "a sum of convex functions with coefficients that are not negative, and of affine ones, is convex"
        steps.append(Step(node.name, rule, "convex", reason, least))
    return result


def _require_nonnegative(node: AffineNode, term: Term) -> float:
    """Return the smallest coefficient on a convex argument, or refuse a negative one by name, value and place."""
    operator = term.operator
    negative = operator.negative_entries()
    if negative.any():
        worst = np.unravel_index(
            int(np.argmin(np.where(negative, operator.coefficients, np.inf))), operator.coefficients.shape
        )
        place = ", ".join(str(int(index)) for index in worst)
        rule = "nonneg-matmul" if isinstance(operator, Dense) else "nonneg-scale"
        reason = (
            f"node {node.name}: {operator.label or 'its weight'} has {int(negative.sum())} negative entries where the "
            f"argument is convex; the smallest is {float(operator.coefficients[worst])!r} at [{place}]. "
            "Constrain it to be non-negative."
        )
        raise VersionRefusedError(rule, reason)
    if isinstance(operator, Divide):
        return float(1.0 / operator.coefficients.astype(np.float64).max())
    return float(operator.coefficients.min())


def _atom(node: AtomNode, argument: Curvature, lower: float, steps: list[Step]) -> Curvature:
    atom = node.atom
    if argument == Curvature.CONSTANT:
        return Curvature.CONSTANT
    if not atom.is_convex:
        reason = f"node {node.name}: {atom.text} is not convex. Choose a convex activation."
        raise VersionRefusedError("atom-convex", reason)
    if argument == Curvature.AFFINE:
        reason = f"{atom.name} is convex, and a convex function of an affine one is convex"
        steps.append(Step(node.name, "convex-of-affine", "convex", reason))
        return Curvature.CONVEX
    if not atom.is_nondecreasing_from(lower):
        reason = (
            f"node {node.name}: {atom.text} is convex but falls somewhere on [{lower:g}, inf), where its convex "
            "argument may lie. Use an activation that never falls, or apply it to an affine argument."
        )
        raise VersionRefusedError("atom-nondecreasing", reason)
    reason = f"{atom.name} is convex and never falls on its argument's range, so its composition is convex"
    steps.append(Step(node.name, "nondecreasing-of-convex", "convex", reason))
    return Curvature.CONVEX
