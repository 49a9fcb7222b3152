"""The trainable bump: its values, support, derivatives and width, and why it may not stand on a convex path."""

import ast
import functools
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.oracle import bumps
from tests.training.layers.bump_grid import derivatives, grid, num_not_finite
from training.activations import ActivationRefusedError
from training.audit import Rule, audit, value_subject
from training.icnn import InputConvexNetwork
from training.layers.bump import Bump, bump, cut, radial_bump
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.localized import NoSignalError
from training.layers.positive_scale import FORMS, LEAST, WidthError
from training.layers.sigma_bump import SigmaBump

LAYERS = Path(__file__).parents[3] / "training" / "layers"
BOTH = pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])


def built(shape=(None, 1), width=1.0, **arguments):
    """Return a bump for inputs of a shape, of a width."""
    layer = Bump(**arguments)
    layer.build(shape)
    layer.set_width(width)
    return layer


def width_of(layer):
    """Return a layer's width or widths as an array."""
    return np.asarray(layer.width)


# --------------------------------------------------------------------------------------------------- S20: the layer
@pytest.mark.parametrize("s", [0.01, 0.5, 1.0, 3.0, 1e6])
def test_s20_a_values_at_centre_half_edge_and_outside(s):
    """At 0, +-s/2, +-s, +-2s the bump is 1/e, exp(-4/3), 0 and 0."""
    found = built(width=s)(np.float32(s) * np.array([0, 0.5, -0.5, 1, -1, 2, -2], np.float32)).numpy()
    expected = [math.exp(-1), math.exp(-4 / 3), math.exp(-4 / 3), 0, 0, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=3e-6)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 4), (2, 1, 3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16", "mixed_bfloat16"])
def test_s20_b_any_rank_keeps_its_shape_and_the_dtype_of_the_policy(shape, dtype):
    """Inputs of every rank, scalars included, keep their shape and get the policy's type."""
    layer = Bump(dtype=dtype)
    x = np.random.default_rng(len(shape)).uniform(-1.5, 1.5, shape).astype(np.float32)
    found = layer(tf.constant(x))
    assert (shape, layer.compute_dtype) == (tuple(found.shape), found.dtype.name)
    assert shape == layer.compute_output_shape(shape)
    assert ("float64" if dtype == "float64" else "float32") == layer.raw.dtype
    tolerance = {"mixed_float16": 0.01, "mixed_bfloat16": 0.05}.get(dtype, 1e-6)
    np.testing.assert_allclose(np.asarray(ops.cast(found, "float64")), bumps.bump(x, 1.0)[0], atol=tolerance)


def test_s20_c_one_width_for_all_by_default_and_one_per_feature_on_request():
    """The default holds one number of shape [1]; `per_feature` one for each feature, each with its own bump."""
    x = np.random.default_rng(0).uniform(-2, 2, (50, 3)).astype(np.float32)
    one, each = built((None, 3)), built((None, 3), [0.5, 1.0, 3.0], per_feature=True)
    assert [(1,), (3,)] == [tuple(layer.raw.shape) for layer in (one, each)]
    np.testing.assert_allclose(one(x), bumps.bump(x, 1.0)[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(each(x), bumps.bump(x, [[0.5, 1.0, 3.0]])[0], rtol=1e-4, atol=1e-7)


def test_s20_d_unit_peak_is_e_times_the_bump_and_never_above_one():
    """With `unit_peak` the value at 0 is exactly 1, and e times the other form everywhere."""
    x = np.linspace(-1.5, 1.5, 1001, dtype=np.float32)
    unit, plain = built(unit_peak=True)(x).numpy(), built()(x).numpy()
    assert 1.0 == unit[500] == unit.max()
    np.testing.assert_allclose(unit, math.e * plain.astype(float), rtol=3e-5, atol=1e-37)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"per_feature": True, "tanh": True}, {"radial": True, "unit_peak": True}, {"positivity": "softplus"},
     {"positivity": "projection", "width_initializer": "glorot_uniform"}],
)  # fmt: skip
def test_s20_e_layer_is_saved_loaded_and_exported_with_equal_outputs_and_gradients(arguments, tmp_path):
    """The `.keras` file and the SavedModel give the outputs and input gradients of the layer, bit for bit or nearly."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Bump(**arguments)(inputs))
    model.layers[-1].set_width(1.7)
    model.save(tmp_path / "bump.keras")
    model.export(tmp_path / "bump", verbose=False)
    x = tf.constant(np.random.default_rng(1).uniform(-2, 2, (20, 3)), tf.float32)

    def answers(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return value.numpy(), tape.gradient(value, x).numpy()

    again, exported = keras.models.load_model(tmp_path / "bump.keras"), tf.saved_model.load(str(tmp_path / "bump"))
    assert model.layers[-1].get_config() == again.layers[-1].get_config()
    for other in (again, exported.serve):
        for expected, received in zip(answers(model), answers(other), strict=True):
            np.testing.assert_allclose(expected, received, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------- S21: decided for each number
def test_s21_a_each_number_is_decided_by_itself():
    """In a tensor that mixes inside, outside and both signs each number is what the scalar function is there."""
    x = np.array([[-3.0, -0.9, 0.0], [0.2, 5.0, -1.0], [1.0, 0.999, -0.2]], np.float32)
    layer = built((3, 3))
    alone = np.array([[float(layer(tf.constant(number))) for number in row] for row in x], np.float32)
    np.testing.assert_array_equal(alone, layer(x))
    np.testing.assert_allclose(bumps.bump(x, 1.0)[0], alone, rtol=2e-5, atol=1e-9)


def test_s21_b_bump_is_even_to_the_last_bit():
    """B(-x) and B(x) have the same bits, for 20,000 numbers of every size."""
    rng = np.random.default_rng(2)
    x = (rng.standard_normal(20_000) * 10.0 ** rng.integers(-6, 6, 20_000)).astype(np.float32)
    layer = built(width=2.5)
    assert layer(x).numpy().tobytes() == layer(-x).numpy().tobytes()


def test_s21_c_far_to_the_left_is_zero_as_far_to_the_right():
    """X = -10 s gives 0: a test of x < s alone would let it through, as the second line shows."""
    s = 2.0
    x = np.array([-10 * s], np.float32)
    assert 0.0 == float(built(width=s)(x)[0])
    one_sided = np.where(x < s, np.exp(-(s**2) / (s**2 - x.astype(float) ** 2)), 0.0)
    assert 1.0 < one_sided[0]


def test_s21_d_one_number_changes_one_output_and_the_jacobian_is_diagonal():
    """A changed component changes its own output alone."""
    layer = built((12,))
    x = np.linspace(-1.2, 1.2, 12, dtype=np.float32)
    changed = x.copy()
    changed[5] = 0.7
    assert [5] == list(np.flatnonzero(layer(x).numpy() != layer(changed).numpy()))
    with tf.GradientTape() as tape:
        tape.watch(rows := tf.constant(x))
        value = layer(rows)
    jacobian = tape.jacobian(value, rows).numpy()
    np.testing.assert_allclose(np.diag(bumps.bump(x, 1.0)[1]), jacobian, rtol=1e-4, atol=1e-6)
    assert 0 == np.count_nonzero(jacobian - np.diag(np.diag(jacobian)))


# --------------------------------------------------------------------- S22: the threshold has to enter the value
@pytest.mark.parametrize("form", FORMS)
def test_s22_a_width_has_a_gradient_that_is_not_zero_for_inputs_inside(form):
    """The gradient of each form of the width is there, and is that of the closed form by the chain rule."""
    layer, x = built(width=2.0, positivity=form), np.array([0.5, -1.0, 1.5, 4.0], np.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(x))
    found = tape.gradient(total, layer.raw.value)
    inner = {"exponential": 2.0, "projection": 1.0, "softplus": -math.expm1(-2.0)}[form]
    assert found is not None
    np.testing.assert_allclose(inner * bumps.bump(x, 2.0)[2].sum(), found.numpy()[0], rtol=1e-5)
    assert 0.1 < abs(found.numpy()[0])


class OnlyCompared(keras.layers.Layer):
    """A bump whose width is only compared, as it was first written."""

    def build(self, _input_shape):
        """Make the width."""
        self.width = self.add_weight(name="width", shape=(1,), initializer="ones")

    def call(self, x):
        """Return the bump of radius 1 inside of the width."""
        return ops.where(ops.abs(x) < self.width, bump(x, ops.ones(())), ops.zeros_like(x))


@pytest.mark.parametrize(
    ("make", "rule"), [(OnlyCompared, Rule.CONDITION), (Bump, Rule.TRAINS), (SigmaBump, Rule.TRAINS)]
)
def test_s22_b_audit_tells_a_width_that_is_only_compared_from_one_in_the_value(make, rule):
    """The audit reports the width of the first version with its reason, and finds nothing wrong with that of ours."""
    model = keras.Sequential([keras.Input((1,)), make(name="bump"), keras.layers.Dense(1)])
    x = np.random.default_rng(9).uniform(-0.9, 0.9, (64, 1)).astype(np.float32)
    result = audit(value_subject(model, lambda y, z: ops.mean(ops.square(y - z)), x, np.cos(x)))
    (found,) = [one for one in result.findings if "/bump/" in f"/{one.variable}"]
    assert rule is found.rule
    assert ("only in a condition" in found.reason) == (rule is Rule.CONDITION)


def test_s22_c_width_that_is_only_compared_has_no_gradient():
    """A choice whose condition alone holds a variable gives it None: this is how it is, not a fault of comparing."""
    width, x = tf.Variable(1.0), tf.constant([0.5, 2.0])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(tf.where(tf.abs(x) < width, tf.exp(-x), 0.0))
    assert tape.gradient(value, width) is None


def test_s22_d_no_code_multiplies_by_zero_to_keep_a_connection():
    """No module of layers holds a product with the number 0, as an operator or as an op."""

    def is_zero(node):
        return isinstance(node, ast.Constant) and node.value == 0 and node.value is not False

    def products(source):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
                yield from (node.lineno for side in (node.left, node.right) if is_zero(side))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("multiply"):
                yield from (node.lineno for argument in node.args if is_zero(argument))

    assert [1, 2] == list(products("y = 0.0 * x\nz = ops.multiply(x, 0)"))
    found = {path.name: list(products(path.read_text(encoding="utf-8"))) for path in LAYERS.glob("*.py")}
    assert {} == {name: lines for name, lines in found.items() if lines}


# ------------------------------------------------------------------------ S23: a width that is positive, and a start
STARTS = {
    "none": None,
    "zeros": "zeros",
    "glorot": keras.initializers.GlorotUniform,
    "normal": keras.initializers.RandomNormal(seed=1),
    "uniform": keras.initializers.RandomUniform(-1.0, 1.0, seed=1),
    "negative": keras.initializers.Constant(-1.0),
}


@pytest.mark.parametrize("form", FORMS)
def test_s23_a_width_is_positive_after_build_for_a_thousand_seeds(form):
    """For 1,000 seeds of Glorot's, and draws of others, the width is at least 2^-100: a negative one is projected."""
    least = {}
    for name in STARTS:
        layer = Bump(positivity=form, per_feature=True, width_initializer=_of_seeds(name))
        layer.build((None, 1000))
        least[name] = float(np.min(width_of(layer)))
    assert dict.fromkeys(STARTS, True) == {name: value >= 0.999 * LEAST for name, value in least.items()}
    assert (1.0, True) == (pytest.approx(least["none"]), least["negative"] == pytest.approx(LEAST, rel=1e-4))


@functools.cache
def _of_seeds(name):
    """Return the start, or for a class an initialiser whose 1,000 entries come from one of a seed each."""
    start = STARTS[name]
    if not isinstance(start, type):
        return start
    values = [np.asarray(start(seed=seed)((1,), dtype="float32"))[0] for seed in range(1000)]
    return lambda shape, dtype=None: ops.convert_to_tensor(np.resize(values, shape), dtype)


@pytest.mark.parametrize("form", FORMS)
def test_s23_a_width_is_positive_after_every_step_and_after_a_load(form, tmp_path):
    """Steps that pull the width far below zero leave it positive and finite each time, and so does a file."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, Bump(positivity=form)(inputs))
    layer, optimizer = model.layers[-1], keras.optimizers.SGD(5.0)
    for _ in range(40):
        optimizer.apply([tf.constant([3.0])], [layer.raw])
        assert 0.0 < width_of(layer)[0] < math.inf
    model.save(tmp_path / "bump.keras")
    assert 0.0 < width_of(keras.models.load_model(tmp_path / "bump.keras").layers[-1])[0]


def test_s23_a_width_that_is_not_positive_is_refused_by_save_and_load():
    """A width that was assigned below zero goes into no file and comes out of none."""
    layer = built(positivity="projection")
    layer.raw.assign([-1.0])
    with pytest.raises(WidthError, match=r"radius: expected finite widths above 0, received .*-1.0.* at \[0\]"):
        layer.save_own_variables({})
    with pytest.raises(WidthError, match="expected finite widths above 0"):
        built(positivity="projection").load_own_variables({"0": np.array([np.nan], np.float32)})
    with pytest.raises(WidthError, match="expected finite widths above 0"):
        layer.set_width(0.0)


def test_s23_b_step_below_zero_ends_at_the_lower_limit_and_the_next_can_leave_it():
    """After a step that would make s negative it is 2^-100; the gradient there is not cut off, and a step up works."""
    layer = built(positivity="projection")
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.apply([tf.constant([7.0])], [layer.raw])
    assert [LEAST] == list(width_of(layer))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(layer(np.array([0.5 * LEAST, 0.0, 3.0], np.float32)))
    slope = tape.gradient(value, layer.raw.value).numpy()
    np.testing.assert_allclose(bumps.bump(0.5, 1.0)[2] / LEAST, slope[0], rtol=1e-5)
    optimizer.apply([tf.constant([-0.25])], [layer.raw])
    assert [0.25] == list(width_of(layer))


def test_s23_c_start_without_signal_is_detected_reported_and_cured_by_the_quantile_start():
    """All inputs outside the support: the gradient is 0, the report says so, and `adapt` gives one that is not."""
    x = np.random.default_rng(3).uniform(5.0, 9.0, (400, 1)).astype(np.float32)
    layer = built(width=1.0)

    def slope():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(layer(x))
        return float(tape.gradient(value, layer.raw.value)[0])

    assert (0.0, 0.0) == (layer.share_inside(x), slope())
    with pytest.raises(NoSignalError, match="all inputs outside the support: the radius is 1, the nearest input 5"):
        layer.require_signal(x)
    layer.adapt(x)
    layer.require_signal(x)
    np.testing.assert_allclose(1.5 * np.quantile(np.abs(x.astype(float)), 0.99), width_of(layer)[0], rtol=1e-6)
    assert slope() > 1.0


def test_s23_c_start_is_one_without_data_and_adapts_to_each_form_of_inputs():
    """The default width is 1; `adapt` leaves NaN and infinities out, takes norms for points, and refuses no data."""
    assert [1.0] == list(width_of(built()))
    x = np.array([[3.0, 4.0], [np.nan, 1.0], [0.0, np.inf]])
    each, radial, squeezed = (built((None, 2), **{name: True}) for name in ("per_feature", "radial", "tanh"))
    for layer in (each, radial, squeezed):
        layer.adapt(x, quantile=1.0, factor=2.0)
    np.testing.assert_allclose([6.0, 8.0], width_of(each))
    np.testing.assert_allclose([10.0], width_of(radial))
    np.testing.assert_allclose([2.0], width_of(squeezed), rtol=1e-6)  # the infinite input is one of 1 behind tanh
    each.adapt(np.zeros((5, 2)))
    np.testing.assert_allclose([1.0, 1.0], width_of(each))
    with pytest.raises(ValueError, match="expected at least one finite input, received 2 others or none"):
        each.adapt(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="expected 0 < quantile <= 1 and a factor above 0, received 0"):
        each.adapt(x, quantile=0.0)


@BOTH
def test_s23_d_width_zero_is_zero_everywhere_without_nan(compiled):
    """With s = 0 every output is 0, at 0 too, and no derivative is NaN."""
    x = np.array([0.0, 1e-45, -1e-30, 1.0, -3e38, np.inf], np.float32)
    parts = derivatives(bump, x, np.zeros(6, np.float32), compiled=compiled)
    assert [0, 0, 0] == num_not_finite(parts)
    assert [0.0] * 6 == list(parts[0])
    layer = built(positivity="projection")
    layer.raw.assign([0.0])
    assert [0.0] * 6 == list(layer(x).numpy())


# ----------------------------------------------------------------------------------- S25: finite, and what is not
@BOTH
@pytest.mark.parametrize("unit_peak", [False, True])
def test_s25_a_d7_t1_whole_grid_is_finite_in_value_and_both_derivatives(compiled, unit_peak):
    """On the 28,336 pairs of the grid 0 values, 0 dB/dx and 0 dB/ds are NaN or infinite, and values lie in range."""
    s, x = grid()
    parts = derivatives(lambda x, s: bump(x, s, unit_peak=unit_peak), x, s, compiled=compiled)
    assert 28_336 == s.size
    assert [0, 0, 0] == num_not_finite(parts)
    assert (0.0, True) == (parts[0].min(), parts[0].max() <= (1.0 if unit_peak else math.exp(-1.0) * (1 + 1e-6)))


@BOTH
def test_s25_a_radial_bump_is_finite_on_the_grid_in_value_and_both_derivatives(compiled):
    """The same for points of three numbers: each of the grid beside two others of its width."""
    s, x = grid()
    points = np.stack([x, np.roll(x, 1), np.roll(x, 7)], axis=1)
    parts = derivatives(lambda x, s: radial_bump(x, s), points, np.stack([s] * 3, axis=1), compiled=compiled)
    assert [0, 0, 0] == num_not_finite(parts)


@pytest.mark.parametrize("name", ["sigma form, chosen twice", "difference of squares", "difference, chosen twice"])
def test_s25_a_other_forms_fail_on_the_grid_in_every_column(name):
    """The count is no formality: the forms that look alike have NaN or infinities in the value and both derivatives."""

    def form(x, s):
        inside = tf.abs(x) < s
        v = x if name == "difference of squares" else tf.where(inside, x, tf.zeros_like(x))
        if name == "sigma form, chosen twice":
            return tf.where(inside, tf.exp(-s / (s - tf.square(v))), tf.zeros_like(x))
        return tf.where(inside, tf.exp(-tf.square(s) / (tf.square(s) - tf.square(v))), tf.zeros_like(x))

    s, x = grid()
    assert all(count > 0 for count in num_not_finite(derivatives(form, x, s)))


@pytest.mark.parametrize(("dtype", "expected"), [("float16", 10), ("bfloat16", 88), ("float32", 88), ("float64", 709)])
def test_s25_e_constant_of_each_type_cuts_off_less_than_its_smallest_normal_number(dtype, expected):
    """e^-c is below the smallest normal number of the type, e^-(c-1) is not; with the unit peak it is one more."""
    smallest = {"float16": -14, "bfloat16": -126, "float32": -126, "float64": -1022}[dtype] * math.log(2)
    assert (expected, expected + 1) == (cut(dtype), cut(dtype, unit_peak=True))
    assert -expected < smallest < -expected + 1


@pytest.mark.parametrize(
    ("dtype", "exponents", "least", "tolerance"),
    [("float16", range(-7, 5), (6e-8, 1e-6), 4e-3), ("bfloat16", range(-38, 38), (1e-40, 1e-39), 3e-2)],
)
@pytest.mark.parametrize("unit_peak", [False, True])
def test_s25_e_grids_of_half_precision_are_finite(dtype, exponents, least, tolerance, unit_peak):
    """On the grids of float16 and bfloat16 the value and both derivatives are finite, the value near float64's."""
    s, x = grid(dtype, exponents, least)

    def function(x, s):
        x, s = ops.cast(x, "float32"), ops.cast(s, "float32")
        return ops.cast(bump(x, s, dtype=dtype, unit_peak=unit_peak), dtype)

    value, *slopes = derivatives(function, x, s)
    assert [0, 0, 0] == num_not_finite([value, *slopes])
    ordinary = np.abs(np.log10(np.maximum(s.astype(float), 1e-300))) < 3
    peak = 1.0 if unit_peak else math.exp(-1.0)
    exact = bumps.bump(x.astype(float), s.astype(float), peak)[0]
    assert tolerance > np.abs(value.astype(float) - exact)[ordinary].max()


# ------------------------------------------------------------------------------------- S26: inputs beyond [-1, 1]
def test_s26_a_sigma_form_is_finite_and_zero_in_the_band_where_the_bare_formula_explodes():
    """For sigma > 1, at 10,000 points between sqrt(sigma) and sigma, the stable form is 0, the bare one up to 1e18."""
    rng = np.random.default_rng(4)
    sigma = 1 + 10.0 ** rng.uniform(-2, 3, 10_000)
    x = sigma**0.5 + (sigma - sigma**0.5) * rng.uniform(1e-3, 0.999, 10_000)
    layer = SigmaBump(per_feature=True)
    layer.build((None, 10_000))
    layer.set_width(sigma)
    found = layer(x[None].astype(np.float32)).numpy()
    assert (0.0, 0.0) == (found.min(), found.max())
    assert 1e18 < bumps.sigma_form(x, sigma).max()


@pytest.mark.parametrize("sigma", [0.01, 0.3, 0.9, 1.0, 2.0, 30.0])
def test_s26_a_sigma_form_is_its_formula_inside_both_conditions(sigma):
    """Where |x| < sigma and x^2 < sigma it equals exp(-sigma / (sigma - x^2)), jump at sigma < 1 included."""
    edge = min(sigma, sigma**0.5)
    x = np.float32(edge) * np.linspace(-1.4, 1.4, 2001, dtype=np.float32)
    layer = SigmaBump()
    layer.build(x.shape)
    layer.set_width(sigma)
    inside = np.abs(x) < edge * 0.999
    found = layer(x).numpy()
    np.testing.assert_allclose(bumps.sigma_form(x, sigma)[inside], found[inside], rtol=3e-4, atol=1e-12)
    assert 0.0 == np.abs(found[np.abs(x) > edge * 1.001]).max()
    if sigma < 0.99:
        inner = layer(np.full(x.shape, np.float32(0.99999 * sigma))).numpy()[0]
        np.testing.assert_allclose(math.exp(-1 / (1 - sigma)), inner, rtol=5e-3)


def test_s26_a_sigma_form_has_no_radial_option():
    """What the thread's parameter would mean for a point is not defined, and asking for it is refused."""
    with pytest.raises(ValueError, match=r"radial: expected False, received True\. Use Bump"):
        SigmaBump(radial=True)


def test_s26_b_tanh_in_front_keeps_every_input_in_range():
    """With tanh in front inputs up to 1e30 give finite values, those of the bump of their tanh."""
    x = np.array([-1e30, -3.0, -0.5, 0.0, 0.1, 7.0, 1e30, np.inf, -np.inf], np.float32)
    layer = built(width=1.3, tanh=True)
    found = layer(x).numpy()
    np.testing.assert_allclose(bumps.bump(np.tanh(x.astype(float)), 1.3)[0], found, rtol=1e-5)
    assert found.min() > 0.0
    assert "tanh" in Bump.__mro__[1].__doc__


def test_s26_c_documentation_answers_the_five_questions():
    """The page of the layer holds an answer to each of the five questions that the first version left open."""
    page = (LAYERS.parents[1] / "docs" / "bump-layer.md").read_text(encoding="utf-8")
    questions = [line for line in page.splitlines() if line.startswith("**") and line.rstrip().endswith("?**")]
    assert 5 == len(questions)
    assert all(len(answer.split()) > 20 for answer in page.split("?**")[1:])


@BOTH
def test_s26_d_infinite_and_enormous_inputs_give_zero_with_zero_gradients(compiled):
    """+-inf and +-3e38 give 0, and so are both derivatives there, by component and for points."""
    x = np.array([np.inf, -np.inf, 3e38, -3e38], np.float32)
    for parts in (
        derivatives(bump, x, np.full(4, 2.0, np.float32), compiled=compiled),
        derivatives(radial_bump, x[:, None], np.full((4, 1), 2.0, np.float32), compiled=compiled),
    ):
        assert [0.0] * 12 == np.concatenate([part.ravel() for part in parts]).tolist()


# ------------------------------------------------------------------------------------- D7: its other tests
def test_s25_d_d7_t2_nan_gives_nan_for_that_component_only():
    """A NaN is not hidden, and spoils no neighbour, nor the gradient of the width."""
    x = np.array([0.5, np.nan, 4.0], np.float32)
    value, by_x, by_s = derivatives(bump, x, np.full(3, 2.0, np.float32))
    assert [False, True, False] == np.isnan(value).tolist()
    np.testing.assert_allclose(bumps.bump(0.5, 2.0)[1], by_x[0], rtol=1e-5)
    assert np.isfinite(by_s).all()
    points = np.array([[0.5, 0.1], [np.nan, 0.1], [4.0, np.inf]], np.float32)
    radial = built((None, 2), radial=True)(points).numpy()
    assert [[False], [True], [False]] == np.isnan(radial).tolist()


@pytest.mark.parametrize("s", [0.3, 1.0, 2.5, 40.0])
@BOTH
def test_d7_t3_value_and_derivatives_are_those_of_the_closed_forms(s, compiled):
    """B, dB/dx and dB/ds equal the float64 closed forms; their largest sizes are e^-1, .798/s and .618/s."""
    x = np.linspace(-1.2 * s, 1.2 * s, 5001).astype(np.float32)
    found = derivatives(bump, x, np.full(5001, s, np.float32), compiled=compiled)
    for received, expected, scale in zip(found, bumps.bump(x, s), (1, s, s), strict=True):
        assert 2e-6 > np.abs(received - expected).max() * scale
    largest = [np.abs(part).max() * scale for part, scale in zip(found, (1, s, s), strict=True)]
    np.testing.assert_allclose([math.exp(-1), 0.798, 0.618], largest, rtol=1e-3)
    assert 0 == np.count_nonzero(np.stack(found)[:, np.abs(x) >= s])


def test_d7_t3_second_derivative_is_at_most_7_75_over_the_square_of_the_width():
    """The documented bound of the second derivative by x holds in float64, and is reached."""
    layer = built((None, 1), 2.0, dtype="float64")
    x = tf.constant(np.linspace(-2, 2, 20_001)[:, None])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = layer(x)
        slope = inner.gradient(value, x)
    second = np.abs(outer.gradient(slope, x).numpy()).max() * 4.0
    assert 7.74 < second < 7.75


def test_d7_t3_radial_bump_is_the_bump_of_the_norm():
    """For points the value is B_s(|x|), its gradients those of the chain rule, at the centre too."""
    rng = np.random.default_rng(5)
    x = np.concatenate([np.zeros((1, 4)), rng.uniform(-1, 1, (500, 4))]).astype(np.float32)
    s = np.full((501, 1), 1.4, np.float32)
    value, by_x, by_s = derivatives(radial_bump, x, s)
    norm = np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    exact, slope, by_width = bumps.bump(norm, 1.4)
    np.testing.assert_allclose(exact, value, atol=1e-6)
    np.testing.assert_allclose(slope * x / np.maximum(norm, 1e-30), by_x, atol=1e-5)
    np.testing.assert_allclose(by_width, by_s, atol=1e-5)


def test_s20_f_the_six_tests_of_the_mathematics_are_here_by_name():
    """D7-T1 to D7-T6 are tests of this module; D7-T4, learning, is S24 with all of its letters, in the one beside."""
    here, beside = (
        _tests((Path(__file__).parent / name).read_text(encoding="utf-8"))
        for name in (Path(__file__).name, "test_bump_learning.py")
    )
    assert {1, 2, 3, 5, 6} == {number for number in range(1, 7) if any(f"d7_t{number}_" in name for name in here)}
    assert set("abcde") <= {name[9] for name in beside if re.fullmatch(r"test_s24_[a-z]_.*", name)}


def _tests(source):
    return [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def test_d7_t6_minus_log_bump_passes_the_midpoint_falsifier():
    """-log B is convex on its support: no midpoint of 100,000 pairs lies above the mean; B itself fails the test."""
    layer = built((None, 1), 1.5, dtype="float64")
    ends = np.random.default_rng(6).uniform(-1.45, 1.45, (2, 100_000))

    def broken(function):
        left, right, middle = (function(x) for x in (*ends, ends.mean(axis=0)))
        return int((middle > (left + right) / 2 + 1e-12 * np.abs(left + right)).sum())

    assert 0 == broken(lambda x: -np.log(layer(x).numpy()))
    assert 1000 < broken(lambda x: layer(x).numpy())


# --------------------------------------------------------------------------------- refused on the convex path
@pytest.mark.parametrize("place", ["layer", "network", "first layer"])
@pytest.mark.parametrize("kind", ["bump", "sigma_bump", "gaussian_bump", "layer object"])
def test_d7_t5_bump_on_the_convex_path_is_refused_with_a_counterexample(place, kind):
    """By name or as a layer, hidden or first: refused with the reason, and three points that violate convexity."""
    activation = built(width=2.0) if kind == "layer object" else kind
    make = {
        "layer": lambda: DensePartiallyConstrained(4, activation),
        "network": lambda: InputConvexNetwork(2, (4,), activation),
        "first layer": lambda: InputConvexNetwork(2, (4,), "softplus", first_activation=activation),
    }
    with pytest.raises(ActivationRefusedError, match=r"not convex: .* above") as refused:
        make[place]()
    counterexample = refused.value.counterexample
    left, middle, right = counterexample.points
    assert middle == (left + right) / 2
    assert counterexample.values[1] > (counterexample.values[0] + counterexample.values[2]) / 2


@pytest.mark.parametrize("width", [0.3, 5.0])
@pytest.mark.parametrize("unit_peak", [False, True])
def test_d7_t5_counterexample_of_a_layer_is_true_of_the_layer(width, unit_peak):
    """The values in a bump's counterexample are those that the layer has at its points."""
    layer = built(width=width, unit_peak=unit_peak)
    found = layer(np.array(layer.counterexample.points, np.float32)).numpy()
    np.testing.assert_allclose(layer.counterexample.values, found, rtol=1e-6)
    assert found[1] > (found[0] + found[2]) / 2


def test_arguments_of_a_bump_that_make_no_sense_are_refused():
    """An unknown form of the width, a dtype that is not floating, and points without a last axis."""
    with pytest.raises(
        ValueError, match="positivity: expected one of exponential, projection, softplus, received 'no'"
    ):
        Bump(positivity="no")
    with pytest.raises(TypeError, match="dtype: expected a floating dtype, received int32"):
        Bump(dtype="int32")
    with pytest.raises(ValueError, match=r"radial: expected inputs of rank 1 or more and a known width, received \(\)"):
        Bump(radial=True).build(())
