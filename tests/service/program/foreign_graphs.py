"""Graphs of plain TensorFlow and Keras, lifted from memory: saving a model for each test would be slow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.certification import Certified  # noqa: F401  (the layer above what is tested here)
from service.program.curvature import prove
from service.program.evaluation import evaluate_both
from service.program.graph import _decode_constant
from service.program.inlining import GraphNode, Inliner, InlinedGraph
from service.program.lifting import lift
from service.program.program import Program

Function = Callable[[Any], Any]


def inlined(function: Function, dim: int) -> InlinedGraph:
    """Return the inlined graph of a function of rows [n, dim], variables by their values."""
    traced = tf.function(function, input_signature=[tf.TensorSpec([None, dim], tf.float32, name="x")])
    concrete = traced.get_concrete_function()
    library = {definition.signature.name: definition for definition in concrete.graph.as_graph_def().library.function}
    definition = concrete.function_def
    library[definition.signature.name] = definition
    inliner = Inliner(library, _decode_constant)
    arguments = [inliner.add(GraphNode("x", "Input"))]
    variables = {id(variable.handle): variable for variable in concrete.graph.variables}
    for captured in concrete.captured_inputs:
        variable = variables.get(id(captured))
        if variable is None:
            arguments.append(inliner.add(GraphNode("captured", "Constant", value=captured.numpy(), label="captured")))
        else:
            name = getattr(variable, "path", None) or variable.name.split(":")[0]
            arguments.append(inliner.add(GraphNode(name, "Handle", value=variable.numpy(), label=name)))
    return inliner.run(definition.signature.name, arguments, 0)


def lifted(function: Function, dim: int) -> Program:
    """Return the program of a function of rows [n, dim] with one number per row."""
    return lift(inlined(function, dim), dim)


def refusal(function: Function, dim: int) -> VersionRefusedError:
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


def rows_for(dim: int, count: int = 24, seed: int = 3) -> NDArray[np.float32]:
    """Return rows of ordinary size."""
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32) * 2


def differences(program: Program, function: Function, rows: NDArray[np.float32]) -> tuple[float, float]:
    """Return how far a program's float32 score and gradient are from TensorFlow's, as shares of the largest."""
    x = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reshape(function(x), [-1])
    expected, slopes = value.numpy(), tape.gradient(value, x).numpy()
    score, gradient = evaluate_both(program, rows)
    return (
        float(np.abs(score - expected).max() / max(np.abs(expected).max(), 1e-30)),
        float(np.abs(gradient - slopes).max() / max(np.abs(slopes).max(), 1e-30)),
    )
