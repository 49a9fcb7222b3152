"""Provable specimens in plain TensorFlow: functions of `tf`, `tf.math`, `tf.nn` and `tf.linalg` over variables."""

# ruff: noqa: ARG001, D103 - a specimen's name says what it is; Keras draws its own weights

import tensorflow as tf

from tests.foreign.specimens import provable

# ------------------------------------------------------------------------------------------ losses of an affine map


@provable()
def affine(v):
    w, b = v.normal(4), v.normal()
    return lambda x: tf.linalg.matvec(x, w) + b


@provable()
def constant_beside_the_row(v):
    return lambda x: tf.zeros_like(x[:, 0]) + 3.0


@provable()
def logistic_loss(v):
    w, b = v.normal(4, 1), v.normal(1)
    return lambda x: tf.nn.softplus(tf.nn.bias_add(tf.matmul(x, w), b))


@provable()
def hinge(v):
    w = v.normal(4, 6)
    return lambda x: tf.reduce_sum(tf.nn.relu(1.0 - x @ w), axis=1)


@provable()
def squared_hinge(v):
    w = v.normal(4, 6)
    return lambda x: tf.reduce_sum(tf.square(tf.nn.relu(1.0 - x @ w)), axis=1)


@provable()
def pinball_loss(v):
    w, b = v.normal(4, 3), v.normal(3)

    def score(x):
        error = x @ w - b
        return tf.reduce_mean(tf.maximum(0.9 * error, -0.1 * error), axis=-1)

    return score


@provable()
def huber_by_where(v):
    w, b = v.normal(4, 5), v.normal(5)

    def score(x):
        error = x @ w - b
        return tf.reduce_sum(tf.where(tf.abs(error) <= 1.0, 0.5 * tf.square(error), 1.0 * tf.abs(error) - 0.5), axis=-1)

    return score


@provable()
def log_cosh(v):
    w = v.normal(4, 5)

    def score(x):
        error = x @ w
        return tf.reduce_mean(error + tf.nn.softplus(-2.0 * error) - tf.math.log(2.0), axis=-1)

    return score


@provable()
def mean_squared_error(v):
    w, b = v.normal(4, 3), v.normal(3)
    return lambda x: tf.reduce_mean(tf.math.squared_difference(x @ w, b), axis=-1)


@provable()
def mean_absolute_error(v):
    w, b = v.normal(4, 3), v.normal(3)
    return lambda x: tf.reduce_mean(tf.abs(b - x @ w), axis=-1)


@provable()
def cross_entropy_with_logits(v):
    w = v.normal(4, 2)

    def score(x):
        logits = x @ w
        return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(tf.ones_like(logits) * 0.25, logits), axis=1)

    return score


@provable()
def minus_log_sigmoid(v):
    w = v.normal(4, 2)
    return lambda x: -tf.reduce_sum(tf.math.log_sigmoid(x @ w), axis=1)


@provable()
def pseudo_huber(v):
    w = v.normal(4, 3)
    return lambda x: tf.reduce_sum(tf.sqrt(1.0 + tf.square(x @ w)) - 1.0, axis=1)


@provable()
def distance_to_a_box(v):
    low, high = v.negative(4), v.positive(4)
    return lambda x: tf.reduce_sum(tf.nn.relu(low - x) + tf.nn.relu(x - high), axis=1)


@provable()
def elastic_net(v):
    w = v.normal(4, 4)
    return lambda x: 0.3 * tf.norm(x @ w, ord=1, axis=1) + 0.7 * tf.reduce_sum((x @ w) ** 2, axis=1)


# ------------------------------------------------------------------------------------------- norms and log-sum-exp


@provable()
def euclidean_norm(v):
    w, b = v.normal(4, 5), v.normal(5)
    return lambda x: tf.norm(x @ w + b, axis=1)


@provable()
def largest_entry_norm(v):
    w = v.normal(4, 5)
    return lambda x: tf.norm(x @ w, ord=float("inf"), axis=1)


@provable()
def reduced_euclidean_norm(v):
    w = v.normal(4, 5)
    return lambda x: tf.math.reduce_euclidean_norm(x @ w, axis=1)


@provable()
def log_sum_exp(v):
    w, b = v.normal(4, 6), v.normal(6)
    return lambda x: tf.reduce_logsumexp(x @ w + b, axis=1)


@provable()
def log_sum_exp_by_hand(v):
    w = v.normal(4, 6)

    def score(x):
        u = x @ w
        largest = tf.stop_gradient(tf.reduce_max(u, axis=1, keepdims=True))
        return tf.math.log(tf.reduce_sum(tf.exp(u - largest), axis=1)) + largest[:, 0]

    return score


@provable()
def log_sum_exp_of_a_network(v):
    w, k = v.normal(4, 6), v.positive(6, 3)
    return lambda x: tf.reduce_logsumexp(tf.nn.softplus(x @ w) @ k, axis=-1, keepdims=True)


# ------------------------------------------------------------------------------------------------------------ maxima


@provable()
def largest_feature(v):
    w, b = v.normal(4, 7), v.normal(7)
    return lambda x: tf.reduce_max(x @ w + b, axis=1)


@provable()
def maxout(v):
    w, k = v.normal(4, 12), v.positive(4, 1)
    return lambda x: tf.reduce_max(tf.reshape(x @ w, [-1, 4, 3]), axis=2) @ k


@provable()
def maximum_of_three(v):
    a, b, c = v.normal(4, 1), v.normal(4, 1), v.normal(1)
    return lambda x: tf.maximum(tf.maximum(x @ a, x @ b), c)


@provable()
def leaky_by_hand(v):
    w, k = v.normal(4, 5), v.positive(5, 1)

    def score(x):
        u = x @ w
        return tf.maximum(u, 0.1 * u) @ k

    return score


@provable()
def steep_by_maximum(v):
    w, k = v.normal(4, 5), v.positive(5, 1)

    def score(x):
        u = x @ w
        return tf.maximum(u, 1.5 * u) @ k

    return score


@provable()
def minus_the_minimum(v):
    a, b = v.normal(4, 1), v.normal(4, 1)
    return lambda x: -tf.minimum(x @ a, x @ b)


# ------------------------------------------------------------------------------------------------------- activations


@provable()
def stable_softplus(v):
    w, k = v.normal(4, 5), v.positive(5, 1)

    def score(x):
        u = x @ w
        return (tf.maximum(u, 0.0) + tf.math.log1p(tf.exp(-tf.abs(u)))) @ k

    return score


@provable()
def softplus_with_temperature(v):
    w, k = v.normal(4, 5), v.positive(5, 1)
    return lambda x: (tf.nn.softplus(5.0 * (x @ w)) / 5.0) @ k


@provable()
def smooth_leaky(v):
    w, k, m = v.normal(4, 5), v.positive(5, 5), v.positive(5, 1)

    def smooth(u):
        return 0.2 * u + 0.8 * tf.nn.softplus(u)

    return lambda x: smooth(smooth(x @ w) @ k) @ m


@provable()
def squareplus_by_hand(v):
    w, k, m = v.normal(4, 5), v.positive(5, 5), v.positive(5, 1)

    def squareplus(u):
        return (u + tf.sqrt(tf.square(u) + 4.0)) / 2.0

    return lambda x: squareplus(squareplus(x @ w) @ k) @ m


@provable()
def elu_by_where(v):
    w, k, m = v.normal(4, 5), v.positive(5, 5), v.positive(5, 1)

    def elu(u):
        return tf.where(u > 0, u, tf.math.expm1(tf.minimum(u, 0.0)))

    return lambda x: elu(elu(x @ w) @ k) @ m


@provable()
def leaky_op(v):
    w, k, m = v.normal(4, 5), v.positive(5, 5), v.positive(5, 1)
    return lambda x: tf.nn.leaky_relu(tf.nn.leaky_relu(x @ w, alpha=0.05) @ k, alpha=0.3) @ m


@provable()
def squared_leaky_of_affine(v):
    w, b, k = v.normal(4, 5), v.normal(5), v.positive(5, 1)
    return lambda x: tf.square(tf.nn.leaky_relu(x @ w + b)) @ k


@provable()
def exponential_of_affine(v):
    w = v.normal(4, 3)
    return lambda x: tf.reduce_sum(tf.exp(0.01 * x @ w), axis=1)


@provable()
def exponential_of_a_network(v):
    w, k = v.normal(4, 3), v.positive(3, 2)
    return lambda x: tf.reduce_sum(tf.exp(0.001 * (tf.nn.softplus(x @ w) @ k)), axis=1)


@provable()
def custom_gradient_of_a_softplus(v):
    w, k = v.normal(4, 5), v.positive(5, 1)

    @tf.custom_gradient
    def clipped(u):
        return tf.nn.softplus(u), lambda upstream: tf.clip_by_value(upstream, -1.0, 1.0)

    return lambda x: clipped(x @ w) @ k


# ------------------------------------------------------------------------------------------- finer proofs by intervals


@provable()
def square_of_a_positive_network(v):
    w, k = v.normal(4, 5), v.positive(5, 3)
    return lambda x: tf.reduce_sum(tf.square(tf.nn.softplus(x @ w) @ k), axis=1)


@provable()
def absolute_value_of_a_positive_network(v):
    w, k = v.normal(4, 5), v.positive(5, 3)
    return lambda x: tf.reduce_sum(tf.abs(tf.nn.relu(x @ w) @ k), axis=1)


@provable()
def leaky_of_a_known_sign(v):
    w, k = v.normal(4, 5), v.positive(5, 3)
    return lambda x: tf.reduce_sum(tf.nn.leaky_relu(tf.exp(0.01 * x @ w) @ k, alpha=-0.5), axis=1)


@provable()
def norm_of_a_positive_network(v):
    w, k = v.normal(4, 5), v.positive(5, 3)
    return lambda x: tf.norm(tf.nn.relu(x @ w) @ k, axis=1)


# ---------------------------------------------------------------------------------------------------- linear algebra


@provable()
def matmul_chain(v):
    a, b, c, k = v.normal(4, 6), v.normal(6, 3), v.normal(5, 3), v.positive(5)
    return lambda x: tf.linalg.matvec(tf.nn.softplus(tf.matmul(x @ a @ b, c, transpose_b=True)), k)


@provable()
def einsum_dense(v):
    w, k = v.normal(4, 5), v.positive(5)
    return lambda x: tf.einsum("bh,h->b", tf.nn.softplus(tf.einsum("bi,ih->bh", x, w)), k)


@provable()
def einsum_heads(v):
    w, k = v.normal(4, 3, 2), v.positive(3, 2)
    return lambda x: tf.einsum("bhk,hk->b", tf.nn.relu(tf.einsum("bi,ihk->bhk", x, w)), k)


@provable()
def tensordot(v):
    w, k = v.normal(4, 5), v.positive(5)
    return lambda x: tf.tensordot(tf.nn.elu(tf.tensordot(x, w, axes=1)), k, axes=1)


@provable()
def sum_of_squares(v):
    w, b = v.normal(4, 4), v.normal(4)
    return lambda x: 0.5 * tf.reduce_sum((x @ w) * (x @ w), axis=1) + tf.linalg.matvec(x, b)


@provable()
def variance_of_the_features(v):
    w = v.normal(4, 5)
    return lambda x: tf.math.reduce_variance(x @ w, axis=1)


@provable()
def normalised_kernel(v):
    w, k = v.normal(4, 5), v.normal(5, 1)
    return lambda x: tf.nn.softplus(x @ w) @ tf.square(k)


@provable()
def softplus_kernel(v):
    w, k = v.normal(4, 5), v.normal(5, 1)
    return lambda x: tf.nn.softplus(x @ w) @ tf.nn.softplus(k)


# ------------------------------------------------------------------------------------------------- slices and shapes


@provable()
def slices_of_features(v):
    k = v.positive(2)
    return lambda x: tf.reduce_sum(tf.nn.softplus(x[:, :2] - x[:, 2:]) * k, axis=1) + tf.abs(x[:, -1])


@provable()
def strided_slices(v):
    k = v.positive(2)
    return lambda x: tf.reduce_max(tf.nn.relu(x[:, ::2] - x[:, 1::2]) * k, axis=1)


@provable()
def split_and_concat(v):
    w, k = v.normal(2, 3), v.positive(6, 1)

    def score(x):
        first, second = tf.split(x, 2, axis=1)
        return tf.concat([tf.nn.softplus(first @ w), tf.nn.elu(second @ w)], axis=1) @ k

    return score


@provable()
def unstacked_features(v):
    k = v.positive(4)

    def score(x):
        a, b, c, d = tf.unstack(x, axis=1)
        return tf.reduce_sum(tf.stack([tf.abs(a - b), tf.square(c), tf.nn.softplus(d), tf.exp(0.1 * a)], axis=1) * k, 1)

    return score


@provable()
def gathered_features(v):
    w, k = v.normal(3, 5), v.positive(5, 1)
    return lambda x: tf.nn.softplus(tf.gather(x, [3, 0, 3], axis=1) @ w) @ k


@provable()
def transposed_features(v):
    w, k = v.normal(2, 3), v.positive(6, 1)
    return lambda x: tf.nn.softplus(tf.reshape(tf.transpose(tf.reshape(x, [-1, 2, 2]), [0, 2, 1]) @ w, [-1, 6])) @ k


@provable()
def padded_features(v):
    w, k = v.normal(6, 3), v.positive(3, 1)
    return lambda x: tf.nn.softplus(tf.pad(x, [[0, 0], [1, 1]]) @ w) @ k


@provable()
def tiled_features(v):
    w, k = v.normal(8), v.positive(8)
    return lambda x: tf.reduce_sum(tf.nn.softplus(tf.tile(x, [1, 2]) * w) * k, axis=1)


@provable()
def expanded_and_squeezed(v):
    w, k = v.normal(4, 5), v.positive(5, 1)
    return lambda x: tf.squeeze(tf.squeeze(tf.nn.softplus(tf.expand_dims(x, 1) @ w), axis=1) @ k, axis=-1)


@provable()
def reshape_by_shape(v):
    w, k = v.normal(4, 6), v.positive(3)

    def score(x):
        u = tf.reshape(x @ w, [tf.shape(x)[0], 2, 3])
        return tf.reduce_sum(tf.reduce_max(u, axis=1) * k, axis=1)

    return score


@provable()
def add_n_and_means(v):
    w, a = v.normal(4, 5), v.normal(4, 5)
    return lambda x: tf.reduce_mean(tf.add_n([tf.nn.softplus(x @ w), tf.nn.relu(x @ a), x @ a]), axis=1, keepdims=True)


# ------------------------------------------------------------------------------------------------ signals and pictures


@provable(dim=8)
def one_dimensional_convolution(v):
    w, k = v.normal(3, 1, 2), v.positive(2)
    return lambda x: tf.reduce_sum(
        tf.reduce_mean(tf.nn.softplus(tf.nn.conv1d(x[:, :, None], w, stride=1, padding="SAME")), axis=1) * k, axis=1
    )


@provable(dim=16)
def two_dimensional_convolution(v):
    w, b, k = v.normal(3, 3, 1, 2), v.normal(2), v.positive(8, 1)

    def score(x):
        u = tf.nn.conv2d(tf.reshape(x, [-1, 4, 4, 1]), w, strides=2, padding="SAME")
        return tf.reshape(tf.nn.relu(tf.nn.bias_add(u, b)), [-1, 8]) @ k

    return score


@provable(dim=16)
def depthwise_convolution(v):
    w, k = v.normal(2, 2, 1, 3), v.positive(3)

    def score(x):
        u = tf.nn.depthwise_conv2d(tf.reshape(x, [-1, 4, 4, 1]), w, strides=[1, 1, 1, 1], padding="VALID")
        return tf.reduce_sum(tf.reduce_max(u, axis=[1, 2]) * k, axis=1)

    return score


@provable(dim=16)
def pooled_convolution(v):
    w, m, k = v.normal(3, 3, 1, 2), v.positive(2, 2, 2, 2), v.positive(2)

    def score(x):
        u = tf.nn.softplus(tf.nn.conv2d(tf.reshape(x, [-1, 4, 4, 1]), w, strides=1, padding="SAME"))
        u = tf.nn.relu(tf.nn.conv2d(tf.nn.max_pool2d(u, 2, 1, "VALID"), m, strides=1, padding="VALID"))
        return tf.reduce_sum(tf.reduce_mean(tf.nn.avg_pool2d(u, 2, 2, "VALID"), axis=[1, 2]) * k, axis=1)

    return score


# ------------------------------------------------------------------------------- functions, types, several signatures


@provable()
def nested_functions(v):
    w, k = v.normal(4, 5), v.positive(5, 1)

    @tf.function
    def hidden(x):
        return tf.nn.softplus(x @ w)

    @tf.function
    def output(x):
        return hidden(x) @ k

    @tf.function
    def answer(x):
        return tf.squeeze(output(x) + output(-x), axis=-1)

    return answer


@provable()
def shared_weights(v):
    w, k, m = v.normal(4, 5), v.positive(5, 5), v.positive(5, 1)

    def score(x):
        z = tf.nn.softplus(x @ w)
        for _ in range(3):
            z = tf.nn.softplus(z @ k + x @ w)
        return z @ m

    return score


@provable()
def several_signatures(v):
    w, k = v.normal(4, 5), v.positive(5, 1)

    def column(x):
        return tf.nn.softplus(x @ w) @ k

    return {"serving_default": column, "predict": column, "flat": lambda x: tf.squeeze(column(x), -1)}


@provable()
def standardised_rows(v):
    mean, deviation, w, k = v.normal(4), v.positive(4), v.normal(4, 5), v.positive(5, 1)
    return lambda x: tf.nn.softplus(((x - mean) / deviation) @ w) @ k


@provable()
def batch_normalised_by_hand(v):
    w, mean, variance, gamma, beta, k = (
        v.normal(4, 5), v.normal(5), v.positive(5), v.positive(5), v.normal(5), v.positive(5, 1),
    )  # fmt: skip
    return lambda x: tf.nn.batch_normalization(tf.nn.softplus(x @ w), mean, variance, beta, gamma, 1e-3) @ k


@provable()
def double_precision_inside(v):
    v.dtype = tf.float64
    w, k = v.normal(4, 5), v.positive(5, 1)
    return lambda x: tf.cast(tf.nn.softplus(tf.cast(x, tf.float64) @ w) @ k, tf.float32)


@provable(dtype=tf.float64)
def double_precision_rows(v):
    w, k = v.normal(4, 5), v.positive(5, 1)
    return lambda x: tf.nn.softplus(x @ w) @ k
