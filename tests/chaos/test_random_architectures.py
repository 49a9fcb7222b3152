"""Random networks of the layer set: each is proved, and what is proved is the network's own function."""

from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.certification import Certified, certify
from service.program.evaluation import evaluate_both
from tests.training import architectures
from tests.training.architectures import draw_network
from training.layers.maxout import Maxout

LARGE = 1e12
"""Scores above this are not compared: a chain of squares takes their rounding along."""

ROUNDING = 1e-4
"""Most that float32 may differ from float64, as a share of the largest score."""

LONG = [pytest.mark.chaos, pytest.mark.timeout(3600)]


def proved(model: keras.Model, dim: int, folder: Path) -> Certified:
    """Return the proof of a model from the file that it is exported to."""

    @tf.function(input_signature=[tf.TensorSpec([None, dim], tf.float32, name="x")])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"score": model(x, training=False)}

    module = tf.Module()
    module.kept = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(folder), signatures=serve)
    return certify(folder)


@pytest.mark.parametrize(("count", "start"), [(10, 1000), pytest.param(500, 0, marks=LONG)])
def test_every_random_network_of_the_layer_set_is_proved(count: int, start: int, tmp_path: Path, report) -> None:
    """All of them are proved from their files, the program is the model's function, and no midpoint lies above."""
    parts: Counter[str] = Counter()
    refused, wrong, beyond = [], [], 0
    for seed in range(start, start + count):
        network = draw_network(seed)
        parts.update(set(network.parts))
        try:
            program = proved(network.model, network.dim, tmp_path / str(seed)).program
        except VersionRefusedError as err:
            refused.append((seed, network.parts, str(err)))
            continue
        rows = np.random.default_rng(seed).normal(size=(2, 16, network.dim)).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            points = (*rows.astype(float), rows.astype(float).mean(axis=0))
            left, right, middle = (evaluate_both(program, place)[0] for place in points)
            scores = np.asarray(network.model(rows[0])).reshape(-1)
            scale = 1.0 + np.abs([left, right, middle]).max()
        if not (np.isfinite(scale) and np.isfinite(scores).all() and scale < LARGE):
            beyond += 1  # chains of squares and exponentials leave the floats: proved all the same
            continue
        compared = float(np.abs(scores - left).max() / scale)
        if compared > ROUNDING or (middle > (left + right) / 2.0 + 1e-12 * scale).any():
            wrong.append((seed, network.parts, compared))
    report(proved=count - len(refused), beyond=beyond, kinds=len(parts), layers=sum(parts.values()))
    assert ([], []) == (refused, wrong)
    assert beyond <= count // 4
    assert set(parts) >= architectures.PLACES or count < 100


def test_layer_that_must_stand_first_is_refused_by_the_proof_when_it_does_not(tmp_path: Path) -> None:
    """Two layers of free pieces, one on the other, compute a function that is not convex, and no proof passes it."""
    model = keras.Sequential([keras.Input((2,)), Maxout(3), Maxout(1, use_bias=False)])
    model.layers[1].passthrough.assign(-np.ones((3, 2)))
    with pytest.raises(VersionRefusedError) as caught:
        proved(model, 2, tmp_path / "wrong")
    assert "nonneg-matmul" == caught.value.rule
