"""Products with constant matrices.

Beside the other families of `lifting`; below: `builder`, `constants`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from service.program.constants import Constant, coefficients, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.operators import Dense
from service.program.tensors import Rows, Tensor


def matmul(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return rows [n, k] times a constant matrix [k, m]."""
    left, right = inputs
    if not isinstance(left, Rows) or not isinstance(right, Constant) or left.rank != 2 or right.array.ndim != 2:
        raise refused("row-axis", node, "must multiply rows [n, k] by a constant matrix from the right")
    if node.attributes.get("transpose_a"):
        raise refused("row-axis", node, "transposes the rows")
    if node.attributes.get("transpose_b"):
        right = right.moved(np.transpose)
    matrix = np.ascontiguousarray(coefficients(node, right))
    if matrix.shape[0] != left.width:
        raise refused("not-lifted", node, f"multiplies {left.width} features by a matrix of {matrix.shape[0]} rows")
    return builder.affine(node.name, left, Dense(matrix, right.label), (matrix.shape[1],))


OPS: Mapping[str, Lift] = {"MatMul": matmul}
