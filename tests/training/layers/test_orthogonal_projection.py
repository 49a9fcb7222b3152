"""The orthogonal projection: orthonormal columns from the start, after every step and at every save and load."""

import keras
import numpy as np
import pytest

from training.layers.orthogonal_projection import OrthogonalProjection
from training.orthonormality import NotOrthonormalError

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * [3.0, 1.0, 0.1, 2.0] + 5.0


def deviation(layer: OrthogonalProjection) -> float:
    """Return how far the columns are from orthonormal."""
    kernel = layer.kernel.numpy().astype(float)
    return float(np.abs(kernel.T @ kernel - np.eye(kernel.shape[1])).max())


def model_of(units: int) -> tuple[keras.Model, OrthogonalProjection]:
    """Return a model that is the layer."""
    layer = OrthogonalProjection(units, name="mine")
    return keras.Sequential([keras.Input((4,)), layer]), layer


@pytest.mark.parametrize("units", [1, 2, 4])
def test_columns_are_orthonormal_after_build_and_after_every_step(units):
    """Adam with large steps, on a loss that pulls the columns together, leaves them orthonormal and moves them."""
    model, layer = model_of(units)
    assert deviation(layer) <= 1e-5
    start = layer.kernel.numpy()
    model.compile(keras.optimizers.Adam(0.3), loss=lambda _, y: keras.ops.mean(keras.ops.square(y)))
    for _ in range(10):
        model.train_on_batch(X, np.zeros((50, units)))
        assert deviation(layer) <= 1e-5
    assert np.abs(layer.kernel.numpy() - start).max() > 0.1


def test_projection_is_the_product_and_lengthens_no_row():
    """The output is x P, and no row is longer than it was."""
    _, layer = model_of(2)
    found = np.asarray(layer(X))
    np.testing.assert_allclose(found, X.astype(float) @ layer.kernel.numpy(), rtol=1e-5)
    assert (np.linalg.norm(found, axis=1) <= np.linalg.norm(X, axis=1) * (1 + 1e-6)).all()


def test_adapted_projection_has_the_principal_directions():
    """The variances of the outputs are the largest eigenvalues of the covariance, in falling order."""
    _, layer = model_of(3)
    layer.adapt(X)
    expected = np.sort(np.linalg.eigvalsh(np.cov(X.T.astype(float), bias=True)))[::-1][:3]
    np.testing.assert_allclose(np.asarray(layer(X), float).var(axis=0), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="mine: expected finite rows"):
        layer.adapt(np.full((3, 4), np.nan))


def test_columns_that_are_not_orthonormal_are_refused_by_save_and_load(tmp_path):
    """A plain assignment is seen by both, and by `verify`."""
    model, layer = model_of(2)
    layer.kernel.assign(layer.kernel * 1.01)
    for refused in (layer.verify, lambda: model.save(tmp_path / "bad.keras")):
        with pytest.raises(NotOrthonormalError, match="mine/kernel: expected orthonormal columns"):
            refused()
    written: dict[str, np.ndarray] = {}
    keras.layers.Layer.save_own_variables(layer, written)  # as a file that somebody else wrote
    with pytest.raises(NotOrthonormalError, match="mine/kernel"):
        layer.load_own_variables(written)


def test_more_directions_than_features_are_refused():
    """The message says how many there may be."""
    with pytest.raises(ValueError, match="mine: expected an input of width 5 or more, received 4"):
        model_of(5)


@pytest.mark.parametrize("units", [0, -1, 1.5, True])
def test_directions_that_are_no_positive_whole_number_are_refused(units):
    """The message names the argument."""
    with pytest.raises(ValueError, match="units: expected a whole number of at least 1"):
        OrthogonalProjection(units)
