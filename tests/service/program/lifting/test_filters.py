"""Convolutions and pools: each is what loops over windows give in float64, with TensorFlow's padding and divisors."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from service.program.convolutions import Convolution
from service.program.curvature import prove
from service.program.operators import Dense
from service.program.program import AffineNode
from tests.service.program.foreign_graphs import Case, check, lifted, refusal, refusal_of_nodes

DRAWN = np.random.default_rng(6)
KERNEL = DRAWN.standard_normal((3, 2, 2, 3)).astype(np.float32)
LINE = DRAWN.standard_normal((3, 2, 3)).astype(np.float32)
BLOCK = DRAWN.standard_normal((2, 1, 2, 1, 2)).astype(np.float32)


def convolved(grid: Any, kernel: Any, *, stride: int = 1, dilation: int = 1, padding: Any = ((0, 0), (0, 0))) -> Any:
    """Return the convolution of [h, w, c] by [kh, kw, c, o] in float64, window by window."""
    padded = np.pad(grid, [*padding, (0, 0)])
    reach = [(size - 1) * dilation + 1 for size in kernel.shape[:2]]
    places = [range(0, size - width + 1, stride) for size, width in zip(padded.shape, reach, strict=False)]
    windows = [
        np.einsum(
            "hwc,hwco->o", padded[i : i + reach[0] : dilation, j : j + reach[1] : dilation], kernel.astype(np.float64)
        )
        for i, j in itertools.product(*places)
    ]
    return np.reshape(windows, (len(places[0]), len(places[1]), -1))


def pooled(grid: Any, size: int, stride: int, reduce: Any, *, same: bool) -> Any:
    """Return the means or maxima of windows of [h, w, c]; with `same`, of those cells that there are."""
    rows = []
    for axis in range(2):
        length = grid.shape[axis]
        count = -(-length // stride) if same else (length - size) // stride + 1
        before = max(0, (count - 1) * stride + size - length) // 2 if same else 0
        rows.append([slice(max(0, k * stride - before), k * stride - before + size) for k in range(count)])
    return np.array([[reduce(grid[i, j], axis=(0, 1)) for j in rows[1]] for i in rows[0]])


def grid(x: Any, shape: tuple[int, ...] = (5, 4, 2)) -> Any:
    """Return rows [n, *shape]."""
    return tf.reshape(x, [-1, *shape])


def of(v: Any, shape: tuple[int, ...] = (5, 4, 2)) -> Any:
    """Return one row as an array of `shape`."""
    return v.reshape(shape)


def transposed(v: Any) -> Any:
    """Return the transpose of the convolution by KERNEL's first input and the strides 2, of [2, 2, 3] to [5, 4, 2]."""
    result = np.zeros((5, 4, 2))
    for i, j in itertools.product(range(2), range(2)):
        result[2 * i : 2 * i + 3, 2 * j : 2 * j + 2] += np.einsum("hwco,o->hwc", KERNEL.astype(np.float64), v[i, j])
    return result


CASES = {
    "valid": Case(lambda x: tf.nn.conv2d(grid(x), KERNEL, 1, "VALID"), lambda v: convolved(of(v), KERNEL), 40),
    "same": Case(
        lambda x: tf.nn.conv2d(grid(x), KERNEL, 1, "SAME"),
        lambda v: convolved(of(v), KERNEL, padding=((1, 1), (0, 1))), 40,
    ),
    "same with strides": Case(
        lambda x: tf.nn.conv2d(grid(x), KERNEL, 2, "SAME"),
        lambda v: convolved(of(v), KERNEL, stride=2, padding=((1, 1), (0, 0))), 40,
    ),
    "explicit padding": Case(
        lambda x: tf.nn.conv2d(grid(x), KERNEL, 1, [[0, 0], [2, 0], [0, 3], [0, 0]]),
        lambda v: convolved(of(v), KERNEL, padding=((2, 0), (0, 3))), 40,
    ),
    "dilation": Case(
        lambda x: tf.nn.conv2d(grid(x), KERNEL, 1, "VALID", dilations=2),
        lambda v: convolved(of(v), KERNEL, dilation=2), 40
    ),
    "dilation by blocks": Case(
        lambda x: tf.nn.convolution(grid(x), KERNEL, padding="SAME", dilations=[2, 2]),
        lambda v: convolved(of(v), KERNEL, dilation=2, padding=((2, 2), (1, 1))), 40,
    ),
    "one dimension": Case(
        lambda x: tf.nn.conv1d(tf.reshape(x, [-1, 7, 2]), LINE, 2, "VALID"),
        lambda v: convolved(v.reshape(7, 1, 2), LINE[:, None], stride=2), 14,
    ),
    "each channel alone": Case(
        lambda x: tf.nn.depthwise_conv2d(grid(x), KERNEL, [1, 1, 1, 1], "VALID"),
        lambda v: np.concatenate(
            [convolved(of(v)[:, :, c : c + 1], KERNEL[:, :, c : c + 1]) for c in range(2)], -1
        ), 40,
    ),
    "transposed": Case(
        lambda x: tf.nn.conv2d_transpose(
            grid(x, (2, 2, 3)), KERNEL, tf.stack([tf.shape(x)[0], 5, 4, 2]), 2, "VALID"
        ),
        lambda v: transposed(of(v, (2, 2, 3))), 12,
    ),
    "three dimensions": Case(
        lambda x: tf.nn.conv3d(tf.reshape(x, [-1, 3, 1, 3, 1]), BLOCK, [1] * 5, "VALID"),
        lambda v: convolved(v.reshape(3, 3, 1), BLOCK[:, 0]), 9,
    ),
    "average": Case(
        lambda x: tf.nn.avg_pool2d(grid(x), 2, 2, "VALID"),
        lambda v: pooled(of(v), 2, 2, np.mean, same=False), 40,
    ),
    "average over the cells that there are": Case(
        lambda x: tf.nn.avg_pool2d(grid(x), 3, 2, "SAME"), lambda v: pooled(of(v), 3, 2, np.mean, same=True), 40
    ),
    "maximum": Case(
        lambda x: tf.nn.max_pool2d(grid(x), 2, 1, "VALID"),
        lambda v: pooled(of(v), 2, 1, np.max, same=False), 40,
    ),
    "maximum over the cells that there are": Case(
        lambda x: tf.nn.max_pool2d(grid(x) - 9.0, 3, 2, "SAME"),
        lambda v: pooled(of(v) - 9, 3, 2, np.max, same=True), 40
    ),
    "average of one dimension": Case(
        lambda x: tf.nn.avg_pool1d(tf.reshape(x, [-1, 6, 2]), 3, 3, "VALID"), lambda v: v.reshape(2, 3, 2).mean(1), 12
    ),
    "maximum of three dimensions": Case(
        lambda x: tf.nn.max_pool3d(tf.reshape(x, [-1, 2, 2, 2, 1]), 2, 2, "VALID"), lambda v: v.max(keepdims=True), 8
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_filter_is_its_own_function(name: str) -> None:
    """Score and gradient are those of loops over windows in float64, and those that TensorFlow computes."""
    check(CASES[name])


def test_convolution_is_kept_as_its_kernel() -> None:
    """The map of 40 features to 27 is stored as the kernel of 36 numbers, which its text hashes with its geometry."""
    programs = [check(CASES[name]) for name in ("valid", "same")]
    kernels = [
        term.operator
        for program in programs
        for node in program.nodes
        if isinstance(node, AffineNode)
        for term in node.terms
        if isinstance(term.operator, Convolution)
    ]
    assert [KERNEL.shape] * 2 == [operator.coefficients.shape for operator in kernels]
    assert programs[0].program_sha256 != programs[1].program_sha256
    assert programs[0].weights_sha256 != programs[1].weights_sha256  # as many weights as there are outputs follow


def layers(*steps: Any, dim: int = 36) -> keras.Model:
    """Return a Keras model of `steps`, its kernels made non-negative."""
    tensor = start = keras.Input((dim,))
    for step in steps:
        tensor = step(tensor)
    model = keras.Model(start, keras.layers.Dense(1)(keras.layers.Flatten()(tensor)))
    for variable in model.weights:
        if "kernel" in variable.path:
            variable.assign(np.abs(variable.numpy()))
    return model


def test_network_of_keras_layers_is_proved() -> None:
    """Convolutions, pools and batch normalisation of Keras, with kernels that are not negative, give a convex score."""
    model = layers(
        keras.layers.Reshape((6, 6, 1)),
        keras.layers.Conv2D(4, 3, padding="same", activation="softplus"),
        keras.layers.BatchNormalization(),
        keras.layers.DepthwiseConv2D(3, activation="softplus"),
        keras.layers.AveragePooling2D(2, padding="same", strides=1),
        keras.layers.Conv2D(3, 2, dilation_rate=2, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2DTranspose(2, 2, activation="softplus"),
        keras.layers.GlobalMaxPooling2D(),
    )
    program = lifted(lambda x: model(x, training=False), 36)
    certificate = prove(program)
    assert {"nonneg-matmul", "maximum"} <= {step.rule for step in certificate.steps}
    assert not any(isinstance(term.operator, Dense) and term.operator.coefficients.size > 2 for node in program.nodes
                   if isinstance(node, AffineNode) for term in node.terms)  # fmt: skip


def test_negative_entry_of_a_kernel_is_named_in_its_variable() -> None:
    """The refusal says how many entries are negative, the smallest, and where it stands in the variable's own shape."""
    model = layers(
        keras.layers.Reshape((6, 6, 1)),
        keras.layers.Conv2D(4, 3, activation="softplus"),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2, activation="softplus", name="depthwise"),
    )
    variable = next(each for each in model.weights if each.path == "depthwise/kernel")
    numbers = np.abs(variable.numpy())
    numbers[1, 2, 3, 0] = -0.25
    numbers[0, 0, 1, 1] = -0.5
    variable.assign(numbers)
    reason = str(refusal(lambda x: model(x, training=False), 36))
    assert "nonneg-matmul" in reason
    assert "depthwise/kernel" in reason
    assert "2 " in reason
    assert "-0.5 at [0, 0, 1, 1]" in reason


def total(tensor: Any) -> Any:
    """Return the sum over the features."""
    return tf.reduce_sum(tensor, [1, 2, 3])


REFUSED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "windows over the rows": (
        "row-axis", lambda x: tf.reduce_sum(tf.nn.conv1d(x[tf.newaxis], np.ones((2, 40, 1), "f4"), 1, "SAME"), [0, 2]),
    ),
    "pool over the rows": ("row-axis", lambda x: tf.nn.max_pool1d(x[tf.newaxis], 2, 1, "SAME")[0, :, 0]),
    "filter that is computed": (
        "row-axis", lambda x: total(tf.nn.conv2d(grid(x), tf.reshape(x, [5, 4, 2, -1])[:3, :2], 1, "VALID")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_filter_that_mixes_rows_is_refused_by_its_rule(name: str) -> None:
    """Windows over the batch, or filters made of it, are refused."""
    rule, function = REFUSED[name]
    assert rule == refusal(function, 40).rule


def conv(op: str = "Conv2D", **attributes: Any) -> list[Any]:
    """Return nodes of a filter on rows [n, 3, 1, 1] by a kernel [2, 1, 1, 1], or of a pool."""
    kernel = np.ones((2, 1, 1, 1), np.float32)
    inputs = (2,) if "Pool" in op else (2, 3)
    return [np.array([-1, 3, 1, 1]), ("Reshape", (0, 1), {}), kernel, (op, inputs, {"padding": "VALID", **attributes})]


ONES = (1, 1, 1, 1)
MALFORMED: dict[str, tuple[str, list[Any]]] = {
    "channels first": ("not-lifted", conv(strides=ONES, data_format="NCHW")),
    "strides over the rows": ("row-axis", conv(strides=(2, 1, 1, 1))),
    "strides over the channels": ("not-lifted", conv(strides=(1, 1, 1, 2))),
    "dilation over the rows": ("row-axis", conv(strides=ONES, dilations=(2, 1, 1, 1))),
    "strides of no size": ("not-lifted", conv(strides=(1, 0, 1, 1))),
    "padding of another kind": ("not-lifted", conv(strides=ONES, padding="FULL")),
    "padding of the rows": (
        "row-axis", conv(strides=ONES, padding="EXPLICIT", explicit_paddings=(1, 0, 0, 0, 0, 0, 0, 0)),
    ),
    "padding without end": (
        "size-limit", conv(strides=ONES, padding="EXPLICIT", explicit_paddings=(0, 0, 0, 2**40, 0, 0, 0, 0)),
    ),
    "window that does not fit": ("not-lifted", conv("AvgPool", strides=ONES, ksize=(1, 4, 1, 1))),
    "window over the rows": ("row-axis", conv("MaxPool", strides=ONES, ksize=(2, 1, 1, 1))),
    "window over the channels": ("not-lifted", conv("MaxPool", strides=ONES, ksize=(1, 1, 1, 2))),
    "window of padding alone": (
        "not-lifted",
        conv("MaxPool", strides=ONES, ksize=ONES, padding="EXPLICIT", explicit_paddings=(0, 0, 1, 0, 0, 0, 0, 0)),
    ),
    "depthwise of other channels": (
        "not-lifted",
        [np.array([-1, 3, 1, 1]), ("Reshape", (0, 1), {}), np.ones((1, 1, 2, 1), "f4"),
         ("DepthwiseConv2dNative", (2, 3), {"padding": "VALID", "strides": ONES})],
    ),
    "kernel of integers": (
        "cast",
        [np.array([-1, 3, 1, 1]), ("Reshape", (0, 1), {}), np.ones((1, 1, 1, 1), int),
         ("Conv2D", (2, 3), {"padding": "VALID", "strides": ONES})],
    ),
    "rows of no grid": ("row-axis", [np.ones((1, 1, 1, 1)), ("Conv2D", (0, 1), {"padding": "VALID", "strides": ONES})]),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_filter_that_no_export_writes_is_refused_by_its_rule(name: str) -> None:
    """Sizes are counted before memory is taken, and forms that TensorFlow would not run are refused."""
    rule, nodes = MALFORMED[name]
    assert rule == refusal_of_nodes(*nodes)
