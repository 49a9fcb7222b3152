"""A SavedModel's signature in float64 NumPy: the ops by TensorFlow's documentation, and nothing of the service's code.

The second opinion of the zoo: scores without float32's rounding, so that the falsifier sees small dents, and of graphs
that were changed in memory, without loading each into TensorFlow. `test_saved_function` holds it against TensorFlow.
"""

# ruff: noqa: ARG001, ARG005 - every op is given its attributes, and few read them

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import special
from tensorflow.core.framework import attr_value_pb2
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

Array = Any
Tensors = Mapping[str, Array]
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_FLOATS = frozenset({tf.float32.as_datatype_enum, tf.float64.as_datatype_enum})
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"


class NotInterpretedError(Exception):
    """An op that is not in the table."""


def read_message(folder: Path) -> Any:
    """Return the parsed saved_model.pb of a folder."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((folder / "saved_model.pb").read_bytes())
    return message


def read_variables(folder: Path) -> dict[str, Array]:
    """Return every tensor of a folder's checkpoint by its key."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}


class SavedFunction:
    """One signature of a SavedModel as a function of rows, in float64.

    Args:
        message: the parsed saved_model.pb.
        tensors: the checkpoint's, by key; numbers may be changed before.
        signature: which one.
    """

    def __init__(self, message: Any, tensors: Tensors, signature: str = "serving_default") -> None:
        """Find the signature's function and the values of the variables that it is bound to."""
        graph = message.meta_graphs[0]
        self._functions = {function.signature.name: function for function in graph.graph_def.library.function}
        self._nodes = {
            name: {node.name: node for node in function.node_def} for name, function in self._functions.items()
        }
        objects = graph.object_graph_def
        signatures = _child(objects, 0, "signatures")
        bound = objects.nodes[_child(objects, signatures, signature)].bare_concrete_function
        self._function = bound.concrete_function_name
        places = _keys(objects, tensors)
        wanted = objects.concrete_functions[self._function].bound_inputs
        constants = {node.name: node for node in graph.graph_def.node if node.op == "Const"}
        self._bound = [_bound(objects.nodes[position], position, places, tensors, constants) for position in wanted]

    def __call__(self, rows: Array) -> Array:
        """Return the scores [n] of rows [n, dim]."""
        with np.errstate(all="ignore"):
            results = self._call(self._function, [np.asarray(rows, np.float64), *self._bound])
        return np.asarray(results[0], np.float64).reshape(len(rows))

    def _call(self, name: str, arguments: Sequence[Array]) -> list[Array]:
        function = self._functions[name]
        known = {
            argument.name: [value] for argument, value in zip(function.signature.input_arg, arguments, strict=True)
        }
        return [self._value(name, function.ret[out.name], known) for out in function.signature.output_arg]

    def _value(self, function: str, tensor: str, known: dict[str, list[Array]]) -> Array:
        name, *place = tensor.split(":")
        waiting = [name]
        while waiting:
            node = self._nodes[function].get(waiting[-1])
            if waiting[-1] in known or node is None:
                waiting.pop()
                continue
            inputs = [source for source in node.input if not source.startswith("^")]
            missing = [source.split(":")[0] for source in inputs if source.split(":")[0] not in known]
            if missing:
                if len(waiting) > len(self._nodes[function]) ** 2 or any(
                    m not in self._nodes[function] for m in missing
                ):
                    raise KeyError(missing[0])  # a name of nothing, or a cycle
                waiting.extend(missing)
                continue
            known[node.name] = self._run(node, [_pick(known, source) for source in inputs])
            waiting.pop()
        return _pick(known, ":".join([name, *place]))

    def _run(self, node: Any, inputs: Sequence[Array]) -> list[Array]:
        if node.op in CALLS:
            return self._call(node.attr["f"].func.name, inputs)
        if node.op == "Const":
            return [_wide(tf.make_ndarray(node.attr["value"].tensor))]
        if node.op not in OPS:
            raise NotInterpretedError(node.op)
        result = OPS[node.op](_Attributes(node.attr), *inputs)
        return result if isinstance(result, list) else [result]


class _Attributes:
    """A node's attributes; one that is missing is the empty one, and is not added to the message by asking."""

    def __init__(self, attributes: Any) -> None:
        self._attributes = attributes

    def __contains__(self, name: str) -> bool:
        return name in self._attributes

    def __getitem__(self, name: str) -> Any:
        return self._attributes[name] if name in self._attributes else attr_value_pb2.AttrValue()


def _pick(known: Mapping[str, list[Array]], tensor: str) -> Array:
    name, *place = tensor.split(":")
    return known[name][int(place[-1]) + (1 if place[0] == "indices" else 0)] if place else known[name][0]


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _bound(
    node: Any, position: int, places: Mapping[int, str], tensors: Tensors, constants: Mapping[str, Any]
) -> Array:
    """Return what a function is bound to: a variable's value, or a constant of the main graph."""
    if node.WhichOneof("kind") == "constant":
        return _wide(tf.make_ndarray(constants[node.constant.operation].attr["value"].tensor))
    return _wide(np.asarray(tensors[places[position]]))


def _child(objects: Any, position: int, name: str) -> int:
    return next(child.node_id for child in objects.nodes[position].children if child.local_name == name)


def _keys(objects: Any, tensors: Tensors) -> dict[int, str]:
    """Return the checkpoint key of each object, found along the names of the checkpoint's own object graph."""
    saved = trackable_object_graph_pb2.TrackableObjectGraph()
    text = tensors[_OBJECTS]
    saved.ParseFromString(text if isinstance(text, bytes) else text.item())  # NumPy's own strings lose zeros at the end
    found: dict[int, str] = {}
    seen: set[int] = set()
    waiting = [(0, 0)]
    while waiting:
        here, there = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        for attribute in saved.nodes[there].attributes:
            found[here] = attribute.checkpoint_key
        children = {child.local_name: child.node_id for child in saved.nodes[there].children}
        waiting.extend(
            (child.node_id, children[child.local_name])
            for child in objects.nodes[here].children
            if child.local_name in children
        )
    return found


# ---------------------------------------------------------------------------------------------------------- the ops


def _axes(axis: Array) -> tuple[int, ...]:
    return tuple(int(a) for a in np.atleast_1d(axis))


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda attr, x, axis: function(x, axis=_axes(axis), keepdims=attr["keep_dims"].b)


def _ints(attribute: Any) -> list[int]:
    return [int(i) for i in attribute.list.i]


def _strided_slice(attr: Any, x: Array, begin: Array, end: Array, strides: Array) -> Array:
    index: list[Any] = []
    for i in range(len(begin)):
        bit = 1 << i
        if attr["ellipsis_mask"].i & bit:
            index.append(Ellipsis)
        elif attr["new_axis_mask"].i & bit:
            index.append(None)
        elif attr["shrink_axis_mask"].i & bit:
            index.append(int(begin[i]))
        else:
            first = None if attr["begin_mask"].i & bit else int(begin[i])
            last = None if attr["end_mask"].i & bit else int(end[i])
            index.append(slice(first, last, int(strides[i])))
    return np.asarray(x)[tuple(index)]


def _squeeze(attr: Any, x: Array) -> Array:
    axes = _ints(attr["squeeze_dims"])
    return np.squeeze(x, tuple(axes)) if axes else np.squeeze(x)


def _windows(attr: Any, x: Array, size: Sequence[int], fill: float) -> tuple[Array, int, int, Array]:
    """Return the padded picture, the output's height and width, and the strides."""
    strides = _ints(attr["strides"])[1:3]
    dilations = (_ints(attr["dilations"]) or [1, 1, 1, 1])[1:3]
    padding = attr["padding"].s
    pads, outs = [], []
    for axis in range(2):
        reach = (size[axis] - 1) * dilations[axis] + 1
        length = x.shape[axis + 1]
        if padding == b"SAME":
            out = math.ceil(length / strides[axis])
            total = max((out - 1) * strides[axis] + reach - length, 0)
            pads.append((total // 2, total - total // 2))
        else:
            out = (length - reach) // strides[axis] + 1
            pads.append((0, 0))
        outs.append(out)
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    return padded, outs[0], outs[1], (strides, dilations)


def _patches(attr: Any, x: Array, size: Sequence[int], fill: float) -> list[tuple[int, int, Array]]:
    padded, height, width, (strides, dilations) = _windows(attr, x, size, fill)
    return [
        (i, j, padded[:, i * dilations[0] : i * dilations[0] + (height - 1) * strides[0] + 1 : strides[0],
                      j * dilations[1] : j * dilations[1] + (width - 1) * strides[1] + 1 : strides[1], :])
        for i in range(size[0]) for j in range(size[1])
    ]  # fmt: skip


def _convolution(attr: Any, x: Array, kernel: Array) -> Array:
    return sum(patch @ kernel[i, j] for i, j, patch in _patches(attr, x, kernel.shape[:2], 0.0))


def _depthwise(attr: Any, x: Array, kernel: Array) -> Array:
    total = sum(patch[..., None] * kernel[i, j] for i, j, patch in _patches(attr, x, kernel.shape[:2], 0.0))
    return total.reshape(*total.shape[:3], -1)


def _max_pool(attr: Any, x: Array) -> Array:
    return functools.reduce(np.maximum, [p for _, _, p in _patches(attr, x, _ints(attr["ksize"])[1:3], -np.inf)])


def _average_pool(attr: Any, x: Array) -> Array:
    size = _ints(attr["ksize"])[1:3]
    count = sum(p for _, _, p in _patches(attr, np.ones_like(x), size, 0.0))
    return sum(p for _, _, p in _patches(attr, x, size, 0.0)) / count


def _space_to_batch(attr: Any, x: Array, block: Array, paddings: Array) -> Array:
    """Return a dilated convolution's rearrangement, for one spatial axis, as TensorFlow's page spells it out."""
    if len(block) != 1:
        raise NotInterpretedError("SpaceToBatchND")
    padded = np.pad(x, [(0, 0), tuple(paddings[0]), *[(0, 0)] * (x.ndim - 2)])
    return np.concatenate([padded[:, offset :: int(block[0])] for offset in range(int(block[0]))])


def _batch_to_space(attr: Any, x: Array, block: Array, crops: Array) -> Array:
    parts = np.stack(np.split(x, int(block[0])), axis=2)
    merged = parts.reshape(parts.shape[0], -1, *x.shape[2:])
    return merged[:, int(crops[0][0]) : merged.shape[1] - int(crops[0][1])]


def _cast(attr: Any, x: Array) -> Array:
    if attr["DstT"].type in _FLOATS and np.asarray(x).dtype.kind in "fib":
        return np.asarray(x, np.float64)
    if attr["DstT"].type in {tf.int32.as_datatype_enum, tf.int64.as_datatype_enum} and np.asarray(x).dtype.kind in "ib":
        return np.asarray(x, np.int64)
    raise NotInterpretedError("Cast")


def _matmul(attr: Any, a: Array, b: Array) -> Array:
    return (a.T if attr["transpose_a"].b else a) @ (b.T if attr["transpose_b"].b else b)


def _batch_matmul(attr: Any, a: Array, b: Array) -> Array:
    return (np.swapaxes(a, -1, -2) if attr["adj_x"].b else a) @ (np.swapaxes(b, -1, -2) if attr["adj_y"].b else b)


def _softmax(attr: Any, x: Array) -> Array:
    del attr
    return special.softmax(x, axis=-1)


def _plain(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda attr, *inputs: function(*inputs)


def _leaky(attr: Any, x: Array) -> Array:
    return np.where(x > 0, x, (attr["alpha"].f if "alpha" in attr else np.float32(0.2)) * x)


OPS: dict[str, Callable[..., Any]] = {
    **{op: _plain(lambda x: x) for op in ("Identity", "ReadVariableOp", "StopGradient", "Snapshot")},
    "IdentityN": lambda attr, *inputs: list(inputs),
    **{op: _plain(np.add) for op in ("Add", "AddV2", "BiasAdd")},
    "AddN": _plain(lambda *inputs: sum(inputs)),
    "Sub": _plain(np.subtract), "Mul": _plain(np.multiply), "RealDiv": _plain(np.divide), "Neg": _plain(np.negative),
    "Pow": _plain(np.power), "SquaredDifference": _plain(lambda a, b: np.square(a - b)), "Maximum": _plain(np.maximum),
    "Minimum": _plain(np.minimum), "Abs": _plain(np.abs), "Square": _plain(np.square), "Sqrt": _plain(np.sqrt),
    "Rsqrt": _plain(lambda x: 1 / np.sqrt(x)), "Exp": _plain(np.exp), "Expm1": _plain(np.expm1), "Log": _plain(np.log),
    "Log1p": _plain(np.log1p), "Reciprocal": _plain(np.reciprocal), "Sign": _plain(np.sign), "Sin": _plain(np.sin),
    "Atan": _plain(np.arctan), "Erf": _plain(special.erf), "Erfc": _plain(special.erfc), "Tanh": _plain(np.tanh),
    "Sigmoid": _plain(special.expit), "Floor": _plain(np.floor), "Round": _plain(np.round), "Ceil": _plain(np.ceil),
    "Relu": _plain(lambda x: np.maximum(x, 0)), "Relu6": _plain(lambda x: np.clip(x, 0, 6)), "LeakyRelu": _leaky,
    "Elu": _plain(lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "Selu": _plain(lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))),
    "Softplus": _plain(lambda x: np.logaddexp(x, 0)), "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "Softmax": _softmax, "LogSoftmax": lambda attr, x: special.log_softmax(x, axis=-1),
    "Greater": _plain(np.greater), "GreaterEqual": _plain(np.greater_equal), "Less": _plain(np.less),
    "LessEqual": _plain(np.less_equal), "Equal": _plain(np.equal), "NotEqual": _plain(np.not_equal),
    "LogicalNot": _plain(np.logical_not), "LogicalAnd": _plain(np.logical_and), "IsFinite": _plain(np.isfinite),
    "Select": _plain(np.where), "SelectV2": _plain(np.where),
    "ZerosLike": _plain(np.zeros_like), "OnesLike": _plain(np.ones_like),
    "MatMul": _matmul, "BatchMatMulV2": _batch_matmul,
    "Einsum": lambda attr, *inputs: np.einsum(attr["equation"].s.decode(), *inputs),
    "Sum": _reduction(np.sum), "Mean": _reduction(np.mean), "Max": _reduction(np.max), "Min": _reduction(np.min),
    "Prod": _reduction(np.prod),
    "EuclideanNorm": _reduction(lambda x, **options: np.sqrt(np.sum(np.square(x), **options))),
    "Cumsum": lambda attr, x, axis: np.cumsum(x, int(axis)), "ArgMax": lambda attr, x, axis: np.argmax(x, int(axis)),
    "Shape": _plain(lambda x: np.array(np.shape(x), np.int64)), "Cast": _cast,
    "Reshape": _plain(lambda x, shape: np.reshape(x, [int(s) for s in shape])), "Squeeze": _squeeze,
    "ExpandDims": _plain(lambda x, axis: np.expand_dims(x, int(axis))),
    "Transpose": _plain(lambda x, order: np.transpose(x, [int(a) for a in order])),
    "StridedSlice": _strided_slice,
    "Slice": _plain(lambda x, begin, size: np.asarray(x)[
        tuple(slice(int(b), None if s == -1 else int(b) + int(s)) for b, s in zip(begin, size, strict=True))
    ]),
    "ConcatV2": _plain(lambda *inputs: np.concatenate(inputs[:-1], int(inputs[-1]))),
    "Pack": lambda attr, *inputs: np.stack([np.asarray(value) for value in inputs], attr["axis"].i),
    "Unpack": lambda attr, x: [np.take(x, i, attr["axis"].i) for i in range(attr["num"].i)],
    "Split": lambda attr, axis, x: list(np.split(x, attr["num_split"].i, int(axis))),
    "SplitV": lambda attr, x, sizes, axis: list(np.split(x, np.cumsum(sizes)[:-1], int(axis))),
    "SpaceToBatchND": _space_to_batch, "BatchToSpaceND": _batch_to_space,
    "GatherV2": lambda attr, x, index, axis: np.take(x, index, int(axis)),
    "Tile": _plain(lambda x, times: np.tile(x, [int(t) for t in times])),
    "Pad": _plain(lambda x, pads: np.pad(x, pads)),
    "ReverseV2": _plain(lambda x, axes: np.flip(x, _axes(axes))),
    "Roll": _plain(lambda x, shift, axis: np.roll(x, _axes(shift), _axes(axis))),
    "BroadcastTo": _plain(lambda x, shape: np.broadcast_to(x, [int(s) for s in shape])),
    "Fill": _plain(lambda shape, value: np.full([int(s) for s in shape], value)),
    "Range": _plain(lambda first, limit, step: np.arange(first, limit, step)),
    "L2Loss": _plain(lambda x: np.sum(np.square(x)) / 2),
    "Conv2D": _convolution, "DepthwiseConv2dNative": _depthwise, "MaxPool": _max_pool, "AvgPool": _average_pool,
}  # fmt: skip
"""The ops by name: attributes and inputs to the output, or a list of outputs."""
