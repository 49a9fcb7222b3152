"""Products of rows with constant matrices and tensors: MatMul, BatchMatMul, Einsum.

All are one contraction, written with a letter for each axis. Beside the other families of `lifting`; below:
`builder`, `convolutions`.
"""

import functools
import math
import string
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.program.constants import Constant, coefficients, refused
from service.program.convolutions import Blocks
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.lifting.layout import rearranged
from service.program.operators import Dense
from service.program.tensors import Rows, Tensor

TWO_FUNCTIONS = "multiplies two functions of the row; only a square, or a sum of squares, is understood"


def matmul(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return rows [n, k] times a constant matrix [k, m]."""
    left, right = inputs
    if isinstance(left, Rows) and isinstance(right, Rows):
        flipped = node.attributes.get("transpose_a") or node.attributes.get("transpose_b")
        raise (
            refused("row-axis", node, "multiplies rows by rows")
            if flipped
            else refused("not-lifted", node, TWO_FUNCTIONS)
        )
    if not isinstance(left, Rows) or not isinstance(right, Constant) or left.rank != 2 or right.array.ndim != 2:
        raise refused("row-axis", node, "must multiply rows [n, k] by a constant matrix from the right")
    if node.attributes.get("transpose_a"):
        raise refused("row-axis", node, "transposes the rows")
    if node.attributes.get("transpose_b"):
        right = right.moved(np.transpose)
    if right.array.shape[0] != left.shape[0]:
        what = f"multiplies {left.shape[0]} features by a matrix of {right.array.shape[0]} rows"
        raise refused("not-lifted", node, what)
    return contract(builder, node, left, right, "nk,km->nm")


def batch_matmul(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return products of matrices of features with constant matrices, from either side."""
    left, right = inputs
    flips = [bool(node.attributes.get(key)) for key in ("adj_x", "adj_y")]
    if isinstance(left, Rows) and isinstance(right, Rows):
        raise refused("not-lifted", node, TWO_FUNCTIONS)
    if isinstance(left, Rows) and isinstance(right, Constant):
        rows, constant, order = left, right, "left"
    elif isinstance(left, Constant) and isinstance(right, Rows):
        rows, constant, order = right, left, "right"
    else:
        raise refused("row-axis", node, "must multiply rows by a constant")
    if rows.rank == 2 and constant.array.ndim == 2 and order == "left" and not flips[0]:
        flipped = constant.moved(np.transpose) if flips[1] else constant
        return contract(builder, node, rows, flipped, "nk,km->nm")
    if rows.rank < 3 or constant.array.ndim < 2:
        raise refused("row-axis", node, "must multiply matrices of features: the row axis is not one of theirs")
    batch = string.ascii_lowercase[: rows.rank - 3]
    rows, constant, shared = _aligned_batches(builder, node, rows, constant, batch)
    mine, other = ("TK", "KM") if order == "left" else ("KT", "MK")
    if flips[0 if order == "left" else 1]:
        mine = mine[::-1]
    if flips[1 if order == "left" else 0]:
        other = other[::-1]
    result = "TM" if order == "left" else "MT"
    return contract(builder, node, rows, constant, f"N{batch}{mine},{shared}{other}->N{batch}{result}")


def _aligned_batches(
    builder: Builder, node: GraphNode, rows: Rows, constant: Constant, batch: str
) -> tuple[Rows, Constant, str]:
    """Return rows and constant with batch axes that are equal or left out of the constant, and its letters."""
    shape = constant.array.shape[:-2]
    if len(shape) > len(batch) + 1 or (len(shape) == len(batch) + 1 and shape[0] != 1):
        raise refused(
            "row-axis", node, f"multiplies rows by a constant {list(constant.array.shape)} along the row axis"
        )
    shape = shape[1:] if len(shape) == len(batch) + 1 else shape
    letters = batch[len(batch) - len(shape) :]
    sizes = list(rows.shape)
    for letter, size in zip(letters, shape, strict=True):
        place = batch.index(letter)
        if sizes[place] == 1:
            sizes[place] = size
    rows = builder.broadcast(node.name, rows, tuple(sizes))
    kept = [(letter, size) for letter, size in zip(letters, shape, strict=True) if size != 1]
    wanted = (*(size for _, size in kept), *constant.array.shape[-2:])
    return rows, constant.reshaped(wanted), "".join(letter for letter, _ in kept)


def einsum(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return an Einstein sum of rows with a constant, or a transposition of rows."""
    terms, _, result = str(node.attributes["equation"]).replace(" ", "").partition("->")
    letters = terms.split(",")
    if len(letters) != len(inputs):
        raise refused("not-lifted", node, f"has {len(inputs)} inputs for {terms}")
    ranks = [tensor.rank if isinstance(tensor, Rows) else tensor.array.ndim for tensor in inputs]
    free = [letter for letter in string.ascii_letters if letter not in terms]
    hidden = max(rank - len(part) + 3 if "..." in part else 0 for part, rank in zip(letters, ranks, strict=True))
    names = "".join(free[:hidden])
    spelled = [
        part.replace("...", names[hidden - (rank - len(part) + 3) :]) if "..." in part else part
        for part, rank in zip(letters, ranks, strict=True)
    ]
    result = result.replace("...", names)
    if any(len(set(part)) != len(part) for part in (*spelled, result)):
        raise refused("not-lifted", node, f"repeats an axis in {terms}")
    if len(inputs) == 1 and isinstance(inputs[0], Rows):
        (part,) = spelled
        if not part or result[:1] != part[0] or sorted(part) != sorted(result):
            raise refused("row-axis", node, "must leave the row axis in front and sum nothing")
        order = tuple(part.index(letter) for letter in result)
        return rearranged(builder, node, inputs[0], functools.partial(np.transpose, axes=order))
    if len(inputs) != 2 or all(isinstance(tensor, Rows) for tensor in inputs):
        raise refused("not-lifted", node, TWO_FUNCTIONS)
    first = 0 if isinstance(inputs[0], Rows) else 1
    rows, constant = inputs[first], inputs[1 - first]
    if not isinstance(rows, Rows) or not isinstance(constant, Constant):
        raise refused("not-lifted", node, "must multiply rows by a constant")
    return contract(builder, node, rows, constant, f"{spelled[first]},{spelled[1 - first]}->{result}")


def contract(builder: Builder, node: GraphNode, rows: Rows, constant: Constant, equation: str) -> Rows:
    r"""Return the sum over the axes that rows and constant share and the result has not.

    .. math:: y_{g,p,o} = \sum_k v_{g,p,k} W_{g,k,o}

    with letters g in all three, p of the rows alone, k of both inputs, o of the constant alone.

    Args:
        builder: where the nodes go.
        node: the op.
        rows: [n, ...].
        constant: the other factor.
        equation: `rows' letters,constant's letters->result's letters`; the first letter of the rows is the row axis.

    Raises:
        VersionRefusedError: `row-axis`, where the row axis is moved, summed or met by the constant; `not-lifted`, where
            the axes do not fit.
    """
    inputs, result = equation.split("->")
    ours, theirs = inputs.split(",")
    if len(ours) != rows.rank or len(theirs) != constant.array.ndim or not ours:
        raise refused("not-lifted", node, f"has tensors that do not fit {equation}")
    if result[:1] != ours[0] or ours[0] in theirs:
        raise refused("row-axis", node, f"moves, sums or multiplies along the row axis: {equation}")
    size = dict(zip(theirs, constant.array.shape, strict=True))
    alone = set(ours[1:]) - set(theirs)
    if any(size.get(letter, own) != own for letter, own in zip(ours[1:], rows.shape, strict=True)):
        raise refused("not-lifted", node, f"has tensors of sizes that do not fit {equation}")
    if (
        not alone <= set(result)
        or not set(theirs) <= set(ours) | set(result)
        or not set(result) <= set(ours) | set(theirs)
    ):
        raise refused("not-lifted", node, f"sums an axis of one tensor alone: {equation}")
    size.update(zip(ours[1:], rows.shape, strict=True))
    blocks = [letter for letter in theirs if letter in ours and letter in result]
    free = [letter for letter in ours[1:] if letter in alone]
    summed = [letter for letter in ours[1:] if letter not in result]
    made = [letter for letter in theirs if letter not in ours]

    def count(letters: Sequence[str]) -> int:
        return math.prod(size[letter] for letter in letters)

    order = [*(ours.index(letter) for letter in blocks), 0, *(ours.index(letter) for letter in (*free, *summed))]
    builder.require(node.name, rows.copies * count(result[1:]))
    arranged = builder.select(node.name, rows.plain, rows.places.transpose(order).reshape(1, -1), "a transposition")
    matrices = constant.moved(
        functools.partial(np.transpose, axes=[theirs.index(letter) for letter in (*blocks, *summed, *made)])
    ).reshaped((count(blocks), count(summed), count(made)))
    product = _product(builder, node, arranged, matrices, positions=rows.copies * count(free))
    names = [*blocks, result[0], *free, *made]
    places: NDArray[np.int64] = product.places.reshape([{**size, result[0]: rows.copies}[letter] for letter in names])
    places = places.transpose([names.index(letter) for letter in result])
    ordered = builder.select(node.name, product, places.reshape(1, -1), "a transposition")
    return Rows(ordered.node, places.shape[1:], rows.before, rows.after)


def _product(builder: Builder, node: GraphNode, rows: Rows, matrices: Constant, *, positions: int) -> Rows:
    """Return features [blocks, positions, k] times matrices [blocks, k, m], flattened."""
    if matrices.array.shape[0] == 1 and positions == 1:
        matrix = matrices.reshaped(matrices.array.shape[1:])
        dense = Dense(np.ascontiguousarray(coefficients(node, matrix)), matrix.label, matrix.origin)
        return builder.affine(node.name, rows, dense, (matrix.array.shape[1],))
    weights = np.ascontiguousarray(coefficients(node, matrices))
    operator = Blocks(weights, matrices.label, matrices.origin, positions=positions)
    return builder.affine(node.name, rows, operator, (operator.output_width(rows.width),))


OPS: Mapping[str, Lift] = {
    "BatchMatMul": batch_matmul,
    "BatchMatMulV2": batch_matmul,
    "Einsum": einsum,
    "MatMul": matmul,
}
