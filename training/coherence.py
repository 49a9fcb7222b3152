"""How far a set of filters is from being orthogonal, and how near it can come at all.

At the bottom of training, in float64 NumPy; `layers.filter_bank` and `layers.jointly_regularized` report it.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Coherence:
    """What is measured of n filters of m weights each.

    Args:
        fan_in: m.
        filters: n.
        largest: largest absolute cosine between two of them, 0 for a single one. A filter of zeros has cosines of 0.
        floor: the least that `largest` can be for so many filters, none of them zero.
        penalty: sum over all pairs of their squared inner product.
        frozen_penalty: the share of `penalty` between frozen filters, which no training changes.
    """

    fan_in: int
    filters: int
    largest: float
    floor: float
    penalty: float
    frozen_penalty: float

    def __str__(self) -> str:
        """Return one line, which names the floor where there is one."""
        limit = "" if not self.floor else f"; no {self.filters} vectors in {self.fan_in} dimensions have one below"
        limit += "" if not self.floor else f" {self.floor:.4g} (Welch)"
        return f"{self.filters} filters of {self.fan_in} weights: largest |cos| {self.largest:.4g}{limit}"


def welch_floor(fan_in: int, filters: int) -> float:
    r"""Return the least largest cosine between `filters` vectors in `fan_in` dimensions (Welch 1974).

    .. math:: \max_{i<j} |\cos| \ge \sqrt{\frac{n - m}{m (n - 1)}} \quad (n > m)

    and 0 for n <= m. It is reached by equiangular tight frames only, which do not exist for all m and n.
    """
    if filters <= fan_in:
        return 0.0
    return math.sqrt((filters - fan_in) / (fan_in * (filters - 1)))


def measure(columns: NDArray[np.floating], frozen: NDArray[np.bool_]) -> Coherence:
    """Return the coherence of filters.

    Args:
        columns: [m, n], a filter in each column.
        frozen: [n], which of them are frozen.
    """
    columns = columns.astype(np.float64)
    fan_in, filters = columns.shape
    lengths = np.linalg.norm(columns, axis=0)
    gram = np.triu(columns.T @ columns, k=1)
    cosines = np.triu((columns.T @ columns) / np.maximum(np.outer(lengths, lengths), np.finfo(float).tiny), k=1)
    return Coherence(
        fan_in=fan_in,
        filters=filters,
        largest=float(np.abs(cosines).max(initial=0.0)),
        floor=welch_floor(fan_in, filters),
        penalty=float(np.sum(gram**2)),
        frozen_penalty=float(np.sum(gram[np.ix_(frozen, frozen)] ** 2)),
    )
