"""What a function becomes in a graph."""

import keras
import tensorflow as tf

from training.functions.tracing import graph_report

ROWS = tf.TensorSpec([None, 3], tf.float32)


def test_s17_f_report_of_twice_x_shows_one_multiplication_of_placeholder_and_constant():
    """Y = 2x is one multiplication, whose inputs are the placeholder and a constant."""
    report = graph_report(lambda x: 2.0 * x, tf.TensorSpec([None], tf.float32))
    by_name = {operation.name: operation for operation in report}
    (product,) = [operation for operation in report if operation.type == "Mul"]
    assert ["Const", "Placeholder"] == sorted(by_name[name].type for name in product.inputs)
    assert f"{product.name} = Mul({', '.join(product.inputs)})" == str(product)


def test_report_of_a_sum_shows_the_reduction_and_what_it_reads():
    """It applies to reductions such as a sum as well."""
    report = graph_report(lambda x: keras.ops.sum(2.0 * x, axis=-1), ROWS)
    by_name = {operation.name: operation for operation in report}
    (total,) = [operation for operation in report if operation.type == "Sum"]
    assert ["Mul", "Const"] == [by_name[name].type for name in total.inputs]


def test_report_shows_the_operations_of_a_function_that_is_called():
    """What tf.function hides behind one operation is listed with the called function's name in front."""
    report = graph_report(tf.function(lambda x: tf.exp(x)), ROWS)
    types = [operation.type for operation in report]
    assert 1 == types.count("PartitionedCall")
    (inner,) = [operation for operation in report if operation.type == "Exp"]
    by_name = {operation.name: operation for operation in report}
    assert ["Placeholder"] == [by_name[name].type for name in inner.inputs]
    assert "/" in inner.name


def test_report_takes_several_arguments_and_calls_the_function_once():
    """Each argument is a placeholder, and the function is called once, with symbolic tensors."""
    calls = []

    def function(x, y):
        calls.append((tf.is_symbolic_tensor(x), y.dtype.name))
        return x + tf.cast(y, tf.float32)

    report = graph_report(function, ROWS, tf.TensorSpec([None, 3], tf.float64))
    assert [(True, "float64")] == calls
    assert 2 == [operation.type for operation in report].count("Placeholder")
