"""Program to certificate: the proof that a program is convex in x, or the rule that refused it.

The composition rules of convex analysis (Boyd and Vandenberghe, section 3.2.4; Amos, Xu and Kolter, Proposition 1),
applied to the exact floats of the weights: sign checks without any tolerance. `facts` holds the rules; here are the
steps that are written down, and the sentences of the refusals.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.errors import VersionRefusedError
from service.program.facts import Facts, Knowledge, Mask, spread
from service.program.operators import Divide
from service.program.partial_atoms import Log, Log1p, Sqrt
from service.program.program import AffineNode, AtomNode, LogSumExpNode, Node, ProductNode, Program, Term, arguments
from service.program.strong_convexity import strong_convexity


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the proof.

    Args:
        node: the node's name in the model.
        rule: stable name of the rule that was applied.
        curvature: what the step established, `convex` or `concave` (carried for a negation), or `mixed` by feature.
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
        for_each: the inputs that are held fixed: the claim is one for each of their values. Nothing is claimed of two
            rows in which these differ.
    """

    steps: tuple[Step, ...]
    strong_convexity: float
    weights_sha256: str
    program_sha256: str
    convex_in: tuple[str, ...] = ("x",)
    for_each: tuple[str, ...] = ()

    def to_document(self, gradient: str, rounding_margin: float) -> Mapping[str, Any]:
        """Return the manifest's `certificate` object.

        Args:
            gradient: `checked` or `derived`, from the verification.
            rounding_margin: largest float32 rounding error seen on the verification rows.
        """
        return {
            "convex_in": list(self.convex_in),
            **({"for_each": list(self.for_each)} if self.for_each else {}),
            "proved": True,
            "gradient": gradient,
            "strong_convexity": self.strong_convexity,
            "rounding_margin": rounding_margin,
            "steps": [step.to_document() for step in self.steps],
            "weights_sha256": self.weights_sha256,
            "program_sha256": self.program_sha256,
        }


def prove(program: Program) -> Certificate:
    """Return the certificate of a convex program; one with a context is convex in x for each context.

    Raises:
        VersionRefusedError: naming node, rule and weight, where a rule does not hold: `finite-weights`,
            `nonneg-matmul`, `nonneg-scale`, `atom-convex`, `atom-nondecreasing`, `context-sign`.
    """
    _require_finite(program)
    proof = _Proof(program)
    for position in range(len(program.nodes)):
        proof.add(position)
    if not proof.knowledge.of(len(program.nodes) - 1).convex.all():
        raise proof.refusal()
    return Certificate(
        steps=tuple(proof.steps),
        strong_convexity=strong_convexity(program),
        weights_sha256=program.weights_sha256,
        program_sha256=program.program_sha256,
        for_each=("context",) if program.context else (),
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


class _Proof:
    """The steps of a proof and, should the score not be convex, what is to blame.

    A node that is neither convex nor concave is no mistake as long as nothing needs it; a concave one may still be
    subtracted. So refusals wait for the end: the first node that lost all curvature is named, or, where that comes from
    something concave, what made it concave.
    """

    def __init__(self, program: Program) -> None:
        self._nodes = program.nodes
        self.knowledge = Knowledge(program.nodes)
        self.steps: list[Step] = []
        self._lost: VersionRefusedError | None = None
        self._concave: dict[int, VersionRefusedError] = {}

    def add(self, position: int) -> None:
        """Write down the step of a node, or remember its refusal."""
        node, facts = self._nodes[position], self.knowledge.of(position)
        inherited = next((self._concave[number] for number in arguments(node) if number in self._concave), None)
        if isinstance(node, AffineNode):
            own = self._negation(node)
            refusal = own if own is not None and (inherited is None or not facts.curved.all()) else inherited
        elif isinstance(node, AtomNode):
            own = None if facts.convex.all() else self._objection(node)
            refusal = own if inherited is None else inherited
        elif isinstance(node, ProductNode):
            own = self._gate(node)
            refusal = own if own is not None and (inherited is None or not facts.curved.all()) else inherited
        else:
            own = inherited
            refusal = inherited or _not_convex(node)
        if not facts.curved.all():
            self._lost = self._lost or refusal or own or _not_convex(node)
        elif not facts.affine.all():
            self.steps.append(self._step(node, facts))
        if not facts.convex.all() and refusal is not None:
            self._concave[position] = refusal

    def refusal(self) -> VersionRefusedError:
        """Return the refusal of a score that is not convex."""
        last = len(self._nodes) - 1
        return self._lost or self._concave.get(last) or _not_convex(self._nodes[last])

    def _negation(self, node: AffineNode) -> VersionRefusedError | None:
        """Return the refusal of the first term with a negative coefficient on a convex argument, or None."""
        for term in node.terms:
            facts = self.knowledge.of(term.argument)
            if spread(term.operator, ~facts.concave, positive=False).any():
                return _negative(node, term)
        return None

    def _gate(self, node: ProductNode) -> VersionRefusedError | None:
        """Return the refusal of a factor that depends on the context alone and may be negative, on what is curved."""
        for number, other in (node.arguments, node.arguments[::-1]):
            factor, facts = self.knowledge.of(number), self.knowledge.of(other)
            lower, _ = self.knowledge.ranges.of(number)
            negative = factor.parameter & ~facts.concave & ~(lower >= 0)
            if negative.any():
                reason = (
                    f"node {node.name}: a factor that depends on the context alone may be as low as "
                    f"{float(lower[negative].min()):g}, and what it multiplies is not affine in x. Keep the factor "
                    "from being negative by relu, softplus, sigmoid or exp, or multiply x itself by it."
                )
                return VersionRefusedError("context-sign", reason)
        return None

    def _objection(self, node: AtomNode) -> VersionRefusedError:
        """Return why an atom is not proved convex: it is not, or its argument lies where it falls."""
        argument, atom = self.knowledge.of(node.argument), node.atom
        lower, upper = self.knowledge.ranges.of(node.argument)
        bent = ~atom.convex_on(lower, upper)
        if bent.any():
            objection = f": {atom.objection()}" if atom.objection() else ""
            reason = f"node {node.name}: {atom.text} is not convex{objection}. Choose a convex activation."
            return VersionRefusedError("atom-convex", reason)
        falling = argument.convex & ~argument.affine & ~atom.rises_on(lower, upper)
        if not falling.any():
            reason = f"node {node.name}: {atom.text} is applied to a function that is not known to be convex."
            return VersionRefusedError("atom-nondecreasing", reason)
        least = float(lower[falling].min())
        reason = (
            f"node {node.name}: {atom.text} is convex but falls somewhere on [{least:g}, inf), where its convex "
            "argument may lie. Use an activation that never falls, or apply it to an affine argument."
        )
        return VersionRefusedError("atom-nondecreasing", reason)

    def _step(self, node: Node, facts: Facts) -> Step:
        """Return the step of a node that is convex or concave."""
        curvature = "convex" if facts.convex.all() else "concave" if facts.concave.all() else "mixed"
        match node:
            case AffineNode():
                return self._sum(node, curvature)
            case AtomNode():
                rule, reason = self._composition(node, curvature)
                return Step(node.name, rule, curvature, reason)
            case LogSumExpNode():
                reason = "log-sum-exp is convex and grows with each of its convex arguments"
                return Step(node.name, "log-sum-exp", curvature, reason)
            case ProductNode():
                reason = "for a fixed context the factor is a number, with a sign that suits what it multiplies"
                return Step(node.name, "context-factor", curvature, reason)
        return Step(node.name, "maximum", curvature, "a maximum of convex functions is convex")

    def _sum(self, node: AffineNode, curvature: str) -> Step:
        """Return the step of a sum, with the smallest coefficient on a convex argument."""
        least: float | None = None
        rule = "nonneg-scale"
        for term in node.terms:
            facts = self.knowledge.of(term.argument)
            if facts.affine.all():
                continue
            smallest = _smallest(term, ~facts.affine)
            least = smallest if least is None or smallest < least else least
            rule = "nonneg-matmul" if term.operator.rule == "nonneg-matmul" else rule
        reason = "a sum of convex functions with coefficients that are not negative, and of affine ones, is convex"
        if curvature != "convex":
            reason = "a sum of functions, each with a sign that suits its curvature, is convex or concave"
        return Step(node.name, rule, curvature, reason, least)

    def _composition(self, node: AtomNode, curvature: str) -> tuple[str, str]:
        """Return rule and reason of an atom's step."""
        argument, name = self.knowledge.of(node.argument), node.atom.name
        if isinstance(node.atom, Log | Log1p) and argument.log_convex.all():
            return "log-of-log-convex", "a sum of exponentials of convex functions has a convex logarithm"
        if isinstance(node.atom, Sqrt) and argument.norm_squared.all():
            return "norm", "the root of a sum of squares is a norm, which is convex and grows with what is not negative"
        if argument.affine.all():
            return f"{curvature}-of-affine", f"{name} is {curvature}, and a {curvature} function of an affine one is so"
        rises = bool(node.atom.is_nondecreasing_from(-np.inf))
        rises = rises or bool(node.atom.rises_on(*self.knowledge.ranges.of(node.argument)).all())
        inner = "convex" if argument.convex.all() else "concave" if argument.concave.all() else "mixed"
        moves, verb = ("nondecreasing", "falls") if rises else ("nonincreasing", "rises")
        reason = f"{name} is {curvature} and never {verb} on its argument's range, so its composition is {curvature}"
        return f"{moves}-of-{inner}", reason


def _read(node: Node) -> tuple[int, ...]:
    return arguments(node)


def _not_convex(node: Node) -> VersionRefusedError:
    return VersionRefusedError("atom-convex", f"node {node.name} is not known to be convex: what it reads is not.")


def _smallest(term: Term, curved: Mask) -> float:
    """Return the smallest coefficient of a term, on its curved features where the operator tells them apart."""
    coefficients = term.operator.coefficients
    if isinstance(term.operator, Divide):
        return float((1.0 / coefficients.astype(np.float64))[curved].min())
    if not curved.all() and coefficients.ndim in (1, 2) and coefficients.shape[0] == curved.size:
        return float(coefficients[curved].min())
    return float(coefficients.min())


def _negative(node: AffineNode, term: Term) -> VersionRefusedError:
    """Return the refusal of negative coefficients on a convex argument, by name, value and place."""
    operator = term.operator
    value, index = operator.smallest()
    place = ", ".join(str(part) for part in index)
    reason = (
        f"node {node.name}: {operator.label or 'its weight'} has {int(operator.negative_entries().sum())} negative "
        f"entries where the argument is convex; the smallest is {value!r} at [{place}]. "
        "Constrain it to be non-negative."
    )
    return VersionRefusedError("nonneg-scale" if operator.rule != "nonneg-matmul" else operator.rule, reason)
