"""The TensorFlow engine: the SavedModel's own functions, on a GPU when there is one, else on the CPU.

Loads exactly the bytes that were hashed. Rows go through tiles of a few sizes that were found to agree, as in
`program`. Imports TensorFlow; `engines.create` and `loader` import this module when they need it.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from service.engines.program import ProgramEngine
from service.program.graph import arguments, call, restore
from service.program.ladder import Ladder, admit, overhead_rows, trial_rows
from service.program.tiles import TILE_ROWS, run_in_tiles
from service.signature import SUPPORT, FileSignature

if TYPE_CHECKING:
    from service.engines import Servable

GPU_TILE_ROWS = 1024

SIZES = (TILE_ROWS, 64, 128, 256, 512, 1024)
"""Sizes worth trying on a CPU: a call costs as much as hundreds of rows, so that smaller ones save nothing."""

GPU_SIZES = (64, 256, GPU_TILE_ROWS, 4096)

_UNKNOWN = 32.0
"""The overhead of a call in rows, where there is no program to count."""

_CALL_WORK = 9e6
"""What a call costs before its first row, in multiply-adds of a product on the CPU."""


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

    The sizes of its tiles are found when it is made: those in which the function gives the bits of the one fixed size,
    with both outputs and with the score alone. Its operations cannot be tried alone as those of a program can, so that
    it is tried on more rows, and only in sizes whose products agreed wherever they were tried alone: on a CPU with
    AVX-512, 16 to 1,024 rows gave equal bits in all of 364 products, 4 and 8 rows others in the transposed ones. The
    trial also traces and optimises the functions before a request comes.

    Of a SavedModel made elsewhere the function answers the score; the gradient is the lifted program's, on the CPU, and
    where there is none (it is served unproved) the function's own, or else the one that TensorFlow derives.

    Args:
        loaded: the verified version.
        device: TensorFlow device name; by default the first GPU, or the CPU where there is none.
        allow_tf32: see `configure_devices`.
        sizes: rows of one call that are worth trying; by default 32 to 1,024 on a CPU and 64 to 4,096 on a GPU.

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
        sizes: Iterable[int] | None = None,
    ) -> None:
        """Load the model onto the device."""
        tf.config.experimental.enable_tensor_float_32_execution(allow_tf32)
        self._device = device or ("/GPU:0" if gpus() else "/CPU:0")
        on_gpu = "GPU" in self._device.upper()
        self._dim = loaded.signature.dim
        self._model = restore(loaded.saved_model, self._device)
        self._signature = loaded.signature.file_signatures[0]
        self._both = self._model.signatures[self._signature.name]
        self._score_only = self._both
        score = self._model.signatures.get("score")
        is_ours = not loaded.signature.made_elsewhere
        if is_ours and loaded.program is not None and score is not None and _answers_scores(score, self._signature):
            self._score_only = score  # proved to be the same function
        self._derives = not is_ours and loaded.program is None and "gradient" not in self._both.structured_outputs
        self._gradients: ProgramEngine | None = None
        if not is_ours and loaded.program is not None:
            self._gradients = ProgramEngine(
                loaded.program, loaded.probe, uses_kernel=loaded.kernel_agrees, support=loaded.support
            )
        fixed, usual = (GPU_TILE_ROWS, GPU_SIZES) if on_gpu else (TILE_ROWS, SIZES)
        candidates = {fixed, *(usual if sizes is None else sizes)}
        seed = "0" if loaded.program is None else loaded.program.weights_sha256
        num_rows = max(candidates) - 3  # so that every last tile is padded
        rows = trial_rows(loaded.signature.width, loaded.probe, seed, num_rows)
        self._has_support = self._gradients is None and SUPPORT in loaded.signature.outputs
        self.tile_rows = admit(self._tried, rows, candidates, fixed)
        overhead = _UNKNOWN if loaded.program is None else overhead_rows(loaded.program, _CALL_WORK)
        self._ladder = Ladder(self.tile_rows, overhead)

    @property
    def device(self) -> str:
        """The device that the engine computes on."""
        return self._device

    def cut(self, num_rows: int) -> list[int]:
        """Return the sizes of the tiles of so many rows."""
        return list(self._ladder.cut(num_rows))

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return those of `score` [n], `gradient` [n, dim] and `support` [n] that are asked for."""
        derived: tuple[str, ...] = ()
        if self._gradients is not None:
            derived = tuple(name for name in outputs if name != "score")
            outputs = tuple(name for name in outputs if name == "score")
        results = {} if not derived or self._gradients is None else self._gradients.run(rows, derived)
        if outputs:
            tiles = run_in_tiles(lambda piece: self._tile(piece, outputs), rows, self._ladder.cut(rows.shape[0]))
            results = {**tiles, **results}
        return results

    def _tried(self, piece: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs of a tile, and the domain weight where the function answers it beside a gradient."""
        return self._tile(piece, (*outputs, SUPPORT) if self._has_support and "gradient" in outputs else outputs)

    def _tile(self, piece: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs that the function answers."""
        size = piece.shape[0]
        wanted = {"score": self._signature.score_name, "gradient": "gradient", SUPPORT: SUPPORT}
        shapes = {"score": (size,), "gradient": (size, self._dim), SUPPORT: (size,)}  # a score may come as [n, 1]
        names = [name for name in outputs if name == "score" or self._gradients is None]
        function = self._score_only if set(names) <= {"score"} else self._both
        with tf.device(self._device):
            if self._derives and "gradient" in names:
                answer = call(function, self._signature, piece, derive=True)
            else:
                answer = _call_directly(function, self._signature, piece)
        with np.errstate(over="ignore"):  # float64 answers beyond float32 become infinite; the caller checks
            return {
                name: answer[wanted[name]].numpy().reshape(shapes[name]).astype(np.float32, copy=False)
                for name in names
            }


def _call_directly(function: Any, signature: FileSignature, rows: NDArray[np.float32]) -> Mapping[str, Any]:
    """Return what `call` does, by the one operation that runs a function, without the Python around it.

    The bits may be others: TensorFlow optimises the graph once for each of both ways.
    """
    given = arguments(function, signature, rows)
    captured, outputs = function.captured_inputs, function.structured_outputs
    if len(given) > 1 or len(function.inputs) != 1 + len(captured) or len(function.outputs) != len(outputs):
        return call(function, signature, rows)  # in which order it takes and answers is not told
    tensors = tf.raw_ops.StatefulPartitionedCall(
        args=[*given.values(), *captured], Tout=[output.dtype for output in function.outputs], f=function
    )
    return dict(zip(sorted(outputs), tensors, strict=True))


def _answers_scores(function: Any, default: FileSignature) -> bool:
    """Whether a signature takes what `serving_default` does, in float32, and answers `score`."""
    _, arguments = function.structured_input_signature
    floats = all(argument.dtype == tf.float32 for argument in arguments.values())
    return set(arguments) == set(default.inputs) and floats and "score" in function.structured_outputs
