"""The gradient audit: which variables a loss cannot move, why, and what helps; before any step is taken.

Below `pipeline`, which runs it before every training; over `objectives`, whose runs say what to look at, and
`dependence`, which reads the operations. docs/bias-gradients.md tells the mathematics in words.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from training.dependence import COMPARISONS, Dependence, dependence
from training.gradients import MissingGradientError
from training.layers.function import gradients_left_out
from training.objectives.minimax import minimax_value
from training.runs import Entry, Part, Subject

DRAWS, BATCHES = 3, 2
"""Parameter draws, of which the first is the start itself, and batches of rows for each."""

BATCH_ROWS = 64
"""Rows of a batch. A power of two, so that means of ones are ones and what cancels is exactly zero."""

_SEED = 20_260_101


class Rule(enum.StrEnum):
    """What becomes of a variable under a loss; all but the first and the last hold for every data set."""

    TRAINS = "gets a gradient"
    GAUGE = "gauge"
    OUTPUT_BIAS = "output bias"
    NO_CURVATURE = "no later curved activation"
    CONDITION = "only in a condition"
    CUT = "behind an operation without a derivative"
    UNUSED = "not used"
    SAMPLE = "zero on the sample"


FREE = frozenset((Rule.GAUGE, Rule.OUTPUT_BIAS))
"""Rules under which nothing is lost: the variable has no effect on what is trained."""

_CURES: Mapping[Rule, str] = {
    Rule.TRAINS: "",
    Rule.GAUGE: "Leave it out of training, and fix the constant: f(x0) = 0 at one recorded point x0.",
    Rule.OUTPUT_BIAS: "Leave it out: use_bias=False, or do not train it.",
    Rule.NO_CURVATURE: "Use a curved activation in its layer or a later one (smooth_leaky, softplus, elu); or freeze "
    "it; or use a loss that sees the network's values.",
    Rule.CONDITION: "Let it enter the value of a branch, as the width s does in exp(-s^2 / (s^2 - x^2)).",
    Rule.CUT: "Use a function with a derivative in its place, or freeze the variable.",
    Rule.UNUSED: "Use it in the score, or take it out.",
    Rule.SAMPLE: "Look at other rows or at another start: wider supports, units that are on.",
}


class AuditError(RuntimeError):
    """The two ways of the audit contradict each other: a defect of the audit, or a derivative that is not the true one.

    Args:
        variable: its path.
        rule: what the operations say.
        largest: the gradient that was found all the same.
    """

    def __init__(self, variable: str, rule: Rule, largest: float) -> None:
        """Keep the three parts."""
        super().__init__(
            f"{variable}: by its operations it can get no gradient ({rule}), and it got one of {largest:.3g}. Look for "
            "a custom gradient that is not the derivative of its function."
        )
        self.variable, self.rule, self.largest = variable, rule, largest


@dataclasses.dataclass(frozen=True)
class Finding:
    """One variable.

    Args:
        variable: its path.
        network: the network's name.
        answer: what TensorFlow says of its gradient: `None`, `0` or `non-zero`.
        largest: the largest absolute entry over all draws and batches, None for `None`.
        rule: what becomes of it.
        reason: in words; empty where it trains.
        cure: what helps; empty where it trains.
        left_out: whether the run leaves it out of training already.
    """

    variable: str
    network: str
    answer: str
    largest: float | None
    rule: Rule
    reason: str = ""
    cure: str = ""
    left_out: bool = False


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found of each trainable variable, by two ways that agree.

    Args:
        entries: by network, how it enters the loss.
        findings: one for each trainable variable, in the networks' order.
    """

    entries: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def listed(self) -> tuple[Finding, ...]:
        """The variables whose gradient is zero for every data set."""
        return tuple(one for one in self.findings if one.rule not in (Rule.TRAINS, Rule.SAMPLE))

    @property
    def stuck(self) -> tuple[Finding, ...]:
        """Those of them that could do something if they were trained: all but constants without effect."""
        return tuple(one for one in self.listed if one.rule not in FREE)

    def summary(self) -> list[str]:
        """Return one line on all variables, and one for each that gets no gradient."""
        silent = [one for one in self.findings if one.rule is not Rule.TRAINS]
        count = len(self.findings)
        lines = [f"gradient audit: {count - len(silent)} of {count} variables get a gradient"]
        for one in silent:
            said = "It is left out of training." if one.left_out else one.cure
            lines.append(f"gradient audit: {one.variable}: {one.answer} ({one.rule}). {one.reason} {said}")
        return lines

    def table(self) -> list[str]:
        """Return every variable as a line of a table, and reason and cure below those without a gradient."""
        lines = [f"{name} enters the loss by {entry}" for name, entry in self.entries.items()]
        width = max(len(one.variable) for one in self.findings)
        lines += ["", f"{'variable':{width}}  {'gradient':9}  {'largest':9}  what becomes of it"]
        for one in self.findings:
            largest = "-" if one.largest is None else f"{one.largest:.2e}"
            lines.append(f"{one.variable:{width}}  {one.answer:9}  {largest:9}  {one.rule}")
            lines += [f"{'':{width}}  {words}" for words in (one.reason, one.cure) if words]
        return lines

    def to_document(self) -> dict[str, Any]:
        """Return the audit as JSON values."""
        return {
            "networks": dict(self.entries),
            "draws": DRAWS,
            "batches": BATCHES,
            "variables": [{**dataclasses.asdict(one), "rule": str(one.rule)} for one in self.findings],
        }


def audit(subject: Subject) -> Audit:
    """Return what becomes of each trainable variable under a loss; weights are as before afterwards, bit for bit.

    Two ways, which must agree: the operations between variable and loss (`dependence`), and the largest gradient over
    `DRAWS` draws of the weights and `BATCHES` random batches, None counted as zero.

    Raises:
        MissingGradientError: TensorFlow answers None for variables that no rule lists.
        AuditError: a variable that a rule lists got a gradient.
    """
    generator = np.random.default_rng(_SEED)
    batches = [subject.draw(generator, BATCH_ROWS) for _ in range(BATCHES)]
    largest = _largest(subject, batches, generator)
    findings, missing = [], []
    for part in subject.parts:
        for path, (rule, reason) in _structure(part, batches[0][0]).items():
            found = largest[path]
            if rule is Rule.TRAINS and found is None:
                missing.append(path)
            if rule is not Rule.TRAINS and found:
                raise AuditError(path, rule, found)
            if rule is Rule.TRAINS and not found:
                rule, reason = Rule.SAMPLE, reason or _off_reason()
            answer = "None" if found is None else "non-zero" if found else "0"
            said = reason if rule is not Rule.TRAINS else ""
            left_out = path in subject.untrained
            findings.append(Finding(path, part.network.name, answer, found, rule, said, _CURES[rule], left_out))
    if missing:
        raise MissingGradientError(missing)
    return Audit({part.network.name: str(part.entry) for part in subject.parts}, tuple(findings))


def minimax_subject(f: Any, g: Any, x: NDArray[np.floating], y: NDArray[np.floating]) -> Subject:
    """Return what the audit looks at in the minimax of any two Keras models.

    Args:
        f: rows to scores [n] or [n, 1]; enters by its values.
        g: the same; enters by its gradient with respect to the row.
        x: [n, d], source rows, in the models' dtype.
        y: [m, d], target rows.
    """
    parts = (Part(f, f, Entry.DIFFERENCE), Part(g, g, Entry.SLOPE))

    def draw(generator: np.random.Generator, rows: int) -> tuple[Any, ...]:
        return tuple(tf.constant(side[generator.integers(0, len(side), rows)]) for side in (x, y))

    return Subject(parts, lambda u, v: minimax_value(_flat(f), _flat(g), u, v), draw)


def value_subject(model: Any, loss: Callable[[Any, Any], Any], x: NDArray[Any], y: NDArray[Any]) -> Subject:
    """Return what the audit looks at in a loss of a Keras model's values.

    Args:
        model: rows to outputs of any shape.
        loss: of targets and outputs, as Keras has it; a tensor of any shape, of which the mean is taken.
        x: [n, ...], rows.
        y: [n, ...], targets.
    """

    def draw(generator: np.random.Generator, rows: int) -> tuple[Any, ...]:
        drawn = generator.integers(0, len(x), rows)
        return tf.constant(x[drawn]), tf.constant(y[drawn])

    return Subject((Part(model, model, Entry.VALUE),), lambda u, v: ops.mean(loss(v, model(u))), draw)


def _flat(model: Any) -> Callable[[Any], Any]:
    return lambda rows: ops.reshape(model(rows), (-1,))


# ------------------------------------------------------------------------------------------------------- by operations
def _structure(part: Part, rows: Any) -> dict[str, tuple[Rule, str]]:
    """Return the rule and the reason of each trainable variable of a network, by its path."""
    variables = {variable.path: variable for variable in part.network.trainable_variables}
    found = dependence(part.score, rows, variables)
    penalised = dependence(_penalties(part), rows, variables).moved if part.network.losses else frozenset()
    structure = {}
    for path in variables:
        rule, reason = _judged(path, found, part)
        if rule is not Rule.TRAINS and path in penalised:
            reason += " Only a penalty moves it."
        structure[path] = rule, reason
    return structure


def _penalties(part: Part) -> Callable[[Any], Any]:
    """Return the penalties that a call of the network adds, as a function of rows."""

    def penalties(rows: Any) -> Any:
        part.score(rows)
        return part.network.losses

    return penalties


def _judged(path: str, found: Dependence, part: Part) -> tuple[Rule, str]:
    """Return the rule for one variable, by what the loss sees of the network."""
    name = part.network.name
    if path not in found.seen:
        return Rule.UNUSED, f"The score of {name} is not computed from it."
    if path not in found.moved:
        return _lost(found.cuts.get(path, frozenset()))
    if part.entry is Entry.DIFFERENCE and path not in found.uneven:
        reason = f"It moves every score of {name} alike, and that cancels between the two means of the loss."
        return Rule.GAUGE, reason
    if part.entry is Entry.SLOPE and path not in found.uneven:
        reason = f"It moves every score of {name} alike: the loss sees the slope of {name} alone, which stays."
        return Rule.OUTPUT_BIAS, reason
    if part.entry is Entry.SLOPE and path not in found.mixed:
        kinks = ", ".join(sorted(found.kinks.get(path, ())))
        return Rule.NO_CURVATURE, (
            f"The loss sees the slope of {name} alone, and every activation from this layer to the output has a second "
            f"derivative of zero almost everywhere ({kinks}): moving it moves kinks and no slope."
        )
    kinks = ", ".join(sorted(found.kinks.get(path, ())))
    return Rule.TRAINS, _off_reason(kinks)


def _lost(cuts: frozenset[str]) -> tuple[Rule, str]:
    """Return the rule of a variable that the score is computed from, and that does not move it."""
    words = ", ".join(sorted(cuts)) or "a condition"
    if cuts <= COMPARISONS:
        reason = f"It occurs only in a condition ({words}), which chooses a branch: it is in the value of none of them."
        return Rule.CONDITION, reason
    return Rule.CUT, f"It reaches the score only through {words}, which passes no derivative on."


def _off_reason(kinks: str = "") -> str:
    through = f" It goes through {kinks}." if kinks else ""
    return (
        f"Zero on {BATCHES} batches at each of {DRAWS} draws of the weights, though no rule says so: no row of the "
        f"sample reaches where it acts.{through}"
    )


# --------------------------------------------------------------------------------------------------------- by numbers
def _largest(
    subject: Subject, batches: Sequence[tuple[Any, ...]], generator: np.random.Generator
) -> dict[str, float | None]:
    """Return the largest absolute gradient of each trainable variable, None where TensorFlow never gave one."""
    variables = [variable for part in subject.parts for variable in part.network.trainable_variables]
    largest: dict[str, float | None] = dict.fromkeys(variable.path for variable in variables)
    start = [variable.numpy() for variable in variables]
    try:
        for draw in range(DRAWS):
            for variable, value in zip(variables, start, strict=True) if draw else ():
                variable.assign(_drawn(variable, value, generator))
            for batch in batches:
                with gradients_left_out(), tf.GradientTape() as tape:
                    loss = subject.loss(*batch)
                    gradients = tape.gradient(loss, [variable.value for variable in variables])
                for variable, gradient in zip(variables, gradients, strict=True):
                    if gradient is not None:
                        entry = float(np.max(np.abs(tf.convert_to_tensor(gradient).numpy()), initial=0.0))
                        largest[variable.path] = max(
                            largest[variable.path] or 0.0, np.inf if np.isnan(entry) else entry
                        )
    finally:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
    return largest


def _drawn(variable: Any, value: NDArray[Any], generator: np.random.Generator) -> Any:
    """Return other values about as large as those that a variable starts from, such as its constraint allows."""
    size = float(np.sqrt(np.mean(np.square(value.astype(np.float64))))) or 0.1
    drawn = value * generator.uniform(0.5, 1.5, value.shape) + 0.3 * size * generator.normal(size=value.shape)
    tensor = ops.convert_to_tensor(drawn, variable.dtype)
    return tensor if variable.constraint is None else variable.constraint(tensor)
