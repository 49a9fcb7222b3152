"""What one training run is to the fit loop: a loss before any step, steps, validation numbers, and weights to keep.

Below `objectives`, each of which starts runs of its own kind; `audit` looks at their gradients, `trainer` drives them,
and `checkpoints` keeps the state of one on disk.
"""

import dataclasses
import enum
from collections.abc import Callable, Collection, Mapping, Sequence
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


class Entry(enum.StrEnum):
    """How a network enters a loss, which decides what of it the loss can see."""

    VALUE = "its values"
    """As in a regression: everything that moves a score is seen."""
    DIFFERENCE = "the difference of two means of its values"
    """As f in the minimax: what moves all scores alike cancels."""
    SLOPE = "its gradient with respect to the row"
    """As g in the minimax: what moves no slope is not seen."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One network of a loss.

    Args:
        network: a Keras model, whose trainable variables are looked at.
        score: rows to scores [n] or [n, 1], as the loss computes them.
        entry: how the scores enter the loss.
    """

    network: Any
    score: Callable[[Any], Any]
    entry: Entry


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the gradient audit looks at: a loss, its networks, and rows to compute it on.

    Args:
        parts: the networks.
        loss: of the arrays of one batch, the first of them rows; a scalar tensor, without penalties of layers.
        draw: returns a batch: as many arrays as `loss` takes, each of so many training rows.
        untrained: variables, by path, that the run leaves out of training already.
        as_drawn: data of a job to all their rows, in the form of `draw`'s arrays; None where a run has no such rows.
    """

    parts: tuple[Part, ...]
    loss: Callable[..., Any]
    draw: Callable[[np.random.Generator, int], tuple[Any, ...]]
    untrained: tuple[str, ...] = ()
    as_drawn: Callable[[Any], tuple[Any, ...]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """All that a run changes from step to step: the same run with this state goes on to the same bits.

    Args:
        arrays: by name, the values of variables.
        numbers: what JSON can hold: counters, curves, the state of a generator.
    """

    arrays: Mapping[str, NDArray[Any]]
    numbers: Mapping[str, Any]


def values_of(name: str, variables: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Return a copy of the value of each variable, named `name/0`, `name/1`, ..."""
    return {f"{name}/{place}": np.array(variable.numpy()) for place, variable in enumerate(variables)}


def give_values(name: str, variables: Sequence[Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Give variables their values, as `values_of` returned them."""
    for place, variable in enumerate(variables):
        variable.assign(arrays[f"{name}/{place}"])


class Run(Protocol):
    """One training run of one network, as far as the fit loop knows it.

    The loop seeds everything and switches deterministic kernels on before it calls any of these; a run draws its
    batches from a generator of its own, so that the same run gives the same weights, bit for bit.
    """

    keeps_best: bool
    """Whether the weights that did best on the validation rows are kept, and patience may end the run; else it takes
    all its steps and the last weights are kept."""

    names: tuple[str, str]
    """What `start_loss` and `step` return, and the first number of `validation`: a Wasserstein distance says which."""

    def subject(self) -> Subject:
        """Return what the gradient audit looks at before the run, with batches of the training rows."""

    def leave_out(self, paths: Collection[str]) -> None:
        """Take variables out of training, by their paths: no step moves them, and none misses their gradients."""

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

    def state(self) -> State:
        """Return all that steps have changed so far, between two steps."""

    def resume(self, state: State) -> None:
        """Go on from where a run of the same network, rows and settings was, whose `state` this is."""

    def verify(self) -> None:
        """Refuse weights with which that network need not be convex.

        Raises:
            NegativeWeightError: a constrained weight is negative or not finite.
            ValueError: a scale is not positive.
        """
