"""Small convex programs, built node by node, and the same functions written out in float64 NumPy.

The closed forms import nothing of the programs: they are what the tests expect.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from service.program.atoms import Atom, Softplus, Square
from service.program.operators import Dense, Identity, Operator, Scale
from service.program.program import AffineNode, AtomNode, InputNode, Program, Term

DIM = 3


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of f(x) = softplus(softplus(x A0 + b0) W1 + x A1 + b1) w2 + x a2 + b2 + sum_j q_j x_j^2."""

    first: NDArray[np.float32]
    first_bias: NDArray[np.float32]
    kernel: NDArray[np.float32]
    passthrough: NDArray[np.float32]
    bias: NDArray[np.float32]
    last_kernel: NDArray[np.float32]
    last_passthrough: NDArray[np.float32]
    last_bias: NDArray[np.float32]
    quadratic: NDArray[np.float32]

    def changed(self, name: str, place: tuple[int, ...], value: float) -> "Weights":
        """Return the weights with one number set."""
        array = getattr(self, name).copy()
        array[place] = value
        return dataclasses.replace(self, **{name: array})


def draw_weights(seed: int = 0, dim: int = DIM, hidden: tuple[int, int] = (5, 4)) -> Weights:
    """Return random weights, the kernels non-negative."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape).astype(np.float32)

    one, two = hidden
    return Weights(
        normal(dim, one), normal(one), np.abs(normal(one, two)), normal(dim, two), normal(two), np.abs(normal(two, 1)),
        normal(dim, 1), normal(1), np.abs(normal(dim)) + np.float32(0.1),
    )  # fmt: skip


def build(weights: Weights) -> Program:
    """Return the program of `Weights`' formula."""
    w = weights
    dim, one = w.first.shape
    return Program(
        (
            InputNode(dim),
            AffineNode(one, (Term(0, Dense(w.first, "first/kernel")),), w.first_bias, "first"),
            AtomNode(one, 1, Softplus(), "first/softplus"),
            AffineNode(
                w.bias.size,
                (Term(2, Dense(w.kernel, "hidden/kernel")), Term(0, Dense(w.passthrough, "hidden/passthrough"))),
                w.bias,
                "hidden",
            ),
            AtomNode(w.bias.size, 3, Softplus(), "hidden/softplus"),
            AtomNode(dim, 0, Square(), "square"),
            AffineNode(dim, (Term(5, Scale(w.quadratic, "quadratic")),), name="scaled"),
            AffineNode(
                1,
                (
                    Term(4, Dense(w.last_kernel, "output/kernel")),
                    Term(0, Dense(w.last_passthrough, "output/passthrough")),
                    Term(6, Dense(np.ones((dim, 1), np.float32), "a sum")),
                ),
                w.last_bias,
                "score",
            ),
        )
    )


def closed_form(weights: Weights, rows: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return score [n] and gradient [n, dim] in float64, by the chain rule written out."""
    w = Weights(*(np.asarray(getattr(weights, field.name), np.float64) for field in dataclasses.fields(weights)))
    x = np.asarray(rows, np.float64)
    u = x @ w.first + w.first_bias
    z = np.logaddexp(0.0, u)
    v = z @ w.kernel + x @ w.passthrough + w.bias
    y = np.logaddexp(0.0, v)
    score = y @ w.last_kernel[:, 0] + x @ w.last_passthrough[:, 0] + w.last_bias[0] + (w.quadratic * x * x).sum(axis=1)
    by_v = sigmoid(v) * w.last_kernel[:, 0]
    by_u = (by_v @ w.kernel.T) * sigmoid(u)
    gradient = by_u @ w.first.T + by_v @ w.passthrough.T + w.last_passthrough[:, 0] + 2 * w.quadratic * x
    return score, gradient


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-v)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -values))


def atoms_after(*steps: Atom | Operator, dim: int = DIM) -> Program:
    """Return the program that applies `steps` in turn to the row and sums the features up."""
    nodes: list = [InputNode(dim)]
    for number, step in enumerate(steps):
        if isinstance(step, Atom):
            nodes.append(AtomNode(nodes[-1].width, number, step, f"step_{number}"))
        else:
            width = step.output_width(nodes[-1].width)
            nodes.append(AffineNode(width, (Term(number, step),), name=f"step_{number}"))
    last = nodes[-1].width
    operator = Identity() if last == 1 else Dense(np.ones((last, 1), np.float32), "a sum")
    nodes.append(AffineNode(1, (Term(len(nodes) - 1, operator),), name="score"))
    return Program(tuple(nodes))
