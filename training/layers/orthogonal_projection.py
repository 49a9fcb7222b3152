"""The layer that puts a network on few orthonormal directions of its input.

Beside the other layers; it stands in front, after the standardisation.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.layers.verified import Verified
from training.orthonormality import Orthonormal, check_orthonormal


@keras.saving.register_keras_serializable(package="convex_scoring")
class OrthogonalProjection(Verified, keras.layers.Layer):
    r"""Coordinates of a row along k orthonormal directions.

    .. math:: y = x P, \qquad P^{\mathsf T} P = I_k, \qquad k \le d

    Affine, so that whatever is convex in y is convex in x, and no length grows: |y| <= |x|, so that a gradient bound of
    the network behind holds for the network with the layer too. P starts random, or at the principal directions of
    training rows (`adapt`); Keras retracts it to orthonormal columns after each optimiser step (`Orthonormal`). Columns
    that are not orthonormal are refused by every save and load. (Convexity does not hang on it: any matrix is affine.)

    Example:
        >>> layer = OrthogonalProjection(2)
        >>> layer(keras.ops.ones((5, 3))).shape
        TensorShape([5, 2])

    Args:
        units: number k of directions, at least 1 and at most the width of the input.
        **kwargs: of `keras.layers.Layer`; `trainable=False` keeps the directions.

    Input shape:
        [..., d].

    Output shape:
        [..., units].

    Raises:
        ValueError: units is not a positive whole number, or the input is narrower.
        NotOrthonormalError: at a save or load, where the columns are not orthonormal.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if type(units) is not int or units < 1:
            message = f"{self.name}: units: expected a whole number of at least 1, received {units!r}."
            raise ValueError(message)
        self.units = units
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make P [d, units], with orthonormal columns from the start."""
        dim = input_shape[-1]
        if dim is None or dim < self.units:
            message = (
                f"{self.name}: expected an input of width {self.units} or more, received {dim}: there are no more "
                "orthonormal directions than features. Use fewer units."
            )
            raise ValueError(message)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(dim, self.units),
            initializer=keras.initializers.Orthogonal(),
            constraint=Orthonormal(),
        )

    def call(self, x: Any) -> Any:
        """Return x @ kernel."""
        return ops.matmul(x, self.kernel)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [..., units]."""
        return (*input_shape[:-1], self.units)

    def adapt(self, x: NDArray[np.floating]) -> None:
        """Set the directions to the first principal ones of rows `x` [n, d], each with its largest entry positive.

        Raises:
            ValueError: a number is not finite.
        """
        rows = x.astype(np.float64)
        if not np.isfinite(rows).all():
            message = f"{self.name}: expected finite rows, received NaN or infinity."
            raise ValueError(message)
        centred = rows - rows.mean(axis=0)
        _, directions = np.linalg.eigh(centred.T @ centred)
        chosen = directions[:, ::-1][:, : self.units]
        largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=0)[None, :], axis=0)
        self.kernel.assign(chosen * np.where(largest < 0.0, -1.0, 1.0))
        self.verify()

    def verify(self) -> None:
        """Refuse directions that are not orthonormal up to rounding.

        Raises:
            NotOrthonormalError: names the layer and the deviation.
        """
        check_orthonormal(self.kernel.numpy(), f"{self.name}/kernel")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "units": self.units}
