"""SavedModel folder to inlined graphs with constant weights, from the files alone: nothing of the model is executed.

Finds for every callable signature the function that `tf.saved_model.load` would bind, and the variables that it would
restore, by reading the object graph and the checkpoint. The only TensorFlow of this room: its messages and its
checkpoint reader. Below: `safety`, `object_graph`, `inlining`; above: `certification`.
"""

import dataclasses
import math
import tempfile
import zlib
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorflow.core.protobuf import config_pb2, saved_model_pb2, trackable_object_graph_pb2

from service.errors import VersionRefusedError
from service.program import object_graph, safety
from service.program.inlining import GraphNode, InlinedGraph, Inliner, Reference
from service.program.signature_table import SignatureTable
from service.repository import materialize
from service.signature import CONTEXT, FileSignature

MAX_GRAPH_BYTES = 256 * 1024 * 1024
MAX_VARIABLE_BYTES = 2 * 1024 * 1024 * 1024

_READERS = 2
"""Threads that read variables: one waits for the file, or for memory, while the other copies."""
_RESERVED = frozenset(dir(tf.__internal__.tracking.AutoTrackable))
_UNREADABLE = (tf.errors.OpError, DecodeError, ValueError, TypeError, RuntimeError, OSError, LookupError)
"""What TensorFlow's checkpoint reader raises on damaged files; IndexError where one is cut short."""
_UNREAD = "saved_model.pb is missing or cannot be read. Name the folder of one version, MODELS/MODEL/VERSION."
_OTHER_FORMS = ("saved_model.cpb", "saved_model.pbtxt")


@dataclasses.dataclass(frozen=True)
class BoundSignature:
    """One callable signature of the file.

    Args:
        name: e.g. `serving_default`.
        input_name: its one argument, or the one beside `context`.
        input_shape: the argument's shape, -1 where it is free.
        input_dtype: name of the argument's type, `string` for serialized examples.
        context_shape: the shape of its second argument `context`; empty where it has none.
        context_dtype: likewise its type.
        outputs: for each output name its shape, dtype name and inlined graph.
    """

    name: str
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    outputs: Mapping[str, tuple[tuple[int, ...], str, InlinedGraph]]
    context_shape: tuple[int, ...] = ()
    context_dtype: str = ""


def read(folder: Path, *, outputs: frozenset[str] | None = None) -> tuple[BoundSignature, ...]:
    """Return the callable signatures of a SavedModel folder.

    Args:
        folder: holds `saved_model.pb` and `variables/`.
        outputs: names of outputs not to inline, because nobody asks for their graph (the gradient's).

    Raises:
        VersionRefusedError: the rules of `safety.check`, `object_graph.check` and `inlining`, and `saved-model`
            (missing or unreadable), `signature-missing`, `signature-mismatch`, `variable` (missing, wrong shape, not
            the restored one).
    """
    skipped = outputs or frozenset()
    saved_model = _parse(folder)
    safety.check(saved_model)
    meta_graph = saved_model.meta_graphs[0]
    _check_configurations(meta_graph.graph_def)
    object_graph.check(meta_graph.object_graph_def, _RESERVED)
    handles, keys = _variables(meta_graph.object_graph_def, folder / "variables" / "variables")
    table = SignatureTable(meta_graph, keys, _aliases(handles, keys))
    captured = {**handles, **_captured_constants(meta_graph)}
    bound = tuple(
        _bind(name, meta_graph.object_graph_def.nodes[position], table, captured, skipped)
        for name, position in sorted(_signature_nodes(meta_graph.object_graph_def).items())
    )
    if not bound:
        raise VersionRefusedError(
            "signature-missing", "the model has no callable signature. Export it with signatures."
        )
    return bound


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


class Bound:
    """A signature of a restored SavedModel as a plain function of rows, on the CPU; it keeps the variables alive.

    Args:
        model: what `restore` returned.
        signature: names and types of the signature, which the model has.
        derive: whether TensorFlow shall derive the gradient of a function that answers none.
    """

    def __init__(self, model: Any, signature: FileSignature, *, derive: bool = False) -> None:
        self.model = model
        self._function = model.signatures[signature.name]
        self._signature = signature
        self._derive = derive

    def __call__(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
        """Return score [n] and gradient [n, dim], or None where there is no gradient.

        Raises:
            VersionRefusedError: rules `saved-model` and `signature-outputs`, where the model cannot be run or answers
                something else.
        """
        answer = self._answer(rows)
        gradient = answer.get("gradient")
        score = answer[self._signature.score_name].numpy().reshape(-1)
        return score, None if gradient is None else gradient.numpy()

    def support(self, rows: NDArray[np.float32]) -> NDArray[np.floating]:
        """Return the output `support`, which the signature names.

        Raises:
            VersionRefusedError: as for a call.
        """
        return np.asarray(self._answer(rows)["support"].numpy())

    def _answer(self, rows: NDArray[np.float32]) -> Mapping[str, Any]:
        try:
            answer = call(self._function, self._signature, rows, derive=self._derive)
        except Exception as err:  # TensorFlow raises eight kinds of exceptions; a graph that loads need not run
            raise VersionRefusedError("saved-model", f"TensorFlow cannot run the model on {len(rows)} rows") from err
        missing = [name for name in self._signature.outputs if name not in answer]
        if missing:
            reason = f"{self._signature.name} does not answer {', '.join(missing)}"
            raise VersionRefusedError("signature-outputs", reason)
        return answer


def bind(files: Mapping[str, bytes], signature: FileSignature, *, derive: bool = False) -> Bound:
    """Return a signature of the SavedModel in `files` as a plain function of rows, on the CPU.

    Args:
        files: as for `restore`.
        signature: names and types of the signature.
        derive: as of `Bound`.

    Raises:
        VersionRefusedError: rule `saved-model`, where the model cannot be loaded.
    """
    try:
        return Bound(restore(files, "/CPU:0"), signature, derive=derive)
    except Exception as err:  # TensorFlow raises eight kinds of exceptions on damaged files
        raise VersionRefusedError("saved-model", "TensorFlow cannot load the model") from err


def call(
    function: Any, signature: FileSignature, rows: NDArray[np.float32], *, derive: bool = False
) -> Mapping[str, Any]:
    """Return the tensors that a restored function answers to rows, and with `derive` TensorFlow's gradient beside.

    Rows of a signature with a context are [x | context]: x is as wide as the function takes it.
    """
    given = arguments(function, signature, rows)
    if not derive:
        return dict(function(**given))
    x = given[signature.input_name]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        answer = dict(function(**given))
    gradient = tape.gradient(answer[signature.score_name], x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return {**answer, "gradient": gradient}


def arguments(function: Any, signature: FileSignature, rows: NDArray[np.float32]) -> dict[str, Any]:
    """Return the tensors, by name, that a restored function takes for rows."""
    if not signature.context_dtype:
        return {signature.input_name: tf.constant(rows, signature.input_dtype)}
    _, taken = function.structured_input_signature
    dim = int(taken[signature.input_name].shape[1])
    context = {CONTEXT: tf.constant(rows[:, dim:], signature.context_dtype)}
    return {signature.input_name: tf.constant(rows[:, :dim], signature.input_dtype)} | context


def _parse(folder: Path) -> Any:
    for name in _OTHER_FORMS:
        if (folder / name).exists():
            reason = f"{name} lies beside saved_model.pb: readers differ on which of them they take"
            raise VersionRefusedError("saved-model", reason)
    path = folder / "saved_model.pb"
    try:
        data = path.read_bytes() if path.is_file() else None  # a pipe would never end
    except OSError as err:
        raise VersionRefusedError("saved-model", _UNREAD) from err
    if data is None:
        raise VersionRefusedError("saved-model", _UNREAD)
    if len(data) > MAX_GRAPH_BYTES:
        raise VersionRefusedError("size-limit", f"saved_model.pb is over {MAX_GRAPH_BYTES} bytes")
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(data)
    except DecodeError as err:
        raise VersionRefusedError("saved-model", "saved_model.pb is not a SavedModel message") from err
    return saved_model


def _check_configurations(graph: Any) -> None:
    """Refuse calls that bring options for the graph optimiser: it may round to half precision, say."""
    for node in (*graph.node, *(node for function in graph.library.function for node in function.node_def)):
        if not node.attr["config_proto"].s:
            continue
        configuration = config_pb2.ConfigProto()
        try:
            configuration.ParseFromString(node.attr["config_proto"].s)
        except DecodeError as err:
            raise VersionRefusedError("attribute", f"node {node.name}: its config_proto cannot be read") from err
        if configuration.HasField("graph_options"):
            raise VersionRefusedError("attribute", f"node {node.name} brings its own options for the graph optimiser")


def _signature_nodes(objects: Any) -> dict[str, int]:
    for child in objects.nodes[0].children:
        node = objects.nodes[child.node_id]
        if child.local_name == "signatures" and node.user_object.identifier == "signature_map":
            return {entry.local_name: entry.node_id for entry in node.children}
    return {}


def _variables(objects: Any, prefix: Path) -> tuple[dict[int, GraphNode], dict[int, str]]:
    """Return for each variable of the object graph a `Handle` node with the value that is restored, and its key."""
    wanted = {position for position, node in enumerate(objects.nodes) if node.WhichOneof("kind") == "variable"}
    if not wanted:
        return {}, {}
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        saved = trackable_object_graph_pb2.TrackableObjectGraph()
        saved.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        shapes = reader.get_variable_to_shape_map()
    except _UNREADABLE as err:
        raise VersionRefusedError("variable", "the variables cannot be read") from err
    keys = object_graph.restored_keys(objects, saved)
    total = sum(8 * math.prod(shapes[key]) for key in keys.values() if key in shapes)
    if total > MAX_VARIABLE_BYTES:
        raise VersionRefusedError("size-limit", f"the variables are over {MAX_VARIABLE_BYTES} bytes")

    def handle(position: int) -> GraphNode:
        variable = objects.nodes[position].variable
        value = _restored(reader, keys.get(position), variable)
        return GraphNode(variable.name, "Handle", value=value, label=variable.name)

    positions = sorted(wanted)
    with futures.ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(positions, pool.map(handle, positions), strict=True)), keys


def _captured_constants(meta_graph: Any) -> dict[int, GraphNode]:
    """Return for each constant of the object graph a `Constant` node: a Const of the main graph of that name."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    found: dict[int, GraphNode] = {}
    for position, item in enumerate(meta_graph.object_graph_def.nodes):
        if item.WhichOneof("kind") != "constant":
            continue
        node = nodes.get(item.constant.operation)
        if node is None or node.op != "Const":
            reason = f"object {position} of the model is a constant that the main graph does not hold"
            raise VersionRefusedError("object-graph", reason)
        value = _decode_constant(node.attr["value"].tensor)
        found[position] = GraphNode(node.name, "Constant", value=value, label=node.name)
    return found


def _aliases(handles: Mapping[int, GraphNode], keys: Mapping[int, str]) -> dict[str, str]:
    """Return for each checkpoint key the first one whose value has the same type, shape and bits."""
    seen: dict[tuple[str, tuple[int, ...], int], list[tuple[str, NDArray[np.uint8]]]] = {}
    aliases = {key: key for key in keys.values()}
    for position, handle in handles.items():
        value = np.ascontiguousarray(handle.value)
        if value.dtype.hasobject:
            continue
        data = value.reshape(-1).view(np.uint8)
        alike = seen.setdefault((value.dtype.name, value.shape, zlib.crc32(data.data)), [])
        same = next((key for key, other in alike if np.array_equal(other, data)), None)
        if same is None:
            alike.append((keys[position], data))
        else:
            aliases[keys[position]] = same
    return aliases


def _restored(reader: Any, key: str | None, variable: Any) -> NDArray[Any]:
    if key is None or not reader.has_tensor(key):
        raise VersionRefusedError("variable", f"variable {variable.name} has no value in the checkpoint")
    try:
        value = np.asarray(reader.get_tensor(key))
    except _UNREADABLE as err:
        raise VersionRefusedError("variable", f"variable {variable.name} cannot be read") from err
    shape = tuple(dimension.size for dimension in variable.shape.dim)
    if value.shape != shape or _dtype(variable.dtype) != tf.as_dtype(value.dtype):
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
    has_context = len(keywords) == 2 and CONTEXT in keywords and len(set(keywords)) == 2
    if len(keywords) != 1 and not has_context:
        reason = f"signature {name} takes {len(keywords)} inputs ({', '.join(keywords)[:80]}), expected one"
        advice = f"or a second one named {CONTEXT}, in which the score need not be convex"
        raise VersionRefusedError("signature-inputs", f"{reason}, {advice}")
    concrete = table.concrete_function(function)
    names = _outputs(name, concrete, table.functions.get(function))
    declared = table.checked(name, function, keywords, names)
    row_name = next(keyword for keyword in keywords if keyword != CONTEXT or not has_context)
    information = declared.inputs[row_name]
    dtype = _dtype(information.dtype)
    ops = {CONTEXT: "Context"} if has_context else {}
    ops[row_name] = "Examples" if dtype == tf.string else "Input"
    outputs: dict[str, tuple[tuple[int, ...], str, InlinedGraph]] = {}
    for index, output in enumerate(names):
        inliner = Inliner(table.functions, _decode_constant)
        rows = [inliner.add(GraphNode(keyword, ops[keyword])) for keyword in keywords]
        arguments = [*rows, *(_bound_input(inliner, number, handles) for number in concrete.bound_inputs)]
        graph = InlinedGraph((), Reference(0)) if output in skipped else inliner.run(function, arguments, index)
        outputs[output] = (_shape(declared.outputs[output]), _dtype(declared.outputs[output].dtype).name, graph)
    bound = BoundSignature(name, row_name, _shape(information), dtype.name, outputs)
    if not has_context:
        return bound
    context = declared.inputs[CONTEXT]
    return dataclasses.replace(bound, context_shape=_shape(context), context_dtype=_dtype(context.dtype).name)


def _outputs(signature: str, concrete: Any, definition: Any) -> list[str]:
    """Return the names of a function's outputs in the order in which TensorFlow packs them: one tensor for each."""
    fields = concrete.output_signature.dict_value.fields
    tensors_only = all(value.WhichOneof("kind") == "tensor_spec_value" for value in fields.values())
    if definition is None or not tensors_only or len(fields) != len(definition.signature.output_arg):
        reason = f"signature {signature} answers something else than one tensor for each name"
        raise VersionRefusedError("signature-outputs", reason)
    return sorted(fields)


def _dtype(number: int) -> Any:
    try:
        return tf.as_dtype(number)
    except TypeError as err:
        raise VersionRefusedError("signature-mismatch", f"{number} is no number of a type") from err


def _shape(information: Any) -> tuple[int, ...]:
    """Return a TensorInfo's shape, -1 where a dimension is free; an unknown rank is a shape that nothing accepts."""
    if information.tensor_shape.unknown_rank:
        return (-1, -1, -1)
    return tuple(dimension.size for dimension in information.tensor_shape.dim)


def _bound_input(inliner: Inliner, position: int, handles: Mapping[int, GraphNode]) -> Reference:
    if position not in handles:
        raise VersionRefusedError(
            "variable", f"a signature captures object {position}, neither a variable nor a constant"
        )
    return inliner.add(handles[position])


def _decode_constant(tensor: Any) -> NDArray[Any]:
    if safety.expanded_bytes(tensor) > safety.MAX_CONSTANT_BYTES:
        raise VersionRefusedError("size-limit", f"a constant is over {safety.MAX_CONSTANT_BYTES} bytes")
    try:
        return np.asarray(tf.make_ndarray(tensor))
    except (TypeError, ValueError, KeyError) as err:
        raise VersionRefusedError("constant", "a constant cannot be decoded") from err
