"""Certified versions by the thousand, each with its own answers in closed form, exact in float32.

One small network is exported once; every version is a copy of its files with other numbers and new hashes. Integers and
halves alone: whatever order an engine adds them in, no bit is rounded away.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from service import manifest
from service.program.verification import Probe
from tests.contract.version_surgery import read_tensors, reseal, variable_keys, write_tensors
from training import export
from training.icnn import InputConvexNetwork

DIM = 4
MODEL = "ramps"
SHIPPED = Path(__file__).parents[2] / "models" / "tumours" / "1"
_WIDTH = 8


class RampVersions:
    """f_v(x) = sum_j w_j max(0, a_j . x + b_j) + c_v . x + v, with whole a, w >= 0, c_v and halves b.

    Two versions differ in the score and the gradient of every row.

    Args:
        folder: an empty folder for what is prepared; the staged versions are on the file system of the models folder
            if this is.
    """

    def __init__(self, folder):
        rng = np.random.default_rng(4)
        self.folder = folder
        self.rows = rng.integers(-9, 10, (5, DIM)).astype(np.float32)
        self._directions = rng.integers(-3, 4, (DIM, _WIDTH)).astype(float)
        self._offsets = rng.integers(-5, 6, _WIDTH) + 0.5
        self._weights = rng.integers(1, 4, _WIDTH).astype(float)
        self._base = folder / "base"
        self._base.mkdir()
        network = InputConvexNetwork(dim=DIM, hidden=(_WIDTH,), activation="relu", name="ramps")
        self._probe_rows = rng.integers(-9, 10, (export.PROBE_ROWS, DIM)).astype(np.float32)
        export.stage(network, self._base, name=MODEL, rows=self._probe_rows)
        self._tensors = read_tensors(self._base)
        self._keys = {name.split("/", 1)[1]: key for name, key in variable_keys(self._tensors).items()}
        self._set(self._tensors, "first/kernel", self._directions)
        self._set(self._tensors, "first/bias", self._offsets)
        self._set(self._tensors, "output/kernel", self._weights[:, None])

    def expected(self, version, rows=None):
        """Return score [n] and gradient [n, DIM] of rows (by default `rows`) by a version, float32."""
        x = np.asarray(self.rows if rows is None else rows, float)
        slope = self._slope(version)
        heights = x @ self._directions + self._offsets
        score = np.maximum(heights, 0.0) @ self._weights + x @ slope + version
        gradient = ((heights > 0.0) * self._weights) @ self._directions.T + slope
        return score.astype(np.float32), gradient.astype(np.float32)

    def stage(self, version):
        """Prepare a version, to be published later."""
        staged = self.folder / f"staged-{version}"
        shutil.copytree(self._base, staged)
        tensors = dict(self._tensors)
        self._set(tensors, "output/passthrough", self._slope(version)[:, None])
        self._set(tensors, "output/bias", np.array([version], float))
        write_tensors(staged, tensors)
        score, gradient = self.expected(version, self._probe_rows)
        (staged / export.PROBE_FILE).write_bytes(Probe(self._probe_rows, score, gradient).to_bytes())
        document = json.loads((SHIPPED / manifest.FILE_NAME).read_bytes())
        document |= {"model": MODEL, "input": document["input"] | {"dim": DIM, "features": []}}
        (staged / manifest.FILE_NAME).write_bytes(manifest.canonical_json(document))
        reseal(staged, version=version)

    def publish(self, models_dir, version):
        """Put a version into a models folder, whole, in one step; it is prepared if that was not done."""
        if not (self.folder / f"staged-{version}").exists():
            self.stage(version)
        (models_dir / MODEL).mkdir(parents=True, exist_ok=True)
        os.rename(self.folder / f"staged-{version}", models_dir / MODEL / str(version))

    @staticmethod
    def remove(models_dir, version):
        """Delete a version's folder, as a job does that prunes."""
        shutil.rmtree(models_dir / MODEL / str(version))

    def key(self, name):
        """Return the checkpoint's key of a variable, such as `output/kernel`."""
        return self._keys[name]

    def _set(self, tensors, name, value):
        key = self._keys[name]
        tensors[key] = np.asarray(value, tensors[key].dtype).reshape(tensors[key].shape)

    @staticmethod
    def _slope(version):
        """Return c_v, other for each of the last 97 versions in every entry."""
        return np.arange(DIM) + float(version % 97)
