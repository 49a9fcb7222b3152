"""What a version answered to rows: the score and its gradient.

Below `objectives`, which measure answers, `gate`, which compares two versions' answers to the same rows, and
`pipeline`, which gets them from a proved program.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """One version's answers to n rows of d features.

    Args:
        score: floats [n].
        gradient: floats [n, d], the score's derivative by each raw feature.
    """

    score: NDArray[np.floating]
    gradient: NDArray[np.floating]

    def are_finite(self) -> bool:
        """Tell whether every number is finite."""
        return bool(np.isfinite(self.score).all() and np.isfinite(self.gradient).all())
