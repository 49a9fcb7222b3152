"""What bits that do not depend on the batch cost: with the compiled kernel, and with ladders of tiles.

    python -m bench invariance

Prints one JSON document. Kernel: the compiled one. Ladder: NumPy in tiles of the sizes that were admitted. Free: one
call of NumPy's evaluation with all rows, whose bits depend on their number. Fixed: tiles of 32 rows. Products: nothing
but the matrix products of score and gradient, by BLAS into memory that is there. Score and gradient, one thread, the
sides taking turns; each figure is the median of the rounds, each ratio the median of the rounds' ratios.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.provenance import ROOT, provenance
from service import loader
from service.engines import Engine
from service.engines.program import ProgramEngine
from service.program.atoms import Softplus, Square
from service.program.evaluation import evaluate_both
from service.program.kernel.compiled import compiled
from service.program.operators import Dense
from service.program.program import AffineNode, AtomNode, InputNode, Node, Program, Term

OUTPUTS = ("score", "gradient")

_RATIOS = (("ladder", "free"), ("ladder", "fixed"), ("kernel", "ladder"), ("kernel", "free"), ("kernel", "products"))

Rows = NDArray[np.float32]
Side = Callable[[Rows], Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        num_rows: rows of a call.
        num_rounds: how often the sides take turns.
        seconds: time of one side in one round.
        models: versions' folders, relative to the repository, on both engines.
        networks: name -> features and width of a network of three hidden layers of softplus, on the program engine.
    """

    num_rows: tuple[int, ...] = (1, 8, 64, 256, 4096)
    num_rounds: int = 7
    seconds: float = 0.05
    models: tuple[str, ...] = ("models/tumours/1", "models/colours/1")
    networks: tuple[tuple[str, int, int], ...] = (("S", 16, 64), ("M", 64, 256), ("L", 784, 512))


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return the result."""
    before = provenance()
    results = []
    for name, dim, width in plan.networks:
        results.append(_compare(name, dim, *_program_sides(network(dim, width)), plan))
    for folder in plan.models:
        model, version = folder.split("/")[-2:]
        loaded = loader.load(ROOT / folder, model=model, version=int(version))
        if loaded.program is not None:
            results.append(_compare(model, loaded.signature.dim, *_program_sides(loaded.program), plan))
        results.append(_compare(model, loaded.signature.dim, *_tensorflow_sides(loaded), plan))
    return {
        "measurement": "invariance",
        "plan": dataclasses.asdict(plan),
        "results": results,
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


def network(dim: int, width: int) -> Program:
    """Return z1 = s(x W0 + b0), z2 = s(z1 W1 + x A1 + b1), z3 alike, f = z3 w + x a + |x|^2 / 20, s = softplus."""
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> Rows:
        return (generator.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    def positive(*shape: int) -> Rows:
        return (np.abs(generator.standard_normal(shape)) / shape[0]).astype(np.float32)

    nodes: list[Node] = [InputNode(dim)]
    for layer in range(3):
        terms = [Term(0, Dense(normal(dim, width)))]
        if layer:
            terms.insert(0, Term(len(nodes) - 1, Dense(positive(width, width))))
        nodes.append(AffineNode(width, tuple(terms), normal(width)))
        nodes.append(AtomNode(width, len(nodes) - 1, Softplus()))
    last = len(nodes) - 1
    nodes.append(AtomNode(dim, 0, Square()))
    square = Dense(np.full((dim, 1), 0.05, np.float32))
    terms = [Term(last, Dense(positive(width, 1))), Term(0, Dense(normal(dim, 1))), Term(last + 1, square)]
    nodes.append(AffineNode(1, tuple(terms)))
    return Program(tuple(nodes))


def _program_sides(program: Program) -> tuple[Engine, dict[str, Side]]:
    ladder, fixed = ProgramEngine(program, uses_kernel=False), ProgramEngine(program, sizes=(), uses_kernel=False)
    sides: dict[str, Side] = {
        "ladder": lambda rows: ladder.run(rows, OUTPUTS),
        "free": lambda rows: evaluate_both(program, rows),
        "fixed": lambda rows: fixed.run(rows, OUTPUTS),
        "products": _products(program),
    }
    kernel = compiled(program)
    if kernel is not None:
        sides["kernel"] = lambda rows: kernel.run(rows, OUTPUTS)
    return ladder, sides


def _products(program: Program) -> Side:
    """Return the products of score and gradient alone: each matrix and its transpose, wide ones only."""
    matrices = [
        matrix
        for node in program.nodes
        if isinstance(node, AffineNode)
        for term in node.terms
        if isinstance(term.operator, Dense) and min(term.operator.coefficients.shape) > 1
        for matrix in (term.operator.coefficients, term.operator.transposed)
    ]
    memory: dict[int, list[tuple[Rows, Rows, Rows]]] = {}

    def multiply(rows: Rows) -> None:
        if len(rows) not in memory:
            memory.clear()
            memory[len(rows)] = [
                (
                    np.ones((len(rows), len(matrix)), np.float32),
                    matrix,
                    np.empty((len(rows), matrix.shape[1]), np.float32),
                )
                for matrix in matrices
            ]
        for left, matrix, out in memory[len(rows)]:
            np.matmul(left, matrix, out=out)

    return multiply


def _tensorflow_sides(loaded: loader.LoadedVersion) -> tuple[Engine, dict[str, Side]]:
    import tensorflow as tf  # here: other measurements need not have it

    from service.engines.tensorflow import TensorflowEngine
    from service.program.graph import restore

    ladder, fixed = TensorflowEngine(loaded, device="/CPU:0"), TensorflowEngine(loaded, device="/CPU:0", sizes=())
    model = restore(loaded.saved_model, "/CPU:0")
    function = model.signatures["serving_default"]

    def free(rows: Rows, _model: object = model) -> Any:  # the function does not keep its model alive
        return [value.numpy() for value in function(x=tf.constant(rows)).values()]

    return ladder, {
        "ladder": lambda rows: ladder.run(rows, OUTPUTS),
        "free": free,
        "fixed": lambda rows: fixed.run(rows, OUTPUTS),
    }


def _compare(name: str, dim: int, engine: Engine, sides: dict[str, Side], plan: Plan) -> dict[str, Any]:
    return {
        "model": name,
        "engine": engine.name,
        "tile_rows": engine.tile_rows,
        "calls": [_time_sides(num_rows, dim, sides, plan) for num_rows in plan.num_rows],
    }


def _time_sides(num_rows: int, dim: int, sides: dict[str, Side], plan: Plan) -> dict[str, Any]:
    rows = np.random.default_rng(1).standard_normal((num_rows, dim)).astype(np.float32)
    rounds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(rows)
    for _ in range(plan.num_rounds):
        for name, side in sides.items():
            rounds[name].append(_microseconds(side, rows, plan.seconds))

    ratios = {
        f"{one}_to_{other}": statistics.median(a / b for a, b in zip(rounds[one], rounds[other], strict=True))
        for one, other in _RATIOS
        if one in rounds and other in rounds
    }
    return {
        "num_rows": num_rows,
        "microseconds": {name: statistics.median(times) for name, times in rounds.items()},
        **ratios,
        "rounds": rounds,
    }


def _microseconds(side: Side, rows: Rows, seconds: float) -> float:
    """Return the mean time of a call, over at least one call and about so many seconds."""
    began = time.perf_counter()
    num_calls = 0
    while (passed := time.perf_counter() - began) < seconds or num_calls == 0:
        side(rows)
        num_calls += 1
    return passed / num_calls * 1e6
