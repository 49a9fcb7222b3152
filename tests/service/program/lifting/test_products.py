"""Products with constants: MatMul, BatchMatMul, Einsum, from either side; products of two functions are refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.program.convolutions import Blocks
from service.program.operators import Dense
from service.program.program import AffineNode
from tests.service.program.foreign_graphs import Case, check, refusal, refusal_of_nodes

DRAWN = np.random.default_rng(4)
MATRIX = DRAWN.standard_normal((12, 5)).astype(np.float32)
SMALL = DRAWN.standard_normal((4, 2)).astype(np.float32)
STACK = DRAWN.standard_normal((3, 4, 2)).astype(np.float32)
LEFT = DRAWN.standard_normal((5, 3)).astype(np.float32)


def exact(array: Any) -> Any:
    """Return an array in float64."""
    return array.astype(np.float64)


def grid(x: Any) -> Any:
    """Return rows [n, 3, 4] of [n, 12]."""
    return tf.reshape(x, [-1, 3, 4])


def cube(x: Any) -> Any:
    """Return rows [n, 1, 3, 4] of [n, 12]."""
    return tf.reshape(x, [-1, 1, 3, 4])


CASES = {
    "matrix": Case(lambda x: x @ MATRIX, lambda v: v @ exact(MATRIX)),
    "transposed matrix": Case(lambda x: tf.matmul(x, MATRIX.T.copy(), transpose_b=True), lambda v: v @ exact(MATRIX)),
    "chain": Case(lambda x: (x @ MATRIX) @ LEFT, lambda v: v @ exact(MATRIX) @ exact(LEFT)),
    "product of two matrices first": Case(
        lambda x: tf.linalg.matmul(grid(x), SMALL) + 0.5, lambda v: v.reshape(3, 4) @ exact(SMALL) + 0.5
    ),
    "matrix from the left": Case(lambda x: tf.matmul(LEFT, grid(x)), lambda v: exact(LEFT) @ v.reshape(3, 4)),
    "features transposed": Case(
        lambda x: tf.matmul(grid(x), LEFT.T.copy(), transpose_a=True), lambda v: v.reshape(3, 4).T @ exact(LEFT).T
    ),
    "both transposed": Case(
        lambda x: tf.matmul(grid(x), LEFT, transpose_a=True, transpose_b=True),
        lambda v: v.reshape(3, 4).T @ exact(LEFT).T
    ),
    "a matrix for each block": Case(
        lambda x: tf.matmul(tf.reshape(x, [-1, 3, 1, 4]), STACK), lambda v: v.reshape(3, 1, 4) @ exact(STACK)
    ),
    "a matrix for each block of one": Case(
        lambda x: tf.matmul(cube(x)[:, :, :1], STACK),
        lambda v: v.reshape(3, 4)[:1] @ exact(STACK),
    ),
    "one matrix with a block axis": Case(
        lambda x: tf.matmul(grid(x), STACK[:1]),
        lambda v: v.reshape(3, 4) @ exact(STACK[0]),
    ),
    "tensordot as Keras' Dense writes it": Case(
        lambda x: tf.tensordot(grid(x), SMALL, [[2], [0]]),
        lambda v: v.reshape(3, 4) @ exact(SMALL),
    ),
    "tensordot over two axes": Case(
        lambda x: tf.tensordot(grid(x), STACK, [[1, 2], [0, 1]]),
        lambda v: np.tensordot(v.reshape(3, 4), exact(STACK), 2)
    ),
    "einsum of a matrix": Case(lambda x: tf.einsum("bi,io->bo", x, MATRIX), lambda v: v @ exact(MATRIX)),
    "einsum, constant first": Case(
        lambda x: tf.einsum("pt,btc->bcp", LEFT, grid(x)),
        lambda v: (exact(LEFT) @ v.reshape(3, 4)).T,
    ),
    "einsum by blocks": Case(
        lambda x: tf.einsum("bhi,hio->boh", grid(x), STACK),
        lambda v: np.einsum("hi,hio->oh", v.reshape(3, 4), exact(STACK)),
    ),
    "einsum over all": Case(
        lambda x: tf.einsum("bhi,hio->bo", grid(x), STACK),
        lambda v: np.einsum("hi,hio->o", v.reshape(3, 4), exact(STACK)),
    ),
    "einsum with dots": Case(
        lambda x: tf.einsum("...i,io->...o", grid(x), SMALL),
        lambda v: v.reshape(3, 4) @ exact(SMALL),
    ),
    "einsum, outer": Case(
        lambda x: tf.einsum("bi,o->boi", x[:, :3], MATRIX[0]),
        lambda v: np.outer(exact(MATRIX[0]), v[:3]),
    ),
    "einsum, one for one": Case(
        lambda x: tf.einsum("bhi,hi->bih", grid(x), STACK[..., 0]),
        lambda v: (v.reshape(3, 4) * exact(STACK[..., 0])).T,
    ),
    "einsum that transposes": Case(lambda x: tf.einsum("bhi->bih", grid(x)), lambda v: v.reshape(3, 4).T),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_product_with_a_constant_is_its_own_function(name: str) -> None:
    """Score and gradient are those of the op written in float64, and those that TensorFlow computes."""
    check(CASES[name])


def test_product_over_positions_is_kept_as_one_small_matrix() -> None:
    """The map of 12 features to 6 is stored as the matrix [4, 2] of the model, not as one of [12, 6]."""
    program = check(CASES["product of two matrices first"])
    operators = [term.operator for node in program.nodes if isinstance(node, AffineNode) for term in node.terms]
    assert [(1, 4, 2)] == [operator.coefficients.shape for operator in operators if isinstance(operator, Blocks)]
    assert [(6, 1)] == [operator.coefficients.shape for operator in operators if isinstance(operator, Dense)]


def total(tensor: Any) -> Any:
    """Return the sum over the last axis."""
    return tf.reduce_sum(tensor, -1)


REFUSED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "gram matrix": ("row-axis", lambda x: total(tf.matmul(x, x, transpose_b=True))),
    "constant from the left of rows": ("row-axis", lambda x: total(tf.matmul(np.ones((2, 7), "f4"), x))),
    "sum over the rows by einsum": ("row-axis", lambda x: total(tf.einsum("bi,io->o", x, MATRIX) + x[:, :5])),
    "rows moved by einsum": ("row-axis", lambda x: total(tf.einsum("bi,io->ob", x, MATRIX))),
    "rows moved by einsum alone": ("row-axis", lambda x: total(tf.einsum("bi->ib", x))),
    "rows summed by einsum alone": ("row-axis", lambda x: total(tf.einsum("bi->i", x) + x)),
    "a weight for each row": ("row-axis", lambda x: total(tf.einsum("bi,b->bi", x, np.ones(7, "f4")))),
    "matrices for each row": ("row-axis", lambda x: total(total(tf.matmul(grid(x), np.ones((7, 4, 2), "f4"))))),
    "attention": ("not-lifted", lambda x: total(total(tf.matmul(grid(x), grid(x), transpose_b=True)))),
    "bilinear form": ("not-lifted", lambda x: tf.einsum("bi,bi->b", x @ MATRIX, x[:, :5])),
    "dot of two layers": (
        "not-lifted",
        lambda x: tf.squeeze(tf.matmul(grid(x)[:, :1], tf.transpose(grid(x)[:, 1:2], [0, 2, 1])), [1, 2]),
    ),
    "a negative matrix over positions": (
        "nonneg-matmul",
        lambda x: total(total(tf.matmul(tf.nn.softplus(grid(x)), SMALL))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_product_that_is_not_linear_in_each_row_is_refused_by_its_rule(name: str) -> None:
    """Products of two functions, and those along the rows, are refused by name."""
    rule, function = REFUSED[name]
    assert rule == refusal(function).rule


MALFORMED: dict[str, tuple[str, list[Any]]] = {
    "equation of three letters": ("not-lifted", [np.ones((3, 2)), ("Einsum", (0, 1), {"equation": "bij,jo->bo"})]),
    "equation of other sizes": ("not-lifted", [np.ones((4, 2)), ("Einsum", (0, 1), {"equation": "bi,io->bo"})]),
    "diagonal": ("not-lifted", [np.ones((2, 2)), ("Einsum", (0, 1), {"equation": "bi,oo->bi"})]),
    "sum of the constant alone": ("not-lifted", [np.ones((3, 2)), ("Einsum", (0, 1), {"equation": "bi,io->bi"})]),
    "output from nowhere": ("not-lifted", [np.ones((3, 2)), ("Einsum", (0, 1), {"equation": "bi,io->boz"})]),
    "no equation": ("not-lifted", [np.ones((3, 2)), ("Einsum", (0, 1), {})]),
    "three factors": ("not-lifted", [np.ones((3, 2)), ("Einsum", (0, 1, 1), {"equation": "bi,io,io->bo"})]),
    "vector from the right": ("row-axis", [np.ones(3), ("BatchMatMulV2", (0, 1), {})]),
    "two constants": ("row-axis", [np.ones((3, 3)), ("BatchMatMulV2", (1, 1), {}), ("MatMul", (0, 2), {})]),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_product_that_no_export_writes_is_refused_by_its_rule(name: str) -> None:
    """Equations that do not fit their tensors are refused."""
    rule, nodes = MALFORMED[name]
    assert rule == refusal_of_nodes(*nodes)
