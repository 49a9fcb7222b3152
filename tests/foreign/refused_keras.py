"""Keras models that must be refused: not convex, or convex for a reason that the files do not show."""

# ruff: noqa: ARG001, D103 - a specimen's name says what it is; Keras draws its own weights

import keras
import numpy as np
from keras import layers, ops

from tests.foreign.provable_keras import positive
from tests.foreign.specimens import refused

CURVED = ("not-lifted", "atom-convex", "op-not-allowed")
"""What a function that is not convex may be called: not understood, or understood and not convex."""
SIGN = ("nonneg-matmul", "nonneg-scale")
FALLING = ("atom-nondecreasing", "not-lifted")


def with_activation(activation):
    """Return a small network with this activation."""
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, activation), positive(1)])


@refused(*CURVED)
def keras_tanh(v):
    return with_activation("tanh")


@refused(*CURVED)
def keras_sigmoid(v):
    return with_activation("sigmoid")


@refused(*CURVED)
def keras_sigmoid_output(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, "softplus"), positive(1, "sigmoid")])


@refused(*CURVED)
def keras_gelu(v):
    return with_activation("gelu")


@refused(*CURVED, *FALLING, "object-graph")
def keras_silu(v):
    return with_activation("silu")


@refused(*CURVED, *FALLING)
def keras_mish(v):
    return with_activation("mish")


@refused(*CURVED, *SIGN)
def keras_selu(v):
    return with_activation("selu")


@refused(*CURVED, *SIGN)
def keras_relu6(v):
    return with_activation("relu6")


@refused(*CURVED, *SIGN)
def keras_capped_relu(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.ReLU(max_value=2.0), positive(1)])


@refused(*CURVED, *SIGN)
def keras_softsign(v):
    return with_activation("softsign")


@refused(*CURVED, *SIGN)
def keras_hard_sigmoid(v):
    return with_activation("hard_sigmoid")


@refused(*CURVED, *SIGN)
def keras_hard_silu(v):
    return with_activation("hard_silu")


@refused(*CURVED, *SIGN)
def keras_log_softmax(v):
    return with_activation("log_softmax")


@refused(*CURVED, *SIGN, "row-axis")
def keras_softmax(v):
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(3, "softmax")(x)[:, :1])


@refused(*CURVED, *SIGN)
def keras_threshold(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.ReLU(threshold=0.5), positive(1)])


@refused(*CURVED, *SIGN, "atom-nondecreasing")
def keras_steep_leaky(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.LeakyReLU(1.5), positive(1)])


@refused(*CURVED, *SIGN)
def keras_steep_prelu(v):
    steep = keras.initializers.Constant(1.25)
    return keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.PReLU(steep), positive(1)])


@refused(*FALLING, *SIGN, "atom-convex")
def keras_falling_prelu_of_convex(v):
    falling, low = keras.initializers.Constant(-0.25), keras.initializers.Constant(-2.0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, "softplus"),
            positive(5, bias_initializer=low),
            layers.PReLU(falling),
            positive(1),
        ]
    )


@refused(*CURVED, *SIGN)
def keras_steep_elu(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.ELU(2.0), positive(1)])


@refused(*SIGN)
def keras_unconstrained(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, "relu"), layers.Dense(5, "relu"), layers.Dense(1)])


@refused(*SIGN)
def keras_one_negative_weight(v):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, "softplus"), positive(5, "softplus"), positive(1)])
    kernel = model.layers[1].get_weights()
    kernel[0][2, 3] = -5.0
    model.layers[1].set_weights(kernel)
    return model


@refused(*SIGN)
def keras_normalization_with_negative_scale(v):
    negative = layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(-1.0))
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, "relu"), negative, positive(1)])


@refused("row-axis", "not-lifted", "op-not-allowed")
def keras_batch_statistics(v):
    x = keras.Input((4,))
    z = layers.BatchNormalization()(layers.Dense(6, "relu")(x), training=True)
    return keras.Model(x, positive(1)(z))


@refused(*CURVED)
def keras_layer_normalization(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.LayerNormalization(), positive(1)])


@refused(*CURVED)
def keras_unit_normalization(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.UnitNormalization(), positive(1)])


@refused(*CURVED)
def keras_multiplied_branches(v):
    x = keras.Input((4,))
    return keras.Model(x, positive(1)(layers.Multiply()([layers.Dense(5, "softplus")(x), layers.Dense(5)(x)])))


@refused(*CURVED, "row-axis")
def keras_dot_of_branches(v):
    x = keras.Input((4,))
    return keras.Model(x, layers.Dot(axes=1)([layers.Dense(5)(x), layers.Dense(5)(x)]))


@refused(*CURVED, *SIGN)
def keras_minimum_of_branches(v):
    x = keras.Input((4,))
    return keras.Model(x, positive(1)(layers.Minimum()([layers.Dense(5)(x), layers.Dense(5)(x)])))


@refused(*SIGN)
def keras_subtracted_branches(v):
    x = keras.Input((4,))
    return keras.Model(x, positive(1)(layers.Subtract()([layers.Dense(5, "relu")(x), layers.Dense(5, "relu")(x)])))


@refused("cast", "op-not-allowed", convex=True)
def keras_half_precision(v):
    half = {"dtype": "mixed_float16"}
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, "softplus", **half), positive(1, dtype="float32")])


@refused("op-not-allowed", "not-lifted", "row-axis", dim=8)
def keras_recurrent(v):
    return keras.Sequential([keras.Input((8,)), layers.Reshape((4, 2)), layers.GRU(3, unroll=False), positive(1)])


@refused("op-not-allowed", "not-lifted", "row-axis", "atom-convex", dim=8)
def keras_attention(v):
    x = keras.Input((8,))
    z = layers.Reshape((4, 2))(x)
    return keras.Model(x, positive(1)(layers.GlobalAveragePooling1D()(layers.Attention()([z, z]))))


@refused("op-not-allowed", "cast", "not-lifted")
def keras_rounded(v):
    x = keras.Input((4,))
    return keras.Model(x, positive(1)(ops.round(layers.Dense(5)(x))))


@refused("atom-nondecreasing", "not-lifted")
def keras_square_of_signed(v):
    x = keras.Input((4,))
    return keras.Model(x, positive(1)(ops.square(layers.Dense(6, "elu")(x))))


@refused("finite-weights")
def keras_not_a_number(v):
    model = with_activation("softplus")
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([np.full_like(kernel, np.nan), bias])
    return model


@refused("signature-outputs", "output-shape")
def keras_two_scores(v):
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, "softplus"), positive(2)])


@refused("signature-inputs")
def keras_picture_input(v):
    return keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(1)])
