"""TensorFlow functions of x and a context: those that are convex in x for each context, and those that are not.

Written from the mathematics, not from the rules of the proof: `PROVABLE` holds functions with a reason each, `REFUSED`
functions with the rule that must refuse them. x is [n, 3], the context [n, 2].
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from service.program.inlining import GraphNode, Inliner
from service.program.lifting import lift
from service.program.program import Program

DIM, CONTEXT = 3, 2
Function = Callable[[Any, Any], Any]

_random = np.random.default_rng(11)
A = _random.normal(size=(DIM, 4)).astype(np.float32)
B = _random.normal(size=(CONTEXT, 4)).astype(np.float32)
C = _random.normal(size=(CONTEXT, DIM)).astype(np.float32)
W = np.abs(_random.normal(size=(4, 4))).astype(np.float32)
V = np.abs(_random.normal(size=(4, 1))).astype(np.float32)


def lifted(function: Function, dim: int = DIM, context: int = CONTEXT) -> Program:
    """Return the program of a function of x [n, dim] and a context [n, context]."""
    specs = [tf.TensorSpec([None, width], tf.float32) for width in (dim, context)]
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    with tf.Graph().as_default() as outer:
        concrete(*(tf.compat.v1.placeholder(tf.float32, [None, width]) for width in (dim, context)))
    functions = {entry.signature.name: entry for entry in outer.as_graph_def().library.function}
    inliner = Inliner(functions, tf.make_ndarray)
    rows = [inliner.add(GraphNode("x", "Input")), inliner.add(GraphNode("context", "Context"))]
    return lift(inliner.run(concrete.function_def.signature.name, rows, 0), dim, context)


def total(values: Any) -> Any:
    """Return the sum over the features, [n]."""
    return tf.reduce_sum(values, axis=-1)


def hidden(x: Any) -> Any:
    """Return four convex functions of x."""
    return tf.nn.softplus(x @ A)


def network(x: Any, c: Any) -> Any:
    """Return a partially convex network, equation 3 of Amos et al. with two layers."""
    u = tf.nn.tanh(c @ B)
    z = tf.nn.softplus((x * (c @ C)) @ A + u)
    z = tf.nn.softplus((z * tf.nn.relu(u)) @ W + x @ A + u)
    return tf.squeeze((z * tf.nn.softplus(u)) @ V, -1)


PROVABLE: Mapping[str, Function] = {
    "the context alone": lambda x, c: total(tf.nn.tanh(c)) + 0.0 * total(x),
    "a relu gate on hidden units": lambda x, c: total(tf.nn.relu(c @ B) * hidden(x)),
    "a softplus gate": lambda x, c: total(tf.nn.softplus(c @ B) * hidden(x)),
    "a sigmoid gate": lambda x, c: total(tf.nn.sigmoid(c @ B) * hidden(x)),
    "an exp gate": lambda x, c: total(hidden(x) * tf.exp(c @ B)),
    "one gate for all units": lambda x, c: total(tf.nn.sigmoid(c[:, :1]) * hidden(x)),
    "a squared gate": lambda x, c: total(tf.square(c @ B) * hidden(x)),
    "a gate with a hand-written sigmoid": lambda x, c: total(hidden(x) / (1.0 + tf.exp(-(c @ B)))),
    "a clipped gate": lambda x, c: total(tf.maximum(tf.minimum(c @ B, 6.0), 0.0) * hidden(x)),
    "a product of two gates": lambda x, c: total(tf.nn.relu(c @ B) * tf.exp(c @ B) * hidden(x)),
    "a gate of any sign on x": lambda x, c: total(tf.nn.softplus((x * (c @ C)) @ A)),
    "a quadratic with a gate of any sign inside": lambda x, c: total(tf.square((x * (c @ C)) @ A)),
    "a concave function of the context": lambda x, c: total(hidden(x)) - total(tf.exp(c)),
    "a product of contexts": lambda x, c: total(hidden(x)) + c[:, 0] * c[:, 1],
    "silu of the context": lambda x, c: total(tf.nn.softplus(x @ A + tf.nn.silu(c @ B))),
    "softmax of the context by hand": lambda x, c: (
        total(tf.exp(c) / tf.reduce_sum(1 + tf.exp(c), -1, keepdims=True)) + total(hidden(x))
    ),
    "a negative factor on something concave": lambda x, c: total(-tf.exp(c @ B) * -hidden(x)),
    "x and the context side by side": lambda x, c: total(tf.nn.softplus(tf.concat([x, c], -1) @ np.vstack([A, B]))),
    "a maximum with the context": lambda x, c: total(tf.maximum(x @ A, c @ B)),
    "a gate on a maximum": lambda x, c: total(tf.nn.relu(c @ B) * tf.maximum(x @ A, c @ B)),
    "the network": network,
}
"""Functions that are convex in x for each context."""

REFUSED: Mapping[str, tuple[str, Function]] = {
    "a linear gate": ("context-sign", lambda x, c: total((c @ B) * hidden(x))),
    "a tanh gate": ("context-sign", lambda x, c: total(tf.nn.tanh(c @ B) * hidden(x))),
    "a leaky gate": ("context-sign", lambda x, c: total(tf.nn.leaky_relu(c @ B) * hidden(x))),
    "an elu gate": ("context-sign", lambda x, c: total(tf.nn.elu(c @ B) * hidden(x))),
    "a softplus gate less a little": ("context-sign", lambda x, c: total((tf.nn.softplus(c @ B) - 1e-6) * hidden(x))),
    "a gate that is negated": ("context-sign", lambda x, c: total(-tf.nn.relu(c @ B) * hidden(x))),
    "a quadratic with a coefficient of any sign": ("context-sign", lambda x, c: c[:, 0] * total(tf.square(x))),
    "x squared, by the context in between": ("context-sign", lambda x, c: total(x * x * (c @ C))),
    "one gate of several negative": (
        "context-sign",
        lambda x, c: total(tf.concat([tf.nn.relu(c @ B)[:, :3], c[:, :1]], -1) * hidden(x)),
    ),
    "a gated unit under a negative kernel": ("nonneg-matmul", lambda x, c: (tf.exp(c @ B) * hidden(x)) @ -V),
    "a concave function of x": ("nonneg-scale", lambda x, c: total(tf.exp(c @ B)) - total(hidden(x))),
    "a concave function, gated": ("atom-convex", lambda x, c: total(tf.exp(c @ B) * tf.minimum(x @ A, 0.0))),
    "a product of functions of x": ("not-lifted", lambda x, c: total((x + c[:, :1]) * (x * 2.0 - c[:, 1:]))),
    "a product with a function of both": ("not-lifted", lambda x, c: total(tf.nn.relu(x @ A + c @ B) * (x @ A))),
    "a sigmoid of both": ("not-lifted", lambda x, c: total(tf.nn.sigmoid(x @ A + c @ B))),
    "a tanh of x by the context": ("not-lifted", lambda x, c: total(tf.nn.tanh(x * (c @ C)))),
    "a logarithm of the context": ("atom-convex", lambda x, c: total(hidden(x)) + total(tf.math.log(c))),
    "a quotient by the context": ("not-lifted", lambda x, c: total(hidden(x) / (c @ B))),
    "a quotient by a softplus, which may vanish": ("not-lifted", lambda x, c: total(hidden(x) / tf.nn.softplus(c @ B))),
    "a power of the context": ("not-lifted", lambda x, c: total(hidden(x) * tf.pow(tf.abs(c @ B), x[:, :1]))),
    "the context's mean over the rows": ("row-axis", lambda x, c: total(hidden(x) + tf.reduce_mean(c @ B, axis=0))),
    "the context as a matrix over rows": ("row-axis", lambda x, c: total(tf.matmul(c, c, transpose_b=True) @ x)),
    "the context's running sum": ("not-lifted", lambda x, c: total(hidden(x) + tf.cumsum(c @ B, axis=0))),
    "a softmax over the rows": ("row-axis", lambda x, c: total(tf.nn.softmax(c @ B, axis=0) * hidden(x))),
    "rows chosen by the context": ("not-lifted", lambda x, c: total(tf.gather(x, tf.argsort(c[:, 0]), axis=0))),
    "a step of the context": ("not-lifted", lambda x, c: total(tf.where(c @ B > 0.0, 1.0, 0.0) * hidden(x))),
    "a choice by x between contexts": ("not-lifted", lambda x, c: total(tf.where(x[:, :2] > 0.0, c, 2.0 * c))),
    "the context rounded": ("not-lifted", lambda x, c: total(tf.floor(tf.abs(c @ B)) * hidden(x))),
    "the context in half precision": (
        "cast",
        lambda x, c: total(tf.cast(tf.cast(tf.exp(c @ B), tf.float16), tf.float32) * hidden(x)),
    ),
}
"""Functions that must be refused, and the rule."""
