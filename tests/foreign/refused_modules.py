"""TensorFlow functions that must be refused: not convex, rows that meet, effects, or types that round."""

# ruff: noqa: ARG001, D103 - a specimen's name says what it is; Keras draws its own weights

import tensorflow as tf

from tests.foreign.specimens import refused

CURVED = ("not-lifted", "atom-convex", "op-not-allowed")
SIGN = ("nonneg-matmul", "nonneg-scale")
FALLING = ("atom-nondecreasing", "not-lifted")
ROWS = ("row-axis", "op-not-allowed", "not-lifted")

# ---------------------------------------------------------------------------------------------------------- curvature


@refused(*CURVED, *SIGN)
def minimum(v):
    a, b = v.normal(4, 1), v.normal(4, 1)
    return lambda x: tf.minimum(x @ a, x @ b)


@refused(*CURVED, *SIGN)
def smallest_feature(v):
    w = v.normal(4, 3)
    return lambda x: tf.reduce_min(x @ w, axis=1)


@refused(*CURVED)
def product_of_two(v):
    a, b = v.normal(4, 1), v.normal(4, 1)
    return lambda x: (x @ a) * (x @ b)


@refused(*CURVED)
def indefinite_quadratic_form(v):
    p = v.normal(4, 4)
    return lambda x: tf.reduce_sum((x @ p) * x, axis=1)


@refused(*CURVED, "row-axis", convex=True)
def quadratic_form_without_factors(v):
    p = v.keep([[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 3]])
    return lambda x: tf.einsum("bi,ij,bj->b", x, p, x)


@refused(*CURVED)
def quadratic_over_signed_linear(v):
    a, b = v.normal(4, 1), v.normal(4, 1)
    return lambda x: tf.square(x @ a) / (x @ b)


@refused(*SIGN)
def minus_softplus(v):
    w = v.normal(4, 1)
    return lambda x: -tf.nn.softplus(x @ w)


@refused(*SIGN)
def difference_of_convex(v):
    w, a, k = v.normal(4, 3), v.normal(4, 3), v.positive(3, 1)
    return lambda x: (tf.nn.softplus(x @ w) - 0.5 * tf.abs(x @ a)) @ k


@refused(*CURVED, *SIGN)
def sine(v):
    w = v.normal(4, 1)
    return lambda x: tf.sin(x @ w)


@refused(*CURVED, *SIGN)
def arctangent(v):
    w = v.normal(4, 1)
    return lambda x: tf.atan(x @ w)


@refused(*CURVED, *SIGN)
def error_function(v):
    w = v.normal(4, 1)
    return lambda x: tf.math.erf(x @ w)


@refused(*CURVED, *SIGN)
def logarithm_of_positive(v):
    w = v.normal(4, 3)
    return lambda x: tf.math.log(1.0 + tf.reduce_sum(tf.square(x @ w), axis=1))


@refused(*CURVED, *SIGN)
def root_of_a_norm(v):
    w = v.normal(4, 3)
    return lambda x: tf.sqrt(tf.norm(x @ w, axis=1) + 1e-3)


@refused(*CURVED, *FALLING)
def reciprocal_of_softplus(v):
    w, k = v.normal(4, 3), v.positive(3, 1)
    return lambda x: tf.math.reciprocal(1.0 + tf.nn.softplus(x @ w) @ k)


@refused(*CURVED, *FALLING, *SIGN)
def exponential_of_minus_softplus(v):
    w, k = v.normal(4, 3), v.positive(3, 1)
    return lambda x: tf.exp(-(tf.nn.softplus(x @ w) @ k))


@refused(*FALLING)
def square_of_signed_convex(v):
    w, k, b = v.normal(4, 3), v.positive(3, 1), v.keep([-2.0])
    return lambda x: tf.square(tf.nn.softplus(x @ w) @ k + b)


@refused(*FALLING)
def absolute_value_of_signed_convex(v):
    w, k, b = v.normal(4, 3), v.positive(3, 1), v.keep([-2.0])
    return lambda x: tf.abs(tf.nn.softplus(x @ w) @ k + b)


@refused(*FALLING)
def squared_leaky_of_convex(v):
    w, k = v.normal(4, 3), v.positive(3, 1)
    return lambda x: tf.square(tf.nn.leaky_relu(tf.nn.softplus(x @ w) @ k - 2.0, alpha=0.5))


@refused(*FALLING)
def norm_of_signed_convex(v):
    w, k = v.normal(4, 3), v.positive(3, 2)
    return lambda x: tf.norm(tf.nn.softplus(x @ w) @ k - 2.0, axis=1)


@refused(*FALLING, "atom-convex")
def huber_of_convex(v):
    w, k = v.normal(4, 3), v.positive(3, 1)

    def score(x):
        u = tf.nn.softplus(x @ w) @ k - 2.0
        return tf.where(tf.abs(u) <= 1.0, 0.5 * u * u, tf.abs(u) - 0.5)

    return score


@refused(*CURVED, *FALLING)
def softplus_with_a_jump(v):
    w, k = v.normal(4, 3), v.positive(3, 1)

    def softplus(u):
        return tf.where(u > 20.0, u, tf.math.log1p(tf.exp(u)))

    return lambda x: softplus(x @ w) @ k


@refused(*CURVED, *FALLING)
def branches_that_do_not_meet(v):
    w, k = v.normal(4, 3), v.positive(3, 1)

    def bent(u):
        return tf.where(u > 0.0, u, 0.5 * u + 0.25)

    return lambda x: bent(x @ w) @ k


@refused(*CURVED, *FALLING)
def branches_of_two_arguments(v):
    w, a, k = v.normal(4, 3), v.normal(4, 3), v.positive(3, 1)
    return lambda x: tf.where(x @ w > 0.0, x @ w, 0.1 * (x @ a)) @ k


@refused(*CURVED, *FALLING)
def branches_swapped(v):
    w, k = v.normal(4, 3), v.positive(3, 1)

    def bent(u):
        return tf.where(u > 0.0, 0.1 * u, u)

    return lambda x: bent(x @ w) @ k


@refused(*CURVED, *FALLING, *SIGN)
def huber_with_wrong_offset(v):
    w = v.normal(4, 1)

    def score(x):
        u = x @ w
        return tf.where(tf.abs(u) <= 1.0, 0.5 * u * u, tf.abs(u) - 0.75)

    return score


@refused(*CURVED, *SIGN, *FALLING)
def clipped(v):
    w = v.normal(4, 3)
    return lambda x: tf.reduce_sum(tf.clip_by_value(x @ w, -1.0, 1.0), axis=1)


@refused(*CURVED, *SIGN, *FALLING)
def elu_with_alpha_two(v):
    w, k = v.normal(4, 3), v.positive(3, 1)

    def elu(u):
        return tf.where(u > 0.0, u, 2.0 * tf.math.expm1(tf.minimum(u, 0.0)))

    return lambda x: elu(x @ w) @ k


@refused(*CURVED, "atom-nondecreasing")
def steep_leaky_op(v):
    w, k = v.normal(4, 3), v.positive(3, 1)
    return lambda x: tf.nn.leaky_relu(x @ w, alpha=1.5) @ k


@refused(*CURVED, *SIGN, *FALLING)
def cubic(v):
    w = v.normal(4, 1)
    return lambda x: tf.pow(x @ w, 3.0)


@refused(*SIGN)
def negative_convolution(v):
    w, m = v.normal(2, 1, 2), v.negative(2, 2, 1)
    return lambda x: tf.reduce_sum(
        tf.nn.conv1d(tf.nn.softplus(tf.nn.conv1d(x[:, :, None], w, 1, "SAME")), m, 1, "SAME"), axis=[1, 2]
    )


@refused(*SIGN)
def log_sum_exp_subtracted(v):
    w = v.normal(4, 3)
    return lambda x: tf.reduce_max(x @ w, axis=1) - tf.reduce_logsumexp(2.0 * (x @ w), axis=1)


@refused(*CURVED, *SIGN)
def sign_of_a_feature(v):
    w = v.normal(4, 1)
    return lambda x: tf.sign(x @ w)


@refused(*CURVED, *SIGN, "row-axis")
def softmax_weighted_mean(v):
    w, a = v.normal(4, 3), v.normal(4, 3)
    return lambda x: tf.reduce_sum(tf.nn.softmax(x @ w) * (x @ a), axis=1)


@refused(*CURVED, "row-axis")
def median_of_features(v):
    return lambda x: tf.sort(x, axis=1)[:, 1]


@refused(*CURVED, "cast", "row-axis")
def position_of_the_largest(v):
    w = v.normal(4, 3)
    return lambda x: tf.cast(tf.argmax(x @ w, axis=1), tf.float32)


# --------------------------------------------------------------------------------------------------- rows that meet


@refused(*ROWS)
def centred_on_the_batch(v):
    w = v.normal(4, 3)
    return lambda x: tf.reduce_sum(tf.nn.softplus((x - tf.reduce_mean(x, 0)) @ w), axis=1)


@refused(*ROWS)
def softmax_over_rows(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softmax(x @ w, axis=0)


@refused(*ROWS)
def cumulated_rows(v):
    w = v.normal(4, 1)
    return lambda x: tf.cumsum(tf.nn.softplus(x @ w), axis=0)


@refused(*ROWS)
def sorted_rows(v):
    w = v.normal(4, 1)
    return lambda x: tf.sort(x @ w, axis=0)


@refused(*ROWS)
def reversed_rows(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(tf.reverse(x @ w, axis=[0]))


@refused(*ROWS)
def rolled_rows(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(tf.roll(x, 1, axis=0) @ w)


@refused(*ROWS)
def difference_from_the_first_row(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus((x - x[:1]) @ w)


@refused(*ROWS)
def divided_by_the_number_of_rows(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(x @ w) / tf.cast(tf.shape(x)[0], tf.float32)


@refused(*ROWS)
def pairwise_products(v):
    return lambda x: tf.reduce_max(tf.matmul(x, x, transpose_b=True), axis=1)


@refused(*ROWS)
def half_loss_of_the_batch(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(x @ w) + tf.nn.l2_loss(x)


@refused(*ROWS)
def mixed_by_reshape(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(tf.transpose(tf.reshape(x, [4, -1])) @ w)


@refused(*ROWS)
def largest_of_the_batch(v):
    w = v.normal(4, 1)
    return lambda x: tf.maximum(x @ w, tf.reduce_max(x @ w))


@refused(*ROWS)
def first_row_for_all(v):
    w = v.normal(1, 4)
    return lambda x: tf.linalg.matvec(x, w)[:, 0] + 0.0 * x[:, 0]


@refused(*ROWS)
def broadcast_column_against_flat(v):
    w = v.normal(4, 1)
    return lambda x: tf.reduce_max(tf.nn.softplus(x @ w) + tf.squeeze(x @ w, -1), axis=1)


@refused(*ROWS)
def padded_rows(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(tf.pad(x, [[1, 0], [0, 0]])[:-1] @ w)


# ------------------------------------------------------------------------------------------------ effects and types


@refused("op-not-allowed")
def random_features(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus((x + tf.random.normal([4])) @ w)


@refused("op-not-allowed", convex=True)
def stateless_noise(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus((x + tf.random.stateless_normal([4], [1, 2])) @ w)


@refused("op-not-allowed", convex=True)
def checked_numerics(v):
    w = v.normal(4, 1)
    return lambda x: tf.debugging.check_numerics(tf.nn.softplus(x @ w), "not finite")


@refused("op-not-allowed", convex=True)
def printed_rows(v):
    w = v.normal(4, 1)

    def score(x):
        tf.print(x)
        return tf.nn.softplus(x @ w)

    return score


@refused("op-not-allowed", convex=True)
def counted_calls(v):
    w, calls = v.normal(4, 1), v.keep(0.0)

    def score(x):
        calls.assign_add(1.0)
        return tf.nn.softplus(x @ w)

    return score


@refused("op-not-allowed", "cast", "not-lifted")
def fake_quantised(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(tf.quantization.fake_quant_with_min_max_args(x, num_bits=4) @ w)


@refused("cast", "op-not-allowed")
def half_precision(v):
    w = v.normal(4, 1)
    return lambda x: tf.cast(tf.nn.softplus(tf.cast(x @ w, tf.float16)), tf.float32)


@refused("cast", "op-not-allowed")
def brain_float(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(tf.cast(tf.cast(x, tf.bfloat16), tf.float32) @ w)


@refused("cast", "op-not-allowed")
def integers(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(tf.cast(tf.cast(x, tf.int32), tf.float32) @ w)


@refused("op-not-allowed", "not-lifted")
def floored(v):
    w = v.normal(4, 1)
    return lambda x: tf.nn.softplus(tf.floor(x) @ w)


@refused("op-not-allowed", "not-lifted", convex=True)
def loop_over_features(v):
    w = v.normal(4, 3)

    @tf.function
    def score(x):
        total = tf.zeros_like(x[:, 0])
        for i in tf.range(3):
            total += tf.nn.softplus(tf.linalg.matvec(x, w[:, i]))
        return total

    return score


@refused("control-flow")
def branch_on_the_rows(v):
    w = v.normal(4, 1)

    def score(x):
        return tf.cond(tf.reduce_sum(x) > 0.0, lambda: tf.nn.softplus(x @ w), lambda: x @ w)

    return score


@refused("op-not-allowed", "row-axis", convex=True)
def mapped_rows(v):
    w = v.normal(4)
    return lambda x: tf.map_fn(lambda row: tf.nn.softplus(tf.reduce_sum(row * w)), x)


@refused("signatures-differ", convex=True)
def two_functions(v):
    w, a = v.normal(4, 1), v.normal(4, 1)
    return {"serving_default": lambda x: tf.nn.softplus(x @ w), "other": lambda x: tf.nn.softplus(x @ a)}


@refused("finite-weights")
def infinite_weight(v):
    w = v.keep([[1.0], [float("inf")], [0.0], [1.0]])
    return lambda x: tf.nn.softplus(x @ w)


@refused("signature-outputs", "output-shape", "op-not-allowed", convex=True)
def text_answer(v):
    w = v.normal(4, 1)
    return lambda x: tf.strings.as_string(tf.nn.softplus(x @ w))
