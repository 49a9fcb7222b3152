"""Engines: what computes a version's scores and gradients. Imports no TensorFlow; `create` does when it must.

Above: `model_version`; below: `program`. Beside `loader`, whose versions it takes as anything `Servable`.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.engines.program import ProgramEngine
from service.program.program import Program
from service.program.verification import Probe
from service.signature import Signature

ENGINES = ("auto", "tensorflow", "program")


class Servable(Protocol):
    """What an engine needs of a loaded version."""

    @property
    def signature(self) -> Signature:
        """What the version takes and gives."""

    @property
    def program(self) -> Program | None:
        """The lifted program, or None where there is no proof."""

    @property
    def support(self) -> Program | None:
        """The lifted program of the domain weight, or None where there is none."""

    @property
    def probe(self) -> Probe | None:
        """Rows with answers, or None for a model made elsewhere."""

    @property
    def kernel_agrees(self) -> bool:
        """Whether the compiled kernel was found to compute the program; see `program.kernel.compiled.is_trusted`."""

    @property
    def saved_model(self) -> Mapping[str, bytes]:
        """Relative path -> bytes of the SavedModel."""


class Engine(Protocol):
    """Computes outputs of rows. A row's bits do not depend on the other rows of the call."""

    @property
    def name(self) -> str:
        """`program` or `tensorflow`."""

    @property
    def thread_safe(self) -> bool:
        """Whether several threads may call `run` at once."""

    @property
    def tile_rows(self) -> tuple[int, ...]:
        """Sizes of tiles, ascending, that batches are cut into; a row's bits are the same in all of them."""

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return those of `score` [n], `gradient` [n, dim], `support` [n] asked for; overflow as infinity or NaN."""


def create(loaded: Servable, engine: str = "auto", *, allow_tf32: bool = False, num_threads: int = 0) -> Engine:
    """Return the engine that serves `loaded`.

    Args:
        loaded: the verified version.
        engine: `tensorflow` (the SavedModel's own function, on a GPU when there is one), `program` (the lifted program
            on the CPU), or `auto`: `tensorflow` on a GPU or where there is no program, else `program`.
        allow_tf32: whether a GPU may round matrix products to TF32.
        num_threads: the most that may share a call of the program engine; 0: as many as pay.

    Raises:
        ValueError: for another engine, or `program` for a version that has none.
    """
    if engine not in ENGINES:
        message = f"engine: expected one of {', '.join(ENGINES)}, received {engine}"
        raise ValueError(message)
    if engine == "program" and loaded.program is None:
        message = "engine: the version is not proved and has no program. Use --engine tensorflow."
        raise ValueError(message)
    if loaded.program is not None and (engine == "program" or (engine == "auto" and not _has_gpu())):
        return ProgramEngine(
            loaded.program,
            loaded.probe,
            uses_kernel=loaded.kernel_agrees,
            support=loaded.support,
            num_threads=num_threads,
        )
    from service.engines.tensorflow import TensorflowEngine  # only where TensorFlow serves

    return TensorflowEngine(loaded, allow_tf32=allow_tf32)


def _has_gpu() -> bool:
    from service.engines.tensorflow import gpus  # see create

    return bool(gpus())
