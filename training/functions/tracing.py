"""What TensorFlow makes of a function: the operations of its graph, each with its type and its inputs.

Beside the other modules of `training.functions`; for reading, not for running.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a graph.

    Args:
        name: its name; of a function that the graph calls, with that function's name in front.
        type: TensorFlow's op type, e.g. `Mul`; an argument of the function is a `Placeholder`.
        inputs: the names of the operations whose results it reads.
    """

    name: str
    type: str
    inputs: tuple[str, ...]

    def __str__(self) -> str:
        """Return `name = Type(inputs)`."""
        return f"{self.name} = {self.type}({', '.join(self.inputs)})"


def graph_report(function: Callable[..., Any], *signature: Any) -> tuple[Operation, ...]:
    """Return the operations that a call of `function` makes, arguments and constants first where it made them first.

    The function is called once, with symbolic tensors that have a dtype and a shape and no value: what it does besides
    (print, count, draw random numbers, look at a clock) happens then, and not when the graph runs.

    Example:
        >>> for operation in graph_report(lambda x: 2.0 * x, tf.TensorSpec([None], tf.float32)):
        ...     str(operation)
        'arguments_0 = Placeholder()'
        'mul/x = Const()'
        'mul = Mul(mul/x, arguments_0)'
        'Identity = Identity(mul)'

    Args:
        function: of tensors; also a `tf.function`, or a Keras layer.
        *signature: a `tf.TensorSpec` for each argument.
    """
    traced = tf.function(lambda *arguments: function(*arguments), autograph=False)
    graph = traced.get_concrete_function(*signature).graph.as_graph_def()
    return (*_operations("", graph.node), *_called(graph.library.function))


def _called(functions: Sequence[Any]) -> Iterator[Operation]:
    """Yield the operations of the functions that a graph calls."""
    for function in functions:
        prefix = f"{function.signature.name}/"
        for argument in function.signature.input_arg:
            yield Operation(prefix + argument.name, "Placeholder", ())
        yield from _operations(prefix, function.node_def)


def _operations(prefix: str, nodes: Sequence[Any]) -> Iterator[Operation]:
    for node in nodes:
        inputs = tuple(prefix + name.split(":")[0] for name in node.input if not name.startswith("^"))
        yield Operation(prefix + node.name, node.op, inputs)
