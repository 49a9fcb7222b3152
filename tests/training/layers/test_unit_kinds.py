"""Networks of each kind of units: trained from a configuration, proved, published, and refused where there are none."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from service.program.certification import certify
from service.repository import read_version
from tests.training.conftest import CONFIG, MOVED, write_job, write_samples
from training import pipeline
from training.config import ConfigError, NetworkConfig, load_config
from training.icnn import InputConvexNetwork, PenalizedNetwork, create_network
from training.layers.maxout import Maxout
from training.layers.unit_kinds import KINDS, UnitKind

ROWS = np.random.default_rng(0).normal(size=(300, 4))


def scores(network: InputConvexNetwork, x: np.ndarray) -> np.ndarray:
    """Return the scores of a network of pieces in float64 NumPy, from its weights."""
    weights = {weight.path.split("/", 1)[-1]: weight.numpy().astype(float) for weight in network.weights}
    u = (x - weights["standardization/mean"]) / weights["standardization/scale"]
    z = None
    for name in ("first", *(f"hidden_{index}" for index in range(1, len(network.hidden)))):
        values = u @ weights[f"{name}/passthrough"] + weights[f"{name}/bias"]
        values = values if z is None else values + z @ weights[f"{name}/kernel"]
        pieces = values.reshape(len(x), -1, network.kind.pieces)
        z = pieces.max(axis=-1) if network.kind.name == "maxout" else np.logaddexp.reduce(pieces, axis=-1)
    output = z @ weights["output/kernel"] + u @ weights["output/passthrough"] + weights["output/bias"]
    return output[:, 0] + 0.5e-3 * np.square(u).sum(axis=1)


@pytest.mark.parametrize("unit", ["maxout", "log_sum_exp"])
def test_network_of_pieces_equals_float64_numpy(unit: str) -> None:
    """The recursion is the documented one: pieces of u first, then of the pair, an affine output and the quadratic."""
    network = create_network(NetworkConfig(hidden=(5, 4, 3), unit=unit, pieces=3), ROWS, seed=3)
    np.testing.assert_allclose(
        np.asarray(network(ROWS.astype(np.float32))), scores(network, ROWS), rtol=2e-4, atol=2e-4
    )
    np.testing.assert_array_equal(
        network.get_weights()[-1],
        create_network(NetworkConfig(hidden=(5, 4, 3), unit=unit, pieces=3), ROWS, seed=3).get_weights()[-1],
    )


@pytest.mark.parametrize("unit", ["maxout", "log_sum_exp"])
def test_configured_network_of_pieces_is_trained_proved_and_published(unit: str, tmp_path: Path) -> None:
    """One key of the configuration makes such a network, and its version is proved from its files."""
    path = write_job(tmp_path, config=CONFIG.replace("[network]", f'[network]\nunit = "{unit}"\npieces = 3'))
    folder = pipeline.train(load_config(path))
    manifest = read_version(folder).manifest
    certified = certify(folder)
    assert certified.program.program_sha256 == manifest.certificate["program_sha256"]
    assert certified.certificate.strong_convexity > 0.0
    rules = {step.rule for step in certified.certificate.steps}
    assert {"maxout": "maximum", "log_sum_exp": "log-sum-exp"}[unit] in rules


def test_transport_of_another_kind_of_units_is_refused(tmp_path: Path) -> None:
    """The inverse map's network is penalised, for which there are dense units only."""
    write_samples(tmp_path)
    (tmp_path / "job.toml").write_text(MOVED.replace("[network]", '[network]\nunit = "maxout"'))
    with pytest.raises(ConfigError, match=re.escape("network.unit: expected 'dense' for a transport")):
        pipeline.train(load_config(tmp_path / "job.toml"))
    with pytest.raises(ValueError, match="unit: expected 'dense' where kernels are kept non-negative by penalty"):
        PenalizedNetwork(2, (2,), unit="maxout")


def test_unit_that_is_not_known_is_refused() -> None:
    """The message names those that there are."""
    with pytest.raises(ValueError, match="unit: expected one of dense, maxout, log_sum_exp, received 'minout'"):
        UnitKind("minout")
    assert ("dense", "maxout", "log_sum_exp") == KINDS


def test_kernels_of_pieces_stay_non_negative_while_a_network_trains() -> None:
    """After each of several large steps every kernel is non-negative, and `verify` says so."""
    network = create_network(NetworkConfig(hidden=(6, 5), unit="maxout"), ROWS, seed=1)
    network.compile(keras.optimizers.Adam(0.3), "mse")
    for _ in range(5):
        network.train_on_batch(ROWS.astype(np.float32), -np.abs(ROWS).sum(axis=1))
        network.verify()
    assert isinstance(network.first, Maxout)
    assert 0.0 == network.constrained[0].kernel.numpy().min()
