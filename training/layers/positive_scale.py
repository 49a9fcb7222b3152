"""A width that is positive from the first moment on, whatever trains it: three forms of one number.

Below `bump` and `gaussian_bump`, whose widths it holds.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

EXPONENTIAL, PROJECTION, SOFTPLUS = "exponential", "projection", "softplus"
FORMS = (EXPONENTIAL, PROJECTION, SOFTPLUS)

LEAST = 2.0**-100
"""Least width: its reciprocal, and what a bump makes of that, are floats."""

LARGEST = 2.0**126
"""Largest width: its reciprocal is a normal number."""

_HALF = (2.0**-12, 2.0**15)
"""Both in float16, whose numbers end at 65,504: slopes are up to 2.2 over the width."""

_LOG_LEAST, _LOG_LARGEST = math.log(LEAST), math.log(LARGEST)


@keras.saving.register_keras_serializable(package="convex_scoring")
class AtLeast(keras.constraints.Constraint):
    r"""Projection onto the weights that are not below a least one.

    .. math:: P(w) = \arg\min_{v \ge m} \|v - w\|^2 = \max(w, m)

    A NaN stays a NaN, so that divergence is seen.

    Args:
        least: m, above 0 and finite.

    Raises:
        ValueError: m is not.
    """

    def __init__(self, least: float = LEAST) -> None:
        if not 0.0 < least < math.inf:
            message = f"least: expected a finite number above 0, received {least!r}."
            raise ValueError(message)
        self.least = float(least)

    def __call__(self, w: Any) -> Any:
        """Return max(w, m), entry by entry."""
        return ops.maximum(w, ops.cast(self.least, w.dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the argument."""
        return {"least": self.least}


def check_form(form: str, where: str) -> str:
    """Return the form.

    Raises:
        ValueError: it is none of `FORMS`.
    """
    if form not in FORMS:
        message = f"{where}: positivity: expected one of {', '.join(FORMS)}, received {form!r}."
        raise ValueError(message)
    return form


def constraint(form: str) -> AtLeast | None:
    """Return what holds the variable of a form after each step of an optimiser: only a projection needs that."""
    return AtLeast() if form == PROJECTION else None


def raw_of(width: NDArray[np.floating], form: str) -> NDArray[np.floating]:
    """Return the variable's value for a width, which is brought to at least `LEAST` first; a NaN stays a NaN.

    Args:
        width: array of any shape.
        form: of `FORMS`.
    """
    held = np.clip(width.astype(np.float64), LEAST, LARGEST)
    match form:
        case "exponential":
            raw = np.log(held)
        case "softplus":
            raw = held + np.log(-np.expm1(-held))
        case _:
            raw = held
    return np.asarray(raw, width.dtype)


def width_of(raw: Any, form: str) -> Any:
    r"""Return the width of a variable's value.

    .. math:: s = \exp(\mathrm{clip}(\rho)), \qquad s = \rho, \qquad s = \log(1 + e^\rho) + 2^{-100}

    A projected variable may have been assigned anything: what is not positive stays so here, and who uses it holds it
    above `LEAST`.
    """
    match form:
        case "exponential":
            return ops.exp(ops.clip(raw, _LOG_LEAST, _LOG_LARGEST))
        case "softplus":
            return ops.add(ops.softplus(raw), ops.cast(LEAST, raw.dtype))
        case _:
            return raw


def working_dtype(dtype: str) -> str:
    """Return the type in which bumps of inputs of a type are computed: that type, or float32 for half precision."""
    return "float32" if dtype in {"float16", "bfloat16"} else dtype


def held(width: Any, dtype: str) -> Any:
    """Return a width between the least and the largest one with which inputs of a dtype have finite derivatives."""
    least, largest = _HALF if dtype == "float16" else (LEAST, LARGEST)
    return ops.minimum(ops.maximum(width, least), largest)


def support(width: Any, dtype: str) -> Any:
    """Return how far from its place a bump of this width reaches: the width, held from above, or 0 where it is below.

    Unlike `held`, so that a width that was set to 0 has no support, not even its centre.
    """
    largest = _HALF[1] if dtype == "float16" else LARGEST
    return ops.minimum(ops.maximum(width, 0.0), largest)


def over(x: Any, width: Any) -> Any:
    r"""Return x / width, computed so that derivatives stay finite under every compiler.

    .. math:: x / s = x \exp(-\log s)

    The derivative of a quotient by its divisor divides twice, and XLA makes one division by the square of that, which
    underflows below 2^-63; the derivative of a reciprocal multiplies the squares first. Here s is divided by once. The
    exponential is taken entry by entry, so that what is summed over the entries, for the width's gradient, is scaled
    down before. The value errs by 1 + |log s| units in the last place, instead of by one half.
    """
    return ops.multiply(x, ops.exp(ops.subtract(ops.zeros_like(x), ops.log(width))))


class WidthError(ValueError):
    """A width that is not a positive number."""


def check_width(width: NDArray[np.floating], where: str) -> None:
    """Refuse widths of which one is not a finite number above 0.

    Raises:
        WidthError: names the first such width and its index.
    """
    good = np.isfinite(width) & (width > 0.0)
    if not good.all():
        index = [int(part) for part in np.argwhere(~good)[0]]
        message = (
            f"{where}: expected finite widths above 0, received {width[tuple(index)]!r} at {index}. Set them anew."
        )
        raise WidthError(message)
