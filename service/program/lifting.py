"""Inlined graph to program: every op is understood, or the graph is refused with the op's name.

Each tensor is a constant, or rows of features [n, k] (or [n], one number a row), or the serialized examples. An op
that reads, moves, reduces or counts the row axis is refused: a batch would mix strangers' rows. Above:
`certification`; below: `templates`, `program`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.atoms import Abs, Atom, Elu, Exp, Softplus, leaky_relu, relu
from service.program.constants import MAX_NUMBERS, Constant, coefficients, floats, folded, refused
from service.program.inlining import GraphNode, InlinedGraph
from service.program.operators import Dense, Divide, Identity, Operator, Scale
from service.program.program import (
    AffineNode,
    AtomNode,
    InputNode,
    MaximumNode,
    Node,
    Program,
    Term,
    arguments,
    fuse,
    renumbered,
)
from service.program.templates import squared

_TF_FLOATS = (1, 2)
"""TensorFlow's numbers of float32 and float64."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of `width` features: the value of program node number `node`. `rank` is 2 for [n, width], 1 for [n]."""

    node: int
    width: int
    rank: int


Tensor = Constant | Rows


def lift(graph: InlinedGraph, dim: int) -> Program:
    """Return the program of a graph's output.

    Args:
        graph: ends in one number per row, [n] or [n, 1].
        dim: number of features of a row.

    Raises:
        VersionRefusedError: rules `not-lifted` (an op or a form of it that is not understood), `row-axis`, `cast`,
            `finite-weights`, `output-shape`; the reason names the node.
    """
    if dim > MAX_NUMBERS:
        raise VersionRefusedError("size-limit", f"rows of {dim} features, at most {MAX_NUMBERS} are read")
    lifter = _Lifter(dim)
    tensors: list[Tensor | None] = []
    for node in graph.nodes:
        try:
            tensors.append(lifter.lift(node, [tensors[ref.node] for ref in node.inputs]))
        except (ValueError, TypeError, LookupError, OverflowError) as err:  # attributes and shapes that do not fit
            raise refused("not-lifted", node, "has inputs or attributes that do not fit it") from err
    result = tensors[graph.output.node]
    if not isinstance(result, Rows) or result.width != 1:
        shape = "a constant" if isinstance(result, Constant) else f"{getattr(result, 'width', 0)} numbers per row"
        raise VersionRefusedError(
            "output-shape", f"the score is {shape}, expected one number per row that depends on it"
        )
    return fuse(_trimmed(lifter.nodes, result.node))


def _trimmed(nodes: list[Node], last: int) -> Program:
    """Return the program that ends at `last`, without the nodes that it does not need; the input stays."""
    needed = {0}
    waiting = [last]
    while waiting:
        position = waiting.pop()
        if position not in needed:
            needed.add(position)
            waiting.extend(arguments(nodes[position]))
    if last == 0:
        nodes = [nodes[0], AffineNode(nodes[0].width, (Term(0, Identity()),), name="score")]
        needed, last = {0, 1}, 1
    return Program(renumbered(nodes[: last + 1], {position for position in range(last) if position not in needed}))


class _Lifter:
    """Builds the list of program nodes, op by op."""

    def __init__(self, dim: int) -> None:
        self.nodes: list[Node] = [InputNode(dim)]
        self._dim = dim
        self._numbers = dim
        self._lift: dict[str, Callable[[GraphNode, Sequence[Tensor]], Tensor]] = {
            "MatMul": self._matmul,
            "BiasAdd": self._add,
            "Add": self._add,
            "AddV2": self._add,
            "Sub": self._subtract,
            "Neg": self._negate,
            "Mul": self._multiply,
            "RealDiv": self._divide,
            "Sum": self._sum,
            "Maximum": self._maximum,
            "Mean": self._other_reduction,
            "Max": self._other_reduction,
            "Prod": self._other_reduction,
            "Shape": self._shape,
            "Reshape": self._reshape,
            "Squeeze": self._squeeze,
            "ExpandDims": self._expand,
            "Cast": self._cast,
            "LeakyRelu": self._leaky_relu,
            "Softplus": self._atom(Softplus()),
            "Relu": self._atom(relu()),
            "Elu": self._atom(Elu()),
            "Exp": self._atom(Exp()),
            "Square": self._square,
            "Abs": self._atom(Abs()),
        }

    def lift(self, node: GraphNode, inputs: Sequence[Tensor | None]) -> Tensor | None:
        """Return the tensor of `node`, or refuse it; None for what is no number of a row."""
        if node.op == "Input":
            return Rows(0, self._dim, 2)
        if node.op == "Constant":
            return Constant(np.asarray(node.value), node.label)
        if node.op in {"Examples", "Handle"}:
            return None
        if any(reference.output != 0 for reference in node.inputs):
            raise refused("not-lifted", node, "reads a second output of an op that has one")
        if node.op == "ParseExampleV2":
            return self._parse_example(node, inputs)
        known = [tensor for tensor in inputs if tensor is not None]
        if len(known) != len(inputs):
            raise refused("not-lifted", node, "reads serialized examples")
        if node.op not in self._lift:
            raise refused("not-lifted", node, "is not understood on the way to the score")
        return self._lift[node.op](node, known)

    def _parse_example(self, node: GraphNode, inputs: Sequence[Tensor | None]) -> Rows:
        shapes = node.attributes.get("dense_shapes")
        dense_only = not node.attributes.get("num_sparse") and not node.attributes.get("ragged_value_types")
        defaults = inputs[5:]
        no_default = len(defaults) == 1 and isinstance(defaults[0], Constant) and defaults[0].array.size == 0
        float32 = node.attributes.get("Tdense") == (1,)
        if not (dense_only and float32 and no_default and shapes == ((self._dim,),) and inputs[0] is None):
            raise refused("not-lifted", node, f"must parse one dense float32 feature [{self._dim}] without a default")
        return Rows(0, self._dim, 2)

    def _append(self, node: Node, rank: int) -> Rows:
        self._numbers += node.width
        if node.width < 1 or self._numbers > MAX_NUMBERS:
            reason = (
                f"node {node.name} has no features, or the nodes together compute over {MAX_NUMBERS} numbers per row"
            )
            raise VersionRefusedError("size-limit", reason)
        self.nodes.append(node)
        return Rows(len(self.nodes) - 1, node.width, rank)

    def _affine(self, name: str, rows: Rows, operator: Operator) -> Rows:
        width = operator.output_width(rows.width)
        return self._append(AffineNode(width, (Term(rows.node, operator),), name=name), rows.rank)

    def _matmul(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        left, right = inputs
        if not isinstance(left, Rows) or not isinstance(right, Constant) or left.rank != 2 or right.array.ndim != 2:
            raise refused("row-axis", node, "must multiply rows [n, k] by a constant matrix from the right")
        if node.attributes.get("transpose_a"):
            raise refused("row-axis", node, "transposes the rows")
        matrix = coefficients(node, right)
        matrix = np.ascontiguousarray(matrix.T if node.attributes.get("transpose_b") else matrix)
        if matrix.shape[0] != left.width:
            raise refused("not-lifted", node, f"multiplies {left.width} features by a matrix of {matrix.shape[0]} rows")
        return self._affine(node.name, left, Dense(matrix, right.label))

    def _add(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        if node.attributes.get("data_format") == "NCHW":
            raise refused("not-lifted", node, "adds its bias in the NCHW format")
        return self._sum_of(node, inputs, sign=1)

    def _subtract(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        return self._sum_of(node, inputs, sign=-1)

    def _sum_of(self, node: GraphNode, inputs: Sequence[Tensor], sign: int) -> Tensor:
        left, right = inputs
        if isinstance(left, Constant) and isinstance(right, Constant):
            return folded(node, left, right, np.add if sign > 0 else np.subtract)
        rank, width = _joint(node, left, right)
        terms: list[Term] = []
        bias: NDArray[np.floating] | None = None
        for tensor, factor in ((left, 1), (right, sign)):
            if isinstance(tensor, Rows):
                terms.append(Term(tensor.node, self._signed(tensor, factor, width)))
            else:
                vector = _vector(floats(node, tensor.array), width)
                bias = vector if factor > 0 else -vector
        return self._append(AffineNode(width, tuple(terms), bias, node.name), rank)

    def _signed(self, rows: Rows, factor: int, width: int) -> Operator:
        if rows.width != width:
            return Dense(np.full((1, width), factor, np.float32), "a broadcast")
        return Identity() if factor > 0 else Scale(np.full(width, -1, np.float32), "a subtraction")

    def _negate(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        (argument,) = inputs
        if isinstance(argument, Constant):
            return dataclasses.replace(argument, array=-floats(node, argument.array))
        return self._affine(node.name, argument, Scale(np.full(argument.width, -1, np.float32), "a negation"))

    def _multiply(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        left, right = inputs
        if isinstance(left, Constant) and isinstance(right, Constant):
            return folded(node, left, right, np.multiply)
        if isinstance(left, Rows) and isinstance(right, Rows):
            if left != right:
                raise refused("not-lifted", node, "multiplies two functions of the row; only a square is understood")
            return self._square(node, (left,))
        rows, constant = (left, right) if isinstance(left, Rows) else (right, left)
        return self._scaled(node, rows, constant, Scale)

    def _divide(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        left, right = inputs
        if isinstance(left, Constant) and isinstance(right, Constant):
            return folded(node, left, right, np.divide)
        if not isinstance(right, Constant) or (right.array == 0).any():
            raise refused("not-lifted", node, "divides by something that is not a constant free of zeros")
        return self._scaled(node, left, right, Divide)

    def _scaled(self, node: GraphNode, rows: Tensor, constant: Tensor, kind: type[Scale] | type[Divide]) -> Rows:
        if not isinstance(rows, Rows) or not isinstance(constant, Constant):
            raise refused("not-lifted", node, "must combine rows with a constant")
        rank, width = _joint(node, rows, constant)
        if width != rows.width:
            rows = self._affine(node.name, rows, Dense(np.ones((1, width), np.float32), "a broadcast"))
        result = self._affine(node.name, rows, kind(_vector(coefficients(node, constant), width), constant.label))
        return dataclasses.replace(result, rank=rank)

    def _sum(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        rows, axes = inputs
        if not isinstance(rows, Rows) or not isinstance(axes, Constant):
            raise refused("not-lifted", node, "must sum rows over a constant axis")
        chosen = {int(axis) % rows.rank if -rows.rank <= axis < rows.rank else -1 for axis in axes.array.reshape(-1)}
        if rows.rank != 2 or chosen != {1}:
            raise refused("row-axis", node, "must sum over the features only, not over the rows")
        total = self._affine(node.name, rows, Dense(np.ones((rows.width, 1), np.float32), "a sum"))
        return total if node.attributes.get("keep_dims") else dataclasses.replace(total, rank=1)

    def _other_reduction(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        tensor, axes = inputs
        chosen = axes.array.reshape(-1).tolist() if isinstance(axes, Constant) else [0]
        if isinstance(tensor, Rows) and not set(chosen).isdisjoint({0, -tensor.rank}):
            raise refused("row-axis", node, "reduces over the rows")
        raise refused("not-lifted", node, "is not understood on the way to the score")

    def _shape(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        del inputs
        raise refused("row-axis", node, "counts the rows")

    def _maximum(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        left, right = inputs
        if (
            not isinstance(left, Rows)
            or not isinstance(right, Rows)
            or (left.width, left.rank) != (right.width, right.rank)
        ):
            raise refused("not-lifted", node, "must take the maximum of two functions of the row, of equal shape")
        return self._append(MaximumNode(left.width, (left.node, right.node), node.name), left.rank)

    def _reshape(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        tensor, shape = inputs
        if not isinstance(shape, Constant):
            raise refused("row-axis", node, "takes a shape that is not a constant")
        wanted = tuple(int(size) for size in shape.array.reshape(-1))
        if isinstance(tensor, Constant):
            return tensor.reshaped(wanted)
        if wanted == (-1, tensor.width):
            return dataclasses.replace(tensor, rank=2)
        if wanted == (-1,) and tensor.width == 1:
            return dataclasses.replace(tensor, rank=1)
        raise refused("row-axis", node, f"reshapes rows to {list(wanted)}, which moves numbers between rows")

    def _squeeze(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        (rows,) = inputs
        axes = {axis % 2 for axis in node.attributes.get("squeeze_dims") or ()}
        if not isinstance(rows, Rows) or rows.rank != 2 or rows.width != 1 or axes != {1}:
            raise refused("row-axis", node, "must drop the last axis of [n, 1] and no other")
        return dataclasses.replace(rows, rank=1)

    def _expand(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        tensor, axis = inputs
        places = axis.array.reshape(-1).tolist() if isinstance(axis, Constant) else []
        if isinstance(tensor, Constant) and len(places) == 1:
            return tensor.reshaped(np.expand_dims(tensor.array, places[0]).shape)
        if not isinstance(tensor, Rows) or tensor.rank != 1 or places not in ([1], [-1]):
            raise refused("row-axis", node, "must add a last axis to [n]")
        return dataclasses.replace(tensor, rank=2)

    def _cast(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        (tensor,) = inputs
        if node.attributes.get("SrcT") not in _TF_FLOATS or node.attributes.get("DstT") not in _TF_FLOATS:
            raise refused("cast", node, "casts to or from a type that is neither float32 nor float64")
        if isinstance(tensor, Constant):
            dtype = np.float32 if node.attributes.get("DstT") == 1 else np.float64
            with np.errstate(over="ignore"):  # infinity is refused where the constant is used
                return dataclasses.replace(tensor, array=tensor.array.astype(dtype))
        return tensor

    def _leaky_relu(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        return self._atom(leaky_relu(float(node.attributes.get("alpha", np.float32(0.2)))))(node, inputs)

    def _square(self, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        (argument,) = inputs
        if isinstance(argument, Constant):
            return folded(node, argument, argument, np.multiply)
        position, atom = squared(self.nodes, argument.node)
        return self._append(AtomNode(argument.width, position, atom, node.name), argument.rank)

    def _atom(self, atom: Atom) -> Callable[[GraphNode, Sequence[Tensor]], Tensor]:
        def lift(node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
            (argument,) = inputs
            if not isinstance(argument, Rows):
                raise refused("not-lifted", node, "is applied to a constant")
            return self._append(AtomNode(argument.width, argument.node, atom, node.name), argument.rank)

        return lift


def _joint(node: GraphNode, left: Tensor, right: Tensor) -> tuple[int, int]:
    """Return rank and width of an elementwise op on rows and rows, or rows and a constant; features may broadcast."""
    rows = [tensor for tensor in (left, right) if isinstance(tensor, Rows)]
    constants = [tensor for tensor in (left, right) if isinstance(tensor, Constant)]
    rank = rows[0].rank
    if any(other.rank != rank for other in rows):
        raise refused("row-axis", node, "combines [n] with [n, k], which would broadcast one row against another")
    if any(_meets_rows(constant.array.shape, rank) for constant in constants):
        shape = list(constants[0].array.shape)
        raise refused("row-axis", node, f"combines rows with a constant of shape {shape}, which meets the row axis")
    sizes = [tensor.width for tensor in rows] + [constant.array.size for constant in constants]
    if any(size not in (1, max(sizes)) for size in sizes):
        raise refused("not-lifted", node, f"combines {min(sizes)} with {max(sizes)} features")
    return rank, max(sizes)


def _meets_rows(shape: tuple[int, ...], rank: int) -> bool:
    """Whether broadcasting a constant of `shape` against rows of `rank` would reach their row axis or add one."""
    return len(shape) > rank or (len(shape) == rank and shape[0] != 1)


def _vector(array: NDArray[np.floating], width: int) -> NDArray[np.floating]:
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (width,)))
