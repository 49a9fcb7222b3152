"""The zoo's register: SavedModels of plain TensorFlow and Keras, each with what a prover ought to say of it.

Whoever writes a specimen reads the documentation of those libraries, never the prover's templates. Builders stand in
`provable_*` and `refused_*`; `conftest` saves each of them once a session.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

DIM = 4


class Draws(tf.Module):
    """Draws the variables of one specimen, seeded by its name, and keeps them so that they are saved.

    Args:
        name: the specimen's name.
        dtype: of the variables.
    """

    def __init__(self, name: str, dtype: tf.DType = tf.float32) -> None:
        super().__init__(name=None)
        self.numbers = np.random.default_rng(list(name.encode()))
        self.dtype = dtype
        self.kept: list[Any] = []

    def keep(self, values: Any) -> Any:
        """Return a variable with these values."""
        self.kept.append(tf.Variable(np.asarray(values), dtype=self.dtype, name=f"v{len(self.kept)}"))
        return self.kept[-1]

    def normal(self, *shape: int) -> Any:
        """Return a variable of either sign."""
        return self.keep(self.numbers.standard_normal(shape))

    def positive(self, *shape: int) -> Any:
        """Return a variable between 0.1 and 1.1."""
        return self.keep(self.numbers.uniform(0.1, 1.1, shape))

    def negative(self, *shape: int) -> Any:
        """Return a variable between -1.1 and -0.1."""
        return self.keep(self.numbers.uniform(-1.1, -0.1, shape))


Builder = Callable[[Draws], Any]
"""Returns a Keras model, a function of the rows, or a dictionary of such functions by signature."""


@dataclasses.dataclass(frozen=True)
class Specimen:
    """One SavedModel of the zoo.

    Args:
        name: what it is.
        build: makes it.
        rules: empty if it is convex and provable; else the rules of which a refusal must name one.
        convex: whether its score is a convex function of the row; a model may be convex and yet have to be refused.
        dim: features of a row.
        dtype: of the rows.
    """

    name: str
    build: Builder
    rules: frozenset[str] = frozenset()
    convex: bool = True
    dim: int = DIM
    dtype: tf.DType = tf.float32

    @property
    def is_provable(self) -> bool:
        """Whether it ought to be proved."""
        return not self.rules

    def save(self, folder: Path) -> Path:
        """Save it into `folder` as its library's documentation says."""
        keras.utils.set_random_seed(len(self.name))
        draws = Draws(self.name, self.dtype)
        built = self.build(draws)
        if isinstance(built, keras.Model):
            built.export(str(folder), verbose=False)
            return folder
        functions = built if isinstance(built, dict) else {"serving_default": built}
        spec = tf.TensorSpec([None, self.dim], self.dtype, name="features")
        signatures = {
            name: tf.function(_named(inner), input_signature=[spec], autograph=False).get_concrete_function()
            for name, inner in functions.items()
        }
        tf.saved_model.save(draws, str(folder), signatures=signatures)
        return folder


def _named(inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that names its output; one that needs Python's `for` as an op is a tf.function itself."""

    def answer(features: Any) -> Any:
        return {"prediction": inner(features)}

    return answer


ZOO: dict[str, Specimen] = {}


def provable(*, dim: int = DIM, dtype: tf.DType = tf.float32) -> Callable[[Builder], Builder]:
    """Register a builder whose model is convex and ought to be proved."""

    def register(build: Builder) -> Builder:
        _add(Specimen(build.__name__, build, dim=dim, dtype=dtype))
        return build

    return register


def refused(
    *rules: str, convex: bool = False, dim: int = DIM, dtype: tf.DType = tf.float32
) -> Callable[[Builder], Builder]:
    """Register a builder whose model must be refused by one of `rules`."""

    def register(build: Builder) -> Builder:
        _add(Specimen(build.__name__, build, frozenset(rules), convex, dim, dtype))
        return build

    return register


def _add(specimen: Specimen) -> None:
    if specimen.name in ZOO:
        message = f"{specimen.name} is there already"
        raise ValueError(message)
    ZOO[specimen.name] = specimen
