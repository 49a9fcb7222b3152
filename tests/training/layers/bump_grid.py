"""The grid of pairs (s, x) on which a bump must be finite, its derivatives too, and how that is counted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def grid(dtype: str = "float32", exponents: range = range(-38, 38), least: tuple[float, ...] = (1e-45, 1e-39)) -> Any:
    """Return widths s and points x of every pair, both [n]: 88 widths and 322 points of each in float32.

    Widths: 0, denormal numbers, powers of ten, ordinary numbers. Points: 0, the width, its neighbours and fractions,
    its root, what is denormal, enormous and infinite, a few fixed ones, and 301 from -1.5 s to 1.5 s.
    """
    kind = tf.as_dtype(dtype).as_numpy_dtype
    largest = float(np.finfo(np.float32).max if dtype != "float16" else np.finfo(np.float16).max)
    widths = np.array([0.0, *least, *(10.0**k for k in exponents), 0.1, 0.5, 0.9, 1, 1.5, 2, 3, 7, 100], np.float64)
    pairs = []
    with np.errstate(all="ignore"):
        for s in widths.astype(kind):
            number = float(s)
            up, down = (float(np.nextafter(np.float32(number), np.float32(end))) for end in (np.inf, 0.0))
            if dtype != "float32":  # neighbours in a coarser type
                step = float(tf.as_dtype(dtype).as_numpy_dtype(2.0**-7 if dtype == "bfloat16" else 2.0**-10))
                up, down = number * (1 + step), number * (1 - step)
            factors = (0.5, 0.99, 0.9999, 1.0001, 2.0)
            points = [0.0, number, -number, up, down, *(factor * number for factor in factors), number**0.5]
            points += [-(number**0.5), least[0], 0.88 * largest, -0.88 * largest, np.inf, -np.inf, 1.0, -1.0, 0.3, 1.7]
            points += list(number * np.linspace(-1.5, 1.5, 301))
            pairs += [(s, point) for point in np.array(points, np.float64).astype(kind)]
    return np.array([s for s, _ in pairs], kind), np.array([x for _, x in pairs], kind)


def derivatives(function: Callable[..., Any], *arguments: Any, compiled: bool = False) -> list[Any]:
    """Return the value of a function of tensors, entry by entry, and its derivatives by each, as arrays."""

    @tf.function(jit_compile=compiled, autograph=False)
    def run(*tensors: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        return value, *tape.gradient(value, tensors)

    return [part.numpy() for part in run(*(tf.constant(argument) for argument in arguments))]


def num_not_finite(parts: list[Any]) -> list[int]:
    """Return how many numbers of each array are NaN or infinite."""
    return [int((~np.isfinite(part.astype(np.float64))).sum()) for part in parts]
