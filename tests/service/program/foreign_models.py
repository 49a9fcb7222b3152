"""SavedModels made by plain TensorFlow, and edits of their files: what a stranger, or an enemy, might hand in."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

from service.program.certification import Certified, certify
from tests.service.program.programs import DIM, Weights, draw_weights

Function = Callable[[Any], Any]
Change = Callable[[Any], None]
ROWS = tf.TensorSpec([None, DIM], tf.float32, name="x")


class Scoring(tf.Module):
    """Holds variables and functions as attributes, as a user's own export would."""


def network(weights: Weights | None = None) -> tuple[Scoring, Function]:
    """Return a module with the variables of `Weights` and its score [n] as a function of x."""
    numbers = weights or draw_weights()
    module = Scoring()
    for name, array in vars(numbers).items():
        setattr(module, name, tf.Variable(array, name=name))

    def score(x: Any) -> Any:
        z = tf.nn.softplus(x @ module.first + module.first_bias)
        y = tf.nn.softplus(z @ module.kernel + x @ module.passthrough + module.bias)
        quadratic = tf.reduce_sum(module.quadratic * tf.square(x), axis=-1, keepdims=True)
        total = y @ module.last_kernel + x @ module.last_passthrough + module.last_bias + quadratic
        return tf.squeeze(total, -1)

    return module, score


def with_gradient(score: Function) -> Function:
    """Return the function that answers score and gradient, as our own export writes it."""

    def both(x: Any) -> dict[str, Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = score(x)
        return {"score": value, "gradient": tape.gradient(value, x)}

    return both


def save(
    folder: Path,
    function: Function,
    module: tf.Module | None = None,
    *,
    spec: tf.TensorSpec | Sequence[tf.TensorSpec] = ROWS,
    others: Mapping[str, Function] | None = None,
) -> Path:
    """Save `function` as serving_default (its result as `score`, unless it names its outputs), and `others` beside.

    Returns:
        The folder.
    """
    module = module or Scoring()
    specs = [spec] if isinstance(spec, tf.TensorSpec) else list(spec)

    def named(inner: Function) -> Any:
        def answer(*inputs: Any) -> dict[str, Any]:
            value = inner(*inputs)
            return value if isinstance(value, dict) else {"score": value}

        return tf.function(answer, input_signature=specs)

    signatures = {name: named(inner) for name, inner in {"serving_default": function, **(others or {})}.items()}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def certified(function: Function, folder: Path, **options: Any) -> Certified:
    """Save `function` and certify the folder."""
    return certify(save(folder, function, **options))


def read(folder: Path) -> Any:
    """Return the parsed saved_model.pb."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((folder / "saved_model.pb").read_bytes())
    return message


def edited(source: Path, target: Path, change: Change) -> Path:
    """Return a copy of the folder in which `change` was applied to the parsed saved_model.pb."""
    shutil.copytree(source, target)
    message = read(target)
    change(message)
    (target / "saved_model.pb").write_bytes(message.SerializeToString())
    return target


def function_named(message: Any, part: str) -> Any:
    """Return the one function of the library whose name holds `part`."""
    (found,) = [f for f in message.meta_graphs[0].graph_def.library.function if part in f.signature.name]
    return found


def signature_function(message: Any, signature: str = "serving_default") -> Any:
    """Return the definition of the function that a signature is bound to."""
    nodes = message.meta_graphs[0].object_graph_def.nodes
    name = nodes[signature_object(message, signature)].bare_concrete_function.concrete_function_name
    return function_named(message, name)


def signature_object(message: Any, signature: str = "serving_default") -> int:
    """Return the number of a signature's object."""
    nodes = message.meta_graphs[0].object_graph_def.nodes
    signatures = next(child.node_id for child in nodes[0].children if child.local_name == "signatures")
    return next(child.node_id for child in nodes[signatures].children if child.local_name == signature)


def call_node(message: Any, signature: str = "serving_default") -> Any:
    """Return the main graph's call that the signature table names."""
    meta_graph = message.meta_graphs[0]
    name = meta_graph.signature_def[signature].outputs["score"].name.split(":")[0]
    return next(node for node in meta_graph.graph_def.node if node.name == name)


def restore_function(message: Any) -> Any:
    """Return the saver's restore function."""
    meta_graph = message.meta_graphs[0]
    node = next(node for node in meta_graph.graph_def.node if node.name == meta_graph.saver_def.restore_op_name)
    return function_named(message, node.attr["f"].func.name)


def checkpoint(folder: Path) -> tuple[dict[str, NDArray[Any]], Any]:
    """Return the tensors of a checkpoint and its object graph."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    return {name: np.asarray(reader.get_tensor(name)) for name in names}, graph


def with_checkpoint(source: Path, target: Path, tensors: Mapping[str, NDArray[Any]], graph: Any) -> Path:
    """Return a copy of the folder with another checkpoint."""
    shutil.copytree(source, target)
    shutil.rmtree(target / "variables")
    (target / "variables").mkdir()
    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(target / "variables" / "variables"),
        tensor_names=[*names, "_CHECKPOINTABLE_OBJECT_GRAPH"],
        shape_and_slices=[""] * (len(names) + 1),
        tensors=[*(tf.constant(tensors[name]) for name in names), tf.constant(graph.SerializeToString())],
    )
    return target
