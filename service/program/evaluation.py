"""Program to score and gradient in floats: forward pass and reverse mode over row batches.

Array-API style: the arrays of NumPy, CuPy and JAX work, whichever `namespace` is given. `tiles` stands above.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from service.program.operators import Identity
from service.program.program import (
    AffineNode,
    AtomNode,
    InputNode,
    LogSumExpNode,
    MaximumNode,
    Node,
    ProductNode,
    Program,
)

Array = Any


def evaluate(
    program: Program, rows: Array, *, gradient: bool = True, namespace: ModuleType = np
) -> tuple[Array, Array | None]:
    r"""Return scores and input-gradients of `rows`, in the dtype of `rows`.

    .. math:: f(x), \quad \partial f / \partial x

    The gradient is a subgradient by construction: each atom's slope lies between its one-sided derivatives, and a
    convex program only adds them with coefficients that are not negative. Numbers that leave the dtype come back as
    infinity or NaN; the caller checks.

    Args:
        program: the program.
        rows: [n, width], float32 or float64: x, and the context behind it where there is one.
        gradient: whether the gradient is wanted; without it no reverse pass is made and no slope is kept.
        namespace: the module of the arrays (numpy, cupy, jax.numpy).

    Returns:
        score [n], and gradient [n, dim] or None.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        values, slopes = _forward(program, rows, namespace, keep=gradient)
        score = values[-1][:, 0]
        return score, _reverse(program, rows, slopes, namespace) if gradient else None


def evaluate_both(program: Program, rows: Array, *, namespace: ModuleType = np) -> tuple[Array, Array]:
    """Return `evaluate`'s score [n] and gradient [n, dim]."""
    score, gradient = evaluate(program, rows, gradient=True, namespace=namespace)
    return score, gradient


def node_values(program: Program, rows: Array, *, namespace: ModuleType = np) -> list[Array]:
    """Return every node's values [n, width] on `rows`, in their dtype."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return _forward(program, rows, namespace, keep=False)[0]


def operations(program: Program) -> Iterator[tuple[int, Callable[[Array], tuple[Array, ...]]]]:
    """Yield everything that `evaluate` computes of rows except sums, maxima and products of two features, each alone.

    Those are exact or correctly rounded, element by element; the others may depend on how many rows there
    are. In NumPy.

    Yields:
        The number of features that an operation takes, and the operation: [n, features] -> arrays of n rows.
    """
    for node in program.nodes:
        if isinstance(node, AffineNode):
            for term in node.terms:
                operator = term.operator
                if not isinstance(operator, Identity):
                    yield program.nodes[term.argument].width, functools.partial(_map_alone, operator.apply)
                    yield node.width, functools.partial(_map_alone, operator.pull_back)
        elif isinstance(node, AtomNode):
            yield node.width, functools.partial(node.atom.value_and_slope, namespace=np)
        elif isinstance(node, LogSumExpNode):
            width = program.nodes[node.argument].width
            yield width, functools.partial(_log_sum_exp, node, namespace=np)


def _map_alone(linear: Callable[..., Array], values: Array) -> tuple[Array, ...]:
    return (linear(values, values.dtype, np),)


def prepared(program: Program, dtype: Any) -> Program:
    """Return the program with every constant in `dtype`, so that no call converts it; arrays of that dtype are shared.

    The values of `evaluate` for rows of that dtype do not change by a bit. It is no longer the program that was proved:
    its text has other hashes where a constant was converted.
    """

    def convert(node: Node) -> Node:
        if not isinstance(node, AffineNode):
            return node
        terms = tuple(
            term
            if term.operator.coefficients.dtype == dtype
            else dataclasses.replace(
                term,
                operator=dataclasses.replace(term.operator, coefficients=term.operator.coefficients.astype(dtype)),
            )
            for term in node.terms
        )
        bias = None if node.bias is None else node.bias.astype(dtype, copy=False)
        return dataclasses.replace(node, terms=terms, bias=bias)

    return Program(tuple(map(convert, program.nodes)))


def _forward(program: Program, rows: Array, namespace: ModuleType, *, keep: bool) -> tuple[list[Array], list[Array]]:
    values: list[Array] = []
    slopes: list[Array] = [None] * len(program.nodes)
    for position, node in enumerate(program.nodes):
        match node:
            case InputNode():
                values.append(rows)
            case AffineNode():
                values.append(_affine(node, values, rows.dtype, namespace))
            case AtomNode():
                value, slope = node.atom.value_and_slope(values[node.argument], namespace)
                values.append(value)
                slopes[position] = slope if keep else None
            case MaximumNode():
                first, second = (values[argument] for argument in node.arguments)
                values.append(namespace.maximum(first, second))
                slopes[position] = first >= second if keep else None
            case ProductNode():
                first, second = (values[argument] for argument in node.arguments)
                values.append(first * second)
                slopes[position] = (second, first) if keep else None
            case LogSumExpNode():
                value, slope = _log_sum_exp(node, values[node.argument], namespace)
                values.append(value)
                slopes[position] = slope if keep else None
    return values, slopes


def _log_sum_exp(node: LogSumExpNode, values: Array, namespace: ModuleType) -> tuple[Array, Array]:
    """Return the logarithms of sums [n, width] and the slopes, each run's softmax [n, width, k]."""
    runs = values.reshape(values.shape[0], node.width, -1)
    largest = runs.max(axis=-1, keepdims=True)
    parts = namespace.exp(runs - largest)
    total = parts.sum(axis=-1, keepdims=True)
    return (largest + namespace.log(total))[:, :, 0], parts / total


def _affine(node: AffineNode, values: list[Array], dtype: Any, namespace: ModuleType) -> Array:
    total, is_own = None, False
    for term in node.terms:
        image = term.operator.apply(values[term.argument], dtype, namespace)
        if total is None:
            total, is_own = image, not isinstance(term.operator, Identity)  # whose image is the argument itself
        else:
            total, is_own = _add(total, image, in_place=is_own), True
    return total if node.bias is None else _add(total, namespace.asarray(node.bias, dtype=dtype), in_place=is_own)


def _add(total: Array, image: Array, *, in_place: bool) -> Array:
    if not in_place:
        return total + image
    total += image  # arrays that cannot be changed make a new one
    return total


def _reverse(program: Program, rows: Array, slopes: list[Array], namespace: ModuleType) -> Array:
    adjoints: list[Array] = [None] * len(program.nodes)
    adjoints[-1] = namespace.ones((rows.shape[0], 1), dtype=rows.dtype)
    for position in range(len(program.nodes) - 1, 0, -1):
        node, adjoint = program.nodes[position], adjoints[position]
        if adjoint is None:
            continue
        for argument, contribution in _contributions(node, adjoint, slopes[position], namespace, program.fixed):
            present = adjoints[argument]
            adjoints[argument] = contribution if present is None else present + contribution
        adjoints[position] = None
    whole = namespace.zeros_like(rows) if adjoints[0] is None else adjoints[0]
    return whole[:, : program.dim] if program.context else whole


def _contributions(
    node: Node, adjoint: Array, slope: Array, namespace: ModuleType, fixed: frozenset[int]
) -> Iterator[tuple[int, Array]]:
    """Yield what a node's adjoint adds to the adjoint of each node that it reads, sums and products without `fixed`."""
    match node:
        case AffineNode():
            yield from _pulled_back(node, adjoint, namespace, fixed)
        case AtomNode():
            yield node.argument, adjoint * slope
        case MaximumNode():
            zero = namespace.zeros_like(adjoint)
            yield node.arguments[0], namespace.where(slope, adjoint, zero)
            yield node.arguments[1], namespace.where(slope, zero, adjoint)
        case ProductNode():
            yield from _multiplied(node, adjoint, slope, fixed)
        case LogSumExpNode():
            yield node.argument, (adjoint[:, :, None] * slope).reshape(adjoint.shape[0], -1)


def _pulled_back(
    node: AffineNode, adjoint: Array, namespace: ModuleType, fixed: frozenset[int]
) -> Iterator[tuple[int, Array]]:
    for term in node.terms:
        if term.argument not in fixed:
            yield term.argument, term.operator.pull_back(adjoint, adjoint.dtype, namespace)


def _multiplied(
    node: ProductNode, adjoint: Array, factors: tuple[Array, Array], fixed: frozenset[int]
) -> Iterator[tuple[int, Array]]:
    for argument, factor in zip(node.arguments, factors, strict=True):
        if argument not in fixed:
            yield argument, adjoint * factor
