"""Mutants of SavedModels, made in memory: one thing of the graph or of the weights changed, harmless or not.

What the change does to convexity is not said here: the falsifier judges the mutant, and the prover must not contradict
it. A mutant need not even be a valid graph.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.certification import Certified
from service.program.evaluation import evaluate
from tests.contract.version_surgery import write_tensors
from tests.foreign.saved_zoo import verdict
from tests.oracle.falsifier import falsify
from tests.oracle.saved_function import NotInterpretedError, SavedFunction

BASES = (
    "hinge", "squared_hinge", "smooth_leaky", "leaky_by_hand", "leaky_op", "shared_weights", "squared_leaky_of_affine",
    "square_of_a_positive_network", "exponential_of_a_network", "distance_to_a_box", "nested_functions",
    "normalised_kernel", "standardised_rows", "keras_input_convex_network", "keras_leaky_layers", "keras_branches",
)  # fmt: skip
"""Specimens that mutants are made of: small, and of every kind of op that changes curvature."""

UNARY = {
    "Relu": "activations", "Softplus": "activations", "Elu": "activations", "LeakyRelu": "activations", "Exp": "y",
    "Square": "y", "Abs": "y", "Neg": "y", "Tanh": "y", "Sigmoid": "y", "Sqrt": "y", "Log": "y", "Sin": "y",
    "Identity": "output", "Reciprocal": "y", "Expm1": "y", "Log1p": "y", "Selu": "activations", "Relu6": "activations",
    "Rsqrt": "y", "Floor": "y", "Sign": "y",
}  # fmt: skip
BINARY = ("AddV2", "Sub", "Mul", "Maximum", "Minimum", "RealDiv", "SquaredDifference")
REDUCTIONS = ("Sum", "Max", "Min", "Mean", "Prod")
RELATIONS = ("Greater", "Less", "GreaterEqual", "LessEqual")
NAMES = {**UNARY, **dict.fromkeys(BINARY, "z"), **dict.fromkeys(REDUCTIONS, "output"), **dict.fromkeys(RELATIONS, "z")}
FLOAT, HALF = tf.float32.as_datatype_enum, tf.float16.as_datatype_enum


@dataclasses.dataclass
class Mutant:
    """A SavedModel in memory.

    Args:
        message: its parsed saved_model.pb, which a mutation changes.
        tensors: its checkpoint.
        generator: where a mutation draws what it does.
        kind: the name of the mutation.
    """

    message: Any
    tensors: dict[str, Any]
    generator: np.random.Generator
    kind: str = ""

    def functions(self) -> list[Any]:
        """Return the functions on the way from a signature, not those of the saver, as they were traced.

        TensorFlow counts all that a process traces in their names, and their order in the file changes with the names.
        """
        library = self.message.meta_graphs[0].graph_def.library
        found = [function for function in library.function if "traced_" not in function.signature.name]
        return sorted(found, key=lambda function: _number(function.signature.name))

    def pick(self, ops: Mapping[str, Any] | tuple[str, ...]) -> tuple[Any, Any] | None:
        """Return one of the nodes of these ops, with its function."""
        found = [(function, node) for function in self.functions() for node in function.node_def if node.op in ops]
        return found[self.generator.integers(len(found))] if found else None

    def floats(self) -> list[str]:
        """Return the keys of the variables."""
        return [key for key, value in self.tensors.items() if getattr(value, "dtype", None) == np.float32]


def _number(name: str) -> int:
    number = name.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


def _change_op(mutant: Mutant, ops: Mapping[str, Any] | tuple[str, ...]) -> bool:
    picked = mutant.pick(ops)
    if picked is None:
        return False
    function, node = picked
    old, new = node.op, str(mutant.generator.choice([op for op in ops if op != node.op]))
    node.op = new
    if new == "LeakyRelu":
        node.attr["alpha"].f = float(mutant.generator.choice([-0.5, 0.0, 0.1, 1.0, 1.5]))
    elif "alpha" in node.attr:
        del node.attr["alpha"]
    _rename_output(function, node.name, NAMES[old], NAMES[new])
    return True


def _rename_output(function: Any, name: str, old: str, new: str) -> None:
    def translated(source: str) -> str:
        return f"{name}:{new}:0" if source == f"{name}:{old}:0" else source

    for other in function.node_def:
        other.input[:] = [translated(source) for source in other.input]
    for key, source in list(function.ret.items()):
        function.ret[key] = translated(source)


def activation(mutant: Mutant) -> bool:
    """Put another function of one variable in an activation's place."""
    return _change_op(mutant, UNARY)


def operation(mutant: Mutant) -> bool:
    """Put another operation of two operands in one's place: minimum for maximum, a product for a sum."""
    return _change_op(mutant, BINARY)


def reduction(mutant: Mutant) -> bool:
    """Put another reduction in one's place."""
    return _change_op(mutant, REDUCTIONS)


def relation(mutant: Mutant) -> bool:
    """Turn a comparison round."""
    return _change_op(mutant, RELATIONS)


def operands(mutant: Mutant) -> bool:
    """Exchange the operands of an operation."""
    picked = mutant.pick((*BINARY, "SelectV2", "MatMul"))
    if picked is None:
        return False
    node = picked[1]
    node.input[:] = [*node.input[:-2], node.input[-1], node.input[-2]]
    return True


def slope(mutant: Mutant) -> bool:
    """Change the slope of a leaky ReLU, or a scalar constant."""
    factor = float(mutant.generator.choice([-1.0, -0.1, 0.0, 0.5, 2.0, 10.0]))
    found = [
        node for function in mutant.functions() for node in function.node_def
        if node.op == "LeakyRelu" or (node.op == "Const" and node.attr["dtype"].type == FLOAT)
    ]  # fmt: skip
    if not found:
        return False
    node = found[mutant.generator.integers(len(found))]
    if node.op == "LeakyRelu":
        node.attr["alpha"].f = float(mutant.generator.choice([-0.5, -0.01, 0.0, 0.5, 1.0, 1.5]))
    else:
        value = tf.make_ndarray(node.attr["value"].tensor) * np.float32(factor)
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return True


def negated_branch(mutant: Mutant) -> bool:
    """Negate what one operand reads."""
    return _insert(mutant, [("Neg", "y", {"T": FLOAT})])


def half_precision(mutant: Mutant) -> bool:
    """Round what one operand reads to half precision."""
    return _insert(mutant, [("Cast", "y", {"SrcT": FLOAT, "DstT": HALF}), ("Cast", "y", {"SrcT": HALF, "DstT": FLOAT})])


def _insert(mutant: Mutant, chain: list[tuple[str, str, dict[str, int]]]) -> bool:
    picked = mutant.pick(tuple({*UNARY, *BINARY, "MatMul", "BiasAdd", "Sum", "Squeeze"}))
    if picked is None:
        return False
    function, node = picked
    places = [i for i, source in enumerate(node.input) if not source.startswith("^")]
    place = int(mutant.generator.choice(places[:1] if node.op in {"Sum", "Squeeze"} else places))
    source = node.input[place]
    for op, output, types in chain:
        name = f"planted{len(function.node_def)}"
        planted = function.node_def.add(name=name, op=op, input=[source])
        for key, dtype in types.items():
            planted.attr[key].type = dtype
        source = f"{name}:{output}:0"
    node.input[place] = source
    return True


def axis(mutant: Mutant) -> bool:
    """Change an axis, or another small whole constant."""
    integers = {tf.int32.as_datatype_enum, tf.int64.as_datatype_enum}
    found = [
        node for function in mutant.functions() for node in function.node_def
        if node.op == "Const" and node.attr["dtype"].type in integers
    ]  # fmt: skip
    if not found:
        return False
    node = found[mutant.generator.integers(len(found))]
    value = tf.make_ndarray(node.attr["value"].tensor)
    changed = np.atleast_1d(value).copy()
    changed[mutant.generator.integers(changed.size)] = mutant.generator.integers(-2, 3)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(changed.reshape(value.shape)))
    return True


def transposition(mutant: Mutant) -> bool:
    """Transpose an operand of a product."""
    picked = mutant.pick(("MatMul",))
    if picked is None:
        return False
    which = str(mutant.generator.choice(["transpose_a", "transpose_b"]))
    picked[1].attr[which].b = not picked[1].attr[which].b
    return True


def _change_weight(mutant: Mutant, change: Callable[[Any, tuple[int, ...]], None]) -> bool:
    """Change one weight; where a library saved a variable twice, both copies."""
    keys = mutant.floats()
    original = mutant.tensors[keys[mutant.generator.integers(len(keys))]]
    changed = original.copy()
    change(changed, tuple(int(mutant.generator.integers(size)) for size in changed.shape))
    for key in keys:
        if mutant.tensors[key].shape == original.shape and (mutant.tensors[key] == original).all():
            mutant.tensors[key] = changed
    return True


def sign(mutant: Mutant) -> bool:
    """Flip the sign of one weight."""

    def flip(values: Any, place: tuple[int, ...]) -> None:
        values[place] = -values[place]

    return _change_weight(mutant, flip)


def tiny_weight(mutant: Mutant) -> bool:
    """Make one weight the least negative number, or minus zero."""
    value = mutant.generator.choice(np.array([-np.finfo(np.float32).smallest_subnormal, -0.0], np.float32))

    def shrink(values: Any, place: tuple[int, ...]) -> None:
        values[place] = value

    return _change_weight(mutant, shrink)


def all_signs(mutant: Mutant) -> bool:
    """Negate a whole variable."""

    def negate(values: Any, _place: tuple[int, ...]) -> None:
        np.negative(values, out=values)

    return _change_weight(mutant, negate)


def wrong_number(mutant: Mutant) -> bool:
    """Make one weight NaN or infinite."""
    value = mutant.generator.choice([np.nan, np.inf])

    def spoil(values: Any, place: tuple[int, ...]) -> None:
        values[place] = value

    return _change_weight(mutant, spoil)


MUTATIONS: tuple[Callable[[Mutant], bool], ...] = (
    activation, activation, operation, operation, operands, slope, negated_branch, negated_branch, half_precision, axis,
    transposition, reduction, relation, sign, sign, tiny_weight, all_signs, wrong_number,
)  # fmt: skip


def mutate(message: Any, tensors: Mapping[str, Any], seed: int) -> Mutant:
    """Return a copy in which one mutation was made, sometimes two or three."""
    generator = np.random.default_rng([5, seed])
    copy = type(message)()
    copy.CopyFrom(message)
    mutant = Mutant(copy, dict(tensors), generator)
    kinds: list[str] = []
    wanted = int(generator.choice([1, 1, 1, 2, 3]))
    while len(kinds) < wanted:
        mutation = MUTATIONS[generator.integers(len(MUTATIONS))]
        if mutation(mutant):
            kinds.append(mutation.__name__)
    mutant.kind = "+".join(kinds)
    return mutant


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What became of a mutant.

    Args:
        kind: the mutations.
        proved: whether the prover proved it.
        rule: by which rule it was refused, where it was.
        refuted: why it is no convex function of one row, empty where nothing was found.
        invalid: why the oracle cannot say what it computes (half precision, say), empty where it can.
        wrong: what is wrong with a proof, empty where nothing is.
    """

    kind: str
    proved: bool
    rule: str
    refuted: str
    invalid: str
    wrong: str


def judge(mutant: Mutant, folder: Path, anchors: Any, *, pairs: int = 400) -> Judgement:
    """Write a mutant over the SavedModel in `folder`, ask the prover, and the falsifier.

    Args:
        mutant: the mutant.
        folder: a copy of the model that it is made of; its files are overwritten.
        anchors: rows around which the falsifier searches.
        pairs: midpoints that it tries.
    """
    (folder / "saved_model.pb").write_bytes(mutant.message.SerializeToString())
    write_tensors(folder, mutant.tensors)
    outcome = verdict(folder)
    refuted, invalid = "", ""
    try:
        refuted = _refuted(mutant, anchors, pairs)
    except (NotInterpretedError, ValueError, IndexError, TypeError, KeyError, RecursionError) as err:
        invalid = type(err).__name__
    if isinstance(outcome, VersionRefusedError):
        return Judgement(mutant.kind, False, outcome.rule, refuted, invalid, "")
    wrong = refuted or invalid or _disagreement(mutant, outcome, anchors)
    return Judgement(mutant.kind, True, "", refuted, invalid, wrong)


def _refuted(mutant: Mutant, anchors: Any, pairs: int) -> str:
    """Return `rows meet`, or the kind of counterexample to convexity, or nothing."""
    score = SavedFunction(mutant.message, mutant.tensors)
    values = score(anchors)
    with np.errstate(invalid="ignore"):
        apart = abs(score(anchors[2:5]) - values[2:5]).max()
    if np.isfinite(values[2:5]).all() and apart > 1e-9 * (1 + abs(values[2:5]).max()):
        return "rows meet"
    found = falsify(score, None, anchors, pairs=pairs, exact=True)
    return "" if found is None else found.kind


def _disagreement(mutant: Mutant, certified: Certified, anchors: Any) -> str:
    expected = SavedFunction(mutant.message, mutant.tensors)(anchors)
    received = evaluate(certified.program, anchors)[0]
    with np.errstate(invalid="ignore"):
        apart = abs(received - expected)
    apart = apart[np.isfinite(expected)]
    return (
        "another function"
        if apart.size and apart.max() > 1e-5 * (1 + abs(expected[np.isfinite(expected)]).max())
        else ""
    )
