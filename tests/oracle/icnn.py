"""Forward pass and gradient of an input-convex network in float64 NumPy, from plain arrays: imports nothing of ours.

The formulas are those of Amos, Xu, Kolter (ICML 2017), eq. 2, with standardised inputs, quadratic terms and a scaled
target:

    x' = (x - mean) / scale,  z_0 = phi_0(x' A_0 + b_0),  z_k = phi(z_{k-1} W_k + x' A_k + b_k),
    core = z_{L-1} w + x' a + b + m |x'|^2 / 2 + |x' B|^2 / 2,  f = s core + t.

For a potential, with the target's mean t [d] and one scale S, f = S^2 core + S <x', t>.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _softplus(p: Array) -> Array:
    return np.logaddexp(0.0, p)


def _sigmoid(p: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * p))


def activation(name: str) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Return value and derivative of an activation such as `softplus` or `leaky_relu(0.2)`; at a kink the left one."""
    base, _, argument = name.rstrip(")").partition("(")
    numbers = [float(part) for part in argument.split(",")] if argument else []
    if base == "softplus":
        return _softplus, _sigmoid
    if base == "relu":
        return lambda p: np.maximum(p, 0.0), lambda p: (p > 0.0).astype(float)
    if base == "leaky_relu":
        (a,) = numbers
        return lambda p: np.where(p > 0.0, p, a * p), lambda p: np.where(p > 0.0, 1.0, a)
    if base == "elu":
        return lambda p: np.where(p > 0.0, p, np.expm1(np.minimum(p, 0.0))), lambda p: np.exp(np.minimum(p, 0.0))
    if base == "smooth_leaky":
        a, b = numbers
        return lambda p: a * p + (1 - a) * _softplus(b * p) / b, lambda p: a + (1 - a) * _sigmoid(b * p)
    if base == "squared_leaky":
        (a,) = numbers
        return lambda p: np.where(p > 0.0, p**2, (a * p) ** 2), lambda p: 2.0 * np.where(p > 0.0, p, a * a * p)
    raise KeyError(name)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The numbers of one network, all float64.

    Args:
        mean: [d].
        scale: [d].
        first: A_0 [d, n_0] and b_0 [n_0].
        constrained: per layer W [n_below, n], A [d, n], b [n]; the last is the output.
        activation: name of the hidden activation.
        quadratic: m.
        target: t and s.
        first_activation: name of phi_0; empty: as `activation`.
        form: B [d, d], or None for none.
        potential: t [d] and S of a potential, or None where it is none.
    """

    mean: Array
    scale: Array
    first: tuple[Array, Array]
    constrained: tuple[tuple[Array, Array, Array], ...]
    activation: str
    quadratic: float
    target: tuple[float, float]
    first_activation: str = ""
    form: Array | None = None
    potential: tuple[Array, float] | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the numbers in a `.keras` file, read from its zip archive without Keras."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))["config"]
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as weights:

            def arrays(group: str) -> list[Array]:
                values = weights[f"{group}/vars"]
                return [np.asarray(values[str(index)], dtype=np.float64) for index in range(len(values))]

            stem = "constrained/dense_partially_constrained"
            count = len(config["hidden"])
            constrained = [arrays(stem if index == 0 else f"{stem}_{index}") for index in range(count)]
            mean, scale = arrays("layers/standardization")
            kernel, bias = arrays("first")
            shift, stretch = arrays("layers/target_scaling") if config["target_scaling"] else (0.0, 1.0)
            form, potential = None, None
            if config.get("potential"):
                (form,) = arrays("layers/quadratic_form")
                centre, common = arrays("layers/potential_scaling")
                potential = centre, float(common)
    return Checkpoint(
        mean,
        scale,
        (kernel, bias),
        tuple((w, a, b) for w, a, b in constrained),
        config["activation"],
        float(np.float32(0.5 * config["quadratic"])) * 2.0,
        (float(shift), float(stretch)),
        config.get("first_activation", ""),
        form,
        potential,
    )


def score(network: Checkpoint, rows: NDArray[np.floating]) -> Array:
    """Return the scores [n] of raw rows [n, d]."""
    phi, _ = activation(network.activation)
    first, _ = activation(network.first_activation or network.activation)
    x = (rows.astype(np.float64) - network.mean) / network.scale
    z = first(x @ network.first[0] + network.first[1])
    for w, a, b in network.constrained[:-1]:
        z = phi(z @ w + x @ a + b)
    w, a, b = network.constrained[-1]
    core = (z @ w + x @ a + b)[:, 0] + 0.5 * network.quadratic * np.sum(x * x, axis=1)
    if network.form is not None:
        core = core + 0.5 * np.sum((x @ network.form) ** 2, axis=1)
    if network.potential is not None:
        centre, common = network.potential
        return np.asarray(common**2 * core + common * (x @ centre))
    return network.target[1] * core + network.target[0]


def gradient(network: Checkpoint, rows: NDArray[np.floating]) -> Array:
    """Return df/dx [n, d] at raw rows [n, d], by the chain rule, layer by layer from the output."""
    phi, slope = activation(network.activation)
    first, first_slope = activation(network.first_activation or network.activation)
    x = (rows.astype(np.float64) - network.mean) / network.scale
    lowest = x @ network.first[0] + network.first[1]
    pre, z = [], first(lowest)
    for w, a, b in network.constrained[:-1]:
        pre.append(z @ w + x @ a + b)
        z = phi(pre[-1])
    w, a, _ = network.constrained[-1]
    into_x = np.tile(a[:, 0], (len(x), 1)) + network.quadratic * x
    if network.form is not None:
        into_x = into_x + x @ network.form @ network.form.T
    into_z = np.tile(w[:, 0], (len(x), 1))
    for (w, a, _), p in zip(reversed(network.constrained[:-1]), reversed(pre), strict=True):
        into_p = into_z * slope(p)
        into_x = into_x + into_p @ a.T
        into_z = into_p @ w.T
    into_x = into_x + (into_z * first_slope(lowest)) @ network.first[0].T
    if network.potential is not None:
        centre, common = network.potential
        return np.asarray((common**2 * into_x + common * centre) / network.scale)
    result: Array = network.target[1] * into_x / network.scale
    return result


def central_differences(network: Checkpoint, rows: NDArray[np.floating], step: float = 1e-6) -> Array:
    """Return df/dx [n, d] by central differences of `score`, each feature moved by `step` of its scale."""
    columns = []
    for j in range(rows.shape[1]):
        move = np.zeros(rows.shape[1])
        move[j] = step * network.scale[j]
        columns.append((score(network, rows + move) - score(network, rows - move)) / (2.0 * move[j]))
    return np.stack(columns, axis=1)
