"""A convex network whose first layer and passthrough are banks of filters, some frozen: exported, lifted and proved."""

from pathlib import Path

import keras
import numpy as np
import pytest

from service.manifest import VersionRefusedError
from service.program.certification import certify
from training import export, proof
from training.constraints import NonNegative
from training.layers.filter_bank import FilterBank
from training.layers.jointly_regularized import JointlyRegularized

ROWS = np.random.default_rng(5).normal(size=(64, 4)).astype(np.float32)


def positive(units: int, name: str) -> keras.layers.Layer:
    """Return a dense layer whose kernel starts and stays non-negative."""
    initializer = keras.initializers.RandomUniform(0.1, 1.0, seed=len(name))
    return keras.layers.Dense(units, kernel_initializer=initializer, kernel_constraint=NonNegative(), name=name)


@pytest.fixture(scope="module")
def network() -> JointlyRegularized:
    """Return a network of two banks, trained for a few steps with one joint penalty and frozen filters in both."""
    keras.utils.set_random_seed(1)
    x = keras.Input((4,))
    first = FilterBank(5, name="first", trainable_parts=[False, True, True, True, True])
    passthrough = FilterBank(3, name="passthrough", trainable_parts=[True, True, False])
    z = keras.ops.softplus(first(x))
    z = keras.ops.softplus(positive(3, "hidden")(z) + passthrough(x))
    model = JointlyRegularized(
        keras.Model(x, keras.ops.squeeze(positive(1, "top")(z), axis=-1)), "pairwise_cosine_orthogonality"
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    model.fit(ROWS, np.sum(ROWS**2, axis=1), epochs=2, verbose=0)
    return model


def test_d8_6_network_with_banks_as_first_layer_and_passthrough_is_proved(network, tmp_path):
    """What `stage` writes of it, and what Keras itself exports, is lifted and proved convex, and computes the same."""
    (tmp_path / "staged").mkdir()
    probe = export.stage(network, tmp_path / "staged", name="banks", rows=ROWS)
    certified = certify(tmp_path / "staged")
    assert {"convex"} == {step.curvature for step in certified.certificate.steps}
    assert 0.0 <= min(step.min_weight for step in certified.certificate.steps if step.min_weight is not None)
    np.testing.assert_allclose(probe.score, network.predict_on_batch(probe.x), rtol=1e-5)
    network.export(tmp_path / "exported", verbose=False)
    assert 4 == proof.prove(tmp_path / "exported").certified.dim


def test_d8_6_signs_of_the_banks_are_free_and_those_of_the_kernels_are_not(network, tmp_path):
    """Flipping every filter leaves the proof; one negative entry of the kernel above ends it, by the right rule."""
    for bank in ("first", "passthrough"):
        for part in network.model.get_layer(bank).parts:
            part.kernel.assign(-part.kernel.numpy())
    network.export(tmp_path / "flipped", verbose=False)
    assert proof.prove(tmp_path / "flipped").certified.certificate.steps
    kernel = network.model.get_layer("hidden").kernel
    weights = kernel.numpy()
    weights[1, 2] = -0.25
    kernel.assign(weights)
    network.export(tmp_path / "broken", verbose=False)
    with pytest.raises(VersionRefusedError, match=r"hidden/kernel has 1 negative entr") as refused:
        proof.prove(tmp_path / "broken")
    assert "nonneg-matmul" == refused.value.rule


def test_convolution_bank_on_rows_as_images_is_proved(tmp_path: Path):
    """A bank of windows over a row that is read as an image is affine, so that a relu and a mean of it are convex."""
    x = keras.Input((12,))
    z = keras.ops.relu(FilterBank(3, 2, name="windows")(keras.ops.reshape(x, (-1, 3, 4, 1))))
    model = keras.Model(x, keras.ops.mean(z, axis=(1, 2, 3)))
    model.export(tmp_path / "exported", verbose=False)
    assert 12 == proof.prove(tmp_path / "exported").certified.dim
