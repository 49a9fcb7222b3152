"""Lifting, through real SavedModels: which ops of plain TensorFlow are understood, which are refused, by which rule."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.certification import Certified, certify
from service.program.evaluation import evaluate_both
from service.program.inlining import GraphNode, InlinedGraph, Reference
from service.program.lifting import lift
from service.program.operators import Dense
from service.program.program import AffineNode, AtomNode
from tests.service.program import foreign_models as foreign
from tests.service.program.foreign_graphs import lifted
from tests.service.program.programs import DIM

TESTED = np.random.default_rng(8).standard_normal((64, DIM)).astype(np.float32) * 3
KERNEL = np.random.default_rng(1).standard_normal((DIM, 4)).astype(np.float32)
FULL = np.random.default_rng(3).standard_normal((DIM, DIM)).astype(np.float32)
POSITIVE = np.abs(np.random.default_rng(2).standard_normal((4, 1)).astype(np.float32))


def total(x: Any) -> Any:
    """Return the sum over the features, [n]."""
    return tf.reduce_sum(x, axis=-1)


def hidden(x: Any) -> Any:
    """Return a convex hidden layer [n, 4], at least 0."""
    return tf.nn.softplus(x @ KERNEL)


def inner(x: Any) -> Any:
    """Return an affine map [n, 4] of the row."""
    return x @ KERNEL - 0.5


def leaky(u: Any, c: Any = 0.2) -> Any:
    """Return max(u, c u)."""
    return tf.maximum(u, c * u)


def leaky_reversed(u: Any) -> Any:
    """Return max(c u, u), the argument last, with c a constant of one feature."""
    return tf.maximum(u * tf.constant([0.2]), u)


def squared_by_multiplication(u: Any) -> Any:
    """Return the leaky ReLU of u times itself."""
    v = tf.nn.leaky_relu(u, alpha=0.3)
    return v * v


def quadratic_form(x: Any) -> Any:
    """Return half the squared norm of x B, [n, 1], with a full matrix B."""
    return 0.5 * tf.reduce_sum(tf.square(x @ FULL), axis=-1, keepdims=True)


def in_float64(x: Any) -> Any:
    """Return a score computed in float64 and cast back."""
    wide = tf.cast(x, tf.float64) @ tf.cast(KERNEL, tf.float64)
    return tf.cast(tf.squeeze(tf.nn.softplus(wide) @ tf.cast(POSITIVE, tf.float64), -1), tf.float32)


ACCEPTED = {
    "dense softplus": lambda x: tf.squeeze(hidden(x) @ POSITIVE, -1),
    "score of shape [n, 1]": lambda x: hidden(x) @ POSITIVE,
    "float64 inside": in_float64,
    "float64 answer": lambda x: total(tf.cast(tf.nn.relu(x), tf.float64)),
    "kernel by rows": lambda x: total(tf.nn.relu(tf.matmul(x, tf.constant(np.ones((4, DIM), "f4")), transpose_b=True))),
    "bias_add": lambda x: total(tf.nn.elu(tf.nn.bias_add(x, [1.0, -2.0, 3.0]))),
    "leaky relu": lambda x: total(tf.nn.leaky_relu(x, alpha=0.1)),
    "absolute value": lambda x: total(tf.abs(x - [1.0, 2, 3])),
    "exponential": lambda x: total(tf.exp(0.1 * x)),
    "square by multiplication": lambda x: total(x * x),
    "square of softplus": lambda x: total(tf.square(hidden(x))),
    "maximum": lambda x: total(tf.maximum(x, 2.0 * x)),
    "minus minus": lambda x: total(tf.nn.softplus(tf.negative(-x))),
    "divided by a variable's constant": lambda x: total(tf.nn.softplus(x / tf.constant([3.0, -7.0, 0.5]))),
    "convex minus affine": lambda x: total(tf.nn.softplus(x) - 3.0 * x),
    "constants folded": lambda x: total(tf.square(x)) * (tf.constant(2.0) * tf.constant(3.0) - tf.constant(1.0)),
    "scalar broadcast": lambda x: tf.squeeze(tf.reduce_sum(hidden(x), -1, keepdims=True) + 1.0, 1),
    "one to many": lambda x: total(tf.reduce_sum(tf.square(x), -1, keepdims=True) + tf.nn.relu(x)),
    "reshaped to [n]": lambda x: tf.reshape(hidden(x) @ POSITIVE, [-1]),
    "expanded and squeezed": lambda x: tf.squeeze(tf.expand_dims(total(tf.square(x)), -1), -1),
    "linear": lambda x: total(x),
    "squared leaky relu": lambda x: total(tf.square(tf.nn.leaky_relu(inner(x), alpha=0.2))),
    "squared leaky relu by multiplication": lambda x: total(squared_by_multiplication(inner(x))),
    "squared steep leaky relu": lambda x: total(tf.square(tf.nn.leaky_relu(inner(x), alpha=1.5))),
    "squared falling leaky relu": lambda x: total(tf.square(tf.nn.leaky_relu(inner(x), alpha=-0.5))),
    "squared leaky relu of what is not negative": lambda x: total(tf.square(tf.nn.leaky_relu(hidden(x), alpha=0.2))),
    "squared leaky relu in float64": lambda x: total(
        tf.cast(tf.square(tf.nn.leaky_relu(tf.cast(x, tf.float64), alpha=0.1)), tf.float32)
    ),
    "squared relu": lambda x: total(tf.square(tf.nn.relu(inner(x)))),
    "squared relu of a convex function": lambda x: total(tf.square(tf.nn.relu(hidden(x) - 1.0))),
    "leaky by hand": lambda x: total(leaky(inner(x))),
    "leaky by hand of a convex function": lambda x: total(leaky(hidden(x) - 1.0)),
    "steeper than one by hand, of a convex function": lambda x: total(leaky(hidden(x) - 1.0, 1.5)),
    "squared leaky by hand": lambda x: total(tf.square(leaky(inner(x)))),
    "squared leaky by hand, small one first": lambda x: total(tf.square(leaky_reversed(inner(x)))),
    "network of a squared and of leaky layers": lambda x: tf.squeeze(
        leaky(tf.square(leaky(inner(x))) @ np.abs(KERNEL.T) + x @ FULL - 3.0) @ np.abs(KERNEL) @ POSITIVE, -1
    ),
    "quadratic form": quadratic_form,
    "shape that is computed": lambda x: tf.reshape(total(x), tf.shape(x)[:1]),
    "tiled": lambda x: total(tf.tile(x, [1, 2])),
    "slices": lambda x: total(x[:, :2]),
    "mean over the features": lambda x: tf.reduce_mean(tf.square(x), axis=-1),
    "maximum with a constant": lambda x: total(tf.maximum(x, 0.0)),
    "where": lambda x: total(tf.where(x > 0, x, 0.5 * x)),
    "squared maximum steeper than one": lambda x: total(tf.square(leaky(inner(x), 1.5))),
    "squared maximum that falls": lambda x: total(tf.square(leaky(inner(x), -0.5))),
    "squared maximum of many slopes": lambda x: total(tf.square(leaky(inner(x), tf.constant([0.2, 0.2, 0.2, 0.3])))),
    "constant squared": lambda x: total(hidden(x)) * tf.square(tf.constant(-1.5)),
    "vector expanded to a matrix": lambda x: tf.squeeze(x @ tf.expand_dims(tf.constant([1.0, -2, 3]), -1), -1),
    "vector expanded to a row": lambda x: total(tf.nn.relu(x * tf.expand_dims(tf.constant([1.0, -2, 3]), 0))),
    "score of a transport network": lambda x: (
        0.7 * (hidden(x) @ POSITIVE + quadratic_form((x - [1.0, 2, 3]) / [0.5, 2, 3]))
        + tf.reduce_sum(x * [1.0, -2, 3], -1, keepdims=True)
        + x @ KERNEL[:, :1]
    ),
}  # fmt: skip
ROW_AXIS = {
    "mean over the rows": lambda x: total(x - tf.reduce_mean(x, 0)),
    "sum over the rows": lambda x: total(x) + tf.reduce_sum(x),
    "sum over both axes": lambda x: total(x) + tf.reduce_sum(x, axis=[0, 1]),
    "gram matrix": lambda x: total(tf.matmul(x, x, transpose_b=True)),
    "numbers move between rows": lambda x: total(tf.reshape(tf.reshape(x, [3, -1]), [-1, 3])),
    "rows reversed by a slice": lambda x: total(x[::-1]),
    "flattened": lambda x: tf.reshape(x, [-1]),
    "two rows in one": lambda x: total(tf.reshape(tf.reshape(x, [-1, 2 * DIM]), [-1, DIM])),
    "[n] against [n, 1]": lambda x: total(total(x) + tf.reduce_sum(x, -1, keepdims=True)),
    "counts the rows": lambda x: total(x) * tf.cast(tf.shape(x)[0], tf.float32),
}  # fmt: skip
NOT_LIFTED = {
    "sigmoid": lambda x: total(tf.sigmoid(x)),
    "product of two features": lambda x: x[:, 0] * x[:, 1],
    "product of two layers": lambda x: total(tf.nn.softplus(x) * tf.nn.relu(x)),
}  # fmt: skip
OTHER_RULES = {
    "divided by the row": ("atom-convex", lambda x: total(1.0 / x)),
    "minimum": ("nonneg-scale", lambda x: total(tf.minimum(x, 2.0 * x))),
    "where it falls": ("nonneg-scale", lambda x: total(tf.where(x > 0, x, 0.5 * x)) - total(tf.square(x))),
    "minus a square": ("nonneg-scale", lambda x: total(-tf.square(x))),
    "a negative kernel": ("nonneg-matmul", lambda x: tf.squeeze(hidden(x) @ -POSITIVE, -1)),
    "leaky relu above one": ("atom-convex", lambda x: total(tf.nn.leaky_relu(x, alpha=1.5))),
    "square of what may be negative": ("atom-nondecreasing", lambda x: total(tf.square(hidden(x) - 1.0))),
    "squared leaky relu of what may be negative": (
        "atom-nondecreasing", lambda x: total(tf.square(tf.nn.leaky_relu(hidden(x) - 1.0, alpha=0.2))),
    ),
    "squared leaky by hand of what may be negative": (
        "atom-nondecreasing", lambda x: total(tf.square(leaky(hidden(x) - 1.0))),
    ),
    "squared leaky by hand of two functions": (
        "atom-nondecreasing", lambda x: total(tf.square(tf.maximum(inner(x), 0.2 * (x @ KERNEL)))),
    ),
    "maximum that falls, of a convex function": ("nonneg-scale", lambda x: total(leaky(hidden(x) - 1.0, -0.5))),
    "minus a quadratic form": ("nonneg-scale", lambda x: total(x) - tf.squeeze(quadratic_form(x), -1)),
    "falling leaky relu of a convex function": (
        "atom-nondecreasing", lambda x: total(tf.nn.leaky_relu(hidden(x) - 1.0, alpha=-0.5)),
    ),
    "a vector as the score": ("signature-outputs", tf.nn.softplus),
    "rounded to half": ("cast", lambda x: total(tf.cast(tf.cast(x, tf.float16), tf.float32))),
    "rounded to bfloat16": ("cast", lambda x: total(tf.cast(tf.cast(x, tf.bfloat16), tf.float32))),
    "rounded to integers": ("cast", lambda x: total(tf.cast(tf.cast(x, tf.int32), tf.float32))),
    "integer answer": ("signature-outputs", lambda x: tf.cast(total(x), tf.int64)),
    "constant that is infinite": ("finite-weights", lambda x: total(x + tf.constant(np.inf))),
    "constant that becomes infinite": ("finite-weights", lambda x: total(x * (tf.constant(1e38) * tf.constant(1e38)))),
    "constant that is NaN": ("finite-weights", lambda x: total(x @ tf.constant(np.full((3, 3), np.nan, "f4")))),
    "divided by zero": ("not-lifted", lambda x: total(x / tf.constant([1.0, 0.0, 2.0]))),
    "a constant of two rows": ("signature-outputs", lambda x: total(x + tf.constant(np.ones((2, DIM), "f4")))),
}  # fmt: skip
REFUSED = {
    **{name: ("row-axis", function) for name, function in ROW_AXIS.items()},
    **{name: ("not-lifted", function) for name, function in NOT_LIFTED.items()},
    **OTHER_RULES,
}
MODELS = {**ACCEPTED, **{name: function for name, (_, function) in REFUSED.items()}}


def key(name: str) -> str:
    """Return a signature's name for a model's name."""
    return f"model_{list(MODELS).index(name)}"


@pytest.fixture(scope="module")
def all_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one SavedModel with every model as a signature of its own: saving is slow."""
    functions = {key(name): function for name, function in MODELS.items()}
    first = functions.pop(key("dense softplus"))
    return foreign.save(tmp_path_factory.mktemp("models") / "all", first, others=functions)


def chosen(all_models: Path, folder: Path, name: str) -> Certified:
    """Certify a copy of the SavedModel in which the model `name` is the only signature."""

    def keep_one(message: Any) -> None:
        meta_graph = message.meta_graphs[0]
        signature = "serving_default" if name == "dense softplus" else key(name)
        nodes = meta_graph.object_graph_def.nodes
        position = foreign.signature_object(message, signature)
        signatures = next(nodes[child.node_id] for child in nodes[0].children if child.local_name == "signatures")
        del signatures.children[:]
        signatures.children.add(node_id=position, local_name="serving_default")
        definition = type(meta_graph.signature_def[signature])()
        definition.CopyFrom(meta_graph.signature_def[signature])
        meta_graph.signature_def.clear()
        meta_graph.signature_def["serving_default"].CopyFrom(definition)

    return certify(foreign.edited(all_models, folder / "chosen", keep_one))


@pytest.mark.parametrize("name", ACCEPTED)
def test_model_of_understood_ops_is_lifted_to_its_own_function(all_models: Path, tmp_path: Path, name: str) -> None:
    """The program answers what TensorFlow's eager ops answer, score and gradient, within float32 rounding."""
    result = chosen(all_models, tmp_path, name)
    assert DIM == result.dim
    x = tf.constant(TESTED)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reshape(ACCEPTED[name](x), [-1])
    score, gradient = evaluate_both(result.program, TESTED.astype(np.float64))
    expected = tape.gradient(value, x).numpy()
    np.testing.assert_allclose(score, value.numpy(), rtol=0, atol=2e-6 * np.abs(value.numpy()).max())
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_squared_leaky_relu_is_one_program_when_it_is_written_in_several_ways(all_models: Path, tmp_path: Path) -> None:
    """By the op or by hand in either order, alpha = 0.2 in float32 is the same program to the last bit."""
    names = ("squared leaky relu", "squared leaky by hand", "squared leaky by hand, small one first")
    programs = [chosen(all_models, tmp_path / str(number), name).program for number, name in enumerate(names)]
    assert ["squared_leaky(0x1.99999a0000000p-3)"] == [
        node.atom.text for node in programs[0].nodes if isinstance(node, AtomNode)
    ]
    assert 1 == len({program.program_sha256 for program in programs})


@pytest.mark.parametrize("name", REFUSED)
def test_model_of_other_ops_is_refused_by_its_rule(all_models: Path, tmp_path: Path, name: str) -> None:
    """What mixes rows, rounds, is not understood or not convex is refused, and the rule says why."""
    with pytest.raises(VersionRefusedError) as caught:
        chosen(all_models, tmp_path, name)
    assert REFUSED[name][0] == caught.value.rule, caught.value


def inlined(*nodes: tuple[str, tuple[int, ...], dict[str, Any]] | np.ndarray) -> InlinedGraph:
    """Return the graph of an input and then `nodes`: an array is a constant, else op, inputs and attributes."""
    graph = [GraphNode("x", "Input")]
    for number, node in enumerate(nodes, start=1):
        if isinstance(node, np.ndarray):
            graph.append(GraphNode(f"node_{number}", "Constant", value=node, label=f"constant_{number}"))
        else:
            op, inputs, attributes = node
            references = tuple(Reference(position) for position in inputs)
            graph.append(GraphNode(f"node_{number}", op, references, attributes))
    return InlinedGraph(tuple(graph), Reference(len(graph) - 1))


SUM = (np.array(-1), ("Sum", (1, 2), {}))
MALFORMED = {
    "rows transposed": ("row-axis", np.eye(DIM), ("MatMul", (0, 1), {"transpose_a": True})),
    "rows from the right": ("row-axis", np.eye(DIM), ("MatMul", (1, 0), {})),
    "constant of two rows": ("row-axis", np.ones((2, DIM)), ("AddV2", (0, 1), {})),
    "constant of three axes": ("row-axis", np.ones((1, 1, DIM)), ("Mul", (0, 1), {})),
    "constant met by [n]": ("row-axis", np.array(-1), ("Sum", (0, 1), {}), np.ones(2), ("Mul", (2, 3), {})),
    "squeezed wherever it may": ("row-axis", np.array(-1), ("Sum", (0, 1), {"keep_dims": True}), ("Squeeze", (2,), {})),
    "squeezed first axis": (
        "row-axis", np.array(-1), ("Sum", (0, 1), {"keep_dims": True}), ("Squeeze", (2,), {"squeeze_dims": (0,)}),
    ),
    "constant squared beyond float32": (
        "finite-weights", np.full(1, 1e30, "f4"), ("Square", (1,), {}), ("Mul", (0, 2), {}),
    ),
    "constant expanded past its axes": ("not-lifted", np.ones(DIM), np.array(3), ("ExpandDims", (1, 2), {})),
    "constant expanded to rows": (
        "row-axis", np.ones(DIM), np.array(1), ("ExpandDims", (1, 2), {}), ("AddV2", (0, 3), {}),
    ),
    "constant expanded along two axes": ("row-axis", np.ones(DIM), np.array([0, 1]), ("ExpandDims", (1, 2), {})),
    "constant expanded along the row": ("row-axis", np.ones(DIM), ("ExpandDims", (1, 0), {})),
    "expanded in front": ("row-axis", np.array(1), ("Sum", (0, 1), {}), np.array(0), ("ExpandDims", (2, 3), {})),
    "mean over the rows": ("row-axis", np.array([-2]), ("Mean", (0, 1), {})),
    "reshaped by the rows": ("row-axis", ("Reshape", (0, 0), {})),
    "bias along the rows": ("not-lifted", np.ones(DIM), ("BiasAdd", (0, 1), {"data_format": "NCHW"})),
    "no inputs": ("not-lifted", ("MatMul", (), {})),
    "three inputs": ("not-lifted", np.ones(DIM), ("AddV2", (0, 1, 1), {})),
    "alpha of another type": ("not-lifted", ("LeakyRelu", (0,), {"alpha": "steep"})),
    "alpha that is no number": ("not-lifted", ("LeakyRelu", (0,), {"alpha": float("nan")})),
    "axes of another type": ("not-lifted", np.array(["a"]), ("Sum", (0, 1), {})),
    "axis that is a vector": ("not-lifted", np.array(1), ("Sum", (0, 1), {}), np.ones(2), ("ExpandDims", (2, 3), {})),
    "squeeze of another type": ("not-lifted", ("Squeeze", (0,), {"squeeze_dims": "1"})),
    "constant reshaped to more": (
        "not-lifted", np.ones(4), np.array([7]), ("Reshape", (1, 2), {}), ("AddV2", (0, 3), {}),
    ),
    "matrix of other width": ("not-lifted", np.ones((4, 1)), ("MatMul", (0, 1), {})),
    "features that do not fit": ("not-lifted", np.ones(2), ("AddV2", (0, 1), {})),
    "matrix without columns": ("size-limit", np.ones((DIM, 0)), ("MatMul", (0, 1), {})),
    "constant blown up": (
        "size-limit", np.ones((4096, 1)), np.ones((1, 4096)), ("Mul", (1, 2), {}), ("AddV2", (0, 3), {}),
    ),
    "features blown up": (
        "size-limit", np.array(1), ("Sum", (0, 1), {"keep_dims": True}), np.ones(2_000_000), ("AddV2", (2, 3), {}),
    ),
    "integer weights": ("cast", np.ones(DIM, np.int32), ("Mul", (0, 1), {})),
    "half weights": ("cast", np.ones(DIM, np.float16), ("Mul", (0, 1), {})),
    "cast that says nothing": ("cast", ("Cast", (0,), {})),
    "a constant score": ("output-shape", np.ones(1)),
    "a vector": ("output-shape", ("Softplus", (0,), {})),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_graph_that_no_export_writes_is_refused_by_its_rule(name: str) -> None:
    """Whatever the file says, lifting ends in a refusal with a rule, never in another exception."""
    rule, *nodes = MALFORMED[name]
    with pytest.raises(VersionRefusedError) as caught:
        lift(inlined(*nodes), DIM)
    assert rule == caught.value.rule, caught.value


def test_second_output_of_an_op_is_refused() -> None:
    """No op that is understood has a second output."""
    nodes = (GraphNode("x", "Input"), GraphNode("relu", "Relu", (Reference(0, 1),)))
    with pytest.raises(VersionRefusedError) as caught:
        lift(InlinedGraph(nodes, Reference(1)), DIM)
    assert "not-lifted" == caught.value.rule


def test_rows_of_too_many_features_are_refused() -> None:
    """A file may say that a row has 2^40 features; no memory is taken for them."""
    with pytest.raises(VersionRefusedError) as caught:
        lift(inlined(*SUM), 2**40)
    assert "size-limit" == caught.value.rule


def test_one_feature_is_its_own_score() -> None:
    """The identity of a single feature is a program, too."""
    program = lift(inlined(), 1)
    assert [2.5] == evaluate_both(program, np.array([[2.5]]))[0].tolist()


def test_stopped_gradient_changes_no_value_and_the_slope_is_the_programs_own() -> None:
    """x^2 + stop(x) has the slope 2x + 1, whatever TensorFlow's tape says."""
    program = lifted(lambda x: total(tf.square(x)) + total(tf.stop_gradient(x)), DIM)
    score, gradient = evaluate_both(program, TESTED.astype(np.float64))
    wide = TESTED.astype(np.float64)
    np.testing.assert_allclose(score, (wide * wide + wide).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(gradient, 2 * wide + 1, rtol=1e-12)


def test_text_of_the_forms_that_shipped_models_have_stays_as_it_is() -> None:
    """Sums over all features and broadcasts of one number are the matrices of ones that published hashes hold."""
    program = lifted(lambda x: total(tf.reduce_sum(tf.square(x), -1, keepdims=True) - tf.nn.relu(x)), DIM)
    sizes = [
        term.operator.coefficients.shape
        for node in program.nodes
        if isinstance(node, AffineNode)
        for term in node.terms
        if isinstance(term.operator, Dense)
    ]
    assert [(DIM, 1), (1, DIM), (DIM, 1)] == sizes
