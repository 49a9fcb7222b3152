"""TensorFlow functions lifted in memory, without a folder, and in float64 as an oracle."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from service.program.inlining import GraphNode, Inliner
from service.program.lifting import lift
from service.program.program import Program

Function = Callable[[Any], Any]


def lifted(function: Function, dim: int = 3) -> Program:
    """Return the program of a TensorFlow function of x [n, dim] without variables; its result is [n] or [n, 1]."""
    return lift(inlined(function, dim), dim)


def inlined(function: Function, dim: int) -> Any:
    """Return the inlined graph of a TensorFlow function of x [n, dim], all functions that it calls inlined."""
    concrete = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec([None, dim], tf.float32))
    with tf.Graph().as_default() as outer:
        concrete(tf.compat.v1.placeholder(tf.float32, [None, dim]))
    functions = {entry.signature.name: entry for entry in outer.as_graph_def().library.function}
    inliner = Inliner(functions, tf.make_ndarray)
    row = inliner.add(GraphNode("x", "Input"))
    return inliner.run(concrete.function_def.signature.name, [row], 0)


def total(x: Any) -> Any:
    """Return the sum over the features, [n]."""
    return tf.reduce_sum(x, axis=-1)


def score_of(function: Function) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """Return the function run eagerly by TensorFlow in float32."""
    return lambda rows: np.asarray(function(tf.constant(rows, tf.float32)), np.float64).reshape(-1)
