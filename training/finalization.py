"""Turns a network whose kernels a penalty only drew to be non-negative into one that is proved convex.

Beside `proof`; over `icnn` and `layers`, whose kernels it clips, and the prover.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from service.program.certification import Certified, certify
from training.icnn import InputConvexNetwork, PenalizedNetwork
from training.layers.dense_partially_constrained import DensePartiallyConstrained

Loss = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Finalization:
    """A network with clipped kernels, what the clipping cost, and the proof.

    Args:
        network: the network that is proved.
        loss_before: mean loss on the given rows, without penalties, with the kernels as they were.
        loss_after: the same with the clipped kernels.
        clipped: by layer, how many weights were negative.
        certified: the proof of the network's exported files.
    """

    network: keras.Model
    loss_before: float
    loss_after: float
    clipped: Mapping[str, int]
    certified: Certified

    def __str__(self) -> str:
        """Return the report in one sentence."""
        return (
            f"{sum(self.clipped.values())} negative weights were clipped; the loss went from {self.loss_before:.6g} "
            f"to {self.loss_after:.6g}; the network is proved convex."
        )


def finalize(
    model: keras.Model, x: NDArray[np.floating], y: NDArray[np.floating], loss: str | Loss = "mean_squared_error"
) -> Finalization:
    """Clip the kernels of all penalised layers, say what that costs on `x` and `y`, and prove the result.

    A penalty never certifies: it is zero only in the limit, and one weight of -1e-9 is enough for a function that is
    not convex. Clipping moves each kernel to the nearest non-negative one; where the penalty is small, the loss hardly
    changes. The layers are projected ones from then on; compile the model again to train on.

    A `PenalizedNetwork` is no `InputConvexNetwork`, and does not become one: the result is a new network of that class
    with the clipped weights. Any other model is changed in place.

    Args:
        model: a network that maps rows [n, d] to scores [n] or [n, 1].
        x: rows [n, d] to evaluate the loss on.
        y: targets [n].
        loss: a name that `keras.losses.get` knows, or a function of targets [n] and scores [n].

    Raises:
        NegativeWeightError: a kernel is not finite.
        VersionRefusedError: what is left is not proved, with the rule: kernels of other layers may be negative, or an
            activation not convex. The kernels are clipped all the same.
    """
    measure = keras.losses.get(loss)
    before = _mean_loss(model, x, y, measure)
    clipped = {layer.name: layer.finalize() for layer in constrained_layers(model)}
    network = _as_convex(model) if isinstance(model, PenalizedNetwork) else model
    return Finalization(network, before, _mean_loss(network, x, y, measure), clipped, prove_model(network, x.shape[1]))


def constrained_layers(model: keras.Model) -> list[DensePartiallyConstrained]:
    """Return the model's partially constrained layers, those of models inside it included, each once."""
    found = [layer for layer in model.layers if isinstance(layer, DensePartiallyConstrained)]
    for inner in model.layers:
        if isinstance(inner, keras.Model):
            found += [layer for layer in constrained_layers(inner) if layer not in found]
    return found


def prove_model(model: keras.Model, dim: int) -> Certified:
    """Prove a model from the SavedModel that Keras exports of it, in a folder that is removed again.

    Args:
        model: maps rows [n, dim] to scores [n] or [n, 1].
        dim: number of features.

    Raises:
        VersionRefusedError: it is not proved.
    """
    signature = [keras.InputSpec(shape=(None, dim), dtype="float32")]
    with tempfile.TemporaryDirectory(prefix="convex-scoring-") as name:
        model.export(str(Path(name) / "model"), verbose=False, input_signature=signature)
        return certify(Path(name) / "model")


def _as_convex(model: PenalizedNetwork) -> InputConvexNetwork:
    """Return a network of the convex class with the weights of a penalised one."""
    config = model.get_config()
    config.pop("regularizer_constant")
    network: InputConvexNetwork = InputConvexNetwork.from_config(config)
    network.set_weights(model.get_weights())
    network.verify()
    return network


def _mean_loss(model: keras.Model, x: NDArray[np.floating], y: NDArray[np.floating], loss: Loss) -> float:
    """Return the mean loss, in float64 from the scores on."""
    score = np.asarray(model(ops.convert_to_tensor(x.astype(np.float32))), dtype=np.float64).reshape(len(x))
    return float(np.mean(ops.convert_to_numpy(loss(np.asarray(y, np.float64).reshape(len(x), 1), score[:, None]))))
