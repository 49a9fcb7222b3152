"""The TensorFlow engine: the SavedModel's own functions, on a GPU when there is one, else on the CPU.

Loads exactly the bytes that were hashed. Rows go through tiles of one fixed size, as in `program`, so that the same
kernels see the same shapes. Imports TensorFlow; `engines.create` and `loader` import this module when they need it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from service.program.graph import restore
from service.program.tiles import TILE_ROWS, run_in_tiles

if TYPE_CHECKING:
    from service.engines import Servable

GPU_TILE_ROWS = 1024


def gpus() -> list[Any]:
    """Return the GPUs that TensorFlow sees."""
    return list(tf.config.list_physical_devices("GPU"))


def configure_devices(*, allow_tf32: bool, intra_op_threads: int = 0) -> None:
    """Set TensorFlow up for serving, before its first operation.

    GPU memory grows as it is needed instead of being taken whole; TF32, which costs three digits of every matrix
    product, is off unless it is allowed; soft placement lets an op without a GPU kernel run on the CPU.

    Args:
        allow_tf32: whether matrix products may be rounded to TF32.
        intra_op_threads: threads of one op; 0 leaves the choice to TensorFlow.
    """
    tf.config.experimental.enable_tensor_float_32_execution(allow_tf32)
    tf.config.set_soft_device_placement(True)
    if tf.config.threading.get_intra_op_parallelism_threads() != intra_op_threads:
        tf.config.threading.set_intra_op_parallelism_threads(intra_op_threads)
    for gpu in gpus():
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)


class TensorflowEngine:
    """Runs a SavedModel's `serving_default` (score and gradient in one pass) and `score` (no gradient work).

    Args:
        loaded: the verified version.
        device: TensorFlow device name; by default the first GPU, or the CPU where there is none.
        allow_tf32: see `configure_devices`.
        tile_rows: rows of one call; by default 32 on a CPU and 1,024 on a GPU.

    Thread safety: TensorFlow's concrete functions may be called by any number of threads.
    """

    name = "tensorflow"
    thread_safe = True

    def __init__(
        self,
        loaded: "Servable",
        *,
        device: str | None = None,
        allow_tf32: bool = False,
        tile_rows: int | None = None,
    ) -> None:
        """Load the model onto the device."""
        tf.config.experimental.enable_tensor_float_32_execution(allow_tf32)
        self._device = device or ("/GPU:0" if gpus() else "/CPU:0")
        on_gpu = "GPU" in self._device.upper()
        self.tile_rows = tile_rows or (GPU_TILE_ROWS if on_gpu else TILE_ROWS)
        self._dim = loaded.signature.dim
        self._model = restore(loaded.saved_model, self._device)
        self._both = self._model.signatures["serving_default"]
        self._score_only = self._both
        score = self._model.signatures.get("score")
        if loaded.program is not None and score is not None and _answers_scores(score):
            self._score_only = score  # proved to be the same function

    @property
    def device(self) -> str:
        """The device that the engine computes on."""
        return self._device

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return `score` [n] and, where asked for, `gradient` [n, dim]."""
        function = self._both if "gradient" in outputs else self._score_only
        shapes = {"score": (self.tile_rows,), "gradient": (self.tile_rows, self._dim)}  # a score may come as [n, 1]

        def tile(piece: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            with tf.device(self._device):
                answer = function(x=tf.constant(piece))
            return {name: answer[name].numpy().reshape(shapes[name]) for name in outputs}

        widths: dict[str, int | None] = {name: self._dim if name == "gradient" else None for name in outputs}
        return run_in_tiles(tile, rows, widths, self.tile_rows)


def _answers_scores(function: Any) -> bool:
    """Whether a signature takes rows as `x` and answers `score`, as `serving_default` does."""
    _, arguments = function.structured_input_signature
    return set(arguments) == {"x"} and arguments["x"].dtype == tf.float32 and "score" in function.structured_outputs
