"""Functions of one's own inside a model, and where their gradients come from. Run: PYTHONPATH=. python THIS_FILE.

docs/user-functions.md explains it.
"""

import keras
import numpy as np
import tensorflow as tf

from training.audit import audit, value_subject
from training.functions.registry import FunctionRefusedError, register
from training.functions.tracing import graph_report
from training.gradients import loss_gradients
from training.layers.function import Function

calls = []


@register("question.twice")
def twice(x):
    """Return 2x, and keep what it was called with."""
    calls.append(x)
    return 2.0 * x


def softmax(x):
    """Return the softmax of each row, composed of three operations."""
    shifted = keras.ops.exp(x - keras.ops.max(x, axis=-1, keepdims=True))
    return shifted / keras.ops.sum(shifted, axis=-1, keepdims=True)


def softmax_gradient(x, upstream):
    """Return the analytic gradient, in operations that can be differentiated again."""
    value = softmax(x)
    return value * (upstream - keras.ops.sum(upstream * value, axis=-1, keepdims=True))


def wrong_gradient(x, upstream):
    """Return one percent too much."""
    return 1.01 * softmax_gradient(x, upstream)


@register("question.rounded")
def rounded(x):
    """Return the nearest whole numbers."""
    return keras.ops.round(x)


def model_with(function):
    """Return dense, function, dense."""
    keras.utils.set_random_seed(1)
    rows = keras.Input((4,))
    hidden = Function(function, name="function")(keras.layers.Dense(3, name="before")(rows))
    return keras.Model(rows, keras.layers.Dense(1, name="after")(hidden))


def mean_square(target, output):
    """Return squared errors."""
    return keras.ops.square(output - target)


def main():
    """Ask the four questions of the thread."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(96, 4)).astype("float32"), rng.normal(size=(96, 1)).astype("float32")

    model = model_with("question.twice")
    gradients = loss_gradients(model, mean_square, x, y)
    print("weights of the function's layer:", len(model.get_layer("function").weights))
    print("gradients for:", ", ".join(variable.path for variable in gradients))

    calls.clear()
    model.compile(optimizer="sgd", loss=mean_square)
    model.fit(x, y, batch_size=12, epochs=3, verbose=0)
    symbolic = all(not hasattr(each, "numpy") for each in calls)
    print(f"calls in 24 batches: {len(calls)}, with symbolic tensors only: {symbolic}")
    for operation in graph_report(twice, tf.TensorSpec([None], tf.float32)):
        print("   ", operation)

    register("question.softmax", gradient=softmax_gradient, row_shape=(5,))(softmax)
    try:
        register("question.wrong", gradient=wrong_gradient, row_shape=(5,))(softmax)
    except FunctionRefusedError:
        print("an analytic gradient that is one percent wrong is refused")

    for found in audit(value_subject(model_with("question.rounded"), mean_square, x, y)).listed:
        print(f"{found.variable}: {found.rule}")


if __name__ == "__main__":
    main()
