"""Where the numbers of a weight stand in the variable that they come from, for messages that a modeller can act on.

Above: `constants`, `operators`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rearrangement = Callable[[NDArray[Any]], NDArray[Any]]
"""Moves, repeats or leaves out entries of an array, whatever they are. Of functions that can be pickled."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """A variable's shape, and how its entries were rearranged since it was read. Nothing is computed until asked.

    Args:
        shape: of the variable.
        steps: what was done to its array, in order.
    """

    shape: tuple[int, ...]
    steps: tuple[Rearrangement, ...] = ()

    def then(self, step: Rearrangement) -> "Origin":
        """Return the origin of an array that was rearranged once more."""
        return Origin(self.shape, (*self.steps, step))

    def place(self, index: int) -> tuple[int, ...]:
        """Return where in the variable the entry number `index` of the rearranged array, in row-major order, stands."""
        numbers: NDArray[Any] = np.arange(math.prod(self.shape)).reshape(self.shape)
        for step in self.steps:
            numbers = step(numbers)
        return tuple(int(part) for part in np.unravel_index(int(numbers.reshape(-1)[index]), self.shape))
