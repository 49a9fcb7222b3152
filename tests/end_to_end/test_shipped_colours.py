"""The shipped map of colours: its numbers, its quality on held-out pixels, and the page that recolours by it."""

import base64
import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from service import model_version
from service.rest.files import FOLDER
from tests.end_to_end.page_tab import CHROMIUM
from tests.end_to_end.server_process import ROOT
from tests.oracle import icnn

SHIPPED = ROOT / "models" / "colours" / "1"


@pytest.fixture(scope="module")
def network():
    """Return the numbers of the trained network, float64, from its archive."""
    return icnn.read_checkpoint(SHIPPED / "model.keras")


def pixels(name):
    """Return the pixels [427, 640, 3] of a shipped photograph."""
    return np.asarray(Image.open(FOLDER / "photographs" / name))


def held_out(rows):
    """Return which rows the contract's rule holds out: sha256 of their float32 bytes and the salt, a fifth of all."""
    colours, places = np.unique(rows.astype("<f4"), axis=0, return_inverse=True)
    digests = [int.from_bytes(hashlib.sha256(row.tobytes() + b"colours").digest(), "big") for row in colours]
    return (np.array([digest % 100 for digest in digests]) < 20)[places.ravel()]


def root(matrix):
    """Return the symmetric square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def best_affine_map(source, target):
    """Return the optimal map between the Gaussians of two samples (Olkin, Pukelsheim 1982)."""
    half = root(np.cov(source.T))
    matrix = np.linalg.solve(half, root(half @ np.cov(target.T) @ half)) @ np.linalg.inv(half)
    return lambda rows: (rows - source.mean(axis=0)) @ matrix + target.mean(axis=0)


def distance(first, second):
    """Return the exact squared Wasserstein-2 distance between samples of one size."""
    costs = cdist(first, second, "sqeuclidean")
    return costs[linear_sum_assignment(costs)].mean()


@pytest.mark.parametrize("engine", ["program", "tensorflow"])
def test_served_colours_equal_the_float64_oracle_on_either_engine(network, engine):
    """Potentials within 1e-6 S, mapped colours within 1e-4 G of the closed form, all over the cube of colours."""
    rows = np.random.default_rng(4).integers(0, 256, (2000, 3)).astype(np.float32)
    score, gradient = model_version.load(SHIPPED, engine=engine).score_and_gradient(rows)
    expected, slopes = icnn.score(network, rows), icnn.gradient(network, rows)
    assert np.abs(score - expected).max() <= 1e-6 * np.abs(expected).max()
    assert np.abs(gradient - slopes).max() <= 1e-4 * np.abs(slopes).max()
    assert np.abs(icnn.central_differences(network, rows) - slopes).max() <= 1e-6 * np.abs(slopes).max()


def test_served_map_leads_nearer_to_the_target_than_the_best_affine_map():
    """On held-out pixels its exact distance to the target is at most 0.8 of the affine map's, mean of two draws."""
    china, flower = (pixels(name).reshape(-1, 3).astype(np.float64) for name in ("china.jpg", "flower.jpg"))
    out = held_out(china), held_out(flower)
    affine = best_affine_map(china[~out[0]], flower[~out[1]])
    version = model_version.load(SHIPPED)
    generator = np.random.default_rng(8)
    own, best = [], []
    for _ in range(2):
        source = generator.choice(china[out[0]], 1000, replace=False)
        target = generator.choice(flower[out[1]], 1000, replace=False)
        own.append(distance(version.score_and_gradient(source)[1], target))
        best.append(distance(affine(source), target))
    assert np.mean(own) <= 0.8 * np.mean(best)


def test_manifest_and_report_tell_both_maps_and_the_version_is_small():
    """The recorded ratio of five draws of 2,000 keeps the promise, the photographs are there, all under 1 MB."""
    document = json.loads((SHIPPED / "manifest.json").read_text())
    metrics = document["metrics"]
    assert ("transport", None) == (document["task"], document["threshold"])
    assert metrics["held_out"]["w2_squared"] <= 0.8 * metrics["baselines"]["linear (Gaussian) map"]["w2_squared"]
    report = (SHIPPED / "report.html").read_text()
    assert 3 <= report.count('<img src="data:image/jpeg;base64,')
    assert "linear (Gaussian) map" in report
    assert 1_000_000 > sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_page_recolours_the_photograph_by_the_shipped_map(network, open_tab, shipped):
    """Fifty pixels of the canvas are the float64 gradient of their colour, rounded and clipped; every one was sent."""
    tab = open_tab(shipped)
    tab.open()
    tab.page.get_by_text("colours", exact=True).first.click()
    tab.page.locator("#recolour[data-phase=done]").wait_for(timeout=30_000)
    original, recoloured = (shown(tab, name) for name in ("original", "recoloured"))
    generator = np.random.default_rng(12)
    places = generator.integers(0, 427, 50), generator.integers(0, 640, 50)
    expected = icnn.gradient(network, original[places].astype(np.float64))
    off = np.abs(np.clip(expected, 0, 255) - recoloured[places])
    assert off.max() <= 0.5 + 1e-3  # what rounding leaves, and float32
    assert (np.clip(expected, 0, 255) == expected).any()
    sent = [
        np.frombuffer(request.post_data_buffer, "<f4").reshape(-1, 3)
        for request in tab.requests
        if "/models/colours/score?outputs=gradient" in request.url
    ]
    assert np.array_equal(np.unique(original.reshape(-1, 3), axis=0), np.unique(np.concatenate(sent), axis=0))


def shown(tab, name):
    """Return the pixels [427, 640, 3] of a canvas."""
    address = tab.page.evaluate("name => document.getElementById(name).toDataURL('image/png')", name)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))
