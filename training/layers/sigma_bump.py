"""The bump exp(-sigma / (sigma - x^2)) cut at |x| = sigma, as it was once asked for; `bump` is the one to use.

Beside `bump`, in whose form it is computed.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from training.activations import Counterexample
from training.layers.bump import bump
from training.layers.localized import Localized
from training.layers.positive_scale import LEAST


@keras.saving.register_keras_serializable(package="convex_scoring")
class SigmaBump(Localized):
    r"""A bump whose one parameter is at once a bound of |x| and, in the formula, of x^2.

    .. math:: y = \exp\left(-\frac{\sigma}{\sigma - x^2}\right)
              \text{ for } |x| < \sigma \text{ and } x^2 < \sigma (1 - 1/88), \quad \text{else } 0

    Both conditions are needed, because the support of the formula is |x| < sqrt(sigma):

    - For sigma > 1 it is smaller than (-sigma, sigma). Between sqrt(sigma) and sigma the exponent is positive, and the
      formula without the second condition takes values up to infinity.
    - For sigma < 1 it is larger, and y **jumps** at |x| = sigma, by exp(-1 / (1 - sigma)). There is no width at which
      the jump is seen by the gradient: it misses what moving the edge would change.

    Where sigma >= 1 this is `Bump` with the radius sqrt(sigma). Here to reproduce results; use `Bump` for new ones.

    Args:
        **kwargs: of `Localized`; there is no `radial`.

    Input shape:
        Any.

    Output shape:
        The input's.

    Raises:
        ValueError: positivity is none of the three forms, or `radial` is asked for.
    """

    width_name = "sigma"
    starting_factor = 1.5

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.radial:
            message = f"{self.name}: radial: expected False, received True. Use Bump, whose radius has that meaning."
            raise ValueError(message)

    def _shape(self, x: Any, width: Any, dtype: str) -> Any:
        """Return the bump of each number."""
        return bump(x, ops.sqrt(ops.maximum(width, LEAST)), dtype=dtype, within=width)

    @property
    def counterexample(self) -> Counterexample:
        """The peak lies above the mean of both ends."""
        sigma = float(np.max(ops.convert_to_numpy(self.width))) if self.built else 1.0
        return Counterexample(f"the bump of sigma {sigma:g}", (-sigma, 0.0, sigma), (0.0, math.exp(-1.0), 0.0))
