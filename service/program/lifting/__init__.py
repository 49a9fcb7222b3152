"""Inlined graph to program: every op is understood, or the graph is refused with the op's name.

Each tensor is a constant, or rows of features [n, *shape], or sizes that count rows, or the serialized examples. An op
that reads, moves, reduces or counts the row axis is refused: a batch would mix strangers' rows. Families of ops lie
beside in modules, each with a table of the ops that it lifts. Above: `certification`; below: `templates`, `program`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from service.errors import VersionRefusedError
from service.program.constants import MAX_NUMBERS, Constant, refused
from service.program.domain_weight import recognized
from service.program.inlining import GraphNode, InlinedGraph
from service.program.lifting import (
    arithmetic,
    counting,
    elementwise,
    filters,
    layout,
    normalization,
    pointwise,
    products,
    reductions,
    slices,
)
from service.program.lifting.builder import Builder, Lift
from service.program.lifting.pointwise import Lifted
from service.program.operators import Identity
from service.program.pending import Pending
from service.program.program import AffineNode, AtomNode, Node, Program, Term, arguments, fuse, renumbered
from service.program.tensors import Rows, Tensor

OPS: Mapping[str, Lift] = {
    **arithmetic.OPS,
    **counting.OPS,
    **elementwise.OPS,
    **filters.OPS,
    **layout.OPS,
    **normalization.OPS,
    **pointwise.OPS,
    **products.OPS,
    **reductions.OPS,
    **slices.OPS,
}
"""What lifts an op, by its name."""


def lift(graph: InlinedGraph, dim: int, context: int = 0) -> Program:
    """Return the program of a graph's output.

    Args:
        graph: ends in one number per row, [n] or [n, 1].
        dim: number of features of x.
        context: number of features of the context, 0 for a graph without one.

    Raises:
        VersionRefusedError: rules `not-lifted` (an op or a form of it that is not understood), `row-axis`, `cast`,
            `finite-weights`, `output-shape`, `size-limit`; the reason names the node.
    """
    builder, result = _result(graph, dim, context)
    score = _score(None if result is None else pointwise.materialized(builder, result))
    return fuse(_trimmed(builder.nodes, score.node))


def lift_support(graph: InlinedGraph, dim: int, context: int = 0) -> Program:
    """Return the program of a graph's output that is a domain weight of each row: in [0, 1], of any curvature.

    Args:
        graph: ends in one number per row, [n].
        dim: number of features of x.
        context: number of features of the context, 0 for a graph without one.

    Raises:
        VersionRefusedError: as `lift`; and rule `support`, where the output is no `DomainWeight` of a distance.
    """
    builder, result = _result(graph, dim, context)
    match = recognized(builder.nodes, result.expression) if isinstance(result, Pending) else None
    if match is None or not isinstance(result, Pending) or result.shape != () or result.before != 1:
        reason = "the output support is no domain weight: the unit-peak bump of one distance, which lies in [0, 1]"
        raise VersionRefusedError("support", f"{reason}. Export it as training does, or leave it out.")
    argument, atom = match
    builder.nodes.append(AtomNode(1, argument, atom, result.name))
    return fuse(_trimmed(builder.nodes, len(builder.nodes) - 1))


def _result(graph: InlinedGraph, dim: int, context: int) -> tuple[Builder, Lifted | None]:
    """Return the nodes of a graph and what it ends in."""
    if dim + context > MAX_NUMBERS:
        raise VersionRefusedError("size-limit", f"rows of {dim + context} features, at most {MAX_NUMBERS} are read")
    builder = Builder(dim, context)
    tensors: list[tuple[Lifted | None, ...]] = []
    for node in graph.nodes:
        try:
            tensors.append(
                _lifted(builder, node, [_chosen(node, tensors, ref.node, ref.output) for ref in node.inputs])
            )
        except (ValueError, TypeError, LookupError, OverflowError) as err:  # attributes and shapes that do not fit
            raise refused("not-lifted", node, "has inputs or attributes that do not fit it") from err
    return builder, _chosen(graph.nodes[graph.output.node], tensors, graph.output.node, graph.output.output)


def _score(result: Tensor | None) -> Rows:
    """Return the tensor of the score, refused where it is not one number per row."""
    if isinstance(result, Rows) and result.copies != 1:
        raise VersionRefusedError("row-axis", "the score has an axis that was merged into the row axis")
    if not isinstance(result, Rows) or result.width != 1:
        shape = f"{result.width} numbers per row" if isinstance(result, Rows) else "a constant"
        raise VersionRefusedError(
            "output-shape", f"the score is {shape}, expected one number per row that depends on it"
        )
    return result


def _chosen(node: GraphNode, tensors: Sequence[tuple[Lifted | None, ...]], number: int, output: int) -> Lifted | None:
    """Return output number `output` of node `number`, which `node` reads."""
    outputs = tensors[number]
    if not 0 <= output < len(outputs):
        raise refused("not-lifted", node, f"reads output {output} of an op of which {len(outputs)} are understood")
    return outputs[output]


def _lifted(builder: Builder, node: GraphNode, inputs: Sequence[Lifted | None]) -> tuple[Lifted | None, ...]:
    """Return the outputs of `node`, or refuse it; None for what is no number of a row."""
    if node.op in {"Input", "Context"}:
        return (builder.row("x" if node.op == "Input" else "context"),)
    if node.op == "Constant":
        return (Constant.read(np.asarray(node.value), node.label),)
    if node.op in {"Examples", "Handle"}:
        return (None,)
    if node.op == "ParseExampleV2":
        return _parse_example(builder, node, inputs)
    known = [tensor for tensor in inputs if tensor is not None]
    if len(known) != len(inputs):
        raise refused("not-lifted", node, "reads serialized examples")
    if node.op not in OPS and node.op not in pointwise.EXPRESSED:
        raise refused("not-lifted", node, "is not understood on the way to the score")
    if pointwise.takes(builder, node, known):
        return pointwise.expressed(builder, node, known)
    outputs = OPS[node.op](builder, node, [pointwise.materialized(builder, tensor) for tensor in known])
    return outputs if isinstance(outputs, tuple) else (pointwise.settled(builder, node, outputs),)


def _parse_example(builder: Builder, node: GraphNode, inputs: Sequence[Lifted | None]) -> tuple[Rows, ...]:
    """Return the parsed features: the row under any name; with a context, `context` and then x, as TensorFlow sorts."""
    parts = ("context", "x") if builder.context else ("x",)
    rows = tuple(builder.row(part) for part in parts)
    dense_only = not node.attributes.get("num_sparse") and not node.attributes.get("ragged_value_types")
    defaults = inputs[5:]
    no_default = len(defaults) == len(parts) and all(
        isinstance(default, Constant) and default.array.size == 0 for default in defaults
    )
    float32 = node.attributes.get("Tdense") == (1,) * len(parts)
    fits = node.attributes.get("dense_shapes") == tuple(each.shape for each in rows) and inputs[0] is None
    keys = inputs[3] if len(inputs) > 3 else None
    named = len(parts) == 1 or (isinstance(keys, Constant) and [*keys.array.reshape(-1)] == [b"context", b"x"])
    if not (dense_only and float32 and no_default and fits and named):
        wanted = " and ".join(f"{part} [{each.width}]" for part, each in zip(parts, rows, strict=True))
        what = f"must parse dense float32 features without a default: {wanted}"
        raise refused("not-lifted", node, what)
    return rows


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
