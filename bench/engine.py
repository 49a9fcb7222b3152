"""Score and gradient by the program engine, against its own matrix products by BLAS and against TensorFlow's calls.

    python -m bench engine

Prints one JSON document. Networks of three hidden layers of softplus with a pass-through and a quadratic term are made
by Keras, published, loaded and proved as any model; their programs are what the engine computes. One thread of one
core for every side; the sides take turns, each figure is the median of the rounds, each ratio the median of the rounds'
ratios. The sides:

- `engine`: the program engine.
- `products`: the six matrix products of score and gradient alone, by NumPy into fresh memory.
- `products_in_tiles`: the same into memory that is there, in tiles of 256 rows.
- `signature`, `concrete`, `xla`, `operation`: TensorFlow's signature, a concrete function of it, that compiled by XLA
  for this number of rows, and the one operation that runs the signature's function; NumPy to NumPy.
- `tensorflow_engine`: ours on TensorFlow, whose bits do not depend on the batch either.

`two_threads` compares the engine on two cores with itself on one.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.provenance import ROOT, provenance
from bench.reference_model import publish_reference

if TYPE_CHECKING:
    from service.loader import LoadedVersion

OUTPUTS = ("score", "gradient")
TENSORFLOW = ("signature", "concrete", "xla", "operation")

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
_TILE_ROWS = 256
_TIMEOUT_SECONDS = 1800.0

Rows = NDArray[np.float32]
Side = Callable[[Rows], Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        networks: name, features and width of the hidden layers of each network.
        num_rows: rows of a call.
        shared_rows: rows of the call that two threads share.
        num_rounds: how often the sides take turns.
        seconds: time of one side in one round.
        clock: `wall`, or `processor` where other load takes turns with the measurement (two threads: always `wall`).
    """

    networks: tuple[tuple[str, int, int], ...] = (("S", 16, 64), ("M", 64, 256), ("L", 784, 512))
    num_rows: tuple[int, ...] = (1, 8, 64, 512, 4096)
    shared_rows: int = 4096
    num_rounds: int = 7
    seconds: float = 0.05
    clock: str = "wall"


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return the result, measured by a process of its own: threads of TensorFlow and BLAS are set once in each."""
    done = subprocess.run(  # noqa: S603  (our own module)
        [sys.executable, "-m", "bench.engine", json.dumps(dataclasses.asdict(plan))],
        cwd=ROOT,
        env=os.environ | _ONE_THREAD,
        stdout=subprocess.PIPE,
        check=True,
        timeout=_TIMEOUT_SECONDS,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def compare(plan: Plan) -> dict[str, Any]:
    """Return the result, measured by this process."""
    import tensorflow as tf  # here: the process that only starts the other need not have it

    from service import loader

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    before = provenance()
    cores = sorted(os.sched_getaffinity(0))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, dim, width in plan.networks:
            os.sched_setaffinity(0, cores[-1:])
            path = publish_reference(Path(folder), name.lower(), dim, (width,) * 3, quadratic=0.1)
            loaded = loader.load(path, model=name.lower(), version=1)
            engines = _engines(loaded)
            model, signature = _restored(loaded)
            calls = []
            for num_rows in plan.num_rows:
                sides = {**engines, **_products(dim, width, num_rows), **_tensorflow_calls(signature, dim, num_rows)}
                calls.append(_time_sides(_rows(dim, num_rows), sides, plan))
            del model  # until here: a function does not keep its model alive
            results.append(
                {
                    "model": name,
                    "dim": dim,
                    "hidden": [width] * 3,
                    "has_kernel": loaded.kernel_agrees,
                    "calls": calls,
                    "two_threads": _two_threads(loaded, cores, plan) if len(cores) > 1 else None,
                }
            )
    return {
        "measurement": "engine",
        "plan": dataclasses.asdict(plan),
        "results": results,
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


def ratios(rounds: Mapping[str, list[float]], num_rows: int) -> dict[str, Any]:
    """Return what the times of the sides in each round say.

    Args:
        rounds: side -> microseconds of a call in each round.
        num_rows: rows of a call.

    Returns:
        `share_of_products` and `share_of_products_in_tiles`: the engine's rate over that of the products alone;
        `best_tensorflow`: the fastest of TensorFlow's calls; `times_tensorflow`: the engine's rate over its rate; for
        one row `beyond_two_products`: microseconds that the engine takes beyond twice the products'.
    """
    engine = rounds["engine"]
    best = min(TENSORFLOW, key=lambda name: statistics.median(rounds[name]))

    def median_of(name: str) -> float:
        return statistics.median(other / own for other, own in zip(rounds[name], engine, strict=True))

    found: dict[str, Any] = {
        "share_of_products": median_of("products"),
        "share_of_products_in_tiles": median_of("products_in_tiles"),
        "best_tensorflow": best,
        "times_tensorflow": median_of(best),
    }
    if num_rows == 1:
        pairs = zip(rounds["products"], engine, strict=True)
        found["beyond_two_products"] = statistics.median(own - 2 * products for products, own in pairs)
    return found


def _rows(dim: int, num_rows: int) -> Rows:
    return np.random.default_rng(1).standard_normal((num_rows, dim)).astype(np.float32)


def _engines(loaded: "LoadedVersion") -> dict[str, Side]:
    from service import engines
    from service.engines.tensorflow import TensorflowEngine

    engine, on_tensorflow = engines.create(loaded, "program"), TensorflowEngine(loaded, device="/CPU:0")
    return {
        "engine": lambda rows: engine.run(rows, OUTPUTS),
        "tensorflow_engine": lambda rows: on_tensorflow.run(rows, OUTPUTS),
    }


def _factors(dim: int, width: int, num_rows: int) -> list[tuple[Rows, Rows]]:
    """Return what the six products of score and gradient multiply: those of the input are one product each way."""
    shapes = [(dim, 3 * width), *[(width, width)] * 4, (3 * width, dim)]
    return [(np.ones((num_rows, depth), np.float32), np.ones((depth, out), np.float32)) for depth, out in shapes]


def _products(dim: int, width: int, num_rows: int) -> dict[str, Side]:
    whole = _factors(dim, width, num_rows)
    tiles = [
        (left, right, np.empty((len(left), right.shape[1]), np.float32))
        for left, right in _factors(dim, width, min(num_rows, _TILE_ROWS))
    ]

    def at_once(_rows: Rows) -> None:
        for left, right in whole:
            np.matmul(left, right)

    def in_tiles(_rows: Rows) -> None:
        for start in range(0, num_rows, _TILE_ROWS):
            count = min(_TILE_ROWS, num_rows - start)
            for left, right, out in tiles:
                np.matmul(left[:count], right, out=out[:count])

    return {"products": at_once, "products_in_tiles": in_tiles}


def _restored(loaded: "LoadedVersion") -> tuple[Any, Any]:
    """Return the SavedModel and its function of score and gradient."""
    from service.program.graph import restore

    model = restore(loaded.saved_model, "/CPU:0")
    return model, model.signatures["serving_default"]


def _tensorflow_calls(signature: Any, dim: int, num_rows: int) -> dict[str, Side]:
    import tensorflow as tf  # see compare

    def outputs(x: Any) -> tuple[Any, Any]:
        answer = signature(x=x)
        return answer["score"], answer["gradient"]

    def concrete(shape: list[int | None], *, jit_compile: bool) -> Side:
        call = tf.function(outputs, jit_compile=jit_compile).get_concrete_function(tf.TensorSpec(shape, tf.float32))
        return lambda rows: [value.numpy() for value in call(tf.constant(rows))]

    def operation(rows: Rows) -> list[Any]:
        tensors = tf.raw_ops.StatefulPartitionedCall(
            args=[tf.constant(rows), *signature.captured_inputs], Tout=[tf.float32] * 2, f=signature
        )
        return [value.numpy() for value in tensors]

    return {
        "signature": lambda rows: [value.numpy() for value in outputs(tf.constant(rows))],
        "concrete": concrete([None, dim], jit_compile=False),
        "xla": concrete([num_rows, dim], jit_compile=True),
        "operation": operation,
    }


def _time_sides(rows: Rows, sides: Mapping[str, Side], plan: Plan) -> dict[str, Any]:
    rounds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(rows)
    for _ in range(plan.num_rounds):
        for name, side in sides.items():
            rounds[name].append(_microseconds(side, rows, plan.seconds, plan.clock))
    return {
        "num_rows": len(rows),
        "microseconds": {name: statistics.median(times) for name, times in rounds.items()},
        **ratios(rounds, len(rows)),
        "rounds": rounds,
    }


def _two_threads(loaded: "LoadedVersion", cores: list[int], plan: Plan) -> dict[str, Any]:
    from service import engines

    engine, rows = engines.create(loaded, "program"), _rows(loaded.signature.dim, plan.shared_rows)
    rounds: dict[str, list[float]] = {"one": [], "two": []}
    for _ in range(plan.num_rounds + 1):  # the first one is warm-up
        for name, used in (("one", cores[-1:]), ("two", cores[-2:])):
            os.sched_setaffinity(0, used)
            rounds[name].append(_microseconds(lambda rows: engine.run(rows, OUTPUTS), rows, plan.seconds, "wall"))
    kept = {name: times[1:] for name, times in rounds.items()}
    return {
        "num_rows": plan.shared_rows,
        "microseconds": {name: statistics.median(times) for name, times in kept.items()},
        "times_one": statistics.median(one / two for one, two in zip(kept["one"], kept["two"], strict=True)),
        "rounds": kept,
    }


def _microseconds(side: Side, rows: Rows, seconds: float, clock: str) -> float:
    """Return the mean time of a call, over at least one call and about so many seconds."""
    now = time.process_time if clock == "processor" else time.perf_counter
    began = now()
    num_calls = 0
    while (passed := now() - began) < seconds or num_calls == 0:
        side(rows)
        num_calls += 1
    return passed / num_calls * 1e6


def main(plan: str) -> int:
    """Measure what a JSON document asks for and print the result."""
    json.dump(compare(Plan(**json.loads(plan))), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
