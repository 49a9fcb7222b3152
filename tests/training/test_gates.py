"""The registry of gates: what may multiply a hidden unit, and why other functions may not."""

import keras
import numpy as np
import pytest

from training import gates
from training.activations import ActivationRefusedError

ARGUMENTS = np.concatenate([-np.logspace(-6, 2, 200)[::-1], [0.0], np.logspace(-6, np.log10(80), 200)])


@pytest.mark.parametrize("name", gates.GATES)
def test_offered_gate_is_never_negative_and_starts_near_one(name):
    """On a wide grid in float32 no value is below 0, and the start is open: 1, or for the sigmoid close to it."""
    gate = gates.resolve(name)
    values = np.asarray(gate.function(np.float32(ARGUMENTS)))
    assert (values >= 0).all()
    assert float(np.asarray(gate.function(np.float32(gate.start)))) == pytest.approx(1.0, abs=0.13)


@pytest.mark.parametrize("name", gates.REFUSED)
def test_d3_t3_gate_that_can_be_negative_is_refused_with_a_counterexample(name):
    """The refusal brings three points at which the gate times |x| violates midpoint convexity, as computed here."""
    with pytest.raises(ActivationRefusedError, match="can be negative") as caught:
        gates.resolve(name)
    found = caught.value.counterexample
    left, middle, right = found.points
    assert (left + right) / 2 == middle
    assert found.values[1] > (found.values[0] + found.values[2]) / 2
    at = float(found.function.partition("(")[2].partition(")")[0])
    factor = at if name == "linear" else _values(name, at)
    np.testing.assert_allclose(found.values, [factor * abs(point) for point in found.points], rtol=1e-5)


def _values(name, at):
    """Return a function of Keras, or of NumPy, at one number."""
    if name in {"sin", "cos"}:
        return getattr(np, name)(at)
    if name == "smooth_leaky":
        return 0.2 * at + 0.8 * np.logaddexp(0.0, at)
    if name == "mish":
        return at * np.tanh(np.logaddexp(0.0, at))
    if name == "leaky_relu":
        return float(np.asarray(keras.ops.leaky_relu(np.float32(at), 0.2)))
    if name == "gelu":
        return float(np.asarray(keras.ops.gelu(np.float32(at), approximate=False)))
    return float(np.asarray(getattr(keras.ops, "silu" if name == "swish" else name)(np.float32(at))))


def test_unknown_gate_is_refused_without_a_counterexample():
    """A name that nobody knows is refused with the names that there are."""
    with pytest.raises(ActivationRefusedError, match=r"is not known\. Use one of: softplus, relu") as caught:
        gates.resolve("gaussian")
    assert caught.value.counterexample is None
