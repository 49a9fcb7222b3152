"""SavedModel folder to inlined graphs with constant weights, from the files alone: nothing of the model is executed.

Finds for every callable signature the function that `tf.saved_model.load` would bind, and the variables that it would
restore, by reading the object graph and the checkpoint. The only TensorFlow of this room: its messages and its
checkpoint reader. Below: `safety`, `inlining`; above: `certification`.
"""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

from service.errors import VersionRefusedError
from service.program import safety
from service.program.inlining import GraphNode, InlinedGraph, Inliner, Reference
from service.program.signature_table import SignatureTable

MAX_GRAPH_BYTES = 256 * 1024 * 1024
MAX_VARIABLE_BYTES = 2 * 1024 * 1024 * 1024

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclasses.dataclass(frozen=True)
class BoundSignature:
    """One callable signature of the file.

    Args:
        name: e.g. `serving_default`.
        input_name: its one argument.
        input_shape: the argument's shape, -1 where it is free.
        input_dtype: NumPy's name of the argument's type, `object` for strings.
        outputs: for each output name its shape, dtype name and inlined graph.
    """

    name: str
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    outputs: Mapping[str, tuple[tuple[int, ...], str, InlinedGraph]]


def read(folder: Path, *, outputs: frozenset[str] | None = None) -> tuple[BoundSignature, ...]:
    """Return the callable signatures of a SavedModel folder.

    Args:
        folder: holds `saved_model.pb` and `variables/`.
        outputs: names of outputs not to inline, because nobody asks for their graph (the gradient's).

    Raises:
        VersionRefusedError: the rules of `safety.check` and `inlining`, and `saved-model` (missing or unreadable),
            `signature-missing`, `signature-mismatch`, `variable` (missing, wrong shape, not the restored one).
    """
    skipped = outputs or frozenset()
    saved_model = _parse(folder / "saved_model.pb")
    safety.check(saved_model)
    meta_graph = saved_model.meta_graphs[0]
    handles, keys = _variables(meta_graph.object_graph_def, folder / "variables" / "variables")
    table = SignatureTable(meta_graph, keys)
    bound = tuple(
        _bind(name, meta_graph.object_graph_def.nodes[position], table, handles, skipped)
        for name, position in sorted(_signature_nodes(meta_graph.object_graph_def).items())
    )
    if not bound:
        raise VersionRefusedError(
            "signature-missing", "the model has no callable signature. Export it with signatures."
        )
    return bound


def materialize(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the SavedModel in `files` (relative path -> bytes) below `folder`."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def restore(files: Mapping[str, bytes], device: str) -> Any:
    """Return what `tf.saved_model.load` makes of `files`, with the variables on `device`.

    Unlike everything else here this lets TensorFlow build the model: only for files that `safety` has passed.

    Args:
        files: relative path -> bytes, as they were hashed.
        device: TensorFlow device name, e.g. `/GPU:0`.
    """
    with tempfile.TemporaryDirectory(prefix="convex-scoring-") as name:
        materialize(files, Path(name))
        with tf.device(device):
            return tf.saved_model.load(name)


def _parse(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as err:
        raise VersionRefusedError("saved-model", "saved_model.pb is missing or cannot be read") from err
    if len(data) > MAX_GRAPH_BYTES:
        raise VersionRefusedError("size-limit", f"saved_model.pb is over {MAX_GRAPH_BYTES} bytes")
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(data)
    except DecodeError as err:
        raise VersionRefusedError("saved-model", "saved_model.pb is not a SavedModel message") from err
    return saved_model


def _signature_nodes(object_graph: Any) -> dict[str, int]:
    for child in object_graph.nodes[0].children:
        if child.local_name == "signatures":
            node = object_graph.nodes[child.node_id]
            return {entry.local_name: entry.node_id for entry in node.children}
    return {}


def _variables(object_graph: Any, prefix: Path) -> tuple[dict[int, GraphNode], dict[int, str]]:
    """Return for each variable of the object graph a `Handle` node with the value that is restored, and its key.

    The checkpoint is matched as TensorFlow restores it: by walking both object graphs from the root along equal names.
    """
    wanted = {position for position, node in enumerate(object_graph.nodes) if node.WhichOneof("kind") == "variable"}
    if not wanted:
        return {}, {}
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        saved = trackable_object_graph_pb2.TrackableObjectGraph()
        saved.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, DecodeError, ValueError, RuntimeError, OSError) as err:
        raise VersionRefusedError("variable", "the variables cannot be read") from err
    keys = _restored_keys(object_graph, saved)
    total = sum(8 * int(np.prod(shapes[key], dtype=np.int64)) for key in keys.values() if key in shapes)
    if total > MAX_VARIABLE_BYTES:
        raise VersionRefusedError("size-limit", f"the variables are over {MAX_VARIABLE_BYTES} bytes")
    handles: dict[int, GraphNode] = {}
    for position in sorted(wanted):
        variable = object_graph.nodes[position].variable
        handles[position] = GraphNode(
            variable.name, "Handle", value=_restored(reader, keys.get(position), variable), label=variable.name
        )
    return handles, keys


def _restored_keys(object_graph: Any, saved: Any) -> dict[int, str]:
    """Return the checkpoint key of each variable node, found along equal child names from the root."""
    keys: dict[int, str] = {}
    pairs: dict[int, int] = {}
    waiting = [(0, 0)]
    while waiting:
        node, counterpart = waiting.pop()
        if node in pairs:
            if pairs[node] != counterpart:
                raise VersionRefusedError("variable", f"object {node} of the model is saved under two identities")
            continue
        pairs[node] = counterpart
        children = {child.local_name: child.node_id for child in saved.nodes[counterpart].children}
        waiting.extend(
            (child.node_id, children[child.local_name])
            for child in object_graph.nodes[node].children
            if child.local_name in children
        )
        for attribute in saved.nodes[counterpart].attributes:
            if attribute.name == "VARIABLE_VALUE":
                keys[node] = attribute.checkpoint_key
    return keys


def _restored(reader: Any, key: str | None, variable: Any) -> NDArray[Any]:
    if key is None or not reader.has_tensor(key):
        raise VersionRefusedError("variable", f"variable {variable.name} has no value in the checkpoint")
    try:
        value = np.asarray(reader.get_tensor(key))
    except (tf.errors.OpError, ValueError, RuntimeError) as err:
        raise VersionRefusedError("variable", f"variable {variable.name} cannot be read") from err
    shape = tuple(dimension.size for dimension in variable.shape.dim)
    if value.shape != shape or tf.as_dtype(variable.dtype) != tf.as_dtype(value.dtype):
        reason = f"variable {variable.name}: declared {shape}, the checkpoint has {value.shape} of {value.dtype}"
        raise VersionRefusedError("variable", reason)
    return value


def _bind(
    name: str, node: Any, table: SignatureTable, handles: Mapping[int, GraphNode], skipped: frozenset[str]
) -> BoundSignature:
    if node.WhichOneof("kind") != "bare_concrete_function":
        raise VersionRefusedError("signature-mismatch", f"signature {name} is not one concrete function")
    function = node.bare_concrete_function.concrete_function_name
    keywords = list(node.bare_concrete_function.argument_keywords)
    if len(keywords) != 1:
        reason = f"signature {name} takes {len(keywords)} inputs ({', '.join(keywords)[:80]}), expected one"
        raise VersionRefusedError("signature-inputs", reason)
    concrete = table.concrete_function(function)
    fields = concrete.output_signature.dict_value.fields
    names = sorted(fields)
    if any(fields[output].WhichOneof("kind") != "tensor_spec_value" for output in names):
        raise VersionRefusedError("signature-outputs", f"signature {name} answers something that is not a tensor")
    declared = table.checked(name, function, keywords[0], names)
    information = declared.inputs[keywords[0]]
    dtype = tf.as_dtype(information.dtype)
    outputs: dict[str, tuple[tuple[int, ...], str, InlinedGraph]] = {}
    for index, output in enumerate(names):
        inliner = Inliner(table.functions, _decode_constant)
        row = inliner.add(GraphNode(keywords[0], "Examples" if dtype == tf.string else "Input"))
        arguments = [row, *(_bound_input(inliner, number, handles) for number in concrete.bound_inputs)]
        graph = InlinedGraph((), Reference(0)) if output in skipped else inliner.run(function, arguments, index)
        outputs[output] = (_shape(declared.outputs[output]), tf.as_dtype(declared.outputs[output].dtype).name, graph)
    return BoundSignature(name, keywords[0], _shape(information), dtype.name, outputs)


def _shape(information: Any) -> tuple[int, ...]:
    """Return a TensorInfo's shape, -1 where a dimension is free; an unknown rank is a shape that nothing accepts."""
    if information.tensor_shape.unknown_rank:
        return (-1, -1, -1)
    return tuple(dimension.size for dimension in information.tensor_shape.dim)


def _bound_input(inliner: Inliner, position: int, handles: Mapping[int, GraphNode]) -> Reference:
    if position not in handles:
        raise VersionRefusedError("variable", f"a signature captures object {position}, which is not a variable")
    return inliner.add(handles[position])


def _decode_constant(tensor: Any) -> NDArray[Any]:
    if safety.expanded_bytes(tensor) > safety.MAX_CONSTANT_BYTES:
        raise VersionRefusedError("size-limit", f"a constant is over {safety.MAX_CONSTANT_BYTES} bytes")
    try:
        return np.asarray(tf.make_ndarray(tensor))
    except (TypeError, ValueError, KeyError) as err:
        raise VersionRefusedError("constant", "a constant cannot be decoded") from err
