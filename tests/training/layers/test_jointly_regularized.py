"""A penalty on the filters of several layers: its groups, its constants, what it reaches, and its files."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.freezing import FrozenSetChangedError
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.filter_bank import FilterBank
from training.layers.jointly_regularized import JointlyRegularized
from training.regularizers import NegativeRegularizationWarning, PairwiseOrthogonality


@keras.saving.register_keras_serializable(package="test_jointly_regularized")
def mirrored(kernel):
    """Return the demonstration penalty of the thread."""
    return keras.ops.sum(kernel * keras.ops.flip(kernel, axis=-1))


@keras.saving.register_keras_serializable(package="test_jointly_regularized")
class Chain(keras.Model):
    """A subclassed model: dense columns, a convolution of the same fan-in, and one of another."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = FilterBank(2, (2, 3), name="window")
        self.columns = FilterBank(3, name="columns", trainable_parts=[True, False, True])
        self.other = FilterBank(2, 1, name="other")
        self.dropout = keras.layers.Dropout(0.5)

    def build(self, _: Any) -> None:
        """Build the banks for images of 4 x 6 with one channel."""
        self.window.build((None, 4, 6, 1))
        self.columns.build((None, 6))
        self.other.build((None, 4, 6, 1))

    def call(self, x: Any) -> Any:
        """Use the columns twice, and each of the others."""
        y = self.columns(x[..., 0]) + self.columns(x[..., 0])
        return self.dropout(
            keras.ops.concatenate([y, self.other(x)[:, :, 0], self.window(x)[:, :1, 0] + y[..., :2]], -1)
        )


def joint(regularizer: Any = "pairwise_orthogonality", **arguments: Any) -> JointlyRegularized:
    """Return a built chain with a joint penalty."""
    model = JointlyRegularized(Chain(), regularizer, **arguments)
    model.build((None, 4, 6, 1))
    return model


def columns_of(bank: FilterBank) -> np.ndarray:
    """Return a bank's filters as columns, in float64."""
    kernels = [np.asarray(part.kernel).astype(float) for part in bank.parts]
    return np.concatenate(kernels, axis=-1).reshape(-1, len(kernels))


def pairs(columns: np.ndarray) -> float:
    """Return the sum of squared inner products over all pairs."""
    return float(np.sum(np.triu(columns.T @ columns, 1) ** 2))


def test_s9_c_penalty_spans_layers_of_equal_fan_in():
    """A 2 x 3 window and columns of six are one group of five filters, and a fan-in of one is a group of its own."""
    model = joint()
    window, columns, other = model.model.window, model.model.columns, model.model.other
    expected = pairs(np.hstack([columns_of(window), columns_of(columns)])) + pairs(columns_of(other))
    assert [pytest.approx(expected, rel=1e-5)] == [float(loss) for loss in model.losses]
    assert [(6, 5), (1, 2)] == [(found.fan_in, found.filters) for found in model.coherence()]


def test_s9_c_layers_of_equal_shape_give_one_kernel_of_that_shape():
    """Convolutions of one size are put side by side as they are, so that a function of one's own sees a kernel."""
    x = keras.Input((5, 5, 2))
    inner = keras.Model(x, keras.ops.concatenate([FilterBank(n, 3)(x) for n in (2, 1)], axis=-1))
    assert [(3, 3, 2, 3)] == [tuple(kernel.shape) for kernel in JointlyRegularized(inner, mirrored).groups()]


def test_s9_d_frozen_filters_of_one_layer_are_constants_to_those_of_another():
    """The gradient is that of one large kernel for trained filters, and none for frozen ones."""
    model = joint()
    large = np.hstack([columns_of(model.model.window), columns_of(model.model.columns)])
    gram = large.T @ large
    expected = 2.0 * large @ (gram - np.diag(np.diag(gram)))
    with tf.GradientTape() as tape:
        loss = model.losses[0]
    parts = [*model.model.window.parts, *model.model.columns.parts]
    for index, slope in enumerate(tape.gradient(loss, [part.kernel.value for part in parts])):
        if index == 3:
            assert slope is None
        else:
            np.testing.assert_allclose(np.reshape(slope, 6), expected[:, index], rtol=1e-4, atol=1e-6)


def test_s9_e_and_d8_t5_penalty_is_counted_once_wherever_layers_and_model_are_used():
    """A bank that is used twice, and a model that is used twice in a larger one, cost once."""
    model = joint()
    x = keras.Input((4, 6, 1))
    larger = keras.Model(x, model(x) + model(2.0 * x))
    expected = [pytest.approx(float(model.losses[0]), rel=1e-6)]
    larger(np.ones((2, 4, 6, 1), np.float32))
    assert (None, 4, 7) == larger.output_shape == model.compute_output_shape((None, 4, 6, 1))
    assert expected == [float(loss) for loss in larger.losses]


def test_members_may_be_any_variables_and_only_those_that_are_named():
    """Named are a dense kernel and the passthrough of a constrained layer; a frozen layer is a constant."""
    x = keras.Input((4,))
    first, second = keras.layers.Dense(3, name="first"), DensePartiallyConstrained(2, "softplus", name="second")
    model = JointlyRegularized(
        keras.Model(x, second([keras.ops.softplus(first(x)), x])),
        "pairwise_orthogonality",
        members=["first", "second.passthrough"],
    )
    first.trainable = False
    expected = pairs(np.hstack([first.kernel.numpy(), second.passthrough.numpy()]).astype(float))
    with tf.GradientTape() as tape:
        loss = model.losses[0]
    assert expected == pytest.approx(float(loss), rel=1e-5)
    slopes = tape.gradient(loss, [first.kernel.value, second.passthrough.value, second.kernel.value])
    assert [False, True, False] == [slope is not None for slope in slopes]
    fixed = pairs(first.kernel.numpy().astype(float))
    assert fixed == pytest.approx(model.coherence()[0].frozen_penalty, rel=1e-6)


@pytest.mark.parametrize("members", [["nobody"], ["window", "nobody.kernel"]])
def test_member_that_is_not_there_is_refused_with_those_that_are(members):
    """The message lists the names of the layers."""
    with pytest.raises(ValueError, match=r"'nobody', which 0 layers have\. There are .*window"):
        JointlyRegularized(Chain(), "pairwise_orthogonality", members=members)


def test_model_without_a_bank_and_without_a_regulariser_is_refused():
    """There would be nothing to penalise, or nothing to do it with."""
    x = keras.Input((4,))
    plain = keras.Model(x, keras.layers.Dense(3)(x))
    with pytest.raises(ValueError, match="expected a filter bank"):
        JointlyRegularized(plain, "pairwise_orthogonality")
    with pytest.raises(ValueError, match="regularizer: expected one, received None"):
        JointlyRegularized(Chain(), None)


def test_model_hands_training_on_and_gives_the_inner_outputs():
    """Dropout is on when training and off otherwise, and the outputs are those of the model inside."""
    model, x = joint(), np.ones((2, 4, 6, 1), np.float32)
    np.testing.assert_array_equal(np.asarray(model.model(x)), np.asarray(model(x, training=False)))
    assert (np.asarray(model(x, training=True)) == 0.0).any()
    assert not (np.asarray(model(x)) == 0.0).any()


def test_model_reads_back_bit_for_bit_with_penalty_members_and_flags(tmp_path):
    """A `.keras` file brings outputs, losses, members and the frozen set back."""
    x = keras.Input((6,))
    outputs = keras.ops.concatenate([FilterBank(2, name="a")(x), FilterBank(3, name="b")(x)], axis=-1)
    penalty = PairwiseOrthogonality(0.3, cosine=True)
    model = JointlyRegularized(keras.Model(x, outputs), penalty, members=["b", "a"])
    model.model.get_layer("b").set_trainable_parts([True, False, False])
    rows = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    expected = model.predict_on_batch(rows)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(expected, again.predict_on_batch(rows))
    assert [float(loss) for loss in model.losses] == [float(loss) for loss in again.losses]
    assert ("b", "a") == again.members
    assert (True, False, False) == again.model.get_layer("b").trainable_parts
    assert model.coherence() == again.coherence()


def test_s13_a_demonstration_penalty_sees_across_layers():
    """The gradient of filter i of the first layer is twice filter n + 1 - i, which stands in the second."""
    x = keras.Input((6,))
    first, second = FilterBank(2), FilterBank(2)
    model = JointlyRegularized(keras.Model(x, first(x) + second(x)), mirrored)
    second.parts[0].kernel.assign(first.parts[1].kernel.numpy())
    second.parts[1].kernel.assign(first.parts[0].kernel.numpy())
    with tf.GradientTape() as tape:
        loss = model.losses[0]
    slopes = tape.gradient(loss, [part.kernel.value for part in first.parts])
    np.testing.assert_array_equal(slopes[0], 2.0 * second.parts[1].kernel.numpy())
    np.testing.assert_array_equal(slopes[1], 2.0 * second.parts[0].kernel.numpy())
    second.parts[0].kernel.assign(-first.parts[1].kernel.numpy())
    second.parts[1].kernel.assign(-first.parts[0].kernel.numpy())
    with pytest.warns(NegativeRegularizationWarning, match="test_jointly_regularized>mirrored"):
        _ = model.losses


class Trainer:
    """Several joint penalties, each with its own model, descended together in one compiled loop."""

    def __init__(self, *models: JointlyRegularized) -> None:
        self.variables = [variable for model in models for variable in model.trainable_variables]
        self.models = models
        self.optimizer = keras.optimizers.Adam(0.02)
        self.optimizer.build(self.variables)

    def train(self, steps: int) -> None:
        """Take so many steps."""

        @tf.function
        def loop() -> None:
            for _ in tf.range(steps):
                with tf.GradientTape() as tape:
                    total = tf.add_n([loss for model in self.models for loss in model.losses])
                slopes = tape.gradient(total, self.variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
                self.optimizer.apply(slopes, self.variables)

        loop()


def of(fan_in: int, sizes: tuple[int, ...], regularizer: Any, **arguments: Any) -> JointlyRegularized:
    """Return dense banks of so many filters each over the same input, with a joint penalty."""
    x = keras.Input((fan_in,))
    banks = [FilterBank(size, use_bias=False, kernel_initializer="normal", **arguments)(x) for size in sizes]
    return JointlyRegularized(keras.Model(x, keras.ops.concatenate(banks, axis=-1)), regularizer)


def test_s9_f_and_d8_t3_training_reaches_orthogonality_or_the_welch_floor():
    """From random starts n <= m filters get |cos| below 1e-3, and n > m come within 5 % of the floor, not below it."""
    cosine, sharp = PairwiseOrthogonality(cosine=True), PairwiseOrthogonality(cosine=True, power=4)
    orthogonal = [
        of(6, (3, 3), cosine),
        of(6, (2, 4), "pairwise_orthogonality", kernel_constraint=keras.constraints.UnitNorm(axis=0)),
    ]
    crowded = [of(4, (2, 3), cosine), of(3, (3, 3), sharp)]
    trainer = Trainer(*orthogonal, *crowded)
    assert min(model.coherence()[0].largest for model in trainer.models) > 0.1
    trainer.train(1000)
    assert max(model.coherence()[0].largest for model in orthogonal) < 1e-3
    for model, floor in zip(crowded, (0.25, 1 / np.sqrt(5)), strict=True):
        (found,) = model.coherence()
        assert floor == pytest.approx(found.floor, rel=1e-12)
        assert 1.0 - 1e-6 <= found.largest / found.floor <= 1.05
        assert "(Welch)" in str(found)


def test_s9_f_trained_filters_become_orthogonal_to_frozen_ones():
    """Frozen filters stay as they are, and the others find their place around them."""
    model = of(6, (3, 2), "pairwise_cosine_orthogonality")
    frozen = next(layer for layer in model.model.layers if isinstance(layer, FilterBank))
    frozen.set_trainable_parts([False, False, True])
    before = columns_of(frozen)[:, :2]
    Trainer(model).train(800)
    np.testing.assert_array_equal(before, columns_of(frozen)[:, :2])
    kernel = np.hstack([columns_of(layer) for layer in model.model.layers if isinstance(layer, FilterBank)])
    kernel /= np.linalg.norm(kernel, axis=0)
    cosines = np.abs(np.triu(kernel.T @ kernel, 1))
    assert cosines[0, 1] > 1e-2
    cosines[0, 1] = 0.0
    assert cosines.max() < 1e-3


def test_toggle_of_a_bank_is_never_silent_in_a_function_of_the_joint_penalty():
    """A compiled loss of the model has built the frozen set of its banks in, and raises after a change."""
    model = of(4, (2, 2), "pairwise_orthogonality")
    function = tf.function(lambda: model.losses[0])
    assert float(function()) == pytest.approx(float(model.losses[0]), rel=1e-6)
    next(layer for layer in model.model.layers if isinstance(layer, FilterBank)).set_trainable_parts([False, True])
    with pytest.raises(FrozenSetChangedError):
        function()
