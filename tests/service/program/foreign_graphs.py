"""Graphs of plain TensorFlow and Keras, lifted from memory: saving a model for each test would be slow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.curvature import prove
from service.program.evaluation import evaluate_both
from service.program.inlining import GraphNode, InlinedGraph, Inliner, Reference
from service.program.lifting import lift
from service.program.program import Program

Function = Callable[[Any], Any]
Numbers = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Case:
    """An op of TensorFlow and what it computes, written in float64 NumPy.

    Args:
        function: rows [n, dim] -> tensor [n, ...].
        expected: the same of one row [dim], in float64.
        dim: number of features of a row.
    """

    function: Function
    expected: Callable[[Numbers], Numbers]
    dim: int = 12


def inlined(function: Function, dim: int) -> InlinedGraph:
    """Return the inlined graph of a function of rows [n, dim], variables by their values."""
    traced = tf.function(function, input_signature=[tf.TensorSpec([None, dim], tf.float32, name="x")])
    concrete = traced.get_concrete_function()
    library = {definition.signature.name: definition for definition in concrete.graph.as_graph_def().library.function}
    library[concrete.function_def.signature.name] = concrete.function_def
    inliner = Inliner(library, lambda tensor: np.asarray(tf.make_ndarray(tensor)))
    arguments = [inliner.add(GraphNode("x", "Input"))]
    variables = {id(variable.handle): variable for variable in concrete.graph.variables}
    arguments += [inliner.add(_captured(each, variables.get(id(each)))) for each in concrete.captured_inputs]
    return inliner.run(concrete.function_def.signature.name, arguments, 0)


def _captured(tensor: Any, variable: Any) -> GraphNode:
    if variable is None:
        return GraphNode("captured", "Constant", value=tensor.numpy(), label="captured")
    name = getattr(variable, "path", None) or variable.name.split(":")[0]
    return GraphNode(name, "Handle", value=variable.numpy(), label=name)


def lifted(function: Function, dim: int) -> Program:
    """Return the program of a function of rows [n, dim] with one number per row."""
    return lift(inlined(function, dim), dim)


def refusal(function: Function, dim: int = 12) -> VersionRefusedError:
    """Return how a function of rows [n, dim] is refused, by lifting or by the proof.

    Raises:
        AssertionError: if it is proved.
    """
    try:
        prove(lifted(function, dim))
    except VersionRefusedError as err:
        return err
    message = "a function that must be refused was proved convex"
    raise AssertionError(message)


def refusal_of_nodes(*nodes: tuple[str, tuple[Any, ...], dict[str, Any]] | NDArray[Any], dim: int = 3) -> str:
    """Return the rule by which the graph of an input and then `nodes` is refused, its last node the score.

    A node is a constant, or an op with the numbers of its inputs (or pairs of number and output) and its attributes.

    Raises:
        AssertionError: if it is lifted.
    """
    graph = [GraphNode("x", "Input")]
    for number, node in enumerate(nodes, start=1):
        if isinstance(node, np.ndarray):
            graph.append(GraphNode(f"node_{number}", "Constant", value=node, label=f"constant_{number}"))
        else:
            op, inputs, attributes = node
            references = tuple(Reference(*((ref, 0) if isinstance(ref, int) else ref)) for ref in inputs)
            graph.append(GraphNode(f"node_{number}", op, references, attributes))
    try:
        lift(InlinedGraph(tuple(graph), Reference(len(graph) - 1)), dim)
    except VersionRefusedError as err:
        return err.rule
    message = "a graph that must be refused was lifted"
    raise AssertionError(message)


def rows_for(dim: int, count: int = 16) -> NDArray[np.float32]:
    """Return rows of ordinary size."""
    return np.random.default_rng(dim).standard_normal((count, dim)).astype(np.float32) * 2


def check(case: Case) -> Program:
    """Require that the op is lifted to its own function, in float64 and as TensorFlow computes it in float32.

    What the op gives goes through a softplus and is weighted, so that every number of it counts with its own slope.

    Returns:
        The program, which is proved.
    """
    rows = rows_for(case.dim)
    width = case.expected(np.zeros(case.dim)).size
    weights = np.random.default_rng(1).uniform(0.5, 2.0, width).astype(np.float32)

    def scored(x: Any) -> Any:
        return tf.linalg.matvec(tf.nn.softplus(tf.reshape(case.function(x), [-1, width])), weights)

    def closed_form(row: Numbers) -> float:
        return float(np.logaddexp(0.0, case.expected(row).reshape(-1)) @ weights.astype(np.float64))

    program = lifted(
        lambda x: tf.reduce_sum(tf.nn.softplus(tf.reshape(case.function(x), [-1, width])) * weights, -1), case.dim
    )
    prove(program)
    exact, slope = evaluate_both(program, rows.astype(np.float64))
    expected = np.array([closed_form(row) for row in rows.astype(np.float64)])
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    direction = np.random.default_rng(2).standard_normal(case.dim) * 1e-6
    ends = [np.array([closed_form(row + sign * direction) for row in rows.astype(np.float64)]) for sign in (1, -1)]
    derivative = (ends[0] - ends[1]) / 2
    np.testing.assert_allclose(slope @ direction, derivative, rtol=0, atol=2e-5 * np.abs(derivative).max())
    x = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = scored(x)
    score, gradient = evaluate_both(program, rows)
    np.testing.assert_allclose(score, value, rtol=0, atol=1e-6 * np.abs(score).max())
    np.testing.assert_allclose(gradient, tape.gradient(value, x), rtol=0, atol=1e-6 * np.abs(gradient).max())
    return program
