"""The layer that gives a network every positive semidefinite quadratic, and a transport its identity start.

Beside the other layers; `icnn` adds its output to the score.
"""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="convex_scoring")
class QuadraticForm(keras.layers.Layer):
    r"""Half the squared length of a row's image under a trained square matrix.

    .. math:: q(x) = \tfrac12 \|x B\|^2 = \tfrac12\, x\, B B^{\mathsf T} x^{\mathsf T}

    Convex for every B, since B B^T is positive semidefinite: no sign needs watching. B starts at the identity, where
    the gradient is x itself. A transport that starts there needs no pre-training (Korotin et al., NeurIPS 2021, trained
    their networks to it first), and the linear part of the map, all that there is between two Gaussians, is a matter
    of B alone.

    Args:
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [..., d].

    Output shape:
        [..., 1].
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make B [d, d], the identity."""
        dim = input_shape[-1]
        self.kernel = self.add_weight(name="kernel", shape=(dim, dim), initializer="identity")

    def call(self, x: Any) -> Any:
        """Return half the sum of squares of x @ kernel."""
        return ops.multiply(0.5, ops.sum(ops.square(ops.matmul(x, self.kernel)), axis=-1, keepdims=True))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [..., 1]."""
        return (*input_shape[:-1], 1)
