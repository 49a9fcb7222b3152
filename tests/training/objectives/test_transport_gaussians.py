"""The minimax between two Gaussians, whose optimal map is known: L2-UVP in 2, 8 and 32 dimensions."""

import numpy as np
import pytest
import tensorflow as tf

from training.config import NetworkConfig, ObjectiveConfig, TrainerConfig
from training.datasets import Samples, Table
from training.gradients import input_gradient
from training.icnn import create_potential
from training.objectives.minimax import Minimax
from training.trainer import fit

NETWORK = NetworkConfig(hidden=(64, 64), activation="smooth_leaky", first_activation="squared_leaky", quadratic=1e-3)
STEPS = {2: 200, 8: 250, 32: 300}


def covariance(dim: int, generator: np.random.Generator) -> np.ndarray:
    """Return a covariance with axes of any direction and variances from 1/4 to 4."""
    axes, _ = np.linalg.qr(generator.normal(size=(dim, dim)))
    return (axes * np.exp(generator.uniform(np.log(0.25), np.log(4.0), dim))) @ axes.T


def root(matrix: np.ndarray) -> np.ndarray:
    """Return the symmetric square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def table(rows: np.ndarray) -> Table:
    """Return rows without a target."""
    return Table(tuple(f"x{index}" for index in range(rows.shape[1])), rows, np.empty((len(rows), 0)))


@pytest.mark.parametrize(("dim", "percent"), [(2, 1.0), (8, 3.0), (32, 8.0)])
def test_map_between_gaussians_is_within_a_few_percent_of_the_closed_form(dim, percent):
    """In a few hundred steps from the shift of the means, which misses by over twice the share, T is near T*."""
    # T*(x) = m_Q + A (x - m_P), A = S_P^-1/2 (S_P^1/2 S_Q S_P^1/2)^1/2 S_P^-1/2: Olkin, Pukelsheim (1982)
    generator = np.random.default_rng(dim)
    first, second = covariance(dim, generator), covariance(dim, generator)
    means = generator.normal(scale=3.0, size=(2, dim))
    half = root(first)
    optimal = np.linalg.solve(half, root(half @ second @ half)) @ np.linalg.inv(half)

    def draw(number: int, which: int) -> Table:
        factor = np.linalg.cholesky((first, second)[which])
        return table(generator.normal(size=(number, dim)) @ factor.T + means[which])

    train, validation = (Samples(draw(number, 0), draw(number, 1)) for number in (20_000, 1_000))
    network = create_potential(NETWORK, train.source.x, train.target.x, seed=1)
    settings = TrainerConfig(steps=STEPS[dim], batch=256, learning_rate=2e-3, evaluate_every=STEPS[dim])
    fit(Minimax(network, train, validation, settings, ObjectiveConfig()), settings)
    x = draw(10_000, 0).x
    expected = (x - means[0]) @ optimal + means[1]
    mapped = input_gradient(network, tf.constant(x, tf.float32)).numpy()
    scale = 100.0 / np.trace(second)
    shifted = scale * np.mean(np.sum((x - means[0] + means[1] - expected) ** 2, axis=1))
    uvp = scale * np.mean(np.sum((mapped - expected) ** 2, axis=1))
    assert shifted > 2.0 * percent
    assert uvp <= percent
