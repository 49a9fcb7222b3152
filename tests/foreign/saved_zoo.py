"""The zoo on disk: each specimen is saved the first time it is asked for, and what is learned of it is kept."""

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.certification import Certified, certify
from tests.foreign.specimens import Specimen
from tests.foreign.zoo import ZOO
from tests.oracle.saved_function import SavedFunction, read_message, read_variables
from tests.plugins.seeds import seed

Rows = NDArray[np.floating]


def verdict(folder: Path) -> Certified | VersionRefusedError:
    """Return the certificate of a folder, or the refusal."""
    try:
        return certify(folder)
    except VersionRefusedError as err:
        return err


def summary(outcome: Certified | VersionRefusedError) -> str:
    """Return the rule of a refusal, or `proved` and the program's hash: what must not hang on names."""
    return outcome.rule if isinstance(outcome, VersionRefusedError) else f"proved {outcome.program.program_sha256}"


class Saved:
    """One specimen that was saved.

    Args:
        specimen: which.
        folder: where.
    """

    def __init__(self, specimen: Specimen, folder: Path) -> None:
        self.specimen = specimen
        self.folder = folder

    @functools.cached_property
    def verdict(self) -> Certified | VersionRefusedError:
        """The prover's verdict."""
        return verdict(self.folder)

    @functools.cached_property
    def oracle(self) -> SavedFunction:
        """The file's own function in float64."""
        return SavedFunction(read_message(self.folder), read_variables(self.folder))

    def rows(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        """Return rows around the origin, of three scales."""
        generator = np.random.default_rng(seed)
        scales = np.resize([0.1, 1.0, 5.0], (count, 1))
        return (scales * generator.standard_normal((count, self.specimen.dim))).astype(np.float32)


class SavedZoo:
    """Every specimen by name, saved below `folder` when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._saved: dict[str, Saved] = {}

    def __getitem__(self, name: str) -> Saved:
        """Return the specimen of that name; what Keras draws for it follows from the name, whoever asks first."""
        if name not in self._saved:
            seed(name)
            self._saved[name] = Saved(ZOO[name], ZOO[name].save(self._folder / name))
        return self._saved[name]


class Runner:
    """What TensorFlow itself answers: the loaded SavedModel's `serving_default` as a function of rows.

    Args:
        folder: the SavedModel.
        dtype: of the rows.
    """

    def __init__(self, folder: Path, dtype: tf.DType = tf.float32) -> None:
        self._model = tf.saved_model.load(str(folder))  # keeps the variables alive
        self._function = self._model.signatures["serving_default"]
        (self._input,) = self._function.structured_input_signature[1]
        self._dtype = dtype

    def __call__(self, rows: Rows) -> tuple[NDArray[np.floating], None]:
        """Return the scores [n], and no gradient."""
        (score,) = self._function(**{self._input: tf.constant(rows, self._dtype)}).values()
        return score.numpy().reshape(-1), None
