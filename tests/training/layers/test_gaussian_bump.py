"""The Gaussian bump: its closed forms, its grid, what it learns, what can be frozen, and why it is refused."""

import itertools
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.oracle import bumps
from tests.training.layers.bump_grid import derivatives, grid, num_not_finite
from tests.training.layers.bump_recovery import Problems, recover
from training.activations import ActivationRefusedError
from training.icnn import InputConvexNetwork
from training.layers.bump import Bump
from training.layers.gaussian_bump import GaussianBump, gaussian, largest_offset
from training.layers.localized import Localized

PAGE = Path(__file__).parents[3] / "docs" / "bump-layer.md"


def built(shape=(None, 1), height=1.0, width=1.0, center=0.0, **arguments):
    """Return a Gaussian bump for inputs of a shape, with its three numbers set."""
    layer = GaussianBump(**arguments)
    layer.build(shape)
    layer.set_width(width)
    for variable, value in ((layer.height, height), (layer.center, center)):
        variable.assign(np.broadcast_to(np.float32(value), tuple(variable.shape)))
    return layer


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize(("h", "w", "c"), [(1.0, 1.0, 0.0), (-2.0, 0.1, 3.0), (0.5, 40.0, -7.0)])
def test_s28_a_value_and_the_four_derivatives_are_those_of_the_closed_forms(h, w, c, compiled):
    """G and its derivatives by x, h, w and c equal float64, within 1e-5 of their largest."""
    x = (c + w * np.linspace(-6, 6, 4001)).astype(np.float32)
    parts = [np.full(4001, number, np.float32) for number in (h, w, c)]
    found = derivatives(gaussian, x, *parts, compiled=compiled)
    expected = bumps.gaussian(x, *(part.astype(float) for part in parts))
    for received, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(exact, received, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("c", [0.0, 1.0, -1.0, 1e30, -1e30])
def test_s28_b_value_and_derivatives_are_finite_on_the_grid(c, compiled):
    """On the 28,336 pairs of the bump's grid, s read as w, with centres up to 1e30: nothing is NaN or infinite."""
    w, x = grid()
    h = np.full(x.size, 2.0, np.float32)
    parts = derivatives(gaussian, x, h, w, np.full(x.size, c, np.float32), compiled=compiled)
    assert [0] * 5 == num_not_finite(parts)


def test_s28_b_plain_form_is_not_finite_on_the_grid():
    """The formula as it is written has NaN or infinities in the value and in each derivative that the count sees."""
    w, x = grid()

    def plain(x, w):
        return tf.exp(-0.5 * tf.square(x / w))

    assert all(count > 0 for count in num_not_finite(derivatives(plain, x, w)))


def test_s28_b_radial_form_is_that_of_the_norm_and_finite_everywhere():
    """For points the value is the Gaussian of the distance; enormous, infinite and NaN points give 0, 0 and NaN."""
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    layer = built((None, 3), 1.5, 0.8, [0.5, -0.2, 0.0], radial=True)
    distance = np.linalg.norm(x.astype(float) - [0.5, -0.2, 0.0], axis=1, keepdims=True)
    np.testing.assert_allclose(bumps.gaussian(distance, 1.5, 0.8, 0.0)[0], layer(x), atol=1e-6)
    with tf.GradientTape() as tape:
        odd = tf.constant([[3e38, 0.0, -3e38], [np.inf, 1.0, 1.0], [0.5, -0.2, 0.0], [np.nan, 0.0, 0.0]])
        tape.watch(odd)
        value = layer(odd)
    slopes = tape.gradient(value, odd).numpy()
    assert [0.0, 0.0, 1.5] == value.numpy()[:3, 0].tolist()
    assert (True, True) == (np.isnan(value[3, 0]), np.isfinite(slopes[:3]).all())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_s28_b_half_precision_has_a_bound_of_its_own(dtype):
    """Values of half precision are finite for every input, and near those of float64 where they are ordinary."""
    x = np.array([-6e4, -3.0, -0.5, 0.0, 0.25, 2.0, 60.0, np.inf], np.float32)
    layer = built(dtype=f"mixed_{dtype}", width=0.5)
    found = np.asarray(keras.ops.cast(layer(x), "float32"))
    np.testing.assert_allclose(bumps.gaussian(x, 1.0, 0.5, 0.0)[0], found, atol=8e-3)
    assert {"float16": 4.40, "bfloat16": 13.21}[dtype] == pytest.approx(largest_offset(dtype), abs=0.01)


def test_s28_c_height_width_and_centre_are_recovered():
    """All 27 of h in -2, .5, 3, w in .1, 1, 10 and c in -3, 0, 3 come within 1 %, from inputs over c +- 3 w."""
    true = np.array(list(itertools.product((-2.0, 0.5, 3.0), (0.1, 1.0, 10.0), (-3.0, 0.0, 3.0))))
    rng = np.random.default_rng(1)
    x = true[:, 2] + 3 * true[:, 1] * rng.uniform(-1, 1, (400, 27))
    layer = GaussianBump(per_feature=True)
    layer.build(x.shape)
    y = bumps.gaussian(x, *true.T)[0]
    layer.adapt(x, targets=y)
    assert 0 == recover(layer, Problems(x, y, true[:, 1], true[:, 1]), 2000)
    found = np.stack([np.asarray(part) for part in (layer.height, layer.width, layer.center)], axis=1)
    scale = np.stack([np.abs(true[:, 0]), true[:, 1], np.maximum(np.abs(true[:, 2]), true[:, 1])], axis=1)
    assert 0.01 > (np.abs(found - true) / scale).max()


@pytest.mark.parametrize("frozen", ["height", "width", "center"])
def test_s28_d_each_part_can_be_frozen_alone_bit_for_bit(frozen, tmp_path):
    """A frozen part keeps every bit under Adam with decay and is still frozen after a load; the others move."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, GaussianBump(per_feature=True, **{f"trainable_{frozen}": False})(inputs))
    layer = model.layers[-1]
    layer.set_width(0.7)
    parts = {"height": layer.height, "width": layer.raw, "center": layer.center}
    before = {name: part.numpy().tobytes() for name, part in parts.items()}
    x = np.random.default_rng(2).normal(size=(64, 2)).astype(np.float32)
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), "mse")
    for _ in range(10):
        model.train_on_batch(x, np.sin(3 * x))
    assert [frozen] == [name for name, part in parts.items() if part.numpy().tobytes() == before[name]]
    model.save(tmp_path / "bump.keras")
    again = keras.models.load_model(tmp_path / "bump.keras").layers[-1]
    assert (2, 1) == (len(again.trainable_weights), len(again.non_trainable_weights))
    with pytest.raises(ValueError, match="expected True or False, received 'no'"):
        GaussianBump(**{f"trainable_{frozen}": "no"})


@pytest.mark.parametrize("arguments", [{}, {"radial": True, "tanh": True}, {"positivity": "projection"}])
def test_s28_e_interface_is_that_of_the_bump(arguments, tmp_path):
    """Both take the same arguments, adapt, report and refuse alike, and come back from a file with equal outputs."""
    x = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32)
    for kind in (Bump, GaussianBump):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, kind(**arguments)(inputs))
        layer = model.layers[-1]
        assert isinstance(layer, Localized)
        layer.adapt(x)
        layer.require_signal(x)
        assert 1.0 >= layer.share_inside(x) > 0.9
        model.save(tmp_path / "bump.keras")
        np.testing.assert_array_equal(model(x), keras.models.load_model(tmp_path / "bump.keras")(x))


@pytest.mark.parametrize("height", [1.0, -2.0])
def test_s28_e_gaussian_bump_is_refused_on_the_convex_path_with_a_true_counterexample(height):
    """As a layer it is refused with three points of its own, at which it has the values that are said."""
    layer = built(height=height, width=0.6, center=2.0)
    with pytest.raises(ActivationRefusedError, match=r"not convex: .* above") as refused:
        InputConvexNetwork(2, (4,), layer)
    counterexample = refused.value.counterexample
    values = layer(np.array(counterexample.points, np.float32)).numpy()
    np.testing.assert_allclose(counterexample.values, values, rtol=1e-5)
    assert values[1] > (values[0] + values[2]) / 2


def test_s28_f_documentation_compares_the_two_and_its_numbers_are_right():
    """The page compares support, smoothness and steepness; .607 h / w and .798 / s are the largest slopes."""
    page = PAGE.read_text(encoding="utf-8")
    comparison = page.split("## A bump or a Gaussian")[1]
    assert all(word in comparison for word in ("support", "smoothness", "steepest slope", ".798 / s", ".607 h / w"))
    u = np.linspace(-5, 5, 100_001)
    np.testing.assert_allclose(0.607, np.abs(bumps.gaussian(u, 1.0, 1.0, 0.0)[1]).max(), rtol=1e-3)
    np.testing.assert_allclose(0.798, np.abs(bumps.bump(u, 1.0)[1]).max(), rtol=1e-3)
    np.testing.assert_allclose(math.sqrt(math.exp(-1)), 0.607, rtol=1e-3)
