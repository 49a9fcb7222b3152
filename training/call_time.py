"""Python that runs before each call of a function that TensorFlow has compiled, for what a trace cannot see.

At the bottom of training; `freezing` and `regularizers` use it. A `tf.function` runs its Python once, when it is
traced; what it then depends on may change without a word. A check that is registered while it is traced runs again,
as Python, before every later call of it: in `fit`, in a loop of one's own, and under XLA, where an assertion inside the
graph would be dropped. It costs a few microseconds a call.
"""

from collections.abc import Callable, Hashable

import tensorflow as tf


def is_tracing() -> bool:
    """Return whether the code that runs now is being traced, so that it will not run again when its function does."""
    return not tf.executing_eagerly()


def before_each_call(key: Hashable, check: Callable[[], object]) -> None:
    """Run `check` before each call of the function that is being traced; nothing happens outside a trace.

    A function that calls another one runs the other's checks too, whatever was traced first, also where the call
    stands inside a loop or a branch of the graph.

    Args:
        key: what is checked; the first check of a key is kept.
        check: what it raises, the call raises, before anything of it is executed.
    """
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and type(graph) is not tf.__internal__.FuncGraph:  # the body of a loop or a branch
        graph = getattr(graph, "outer_graph", None)
    if graph is None or key in graph.function_captures.by_ref_external:
        return

    def value() -> tf.Tensor:
        if is_tracing():  # a function that is being traced calls this one
            before_each_call(key, check)
        else:
            check()
        return tf.zeros(())

    with graph.as_default():
        graph.capture_call_time_value(value, tf.TensorSpec((), tf.float32), key=key)
    # What TensorFlow puts around the closure asks the innermost graph for a placeholder, and in the body of a loop
    # nobody feeds that one: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/distribute/
    # cross_device_utils.py#L317 works round the same. The closure itself gives a constant there.
    captures = graph.function_captures.by_ref_external
    value.output_spec = captures[key].output_spec  # type: ignore[attr-defined]  # what TensorFlow's own closure has
    captures[key] = value
