"""Provable specimens in plain Keras: sequential, functional and subclassed models, exported by `model.export`."""

# ruff: noqa: ARG001, D103 - a specimen's name says what it is; Keras draws its own weights

import keras
import numpy as np
from keras import layers, ops

from tests.foreign.specimens import provable


def positive(units, activation=None, **options):
    """Return a Dense layer whose kernel is constrained to be non-negative, as Keras' page on constraints does it."""
    start = keras.initializers.RandomUniform(0.05, 0.6, seed=units)
    return layers.Dense(
        units, activation, kernel_initializer=start, kernel_constraint=keras.constraints.NonNeg(), **options
    )


def hidden(activation, **options):
    """Return a sequential network of two hidden layers with this activation."""
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, activation, **options), positive(5, activation), positive(1)]
    )


@provable()
def keras_linear(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(1)])


@provable()
def keras_softplus(v):
    return hidden("softplus")


@provable()
def keras_relu(v):
    return hidden("relu")


@provable()
def keras_elu(v):
    return hidden("elu")


@provable()
def keras_celu(v):
    return hidden("celu")


@provable()
def keras_squareplus(v):
    return hidden("squareplus")


@provable()
def keras_exponential(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(5, "exponential"), positive(1)])


@provable()
def keras_leaky_layers(v):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6), layers.LeakyReLU(0.2), positive(5), layers.ReLU(negative_slope=0.1),
         positive(1)]
    )  # fmt: skip


@provable()
def keras_elu_with_alpha(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.ELU(0.5), positive(1)])


@provable()
def keras_prelu(v):
    slopes = keras.initializers.RandomUniform(0.05, 0.9, seed=3)
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6), layers.PReLU(slopes), positive(5), layers.PReLU(slopes), positive(1)]
    )


@provable()
def keras_input_convex_network(v):
    x = keras.Input((4,))
    z = layers.Dense(6, "softplus")(x)
    for _ in range(2):
        z = layers.Activation("softplus")(layers.Add()([positive(6, use_bias=False)(z), layers.Dense(6)(x)]))
    return keras.Model(x, positive(1)(z) + layers.Dense(1, use_bias=False)(x))


@provable()
def keras_densely_connected(v):
    x = keras.Input((4,))
    z = layers.Dense(5, "relu")(x)
    y = positive(5, "relu")(layers.Concatenate()([z, layers.Dense(3, "elu")(x)]))
    return keras.Model(x, positive(1)(layers.Concatenate()([y, z])))


def trained_normalization():
    """Return a BatchNormalization whose moving statistics and scale are not what they start with."""
    return layers.BatchNormalization(
        moving_mean_initializer=keras.initializers.RandomNormal(seed=1),
        moving_variance_initializer=keras.initializers.RandomUniform(0.5, 2.0, seed=2),
        gamma_initializer=keras.initializers.RandomUniform(0.5, 2.0, seed=3),
        beta_initializer=keras.initializers.RandomNormal(seed=4),
    )


@provable()
def keras_batch_normalization_of_affine(v):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6), trained_normalization(), layers.Activation("relu"), positive(1)]
    )


@provable()
def keras_batch_normalization_of_convex(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, "relu"), trained_normalization(), positive(1)])


@provable()
def keras_adapted_normalization(v):
    standardise = layers.Normalization()
    standardise.adapt(np.random.default_rng(5).normal(3.0, [1, 2, 5, 0.1], (200, 4)).astype(np.float32))
    return keras.Sequential([keras.Input((4,)), standardise, layers.Dense(6, "softplus"), positive(1)])


@provable()
def keras_rescaling(v):
    return keras.Sequential(
        [keras.Input((4,)), layers.Rescaling(1.0 / 127.5, offset=-1.0), layers.Dense(6, "softplus"), positive(1)]
    )


@provable()
def keras_training_only_layers(v):
    return keras.Sequential(
        [keras.Input((4,)), layers.GaussianNoise(0.1), layers.Dense(6, "softplus"), layers.Dropout(0.5),
         layers.ActivityRegularization(l2=0.1), positive(5, "softplus"), layers.Identity(), positive(1)]
    )  # fmt: skip


@provable(dim=8)
def keras_series(v):
    return keras.Sequential(
        [keras.Input((8,)), layers.Reshape((8, 1)), layers.Conv1D(3, 3, padding="causal", activation="softplus"),
         layers.AveragePooling1D(2), layers.GlobalAveragePooling1D(), positive(1)]
    )  # fmt: skip


@provable(dim=8)
def keras_series_with_maxima(v):
    return keras.Sequential(
        [keras.Input((8,)), layers.Reshape((4, 2)), layers.ZeroPadding1D(1), layers.Conv1D(3, 2),
         layers.MaxPooling1D(2), layers.GlobalMaxPooling1D(), positive(1)]
    )  # fmt: skip


@provable(dim=8)
def keras_dilated_series(v):
    return keras.Sequential(
        [keras.Input((8,)), layers.Reshape((4, 2)), layers.Conv1D(3, 2, dilation_rate=2, activation="relu"),
         layers.GlobalMaxPooling1D(), positive(1)]
    )  # fmt: skip


@provable(dim=36)
def keras_picture(v):
    return keras.Sequential(
        [keras.Input((36,)), layers.Reshape((6, 6, 1)), layers.Conv2D(3, 3, activation="relu"),
         layers.MaxPooling2D(2), layers.Flatten(), positive(4, "softplus"), positive(1)]
    )  # fmt: skip


@provable(dim=36)
def keras_normalised_picture(v):
    return keras.Sequential(
        [keras.Input((36,)), layers.Reshape((6, 6, 1)), layers.Conv2D(3, 3, strides=2, padding="same"),
         trained_normalization(), layers.ReLU(), layers.AveragePooling2D(3), layers.Flatten(), positive(1)]
    )  # fmt: skip


@provable(dim=32)
def keras_depthwise_picture(v):
    return keras.Sequential(
        [keras.Input((32,)), layers.Reshape((4, 4, 2)), layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
         layers.LeakyReLU(0.1), layers.GlobalAveragePooling2D(), positive(1)]
    )  # fmt: skip


@provable(dim=8)
def keras_separable_series(v):
    return keras.Sequential(
        [keras.Input((8,)), layers.Reshape((4, 2)), layers.SeparableConv1D(3, 2), layers.Activation("elu"),
         layers.Flatten(), positive(1)]
    )  # fmt: skip


@provable(dim=6)
def keras_shapes(v):
    return keras.Sequential(
        [keras.Input((6,)), layers.Reshape((2, 3)), layers.Permute((2, 1)), layers.UpSampling1D(2),
         layers.Cropping1D(1), layers.Flatten(), layers.Dense(5, "softplus"), positive(1)]
    )  # fmt: skip


@provable()
def keras_repeated_vector(v):
    x = keras.Input((4,))
    z = layers.TimeDistributed(layers.Dense(3, "softplus"))(layers.RepeatVector(2)(x))
    return keras.Model(x, positive(1)(layers.Flatten()(z)))


@provable()
def keras_einsum_dense(v):
    x = keras.Input((4,))
    z = layers.EinsumDense("ab,bcd->acd", output_shape=(3, 2), bias_axes="d", activation="relu")(x)
    return keras.Model(x, positive(1)(layers.Flatten()(z)))


@provable()
def keras_branches(v):
    x = keras.Input((4,))
    first, second, third = layers.Dense(5, "softplus")(x), layers.Dense(5)(x), layers.Dense(5, "elu")(x)
    joined = layers.Average()([layers.Maximum()([first, second]), third])
    return keras.Model(x, positive(1)(joined))


@provable()
def keras_maxout(v):
    x = keras.Input((4,))
    pieces = layers.Reshape((5, 3))(layers.Dense(15)(x))
    return keras.Model(x, positive(1)(ops.max(pieces, axis=-1)))


@provable()
def keras_reused_layer(v):
    x = keras.Input((4,))
    again = positive(6, "softplus")
    return keras.Model(x, positive(1)(again(again(layers.Dense(6)(x)))))


@provable()
def keras_siamese(v):
    x = keras.Input((4,))
    tower = keras.Sequential([layers.Dense(6, "softplus"), positive(3, "softplus")])
    return keras.Model(x, positive(1)(layers.Add()([tower(x), tower(-2.0 * x)])))


class Potential(keras.Model):
    """A subclassed model in the manner of Keras' guide."""

    def __init__(self):
        """Make the layers."""
        super().__init__()
        self.first = layers.Dense(6, activation="softplus")
        self.second = positive(6)
        self.skip = layers.Dense(6, use_bias=False)
        self.last = positive(1)

    def call(self, inputs):
        """Return the potential [n, 1]."""
        z = self.first(inputs)
        z = ops.softplus(self.second(z) + self.skip(inputs))
        return self.last(z) + 0.05 * ops.sum(ops.square(inputs), axis=-1, keepdims=True)


@provable()
def keras_subclassed(v):
    model = Potential()
    model(np.zeros((1, 4), np.float32))
    return model


class SumOfSquares(layers.Layer):
    """A custom layer in the manner of Keras' guide."""

    def __init__(self, units):
        super().__init__()
        self.units = units

    def build(self, input_shape):
        """Make the weights."""
        self.w = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform")
        self.b = self.add_weight(shape=(self.units,), initializer="random_normal")

    def call(self, inputs):
        """Return the sum [n, 1]."""
        return ops.sum(ops.square(ops.matmul(inputs, self.w) + self.b), axis=-1, keepdims=True)


@provable()
def keras_custom_layer(v):
    x = keras.Input((4,))
    return keras.Model(x, layers.Add()([SumOfSquares(6)(x), layers.Dense(1)(x)]))


@provable()
def keras_log_sum_exp(v):
    x = keras.Input((4,))
    return keras.Model(x, ops.logsumexp(layers.Dense(6)(x), axis=-1, keepdims=True))


@provable()
def keras_norm(v):
    x = keras.Input((4,))
    return keras.Model(x, ops.norm(layers.Dense(6)(x), axis=-1, keepdims=True))


@provable()
def keras_absolute_differences(v):
    x = keras.Input((4,))
    difference = layers.Subtract()([layers.Dense(6)(x), layers.Dense(6)(x)])
    return keras.Model(x, positive(1)(ops.absolute(difference)))


@provable()
def keras_double_precision(v):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, "softplus", dtype="float64"), positive(1, dtype="float64")]
    )
