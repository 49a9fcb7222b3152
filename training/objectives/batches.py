"""The order in which rows are drawn, as batches: seeded, and with a place that one can come back to.

Below `supervised`, whose steps take one batch after the other.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Batches:
    """Row numbers of one batch after the other: a new order each pass, the pass's last odd rows left out.

    Args:
        rows: how many rows there are.
        batch: rows of a batch, at most `rows`.
        seed: of the orders.
    """

    def __init__(self, rows: int, batch: int, seed: int) -> None:
        """Begin the first pass."""
        self._rows = rows
        self._batch = batch
        self._generator = np.random.default_rng(seed)
        self._next = 0
        self._begin_pass()

    def next(self) -> NDArray[np.int64]:
        """Return the numbers of the next batch's rows, int64 [batch]."""
        if self._next + self._batch > self._rows:
            self._begin_pass()
        start, self._next = self._next, self._next + self._batch
        return self._order[start : self._next]

    def place(self) -> dict[str, Any]:
        """Return where the next batch is: the generator before the pass began, and the row within the pass."""
        return {"generator": self._before, "next": self._next}

    def go_to(self, place: Mapping[str, Any]) -> None:
        """Go on from a `place` of other batches of as many rows."""
        self._generator.bit_generator.state = place["generator"]
        self._begin_pass()
        self._next = int(place["next"])

    def _begin_pass(self) -> None:
        """Draw the order of the next pass."""
        self._before: Mapping[str, Any] = self._generator.bit_generator.state
        self._order = self._generator.permutation(self._rows)
        self._next = 0
