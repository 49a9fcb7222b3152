"""How a function of rows depends on each variable: by its value, by its slope or not at all, read off its operations.

Below `audit`, which judges by what is found here; above nothing of training. No derivative is computed.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Names = frozenset[str]
_NONE: Names = frozenset()


def _names(text: str) -> Names:
    return frozenset(text.split())


LINEAR = _names(
    "AddV2 Add AddN Sub Neg BiasAdd Identity IdentityN Snapshot PreventGradient CheckNumerics EnsureShape Reshape "
    "Squeeze ExpandDims Transpose ConcatV2 Pack Unpack Split SplitV Slice StridedSlice Sum Mean Cast GatherV2 GatherNd "
    "Gather Tile BroadcastTo Pad PadV2 MirrorPad ReverseV2 Cumsum AvgPool AvgPool3D Roll Real Imag Fill MatrixDiagV3 "
    "MatrixDiagPartV3 MatrixBandPart ScatterNd TensorScatterUpdate TensorScatterAdd SpaceToBatchND BatchToSpaceND "
    "DepthToSpace SpaceToDepth SegmentSum UnsortedSegmentSum ReadVariableOp ResourceGather ResourceGatherNd "
    "TensorListFromTensor TensorListReserve TensorListSetItem TensorListGetItem TensorListStack TensorListPushBack "
    "TensorListPopBack TensorListConcatV2 EmptyTensorList"
)
"""Operations that are linear in their real arguments together."""

KINKED = _names(
    "Relu Relu6 LeakyRelu Abs Maximum Minimum Max Min ClipByValue MaxPool MaxPool3D TopKV2 SegmentMax SelectV2 Select "
    "FloorMod Mod"
)
"""Operations with second derivative zero wherever they have one."""

PRODUCTS = _names(
    "Mul MulNoNan MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum Conv2D Conv3D DepthwiseConv2dNative "
    "Conv2DBackpropInput Conv3DBackpropInputV2"
)
"""Operations that are linear in each real argument."""

FLAT = _names(
    "Floor Ceil Round Rint Sign FloorDiv StopGradient ZerosLike OnesLike Const RandomUniform RandomStandardNormal "
    "StatelessRandomUniformV2 StatelessRandomNormalV2"
)
"""Operations with real results whose derivative is zero wherever they have one, or is taken for zero."""

COMPARISONS = _names("Greater GreaterEqual Less LessEqual Equal NotEqual ApproximateEqual")

_CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))
_BRANCHES = frozenset(("If", "StatelessIf", "Case", "StatelessCase"))
_LOOPS = frozenset(("While", "StatelessWhile"))


@dataclasses.dataclass(frozen=True)
class Dependence:
    r"""How one tensor T depends on the rows x and on variables v, almost everywhere.

    Each set may hold a variable too many, where terms cancel that are not looked into, and never one too few.

    Args:
        varies: whether T depends on x at all.
        sloped: whether dT/dx is other than zero.
        moved: the v with dT/dv other than zero.
        uneven: those of them for which dT/dv is not the same at all rows.
        mixed: those for which d^2 T / dv dx is other than zero: v moves the slope.
        seen: every v that T is computed from.
        cuts: for a v that some way to T loses, the operations that lose it.
        kinks: for a v that is moved, the piecewise linear operations that it goes through.
    """

    varies: bool = False
    sloped: bool = False
    moved: Names = _NONE
    uneven: Names = _NONE
    mixed: Names = _NONE
    seen: Names = _NONE
    cuts: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    kinks: Mapping[str, Names] = dataclasses.field(default_factory=dict)


def dependence(function: Callable[[Any], Any], rows: Any, variables: Mapping[str, Any]) -> Dependence:
    """Return how a function of rows depends on variables, by tracing it once with symbolic rows.

    Compiled functions, conditions and loops inside are followed into their bodies.

    Args:
        function: of a tensor like `rows`; it may return one tensor or a list of tensors, whose dependences are joined.
        rows: an array or tensor [n, ...]; its shape behind n, and its dtype.
        variables: Keras variables by the names that are returned.
    """
    signature = tf.TensorSpec((None, *rows.shape[1:]), rows.dtype)
    graph = tf.function(function, autograph=False).get_concrete_function(signature).graph
    names = {id(variable.value.handle): name for name, variable in variables.items()}
    captured = [_held(names.get(id(outer))) for outer, _ in graph.captures]
    count = len(graph.inputs) - len(captured)
    return join(_walk(graph, [Dependence(varies=True, sloped=True)] * count + captured))


def join(parts: Iterable[Dependence]) -> Dependence:
    """Return the dependence of a sum of tensors."""
    found = list(parts)
    return Dependence(
        varies=any(part.varies for part in found),
        sloped=any(part.sloped for part in found),
        moved=_union(part.moved for part in found),
        uneven=_union(part.uneven for part in found),
        mixed=_union(part.mixed for part in found),
        seen=_union(part.seen for part in found),
        cuts=_merged(part.cuts for part in found),
        kinks=_merged(part.kinks for part in found),
    )


def _held(name: str | None) -> Dependence:
    """Return the dependence of a variable itself; None: of a constant."""
    return Dependence() if name is None else Dependence(moved=frozenset((name,)), seen=frozenset((name,)))


def _walk(graph: Any, inputs: Sequence[Dependence]) -> list[Dependence]:
    """Return the dependences of a graph's outputs; operations stand in an order in which arguments come first."""
    found: dict[Any, Dependence] = {tensor.ref(): one for tensor, one in zip(graph.inputs, inputs, strict=True)}
    for operation in graph.get_operations():
        if operation.outputs and operation.outputs[0].ref() not in found:
            results = _results(operation, [found[tensor.ref()] for tensor in operation.inputs])
            found.update(zip((tensor.ref() for tensor in operation.outputs), results, strict=True))
    return [found[tensor.ref()] for tensor in graph.outputs]


def _results(operation: Any, parts: list[Dependence]) -> list[Dependence]:
    """Return the dependences of an operation's results."""
    if operation.type in _CALLS:
        return _walk(_body(operation, "f"), parts)
    if operation.type in _BRANCHES:
        return _chosen(operation, parts)
    if operation.type in _LOOPS:
        return _looped(operation, parts)
    if operation.type == "IdentityN":
        return parts
    one = _of_operation(operation, parts)
    return [one if _is_real(tensor) else _lost(operation.type, [one]) for tensor in operation.outputs]


def _of_operation(operation: Any, parts: list[Dependence]) -> Dependence:
    """Return the dependence of an operation's real results."""
    kind = operation.type
    real = [part for part, tensor in zip(parts, operation.inputs, strict=True) if _is_real(tensor)]
    choosing = [part for part, tensor in zip(parts, operation.inputs, strict=True) if not _is_real(tensor)]
    if kind in FLAT or any(_is_real(tensor) for tensor in operation.outputs) is False:
        return _lost(kind, parts)
    if kind in PRODUCTS:
        if any(_is_zero(tensor) for tensor in operation.inputs):
            return _lost("multiplication by 0", parts)
        one = _product(real)
    elif kind in ("RealDiv", "Div", "DivNoNan"):
        one = _product([real[0], _curved([real[1]])])
    elif kind == "FusedBatchNormV3":
        one = join([_product([real[0], real[1], _curved([real[4]])]), real[2], _product([real[1], real[3]])])
    elif kind in LINEAR:
        one = join(real)
    elif kind in KINKED:
        one = _kinked(kind, real)
    else:
        one = _curved(real)
    return _choice(kind, one, choosing)


def _product(factors: Sequence[Dependence]) -> Dependence:
    """Return the dependence of something that is linear in each factor."""
    one = join(factors)
    uneven, mixed = one.uneven, one.mixed
    for here, factor in enumerate(factors):
        others = [other for there, other in enumerate(factors) if there != here]
        uneven |= factor.moved if any(other.varies for other in others) else _NONE
        mixed |= factor.moved if any(other.sloped for other in others) else _NONE
    return dataclasses.replace(one, uneven=uneven, mixed=mixed)


def _kinked(kind: str, parts: Sequence[Dependence]) -> Dependence:
    """Return the dependence of a piecewise linear function: which piece it is depends on the row, its slopes do not."""
    one = join(parts)
    kinks = _merged((one.kinks, dict.fromkeys(one.moved, frozenset((kind,)))))
    return dataclasses.replace(one, uneven=one.moved if one.varies else one.uneven, kinks=kinks)


def _curved(parts: Sequence[Dependence]) -> Dependence:
    """Return the dependence of a function with a second derivative, or of one that nothing is known of."""
    one = join(parts)
    return dataclasses.replace(
        one, uneven=one.moved if one.varies else one.uneven, mixed=one.moved if one.sloped else one.mixed
    )


def _lost(kind: str, parts: Sequence[Dependence]) -> Dependence:
    """Return the dependence of a result without a derivative: it is computed from its arguments, and moved by none."""
    one = join(parts)
    cuts = _merged((one.cuts, dict.fromkeys(one.moved, frozenset((kind,)))))
    return Dependence(varies=one.varies, seen=one.seen, cuts=cuts)


def _choice(kind: str, one: Dependence, choosing: Sequence[Dependence]) -> Dependence:
    """Return the dependence of a result that indices or conditions choose: those move nothing, but tell rows apart."""
    if not choosing:
        return one
    by = _lost(kind, choosing)
    uneven = one.moved if by.varies else one.uneven
    return dataclasses.replace(
        one, varies=one.varies or by.varies, uneven=uneven, seen=one.seen | by.seen, cuts=_merged((one.cuts, by.cuts))
    )


def _chosen(operation: Any, parts: Sequence[Dependence]) -> list[Dependence]:
    """Return the dependences of the results of a conditional: those of every branch."""
    if operation.type in ("If", "StatelessIf"):
        bodies = [_body(operation, "then_branch"), _body(operation, "else_branch")]
    else:
        bodies = [operation.graph._get_function(branch.name).graph for branch in operation.get_attr("branches")]
    branches = zip(*(_walk(body, parts[1:]) for body in bodies), strict=True)
    return [_choice(operation.type, join(branch), [parts[0]]) for branch in branches]


def _looped(operation: Any, parts: list[Dependence]) -> list[Dependence]:
    """Return the dependences after any number of rounds: rounds are joined until nothing is new."""
    body, condition = _body(operation, "body"), _body(operation, "cond")
    while True:
        by = join(_walk(condition, parts))
        after = _walk(body, parts)
        joined = [_choice(operation.type, join(pair), [by]) for pair in zip(parts, after, strict=True)]
        if joined == parts:
            return joined
        parts = joined


def _body(operation: Any, attribute: str) -> Any:
    """Return the graph of a function that an operation calls."""
    return operation.graph._get_function(operation.get_attr(attribute).name).graph


def _is_real(tensor: Any) -> bool:
    """Tell whether a tensor can carry a derivative: floats, and the handles of variables and lists."""
    return bool(tensor.dtype.is_floating or tensor.dtype.is_complex or tensor.dtype in (tf.resource, tf.variant))


def _is_zero(tensor: Any) -> bool:
    """Tell whether a tensor is a constant of zeros."""
    if tensor.op.type != "Const" or not tensor.dtype.is_floating:
        return False
    return not np.any(np.asarray(tf.make_ndarray(tensor.op.get_attr("value")), np.float64))


def _union(sets: Iterable[Names]) -> Names:
    return frozenset().union(*sets)


def _merged(maps: Iterable[Mapping[str, Names]]) -> dict[str, Names]:
    merged: dict[str, Names] = {}
    for each in maps:
        for name, words in each.items():
            merged[name] = merged.get(name, _NONE) | words
    return merged
