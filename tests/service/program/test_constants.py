"""Constants computed from constants: what hangs on denormals or on the order of a sum is no proof's ground.

TensorFlow runs with denormals flushed to zero, and its graph optimiser reorders sums that hold a constant: the two
models saved here are concave when they are served, and each passed for convex by the numbers of the file alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.certification import certify
from service.program.constants import Constant, coefficients, folded
from service.program.inlining import GraphNode
from tests.service.program import foreign_models as foreign

NODE = GraphNode("node", "Mul")
DENORMAL = 1e-40


def read(*values: float, dtype: Any = np.float32) -> Constant:
    """Return a constant of the file."""
    return Constant(np.array(values, dtype), "read")


def rule_of(first: Constant, second: Constant, operation: Any) -> str:
    """Return the rule by which a computed constant is refused as weights."""
    with pytest.raises(VersionRefusedError) as caught:
        coefficients(NODE, folded(NODE, first, second, operation))
    return caught.value.rule


def saved(folder: Path, weight: Any, **values: float) -> Path:
    """Save softplus(x) summed and multiplied by `weight(module)`, whose variables are `values`."""
    module = foreign.Scoring()
    for name, value in values.items():
        setattr(module, name, tf.Variable(np.float32(value), name=name))
    return foreign.save(folder, lambda x: tf.reduce_sum(tf.nn.softplus(x), -1) * weight(module), module)


CONCAVE = {
    "denormal": (lambda m: m.tiny * m.big - 0.005, {"tiny": DENORMAL, "big": 1e38}),
    "denormal product": (lambda m: m.a * m.b * m.big - 0.005, {"a": 1e-30, "b": 1e-10, "big": 1e38}),
    "reordered sum": (
        lambda m: (m.a - ((m.b + 0.5) - 0.5)) + m.c,
        {"a": 8388607.5, "b": 8388608.0, "c": 0.25},
    ),
}


@pytest.mark.parametrize("name", CONCAVE)
def test_weight_that_tensorflow_computes_with_another_sign_is_refused(name: str, tmp_path: Path) -> None:
    """Served by TensorFlow the score is below zero, a negative multiple of softplus; the file must not be proved."""
    weight, values = CONCAVE[name]
    folder = saved(tmp_path / "model", weight, **values)
    served = tf.saved_model.load(str(folder)).signatures["serving_default"](x=tf.zeros([2, foreign.DIM]))["score"]
    assert (served.numpy() < 0).all()
    with pytest.raises(VersionRefusedError) as caught:
        certify(folder)
    assert "not-lifted" == caught.value.rule


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_with_denormals_are_refused_only_where_they_count(dtype: Any) -> None:
    """A denormal times a large number is refused; a square that underflows is 0 on every machine."""
    least = float(np.finfo(dtype).smallest_subnormal)
    big = float(np.finfo(dtype).max)
    assert "not-lifted" == rule_of(read(least, dtype=dtype), read(big, dtype=dtype), np.multiply)
    assert "not-lifted" == rule_of(read(least, dtype=dtype), read(least, dtype=dtype), np.divide)
    small = read(least * 2**20, 0.0, -0.0, 1.0, dtype=dtype)
    assert [0.0, 0.0, 0.0, 1.0] == coefficients(NODE, folded(NODE, small, small, np.multiply)).tolist()


def test_sum_of_computed_constants_needs_a_certain_sign_as_weights() -> None:
    """2 x 3 - 1 is 5 in any order; 2 x 3 - 6 may come out a little below 0, so it is no weight."""
    six = folded(NODE, read(2.0), read(3.0), np.multiply)
    assert [5.0] == coefficients(NODE, folded(NODE, six, read(1.0), np.subtract)).tolist()
    nothing = folded(NODE, six, read(6.0), np.subtract)
    assert not nothing.signed
    assert "not-lifted" == rule_of(nothing, read(2.0), np.multiply)
    assert "not-lifted" == rule_of(nothing.reshaped((1, 1)), read(2.0), np.divide)
    assert [1.0] == coefficients(NODE, folded(NODE, read(1.5), read(0.5), np.subtract)).tolist()


def test_difference_of_two_read_constants_has_one_order_and_an_exact_sign() -> None:
    """A sum of two numbers of the file is one correctly rounded operation, cancelling or not."""
    above = float(np.nextafter(np.float32(1), np.float32(2)))
    assert [above - 1.0, 0.0] == coefficients(
        NODE, folded(NODE, read(above, 1.0), read(1.0, 1.0), np.subtract)
    ).tolist()


def test_zero_in_every_order_is_a_certain_zero() -> None:
    """A mask's zeros stay weights, however often they are multiplied and added."""
    masked = folded(NODE, read(0.0, 2.0), read(5.0, 5.0), np.multiply)
    assert [0.0, 20.0] == coefficients(NODE, folded(NODE, masked, masked, np.add)).tolist()
