"""What one training run is to the fit loop: a loss before any step, steps, validation numbers, and weights to keep.

Below `objectives`, each of which starts runs of its own kind; `trainer` drives them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class DivergenceError(Exception):
    """Training left the finite numbers, or its limits (exit code 1); nothing of it may be published.

    Args:
        step: the step at which it was seen.
        quantity: what is not finite, or too large.
        value: its value.
        limit: the key and value that it may not exceed, or empty where it only has to be finite.
    """

    def __init__(self, step: int, quantity: str, value: float, limit: str = "") -> None:
        """Keep where and what."""
        found = f"{value}, {limit}" if limit else f"{value}"
        message = f"training diverged at step {step}: {quantity} is {found}. Lower trainer.learning_rate"
        super().__init__(message + ", or look for extreme values in the data.")
        self.step = step
        self.quantity = quantity
        self.value = value


class Run(Protocol):
    """One training run of one network, as far as the fit loop knows it.

    The loop seeds everything and switches deterministic kernels on before it calls any of these; a run draws its
    batches from a generator of its own, so that the same run gives the same weights, bit for bit.
    """

    keeps_best: bool
    """Whether the weights that did best on the validation rows are kept, and patience may end the run; else it takes
    all its steps and the last weights are kept."""

    def start_loss(self) -> float:
        """Return the training loss before any step."""

    def step(self) -> float:
        """Take one optimiser step on the next batch and return its loss.

        Raises:
            DivergenceError: something that the loss does not show left the finite numbers.
        """

    def validation(self) -> Mapping[str, float]:
        """Return numbers of the validation rows: the first is the validation loss, the others are curves."""

    def weights(self) -> Sequence[NDArray[np.floating]]:
        """Return the weights, as they are now, of the network that will be exported."""

    def restore(self, weights: Sequence[NDArray[Any]]) -> None:
        """Give that network these weights, as `weights` returned them."""

    def verify(self) -> None:
        """Refuse weights with which that network need not be convex.

        Raises:
            NegativeWeightError: a constrained weight is negative or not finite.
            ValueError: a scale is not positive.
        """
