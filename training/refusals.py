"""Refusal of an argument with which a layer would not be convex, with the three points that show it.

Between `activations`, whose `Counterexample` it carries, and `layers`, which refuse when they are made.
"""

import math

from training.activations import Counterexample


class ArgumentRefusedError(ValueError):
    """An argument that would break the convexity that a layer's name promises.

    Args:
        message: what was received, why it is refused, what to use.
        counterexample: three points at which the layer would not be convex.
    """

    def __init__(self, message: str, counterexample: Counterexample) -> None:
        """Keep the counterexample beside the sentence."""
        super().__init__(message)
        self.counterexample = counterexample


def check_coefficient(coefficient: float, where: str) -> float:
    """Return the factor of a half square, refused where it is negative or not finite.

    Args:
        coefficient: c of c x^2 / 2.
        where: layer and argument, for the message.

    Raises:
        ArgumentRefusedError: it is negative: -x^2 / 2 curves downwards.
        ValueError: it is not a finite number.
    """
    if isinstance(coefficient, bool) or not isinstance(coefficient, (int, float)) or not math.isfinite(coefficient):
        message = f"{where}: expected a finite number of at least 0, received {coefficient!r}."
        raise ValueError(message)
    if coefficient < 0.0:
        half = 0.5 * float(coefficient)
        counterexample = Counterexample(f"{coefficient:g} / 2 * x^2", (-1.0, 0.0, 1.0), (half, 0.0, half))
        message = (
            f"{where}: expected a finite number of at least 0, received {coefficient!r}: {counterexample}. "
            "Subtracting a square needs another model than a convex one."
        )
        raise ArgumentRefusedError(message, counterexample)
    return float(coefficient)


def check_temperature(temperature: float, where: str) -> float:
    """Return the temperature of a log-sum-exp, refused where it is not positive and finite.

    Args:
        temperature: t of t log sum exp(u / t).
        where: layer and argument, for the message.

    Raises:
        ArgumentRefusedError: it is negative, which makes a soft minimum, a concave function.
        ValueError: it is zero or not a finite number.
    """
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not number or not math.isfinite(temperature) or temperature == 0.0:
        message = f"{where}: expected a finite number above 0, received {temperature!r}. Use 1 for plain log-sum-exp."
        raise ValueError(message)
    if temperature < 0.0:
        size = -float(temperature)
        end = max(size, 1.0)
        lower = -(end + size * math.log1p(math.exp(-2.0 * end / size)))
        counterexample = Counterexample(
            f"{temperature:g} log(exp(x / {temperature:g}) + exp(-x / {temperature:g}))",
            (-end, 0.0, end),
            (lower, -size * math.log(2.0), lower),
        )
        message = (
            f"{where}: expected a finite number above 0, received {temperature!r}, which takes a soft minimum: "
            f"{counterexample}. Use a positive one; the smaller it is, the closer to the maximum."
        )
        raise ArgumentRefusedError(message, counterexample)
    return float(temperature)
