"""What a SavedModel may contain at all: the op, resource and size rules, on the protobuf, before anything runs.

`graph` parses the file and asks here first. Works on the parsed messages and needs no TensorFlow.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from service.errors import VersionRefusedError

MAX_NODES = 100_000
MAX_RANK = 254
MAX_CONSTANT_BYTES = 256 * 1024 * 1024
MAX_DEPTH = 64
MAX_SIGNATURES = 32

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})

CHOICES = frozenset({"Case", "If", "StatelessCase", "StatelessIf"})
"""Ops that call one of several functions. Each of these is held to the same rules as any other; which one it is must be
a constant, or `inlining` refuses."""

PURE: frozenset[str] = frozenset(
    {
        "Abs", "Add", "AddN", "AddV2", "BiasAdd", "BiasAddGrad", "BroadcastGradientArgs", "BroadcastTo", "Cast",
        "ConcatV2", "Const", "DynamicStitch", "Elu", "EluGrad", "Equal", "Exp", "ExpandDims", "Fill", "FloorDiv",
        "FloorMod", "Greater", "GreaterEqual", "Identity", "IdentityN", "LeakyRelu", "LeakyReluGrad", "Less",
        "LessEqual", "LogicalNot", "MatMul", "Max", "Maximum", "Mean", "Minimum", "Mul", "Neg", "NoOp", "OnesLike",
        "Pack", "ParseExampleV2", "Placeholder", "Prod", "Range", "ReadVariableOp", "RealDiv", "Reciprocal", "Relu",
        "ReluGrad", "Reshape", "Select", "SelectV2", "Shape", "Sigmoid", "Sign", "Slice", "Softplus", "SoftplusGrad",
        "Square", "Squeeze", "StopGradient", "StridedSlice", "StridedSliceGrad", "Sub", "Sum", "Tanh", "Tile",
        "Transpose", "Unpack", "ZerosLike",
    }
)  # fmt: skip
PURE |= {
    "AvgPool", "AvgPool3D", "AvgPool3DGrad", "AvgPoolGrad", "BatchMatMul", "BatchMatMulV2", "BatchToSpaceND",
    "BroadcastArgs", "ConcatOffset", "Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput", "Conv3D",
    "Conv3DBackpropFilterV2", "Conv3DBackpropInputV2", "DepthwiseConv2dNative",
    "DepthwiseConv2dNativeBackpropFilter", "DepthwiseConv2dNativeBackpropInput", "DivNoNan", "Einsum",
    "FusedBatchNorm", "FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3", "FusedBatchNormV2",
    "FusedBatchNormV3", "GatherV2", "InvertPermutation", "LogicalAnd", "LogicalOr", "MaxPool", "MaxPool3D",
    "MaxPool3DGrad", "MaxPoolGrad", "MirrorPad", "MirrorPadGrad", "NotEqual", "Pad", "PadV2", "PreventGradient",
    "Rank", "ReverseV2", "Rsqrt", "RsqrtGrad", "ShapeN", "Size", "SpaceToBatchND", "Split", "SplitV", "Sqrt",
    "SqrtGrad", "SquaredDifference", "Tanh", "TanhGrad", "UnsortedSegmentSum",
}  # fmt: skip
PURE |= {
    "Cosh", "Expm1", "Inv", "InvGrad", "IsFinite", "IsNan", "Log", "Log1p", "Pow", "ReciprocalGrad", "Relu6",
    "Relu6Grad", "Selu", "SeluGrad", "Sinh", "Softsign", "SoftsignGrad", "Xdivy", "Xlogy",
}  # fmt: skip
"""Ops without an effect: arithmetic, shapes, reading a variable. Any other op is refused wherever it can be reached."""

STRANGE = frozenset({"Atan", "Cos", "DivNoNan", "Erf", "Erfc", "EuclideanNorm", "LogSoftmax", "Min", "Sin"})
"""Ops without an effect that no rule of the proof knows. Where the score needs one, it is the proof that refuses, and
says so; where it does not, as in the loss that Keras leaves beside it, there is nothing to refuse."""

SAVER = PURE | {
    "AssignVariableOp", "DisableCopyOnRead", "MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename",
    "StaticRegexFullMatch", "StringJoin", "VarHandleOp",
}  # fmt: skip
"""Ops allowed in functions that only saver_def reaches."""

MAIN = PURE | CALLS | {"VarHandleOp"}
"""Ops allowed in the main graph."""

IDLE = MAIN | {"AssignVariableOp", "VarIsInitializedOp"}
"""Ops allowed in the part of the main graph that nothing which is ever run reaches: Keras leaves the initialization of
a copy of each variable there."""

FUNCTION_ATTRIBUTES = frozenset(
    {
        "_construction_context", "_input_shapes", "_noinline", "backward_function_name", "forward_function_name",
    }
)  # fmt: skip
"""Attributes that a function may carry. Others change what runs: `api_implements` lets the graph optimiser put another
function in this one's place, `_XlaMustCompile` another compiler."""


def check(saved_model: Any) -> None:
    """Refuse a SavedModel message that holds anything but a pure function of its inputs and variables.

    Args:
        saved_model: parsed `tensorflow.SavedModel`.

    Raises:
        VersionRefusedError: rules `meta-graph`, `tensorflow-1`, `size-limit`, `asset`, `init-op`, `op-not-allowed`,
            `duplicate-name`, `attribute`, `constant`.
    """
    if len(saved_model.meta_graphs) != 1:
        reason = f"expected one meta graph, received {len(saved_model.meta_graphs)}. Export with tf.saved_model.save."
        raise VersionRefusedError("meta-graph", reason)
    meta_graph = saved_model.meta_graphs[0]
    if not meta_graph.HasField("object_graph_def") or not meta_graph.object_graph_def.nodes:
        reason = (
            "no object graph: this is a TensorFlow 1 export. Export it again with TensorFlow 2's tf.saved_model.save."
        )
        raise VersionRefusedError("tensorflow-1", reason)
    if meta_graph.asset_file_def or "saved_model_assets" in meta_graph.collection_def:
        raise VersionRefusedError("asset", "the model reads asset files. Keep everything in variables and constants.")
    _check_sizes(meta_graph.graph_def)
    if len(meta_graph.signature_def) > MAX_SIGNATURES:  # each is lifted and proved
        reason = f"{len(meta_graph.signature_def)} signatures, at most {MAX_SIGNATURES} are read"
        raise VersionRefusedError("size-limit", reason)
    _check_names(meta_graph)
    _check_init_op(meta_graph)
    _check_ops(meta_graph)
    _check_attributes(meta_graph.graph_def)


def _functions(graph: Any) -> dict[str, Any]:
    return {function.signature.name: function for function in graph.library.function}


def _all_nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _check_sizes(graph: Any) -> None:
    constants = 0
    for count, node in enumerate(_all_nodes(graph), start=1):
        if node.op == "Const":
            constants += expanded_bytes(node.attr["value"].tensor)
            if node.attr["dtype"].type != node.attr["value"].tensor.dtype:
                reason = f"node {node.name} is not of the type that it says"  # TensorFlow would end the process
                raise VersionRefusedError("constant", reason)
        if count > MAX_NODES or constants > MAX_CONSTANT_BYTES:
            reason = f"over {MAX_NODES} nodes or {MAX_CONSTANT_BYTES} bytes of constants, counted as they expand"
            raise VersionRefusedError("size-limit", reason)


def expanded_bytes(tensor: Any) -> int:
    """Return the bytes that a TensorProto takes once decoded; it may say one value for a whole shape.

    Raises:
        VersionRefusedError: `size-limit`, if a dimension is unknown or negative, or there are too many.
    """
    if len(tensor.tensor_shape.dim) > MAX_RANK:
        raise VersionRefusedError("size-limit", f"a constant has over {MAX_RANK} dimensions")
    sizes = [dimension.size for dimension in tensor.tensor_shape.dim]
    if any(size < 0 for size in sizes):
        raise VersionRefusedError("size-limit", "a constant has a negative dimension")
    return int(math.prod(sizes)) * 8 + sum(len(value) for value in tensor.string_val)


def _check_names(meta_graph: Any) -> None:
    """Every name must mean one thing: readers of a file with two functions of one name might pick different ones.

    A function with the name of an op would be run in that op's place by TensorFlow's Python loader.
    """
    graph = meta_graph.graph_def
    functions = [function.signature.name for function in graph.library.function]
    scopes = [("functions", functions), ("nodes", [node.name for node in graph.node])]
    for function in graph.library.function:
        name, arguments = function.signature.name, [argument.name for argument in function.signature.input_arg]
        scopes.append((f"nodes of function {name}", [*arguments, *(node.name for node in function.node_def)]))
        scopes.append((f"outputs of function {name}", [output.name for output in function.signature.output_arg]))
    scopes.extend(
        (f"children of object {position}", [child.local_name for child in node.children])
        for position, node in enumerate(meta_graph.object_graph_def.nodes)
    )
    for where, names in scopes:
        if len(set(names)) != len(names):
            raise VersionRefusedError("duplicate-name", f"two {where} have the same name")
    for name in functions:
        if name in SAVER | MAIN:
            raise VersionRefusedError("duplicate-name", f"a function has the name of the op {name}")


def _check_init_op(meta_graph: Any) -> None:
    """Whatever runs at load must be a plain NoOp, whether the signature table or a collection names it."""
    signature = meta_graph.signature_def.get("__saved_model_init_op")
    names = [] if signature is None else [output.name for output in signature.outputs.values()]
    for collection in ("saved_model_main_op", "legacy_init_op"):
        if collection in meta_graph.collection_def:
            entry = meta_graph.collection_def[collection]
            names.extend(
                [*entry.node_list.value, *(["an opaque entry"] if entry.WhichOneof("kind") != "node_list" else [])]
            )
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    for name in names:
        node = nodes.get(name.split(":")[0])
        if node is None or node.op != "NoOp" or node.input:
            reason = f"the model runs something when it is loaded (its init op {name[:80]} is not a plain NoOp)"
            raise VersionRefusedError("init-op", reason)


def called_functions(node: Any) -> Iterator[str]:
    """Yield the names of all functions that a node's attributes name."""
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        for function in attribute.list.func:
            yield function.name


def _reachable(roots: Iterable[str], functions: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    waiting = [name for name in roots if name in functions]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in functions[name].node_def:
            waiting.extend(called for called in called_functions(node) if called in functions)
    return found


def _check_ops(meta_graph: Any) -> None:
    """Every op must be pure, except in functions that the saver's two nodes reach and nothing else does."""
    graph = meta_graph.graph_def
    functions = _functions(graph)
    saver = meta_graph.saver_def
    saver_nodes = {saver.save_tensor_name.split(":")[0], saver.restore_op_name} - {""}
    saver_roots = [called for node in graph.node if node.name in saver_nodes for called in called_functions(node)]
    other_roots = [called for node in graph.node if node.name not in saver_nodes for called in called_functions(node)]
    other_roots.extend(meta_graph.object_graph_def.concrete_functions)
    reachable_otherwise = _reachable(other_roots, functions)
    saver_only = _reachable(saver_roots, functions) - reachable_otherwise
    run = _run_nodes(meta_graph)
    _require_ops("the main graph", (node for node in graph.node if node.name in run), MAIN)
    _require_ops("the main graph", (node for node in graph.node if node.name not in run), IDLE)
    for name, function in functions.items():
        allowed = SAVER | CALLS if name in saver_only else PURE | STRANGE | CALLS | CHOICES
        _require_ops(f"function {name}", function.node_def, allowed)


def _run_nodes(meta_graph: Any) -> set[str]:
    """Return the nodes of the main graph that a signature, the init op, a collection or the saver may let run."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    saver = meta_graph.saver_def
    waiting = [saver.save_tensor_name, saver.restore_op_name, saver.filename_tensor_name]
    for signature in meta_graph.signature_def.values():
        for information in (*signature.inputs.values(), *signature.outputs.values()):
            waiting.extend([information.name, *_parts(information)])
    for collection in meta_graph.collection_def.values():
        waiting.extend(nodes if collection.WhichOneof("kind") != "node_list" else collection.node_list.value)
    found: set[str] = set()
    while waiting:
        name = waiting.pop().lstrip("^").split(":")[0]
        if name in nodes and name not in found:
            found.add(name)
            waiting.extend(nodes[name].input)
    return found


def _parts(information: Any) -> list[str]:
    """Return the further tensors that an entry of a signature may name."""
    sparse = information.coo_sparse
    names = [sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name]
    return [*names, *(part.name for part in information.composite_tensor.components)]


def _require_ops(where: str, nodes: Iterable[Any], allowed: frozenset[str] | set[str]) -> None:
    for node in nodes:
        if node.op not in allowed:
            reason = f"op {node.op} (node {node.name} of {where}) is not allowed in a convex model that is served"
            raise VersionRefusedError("op-not-allowed", reason)
        if node.op not in CALLS | CHOICES and any(True for _ in called_functions(node)):
            reason = f"op {node.op} (node {node.name} of {where}) calls a function, which only a plain call may"
            raise VersionRefusedError("op-not-allowed", reason)


def _check_attributes(graph: Any) -> None:
    """Refuse what would change a function after it was read: attributes filled in by the caller, substitutes."""
    for function in graph.library.function:
        for key in sorted(set(function.attr) - FUNCTION_ATTRIBUTES):
            reason = f"function {function.signature.name} has the attribute {key[:80]}, which may change what runs"
            raise VersionRefusedError("attribute", reason)
    for node in _all_nodes(graph):
        if any(attribute.WhichOneof("value") == "placeholder" for attribute in node.attr.values()):
            raise VersionRefusedError("attribute", f"node {node.name} takes an attribute from its function's caller")
        substitutes = any(_has_attributes(attribute) for attribute in node.attr.values())
        if node.op in CALLS | CHOICES and (substitutes or node.attr["executor_type"].s):
            raise VersionRefusedError("attribute", f"node {node.name} calls its function in a way of its own")


def _has_attributes(attribute: Any) -> bool:
    """Whether an attribute names a function together with attributes for it."""
    return bool(attribute.func.attr) or any(function.attr for function in attribute.list.func)
