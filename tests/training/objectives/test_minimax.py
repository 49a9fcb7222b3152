"""The minimax run: its value, its gradients, its projection and penalty, its units, and how it ends when it diverges.

Values and gradients are compared with float64 NumPy (`tests.oracle.icnn`), in which derivatives are differences.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.oracle import icnn as oracle
from training import trainer
from training.answers import Answers
from training.config import METRICS, NetworkConfig, ObjectiveConfig, TrainerConfig
from training.datasets import Samples, Table
from training.gradients import MissingGradientError
from training.icnn import InputConvexNetwork, PenalizedNetwork, create_potential
from training.objectives.minimax import UNTRAINED, WARM_UP_STEPS, Minimax
from training.objectives.transport import Transport
from training.runs import DivergenceError

NETWORK = NetworkConfig(hidden=(6, 5), activation="smooth_leaky", first_activation="squared_leaky", quadratic=0.1)
ROWS, DIM = 64, 3
CONSTRAINED = ("hidden_1/kernel", "output/kernel")


def samples(source: np.ndarray, target: np.ndarray) -> Samples:
    """Return two unpaired sets of rows."""
    names = tuple(f"x{j}" for j in range(source.shape[1]))
    first, second = (Table(names, rows, np.empty((len(rows), 0))) for rows in (source, target))
    return Samples(first, second)


def clouds(rows: int = ROWS, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> Samples:
    """Return a round cloud, and a bent one elsewhere."""
    rng = np.random.default_rng(seed)
    source = rng.normal([1.0, 0.0, -2.0], 1.0, (rows, DIM))
    target = rng.normal(size=(rows, DIM)) * [0.5, 1.0, 2.0] + [0.0, 3.0, 0.0]
    target[:, 1] += 0.5 * target[:, 0] ** 2
    return samples(shift + scale * source, shift + scale * target)


def start(
    data: Samples | None = None,
    *,
    validation: Samples | None = None,
    network: InputConvexNetwork | None = None,
    trainer: Mapping[str, Any] | None = None,
    **objective: Any,
) -> Minimax:
    """Return a run on small networks."""
    data = data or clouds()
    network = network or create_potential(NETWORK, data.source.x, data.target.x, seed=5)
    settings = TrainerConfig(**{"steps": 100, "batch": ROWS, "learning_rate": 0.02, "seed": 3, **(trainer or {})})
    return Minimax(network, data, validation or data, settings, ObjectiveConfig(**objective))


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Run compiled steps as plain Python: for a few steps that takes less time than to compile them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def local(path: str) -> str:
    """Return a variable's path without its network's name."""
    return path.partition("/")[2]


def numbers(network: Any) -> dict[str, np.ndarray]:
    """Return the trainable weights in float64, by their paths."""
    return {local(variable.path): variable.numpy().astype(np.float64) for variable in network.trainable_variables}


def in_numpy(parts: Mapping[str, np.ndarray]) -> oracle.Checkpoint:
    """Return the network of `NETWORK` with these weights, in standard units, for the float64 yardstick."""
    layers = [f"hidden_{k}" for k in range(1, len(NETWORK.hidden))] + ["output"]
    return oracle.Checkpoint(
        np.zeros(DIM),
        np.ones(DIM),
        (parts["first/kernel"], parts["first/bias"]),
        tuple((parts[f"{n}/kernel"], parts[f"{n}/passthrough"], parts[f"{n}/bias"]) for n in layers),
        "smooth_leaky(0.2, 1.0)",
        float(np.float32(0.5 * NETWORK.quadratic)) * 2.0,
        (0.0, 1.0),
        "squared_leaky(0.2)",
        parts["quadratic_form/kernel"],
    )


def draw(network: Any, seed: int, *, negative: bool) -> None:
    """Give a network random weights, its constrained kernels of both signs only where `negative`."""
    rng = np.random.default_rng(seed)
    kernels = {layer.kernel.path for layer in network.constrained}
    for variable in network.trainable_variables:
        drawn = 0.4 * rng.normal(size=variable.shape)
        variable.assign(np.abs(drawn) if variable.path in kernels and not negative else drawn)


class Recorder:
    """An optimiser that takes no step and keeps the gradients that it is given."""

    def __init__(self, network: Any) -> None:
        self._kept = {v.path: tf.Variable(tf.fill(v.shape, np.float32(np.nan))) for v in network.trainable_variables}

    def apply(self, gradients: Any, variables: Any) -> None:
        """Keep the gradients; a compiled step too."""
        for gradient, variable in zip(gradients, variables, strict=True):
            self._kept[variable.path].assign(gradient)

    def gradients(self) -> dict[str, np.ndarray]:
        """Return what was kept, by path; what was never given is left out."""
        found = {local(path): kept.numpy().astype(np.float64) for path, kept in self._kept.items()}
        return {path: gradient for path, gradient in found.items() if not np.isnan(gradient).any()}


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One step of g and one of f at random weights, none of which moved.

    Args:
        f: weights of f.
        g: weights of g, some of the constrained ones negative.
        gradients: what the step of each network gave its optimiser.
        u: source rows, in standard units.
        v: target rows.
        value: what f's step told of V.
        norms: what the steps told of the gradients' norms.
    """

    f: dict[str, np.ndarray]
    g: dict[str, np.ndarray]
    gradients: dict[str, dict[str, np.ndarray]]
    u: np.ndarray
    v: np.ndarray
    value: float
    norms: dict[str, float]


def record(penalty: float) -> Recorded:
    """Return the gradients of one step with this penalty; the same weights and rows at every call."""
    run = start(penalty=penalty)
    draw(run.f, 7, negative=False)
    draw(run.g, 8, negative=True)
    recorders = {"f": Recorder(run.f), "g": Recorder(run.g)}
    run._optimizers = recorders
    rng = np.random.default_rng(7)
    u, v = (rng.normal(size=(ROWS, DIM)).astype(np.float32) for _ in range(2))
    norm_g = run._descend(np.stack([0.1 * v, v]))
    value, norm_f = run._ascend(u, v, tf.constant(1.0))
    gradients = {name: recorder.gradients() for name, recorder in recorders.items()}
    norms = {"f": float(norm_f), "g": float(norm_g)}
    return Recorded(numbers(run.f), numbers(run.g), gradients, u, v, float(value), norms)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Return the gradients of one step with the penalty 1.7."""
    return record(1.7)


def value_in_numpy(f: oracle.Checkpoint, points: np.ndarray, u: np.ndarray, v: np.ndarray) -> float:
    """Return V with the given points in the place of grad g(v)."""
    inner = oracle.score(f, points) - np.sum(v * points, axis=1)
    return float(np.mean(inner) - np.mean(oracle.score(f, u)))


def slope(function: Callable[[Mapping[str, np.ndarray]], float], at: Mapping[str, np.ndarray], path: str) -> Any:
    """Return the gradient of a function of weights for one of them, by central differences of every entry."""
    gradient = np.zeros(at[path].shape)
    for index in np.ndindex(at[path].shape):
        ends = []
        for step in (1e-5, -1e-5):
            moved = at[path].copy()
            moved[index] += step
            ends.append(function({**at, path: moved}))
        gradient[index] = (ends[0] - ends[1]) / 2e-5
    return gradient


def assert_close(expected: np.ndarray, found: np.ndarray) -> None:
    """Compare gradients as float32 allows, relative to the largest entry."""
    assert np.abs(expected - found).max() <= 2e-4 * max(np.abs(expected).max(), 0.05)


def raw(network: Any) -> oracle.Checkpoint:
    """Return a network of `NETWORK` in raw units, for the float64 yardstick."""
    units = network.units
    mean, centre = units.source_mean.astype(np.float64), units.target_mean.astype(np.float64)
    scale = np.full(DIM, units.scale)
    return dataclasses.replace(in_numpy(numbers(network)), mean=mean, scale=scale, potential=(centre, units.scale))


def least_mean_square(first: np.ndarray, second: np.ndarray) -> float:
    """Return the exact squared distance of two small samples, over all permutations."""
    orders = itertools.permutations(range(len(first)))
    return min(float(np.mean(np.sum((first - second[list(order)]) ** 2, axis=1))) for order in orders)


# ------------------------------------------------------------------------------------------------ value and gradients
def quadratics(run: Minimax, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make f and g quadratic, 1/2 x M x^T + <a, x>, with M of f the inverse of that of g; return M and a of f."""
    rng = np.random.default_rng(seed)
    root = np.eye(DIM) + 0.3 * rng.normal(size=(DIM, DIM))
    m, a = root @ root.T + 0.1 * np.eye(DIM), rng.normal(size=DIM)
    inverse = np.linalg.inv(m)
    for network, form, linear in ((run.f, m, a), (run.g, inverse, -inverse @ a)):
        output = network.constrained[-1]
        output.kernel.assign(np.zeros(output.kernel.shape))
        output.passthrough.assign(linear[:, None])
        network.quadratic_form.kernel.assign(np.linalg.cholesky(form - 0.1 * np.eye(DIM)))
    return m, a


def test_s5_a_value_equals_the_closed_form_of_quadratics_and_is_least_at_the_inverse():
    """With f = 1/2 x M x + a x, V is direct to compute, and among quadratic g the one that inverts grad f is best."""
    run = start()
    m, a = quadratics(run, seed=1)
    rng = np.random.default_rng(2)
    u, v = (rng.normal(size=(50, DIM)).astype(np.float32) for _ in range(2))

    def direct(matrix: np.ndarray, shift: np.ndarray) -> float:
        points = v.astype(float) @ matrix + shift

        def f(x: np.ndarray) -> np.ndarray:
            return 0.5 * np.einsum("ni,ij,nj->n", x, m, x) + x @ a

        return float(np.mean(f(points) - np.sum(v * points, axis=1)) - np.mean(f(u.astype(float))))

    inverse = np.linalg.inv(m)
    best = direct(inverse, -inverse @ a)
    assert best == pytest.approx(float(run._value(u, v)), rel=1e-4)
    for seed in range(3):
        other = np.random.default_rng(seed).normal(size=DIM)
        run.g.constrained[-1].passthrough.assign((other - inverse @ a)[:, None])
        assert direct(inverse, other - inverse @ a) == pytest.approx(float(run._value(u, v)), rel=1e-4)
        assert float(run._value(u, v)) > best


def test_estimate_in_raw_units_is_the_dual_of_the_raw_networks():
    """It is E f(grad g(Y)) - E <Y, grad g(Y)> - E f(X) + E|X|^2 / 2 + E|Y|^2 / 2 with f, g and rows in raw units."""
    data = clouds(shift=20.0, scale=3.0)
    run = start(data)
    quadratics(run, seed=1)
    x, y = data.source.x, data.target.x
    with tf.GradientTape() as tape:
        rows = tf.constant(y, tf.float32)
        tape.watch(rows)
        score = run.g(rows)
    back = tape.gradient(score, rows).numpy().astype(float)
    f_back, f_x = (run.f(rows.astype(np.float32)).numpy().astype(float) for rows in (back, x))
    value = np.mean(f_back - np.sum(y * back, axis=1)) - np.mean(f_x)
    expected = value + 0.5 * np.mean(np.sum(x**2, axis=1)) + 0.5 * np.mean(np.sum(y**2, axis=1))
    assert expected == pytest.approx(run._half_w2_squared(float(run._value(run._u, run._v))), rel=1e-3)


def test_gradients_of_fs_step_are_differences_of_the_value_with_the_points_held(recorded):
    """The envelope: each weight of f gets the slope of -V at fixed points grad g(Y), and V before the step is told."""
    points, found = oracle.gradient(in_numpy(recorded.g), recorded.v), recorded.gradients["f"]
    assert set(recorded.f) - set(UNTRAINED) == set(found)

    def loss(parts: Mapping[str, np.ndarray]) -> float:
        return -value_in_numpy(in_numpy(parts), points, recorded.u, recorded.v)

    for path, gradient in found.items():
        assert_close(slope(loss, recorded.f, path), gradient)
    assert -loss(recorded.f) == pytest.approx(recorded.value, rel=1e-4)
    assert recorded.norms["f"] == pytest.approx(np.sqrt(sum(np.sum(g**2) for g in found.values())), rel=1e-5)


def test_gradients_of_gs_step_are_differences_through_its_input_gradient(recorded):
    """Second derivatives of g come out right, and the penalty of its negative weights is added to them."""
    f, v, found = in_numpy(recorded.f), recorded.v, recorded.gradients["g"]
    assert set(recorded.g) - set(UNTRAINED) == set(found)

    def loss(parts: Mapping[str, np.ndarray]) -> float:
        points = oracle.gradient(in_numpy(parts), v)
        negative = sum(np.sum(np.maximum(-parts[path], 0.0) ** 2) for path in CONSTRAINED)
        return float(np.mean(oracle.score(f, points) - np.sum(v * points, axis=1)) + 1.7 * negative)

    for path, gradient in found.items():
        assert_close(slope(loss, recorded.g, path), gradient)
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in found.values()))
    assert recorded.norms["g"] >= 0.9999 * norm  # the largest of two batches


# --------------------------------------------------------------------------------------------------------- gradients
def test_listed_variables_are_exactly_those_that_the_value_does_not_reach():
    """Asked for all trainable variables, V gives None or exactly 0 to the listed ones and to no other."""
    run = start()
    draw(run.f, 1, negative=False)
    draw(run.g, 2, negative=True)
    for network in (run.f, run.g):
        with tf.GradientTape() as tape:
            value = run._value_of(tf.constant(run._u), tf.constant(run._v))
        gradients = tape.gradient(value, [variable.value for variable in network.trainable_variables])
        without = {
            local(variable.path)
            for variable, gradient in zip(network.trainable_variables, gradients, strict=True)
            if gradient is None or not np.any(gradient.numpy())
        }
        assert set(UNTRAINED) == without


def test_variable_without_a_gradient_is_refused_by_name():
    """A kink written with `maximum` leaves the biases of that layer unconnected: the run says which, and stops."""
    run = start()
    layer = run.g.constrained[0]
    layer.activation = dataclasses.replace(layer.activation, function=lambda x: tf.maximum(x, 0.2 * x))
    with pytest.raises(MissingGradientError, match=r"no gradient reaches g/hidden_1/bias\. Use activations"):
        run.start_loss()


def test_layer_that_f_does_not_use_is_refused_by_name():
    """Whatever the reason: every weight that the loss does not reach is in the message."""
    run = start()
    run.f.standard_score = lambda u: keras.ops.squeeze(run.f.quadratic_form(u), axis=-1)
    with pytest.raises(MissingGradientError, match=r"f/first/kernel, f/first/bias, .*f/output/passthrough\."):
        run.step()


# ------------------------------------------------------------------------------------------- projection and penalty
@pytest.mark.usefixtures("eagerly")
def test_s5_c_kernels_of_f_and_of_the_average_are_non_negative_after_every_step():
    """Steps that are far too large throw weights of f onto zero, never below; those of g go below."""
    run = start(trainer={"learning_rate": 0.3}, penalty=0.0, inner_steps=1, averaging=0.5, max_gradient_norm=1e30)
    zeros, below = 0, 0.0
    for _ in range(8):
        run.step()
        run.verify()
        for network in (run.f, run.network):
            assert min(layer.kernel.numpy().min() for layer in network.constrained) >= 0.0
        zeros += sum(int(np.sum(layer.kernel.numpy() == 0.0)) for layer in run.f.constrained)
        below = min(below, *(float(layer.kernel.numpy().min()) for layer in run.g.constrained))
    assert zeros > 0
    assert below < 0.0


def test_s5_d_penalty_stands_in_gs_step_alone(recorded):
    """Between the factors 0 and 1.7 each kernel of g differs by -3.4 max(-W, 0), and nothing else in any step does."""
    without = record(0.0)
    for path, gradient in recorded.gradients["g"].items():
        negative = np.maximum(-recorded.g[path], 0.0)
        expected = -2.0 * 1.7 * negative if path in CONSTRAINED else np.zeros(negative.shape)
        assert (path in CONSTRAINED) == bool(np.any(expected))
        np.testing.assert_allclose(gradient - without.gradients["g"][path], expected, atol=1e-5)
    for path, gradient in recorded.gradients["f"].items():
        np.testing.assert_array_equal(without.gradients["f"][path], gradient)


@pytest.mark.usefixtures("eagerly")
def test_s5_d_penalty_stands_in_fs_step_too_where_f_is_soft():
    """An f that nothing but a penalty keeps convex gets -2 c max(-W, 0) more on each kernel, and g's own is as ever."""
    found = {}
    for constant in (0.0, 2.5):
        network = PenalizedNetwork(DIM, (6, 5), "smooth_leaky", potential=True, regularizer_constant=constant, seed=5)
        run = start(network=network)
        for player, seed in ((run.f, 7), (run.g, 8)):
            draw(player, seed, negative=True)
        run._optimizers = {"f": Recorder(run.f), "g": Recorder(run.g)}
        v = np.random.default_rng(7).normal(size=(ROWS, DIM)).astype(np.float32)
        run._descend(v[None])
        run._ascend(v, v + 1.0, tf.constant(1.0))
        found[constant] = {name: recorder.gradients() for name, recorder in run._optimizers.items()}
        weights = numbers(run.f)
    for path, gradient in found[2.5]["f"].items():
        expected = -5.0 * np.maximum(-weights[path], 0.0) if path in CONSTRAINED else np.zeros(gradient.shape)
        assert (path in CONSTRAINED) == bool(np.any(expected))
        np.testing.assert_allclose(gradient - found[0.0]["f"][path], expected, atol=2e-5)
    for path, gradient in found[2.5]["g"].items():
        np.testing.assert_array_equal(found[0.0]["g"][path], gradient)


def test_s5_d_hard_f_has_no_penalty_to_add():
    """What is projected after every step adds nothing to `losses`, so that its step is V alone."""
    run = start()
    run.f.standard_score(np.ones((2, DIM), np.float32))
    run.g.standard_score(np.ones((2, DIM), np.float32))
    assert ([], len(CONSTRAINED)) == (run.f.losses, len(run.g.losses))


def test_penalty_of_the_validation_is_the_sum_over_gs_constrained_layers():
    """It is c times the sum of squares of all negative weights there, and exactly zero where there are none."""
    run = start(penalty=2.0)
    assert 0.0 == run.validation()["penalty"]
    draw(run.g, seed=4, negative=True)
    weights = numbers(run.g)
    squares = sum(np.sum(np.maximum(-weights[path], 0.0) ** 2) for path in CONSTRAINED)
    assert 2.0 * squares == pytest.approx(run.validation()["penalty"], rel=1e-6)


# ---------------------------------------------------------------------------------------------------- one run, told
@dataclasses.dataclass(frozen=True)
class Told:
    """A run in raw units, with the weights of f, g and the exported network before and after each of its steps."""

    run: Minimax
    few: Samples
    weights: dict[str, list[dict[str, np.ndarray]]]
    norms: dict[str, list[float]]
    iterations: tuple[int, ...]


@pytest.fixture(scope="module")
def told() -> Told:
    """Return a run of five steps without a warm-up, three of g for each of f; few rows to validate on."""
    few = clouds(rows=6, shift=10.0, scale=4.0, seed=1)
    run = start(clouds(shift=10.0, scale=4.0), validation=few, averaging=0.2, inner_steps=3)
    networks = {"f": run.f, "g": run.g, "exported": run.network}
    weights = {name: [numbers(network)] for name, network in networks.items()}
    norms: dict[str, list[float]] = {"f": [], "g": []}
    descend, ascend = run._descend, run._ascend

    def told_descend(batches: Any) -> Any:
        norm = descend(batches)
        norms["g"].append(float(norm))
        return norm

    def told_ascend(*rows: Any) -> Any:
        value, norm = ascend(*rows)
        norms["f"].append(float(norm))
        return value, norm

    run._descend, run._ascend = told_descend, told_ascend
    for _ in range(5):
        run.step()
        for name, network in networks.items():
            weights[name].append(numbers(network))
    return Told(run, few, weights, norms, tuple(int(run._optimizers[name].iterations) for name in ("f", "g")))


def test_every_trainable_variable_moves_in_one_step_but_the_listed_ones(told):
    """What `UNTRAINED` lists stays, bit for bit; everything else of f, of g and of the average is somewhere else."""
    for before, after, *_ in told.weights.values():
        assert set(UNTRAINED) == {path for path in after if np.array_equal(before[path], after[path])}


def test_exported_weights_are_the_exponential_average_of_fs(told):
    """After step n the average keeps min(averaging, n / (10 + n)) of itself; the bias that V leaves open stays."""
    average = told.weights["exported"][0]
    for n in range(1, 6):
        keep = min(0.2, n / (10.0 + n))
        f = told.weights["f"][n]
        average = {
            path: value if path in UNTRAINED else keep * value + (1.0 - keep) * f[path]
            for path, value in average.items()
        }
        for path, value in told.weights["exported"][n].items():
            np.testing.assert_allclose(value, average[path], rtol=1e-5, atol=1e-7)


def test_step_takes_the_configured_steps_of_g_for_one_of_f(told):
    """Five steps of the run are five of f's optimiser and, with `inner_steps` = 3, fifteen of g's."""
    assert (5, 15) == told.iterations


def test_validation_measures_what_independent_computations_give(told):
    """Both distances by brute force over permutations of float64 maps of raw rows, in the rows' own units."""
    found = told.run.validation()
    x, y = told.few.source.x, told.few.target.x
    there = least_mean_square(oracle.gradient(raw(told.run.network), x), y)
    back = least_mean_square(oracle.gradient(raw(told.run.g), y), x)
    assert there == pytest.approx(found["w2_squared"], rel=1e-4)
    assert back == pytest.approx(found["inverse_w2_squared"], rel=1e-4)
    assert ["w2_squared", "inverse_w2_squared", "penalty", "gradient_norm_f", "gradient_norm_g"] == list(found)


def test_validation_tells_the_largest_gradients_of_the_steps_since_the_one_before(told):
    """Each norm is the largest that a step met, and the next validation begins at zero again."""
    run = told.run
    run.validation()
    for norms in told.norms.values():
        norms.clear()
    for _ in range(3):
        run.step()
    found, again = run.validation(), run.validation()
    for name, norms in told.norms.items():
        assert (3, max(norms)) == (len(norms), found[f"gradient_norm_{name}"])
        assert 0.0 == again[f"gradient_norm_{name}"]


def test_exported_potential_is_zero_at_the_source_mean_after_a_validation(told):
    """The constant that V leaves open is fixed there, and moving it changes neither map nor distance."""
    run = told.run
    mean = run.network.units.source_mean[None]
    first = run.validation()
    run.network.constrained[-1].bias.assign([30.0])
    assert abs(float(run.network(mean)[0])) > 100.0
    assert first["w2_squared"] == run.validation()["w2_squared"]
    assert abs(float(run.network(mean)[0])) <= 1e-5 * run.network.units.scale**2


def test_restored_weights_are_those_that_were_taken(told):
    """What early stopping keeps comes back bit for bit, in the network that is exported."""
    kept = told.run.weights()
    told.run.step()
    assert not all(np.array_equal(left, right) for left, right in zip(kept, told.run.weights(), strict=True))
    told.run.restore(kept)
    for left, right in zip(kept, told.run.network.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


# ------------------------------------------------------------------------------------------------ averages and seeds
@pytest.mark.usefixtures("eagerly")
def test_exported_weights_are_those_of_f_when_nothing_is_averaged():
    """With averaging = 0 each weight is f's own, bit for bit, after every step."""
    run = start(averaging=0.0)
    for _ in range(3):
        run.step()
        f = numbers(run.f)
        for path, value in numbers(run.network).items():
            np.testing.assert_array_equal(f[path], value)


def test_s5_g_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others():
    """The rows of each batch come from the run's own generator, the weights from the network's seed."""
    tf.config.experimental.enable_op_determinism()

    def weights(seed: int) -> list[np.ndarray]:
        run = start(trainer={"seed": seed, "batch": 16})
        for _ in range(3):
            run.step()
        return [*run.weights(), *run.g.get_weights()]

    first, second, other = weights(3), weights(3), weights(4)
    assert all(np.array_equal(left, right) for left, right in zip(first, second, strict=True))
    assert not all(np.array_equal(left, right) for left, right in zip(first, other, strict=True))


# ----------------------------------------------------------------------------------------------------- start and end
def test_run_starts_as_the_shift_of_means():
    """Before any step the maps carry each sample onto the other's mean, within a few percent of the scale."""
    data = clouds(shift=100.0, scale=5.0)
    run = start(data)
    x, y = data.source.x, data.target.x
    for network, rows, other in ((run.network, x, y), (run.f, x, y), (run.g, y, x)):
        shifted = rows - rows.mean(axis=0) + other.mean(axis=0)
        mapped = oracle.gradient(raw(network), rows)
        # the network of these tests adds 0.1 |u|^2 / 2 to the identity's form
        stretched = mapped - 0.1 * (rows - rows.mean(axis=0))
        assert np.sqrt(np.mean((stretched - shifted) ** 2)) <= 0.03 * run.network.units.scale


def test_warm_up_fits_g_to_the_f_of_the_start():
    """A run that starts from a trained f begins with a g that inverts its gradient, before f takes any step."""
    data = clouds(rows=256)
    network = create_potential(NETWORK, data.source.x, data.target.x, seed=5)
    stretch = np.array([1.6, 1.0, 0.5])
    network.quadratic_form.kernel.assign(np.diag(np.sqrt(stretch - 0.1)))
    run = start(data, network=network, trainer={"batch": 64})
    f = numbers(run.f)
    identity = oracle.gradient(in_numpy(f), oracle.gradient(in_numpy(numbers(run.g)), run._v))
    assert np.sqrt(np.mean((identity - run._v) ** 2)) > 0.3
    run.start_loss()
    assert (0, WARM_UP_STEPS) == tuple(int(run._optimizers[name].iterations) for name in ("f", "g"))
    assert all(np.array_equal(f[path], value) for path, value in numbers(run.f).items())
    mapped = oracle.gradient(in_numpy(numbers(run.g)), run._v)
    assert np.sqrt(np.mean((oracle.gradient(in_numpy(f), mapped) - run._v) ** 2)) <= 0.1


def gaussian_pair(dim: int, rows: int = 1000) -> tuple[Samples, float]:
    """Return samples with exactly the moments of two Gaussians, and W2^2 / 2 of these in closed form."""
    rng = np.random.default_rng(dim)

    def sample(mean: np.ndarray, root: np.ndarray) -> np.ndarray:
        white = rng.normal(size=(rows, dim))
        white -= white.mean(axis=0)
        covariance = white.T @ white / rows
        return mean + white @ np.linalg.inv(np.linalg.cholesky(covariance)).T @ root

    first, second = np.diag(np.linspace(0.5, 2.0, dim)), 3.0 * (np.eye(dim) + 0.5 * rng.normal(size=(dim, dim)))
    source, target = sample(np.full(dim, 1.0), first), sample(np.full(dim, 1.5), second)
    covariance = second.T @ second
    cross = np.sqrt(np.linalg.eigvalsh(first @ covariance @ first)).sum()
    squared = 0.25 * dim + np.trace(first @ first) + np.trace(covariance) - 2.0 * cross
    return samples(source, target), 0.5 * float(squared)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_s5_b_estimate_is_within_two_percent_of_the_closed_form_on_gaussian_pairs(dim):
    """W2^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), of which the start knows the shift alone."""
    data, expected = gaussian_pair(dim)
    network = create_potential(NETWORK, data.source.x, data.target.x, seed=5)
    run = start(data, network=network, trainer={"batch": 256, "learning_rate": 0.03, "steps": 80})
    begin = run.start_loss()
    estimates = [run.step() for _ in range(80)]
    assert abs(begin - expected) > 0.3 * expected
    assert expected == pytest.approx(run._half_w2_squared(float(run._value(run._u, run._v))), rel=0.02)
    assert expected == pytest.approx(np.mean(estimates[-40:]), rel=0.1)  # of batches, whose rows vary


def test_s5_e_d5_6_names_of_the_outputs_say_which_of_the_two_distances_they_are():
    """Samples that differ by a shift of length 5: what is called half is 12.5, and what is called squared is 25."""
    x = clouds().source.x
    data = samples(x, x + np.array([3.0, 0.0, -4.0]))
    run = start(data)
    assert ("half_w2_squared", "w2_squared") == run.names
    assert 12.5 == pytest.approx(run._half_w2_squared(float(run._value(run._u, run._v))), rel=0.02)
    told = run.validation()
    assert run.names[1] == next(iter(told))
    found = Transport(ObjectiveConfig(), 16).metrics(Answers(np.zeros(len(x)), x.astype(np.float32)), data)
    assert 25.0 == pytest.approx(found["w2_squared"], rel=0.1)  # of draws of half the rows
    assert found["w2"] == pytest.approx(np.sqrt(found["w2_squared"]))
    every = {*run.names, *told, *found, *METRICS["transport"]}
    assert {"half_w2_squared", "w2_squared", "inverse_w2_squared", "w2", "w2_uvp"} == {n for n in every if "w2" in n}


def short_run(data: Samples) -> tuple[list[float], list[np.ndarray]]:
    """Return the distances that four steps of a run tell, and the weights that they leave."""
    run = start(data, trainer={"learning_rate": 0.005})
    losses = [run.step() for _ in range(4)]
    entries = run.validation()
    weights = [*numbers(run.network).values(), *numbers(run.g).values()]
    return [*losses, entries["w2_squared"], entries["inverse_w2_squared"]], weights


@pytest.mark.usefixtures("eagerly")
def test_run_does_not_depend_on_the_units_of_the_samples():
    """Where float32 rounds nothing the run is the same bit for bit, and elsewhere the distances agree in proportion."""
    tf.config.experimental.enable_op_determinism()
    sides = (clouds().source.x, clouds().target.x)
    near = [np.round(side * 256.0) / 256.0 for side in sides]
    first, weights = short_run(samples(*near))
    exact, others = short_run(samples(*(side * 1024.0 + 8192.0 for side in near)))
    assert [distance * 1024.0**2 for distance in first] == exact
    assert all(np.array_equal(left, right) for left, right in zip(weights, others, strict=True))
    rounded, _ = short_run(samples(*(side * 1e3 + 1e4 for side in near)))
    np.testing.assert_allclose(rounded, np.array(first) * 1e6, rtol=5e-3)


# --------------------------------------------------------------------------------------------------------- divergence
@pytest.mark.usefixtures("eagerly")
def test_huge_learning_rate_ends_in_a_divergence_that_names_step_and_quantity():
    """Weights that leave all bounds are seen by the norm of a gradient, at the step where it happens."""
    run = start(trainer={"learning_rate": 1e6})
    with pytest.raises(DivergenceError) as caught:
        collections.deque((run.step() for _ in range(3)), maxlen=0)
    assert 1 <= caught.value.step <= 3
    assert caught.value.quantity in ("the norm of the gradient of f", "the norm of the gradient of g")
    assert not caught.value.value <= 1e4


def test_bound_on_gradients_that_none_can_keep_ends_the_run_at_once():
    """Step 0 is the warm-up of g; the error carries step, quantity and the norm."""
    run = start(max_gradient_norm=1e-12)
    for step, (begin, name) in enumerate([(run.start_loss, "g"), (run.step, "f")]):
        with pytest.raises(DivergenceError, match=f"^training diverged at step {step}: the norm of") as caught:
            begin()
        assert (step, f"the norm of the gradient of {name}") == (caught.value.step, caught.value.quantity)
        assert caught.value.value > 1e-12


@pytest.mark.usefixtures("eagerly")
def test_s5_f_diverging_run_names_step_and_quantity_and_keeps_the_last_finite_parameters():
    """Rows of NaN at the third step: that step is not taken, and all weights are those of the second, bit for bit."""
    run = start(trainer={"steps": 9, "evaluate_every": 9}, inner_steps=1)
    run._descend(run._draw(run._v, 1))
    weights, rows, step = [], run._draw, run.step

    def told() -> float:
        if len(weights) == 2:
            run._draw = lambda *args: rows(*args) * np.nan
        loss = step()
        weights.append([*run.weights(), *run.f.get_weights(), *run.g.get_weights()])
        return loss

    run.step, run.start_loss = told, lambda: 0.0
    with pytest.raises(DivergenceError, match=r"at step 3: the norm of the gradient of [fg] is nan") as caught:
        trainer.fit(run, TrainerConfig(steps=9, evaluate_every=9))
    assert 3 == caught.value.step
    last = [*run.weights(), *run.f.get_weights(), *run.g.get_weights()]
    assert all(np.array_equal(old, new) for old, new in zip(weights[-1], last, strict=True))
    assert not all(np.array_equal(old, new) for old, new in zip(weights[0], last, strict=True))


@pytest.mark.usefixtures("eagerly")
def test_s5_f_run_that_explodes_by_itself_keeps_finite_parameters():
    """With a learning rate that throws the weights away, every weight that is left is a number."""
    run = start(trainer={"learning_rate": 1e6})
    limits = TrainerConfig(steps=5, evaluate_every=5)
    run.start_loss = lambda: 0.0
    with pytest.raises(DivergenceError, match=r"training diverged at step \d: the norm of the gradient of [fg] is"):
        trainer.fit(run, limits)
    for network in (run.network, run.f, run.g):
        assert all(np.isfinite(weight).all() for weight in network.get_weights())


@pytest.mark.usefixtures("eagerly")
def test_weight_that_is_no_number_ends_the_run():
    """NaN is above no bound by comparison, and is refused all the same; so is a map of NaN; no other weight has it."""
    run = start()
    run.g.first.kernel.assign(np.full((DIM, 6), np.nan))
    with pytest.raises(DivergenceError, match=r"the norm of the gradient of [fg] is nan"):
        run.step()
    with pytest.raises(DivergenceError, match=r"the inverse map is nan"):
        run.validation()
    assert all(np.isfinite(value).all() for value in numbers(run.f).values())
