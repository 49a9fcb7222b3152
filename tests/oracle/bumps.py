"""Bumps and their derivatives in closed form, in float64 NumPy: what the layers are compared with."""

import numpy as np

PEAK = float(np.exp(-1.0))


def bump(x, s, peak=PEAK):
    """Return B_s(x) = exp(-s^2 / (s^2 - x^2)) on |x| < s, else 0, scaled to a peak, with its derivatives by x and s.

    From B = e^(-1/t), t = 1 - u^2, u = x / s: dB/dx = -2 u e^(-1/t) / (s t^2) and dB/ds = 2 u^2 e^(-1/t) / (s t^2).
    """
    x, s = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(s, np.float64))
    with np.errstate(all="ignore"):
        u = x / s
        inside = np.abs(u) < 1
        t = np.where(inside, (1 - u) * (1 + u), 1.0)
        value = np.where(inside, np.exp(-1 / t) * (peak / PEAK), 0.0)
        slope = np.where(inside, 2 * u * value / (s * t * t), 0.0)
        return value, -slope, np.where(inside, u * slope, 0.0)


def sigma_form(x, sigma):
    """Return exp(-sigma / (sigma - x^2)) on |x| < sigma, else 0, as it comes: NaN and infinite numbers too."""
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        return np.where(np.abs(x) < sigma, np.exp(-sigma / (sigma - x * x)), 0.0)


def gaussian(x, h, w, c):
    """Return h exp(-((x - c) / w)^2 / 2) and its derivatives by x, h, w and c."""
    x, h, w, c = np.broadcast_arrays(*(np.asarray(part, np.float64) for part in (x, h, w, c)))
    with np.errstate(all="ignore"):
        u = (x - c) / w
        bell = np.exp(-0.5 * u * u)
        return h * bell, -h * bell * u / w, bell, h * bell * u * u / w, h * bell * u / w
