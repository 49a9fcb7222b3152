"""Partially input-convex networks: the paper's recursion, D3-T1 to D3-T4, and the way from a file to a version."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from service import loader, model_version
from service.errors import InvalidArgumentError, VersionRefusedError
from service.manifest import parse, seal
from service.program.certification import certify
from service.program.evaluation import evaluate_both
from tests.oracle.falsifier import falsify
from training import evaluation, export, pipeline, retrain
from training.activations import ActivationRefusedError
from training.config import ConfigError, load_config
from training.datasets import DataError
from training.icnn import InputConvexNetwork
from training.objectives import create_objective
from training.picnn import PartiallyInputConvexNetwork

JOB = """
[model]
name = "seasonal"
task = "regression"
[data]
file = "rows.csv"
target = "cost"
context = ["season", "place"]
salt = "seasonal"
[network]
hidden = [12, 12]
context_units = 8
gate = "GATE"
[trainer]
steps = 400
learning_rate = 0.01
[gate]
tolerance = 0.5
max_score_drift = 1e6
min_rows = 20
"""
COLUMNS = ("season", "a", "b", "place", "c")
FEATURES, CONTEXT = ("a", "b", "c"), ("season", "place")


def write_job(folder, gate="softplus", count=500):
    """Write rows whose cost is convex in a, b, c for each season and place, not jointly; return the job's path."""
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(count, 5))
    season, a, b, place, c = rows.T
    cost = np.exp(0.5 * season) * (a**2 + b**2) + np.sin(2 * place) * c - season**2
    table = np.column_stack([rows, cost])
    np.savetxt(folder / "rows.csv", table, delimiter=",", header=",".join([*COLUMNS, "cost"]), comments="", fmt="%.6f")
    (folder / "job.toml").write_text(JOB.replace("GATE", gate))
    return folder / "job.toml"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Return the folder of a job whose version 1 is published; read only."""
    path = write_job(tmp_path_factory.mktemp("seasonal"))
    pipeline.train(load_config(path))
    return path.parent


@pytest.fixture(scope="module")
def published(job):
    """Return the published version's folder."""
    return job / "models" / "seasonal" / "1"


def small(seed=0, **options):
    """Return a small network, every weight moved at random so that none is 0 and gates differ."""
    model = PartiallyInputConvexNetwork(3, 2, (5, 4), seed=seed, **{"context_units": 6, "quadratic": 0.1, **options})
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + 0.3 * generator.normal(size=variable.shape))
    for layer in model.constrained:
        layer.kernel.assign(np.abs(layer.kernel.numpy()))
    model.standardization.set_statistics(np.float32([1.0, -2.0, 0.5]), np.float32([2.0, 0.5, 1.0]))
    model.context_standardization.set_statistics(np.float32([0.3, 0.1]), np.float32([1.5, 0.8]))
    return model


def softplus(values):
    """Return log(1 + exp)."""
    return np.logaddexp(0.0, values)


def by_hand(model, x, context):
    """Return equation 3 of Amos et al. in float64 NumPy, from the network's arrays."""

    def dense(layer, values):
        kernel, bias = (array.astype(np.float64) for array in layer.get_weights())
        return values @ kernel + bias

    y = (x - model.standardization.mean.numpy()) / model.standardization.scale.numpy()
    u = (context - model.context_standardization.mean.numpy()) / model.context_standardization.scale.numpy()
    z = softplus(dense(model.first, np.hstack([y * dense(model.row_gates[0], u), u])))
    for i, layer in enumerate(model.constrained, start=1):
        u = softplus(dense(model.context_layers[i - 1], u))
        gate = softplus(dense(model.unit_gates[i - 1], u))
        w_z, w_y, b = (value.numpy().astype(np.float64) for value in (layer.kernel, layer.passthrough, layer.bias))
        free = y * dense(model.row_gates[i], u)
        z = (z * gate) @ w_z + free @ w_y[:3] + u @ w_y[3:] + b
        z = z if i == len(model.constrained) else softplus(z)
    return z[:, 0] + 0.5 * model.quadratic.coefficient * np.square(y).sum(axis=1)


def test_network_is_the_papers_recursion():
    """Scores are equation 3 of Amos et al., computed in float64 from the network's own arrays."""
    model = small()
    x, context = np.random.default_rng(1).normal(size=(40, 3)), np.random.default_rng(2).normal(size=(40, 2))
    scores = model([tf.constant(x, tf.float32), tf.constant(context, tf.float32)]).numpy()
    np.testing.assert_allclose(scores, by_hand(model, x, context), rtol=2e-5, atol=2e-5)


def test_one_tensor_with_the_context_last_is_the_same_as_a_pair():
    """Rows as a file holds them give the same bits as x and the context apart."""
    model = small()
    rows = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
    assert model(rows).numpy().tobytes() == model([rows[:, :3], rows[:, 3:]]).numpy().tobytes()


def test_equal_seeds_give_equal_weights_and_other_seeds_others():
    """The seed alone decides the weights at the start."""
    first, again, other = (PartiallyInputConvexNetwork(3, 2, (5,), seed=seed) for seed in (4, 4, 5))
    same = [np.array_equal(a, b) for a, b in zip(first.get_weights(), again.get_weights(), strict=True)]
    assert all(same)
    assert not np.array_equal(first.first.kernel.numpy(), other.first.kernel.numpy())


@pytest.mark.parametrize("gate", ["softplus", "relu", "sigmoid", "exp"])
def test_saved_network_comes_back_with_equal_scores(gate, tmp_path):
    """`get_config` and a `.keras` file give a network of equal arguments and bits."""
    model = small(gate=gate, context_activation="tanh", first_activation="squared_leaky(0.2)", target_scaling=True)
    model.save(tmp_path / "model.keras")
    loaded = export.load_network(tmp_path / "model.keras")
    assert model.get_config() == loaded.get_config()
    rows = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
    assert model(rows).numpy().tobytes() == loaded(rows).numpy().tobytes()


@pytest.mark.parametrize(
    ("gate", "activation"),
    [("softplus", "softplus"), ("relu", "relu"), ("sigmoid", "smooth_leaky(0.2, 1.0)"), ("exp", "softplus")],
)
def test_exported_network_is_proved_with_any_gate_and_answers_the_formula(gate, activation, tmp_path):
    """The prover, from the files alone, proves each gate and activation; the program is the network."""
    model = small(gate=gate, activation=activation)
    rows = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    export.stage(model, tmp_path, name="m", rows=rows)
    certified = certify(tmp_path)
    assert (("x",), ("context",)) == (certified.certificate.convex_in, certified.certificate.for_each)
    assert (3, 2) == (certified.dim, certified.interface.context_dim)
    np.testing.assert_allclose(
        evaluate_both(certified.program, rows.astype(np.float64))[0], model(rows).numpy(), rtol=1e-4, atol=1e-4
    )


def test_exported_network_with_one_negative_hidden_weight_is_refused(tmp_path):
    """A kernel on gated hidden units with one negative entry is not proved; the rule is named."""
    model = small()
    kernel = model.constrained[0].kernel.numpy()
    kernel[2, 1] = -1e-6
    model.constrained[0].kernel.assign(kernel)
    rows = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    model.constrained[0].verify = lambda: None  # it would refuse to be saved
    export.stage(model, tmp_path, name="m", rows=rows)
    with pytest.raises(VersionRefusedError) as caught:
        certify(tmp_path)
    assert "nonneg-matmul" == caught.value.rule


def test_d3_t1_no_midpoint_in_y_is_broken_at_a_fixed_context(published):
    """The trained and published version: at twelve contexts, near the data and far, the falsifier finds nothing."""
    program = certify(published).program
    generator = np.random.default_rng(0)
    for scale in (1.0, 1.0, 10.0) * 4:
        context = scale * generator.normal(size=2)

        def both(x, context=context):
            return evaluate_both(program, np.hstack([x, np.broadcast_to(context, (len(x), 2))]))

        anchors = generator.normal(size=(50, 3))
        assert None is falsify(lambda x: both(x)[0], lambda x: both(x)[1], anchors, pairs=5000, exact=True)


def test_d3_t2_joint_convexity_is_violated_and_not_claimed(tmp_path):
    """f(y; u) = y relu(u) breaks the midpoint inequality between two contexts; its certificate names x alone."""
    model = PartiallyInputConvexNetwork(1, 1, (1,), "relu", context_units=1, context_activation="relu", gate="relu")
    for variable in model.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    model.context_layers[0].kernel.assign([[1.0]])
    model.row_gates[1].kernel.assign([[1.0]])
    output = model.constrained[-1]
    output.passthrough.assign([[1.0], [0.0]])

    def f(y, u):
        return float(model([np.float32([[y]]), np.float32([[u]])]).numpy()[0])

    assert (0.0, 0.0, 0.25) == (f(1.0, 0.0), f(0.0, 1.0), f(0.5, 0.5))
    assert f(0.5, 0.5) > (f(1.0, 0.0) + f(0.0, 1.0)) / 2
    export.stage(model, tmp_path, name="m", rows=np.random.default_rng(1).normal(size=(20, 2)))
    document = certify(tmp_path).certificate.to_document("checked", 0.0)
    assert (["x"], ["context"]) == (document["convex_in"], document["for_each"])


@pytest.mark.parametrize("gate", ["linear", "tanh", "elu", "leaky_relu", "gelu"])
def test_d3_t3_network_with_a_gate_that_can_be_negative_is_refused(gate):
    """The network itself refuses such a gate when it is made, with a counterexample."""
    with pytest.raises(ActivationRefusedError) as caught:
        PartiallyInputConvexNetwork(3, 2, gate=gate)
    left, middle, right = caught.value.counterexample.values
    assert middle > (left + right) / 2


def test_d3_t3_configured_gate_that_can_be_negative_names_its_key(tmp_path):
    """The same from a configuration is a fault of `network.gate`, with the counterexample in words."""
    config = load_config(write_job(tmp_path, gate="tanh"))
    with pytest.raises(ConfigError, match=r"tanh\(-1\) \|x\| has f\(0\) = 0, above -0.76") as caught:
        pipeline.train(config)
    assert "network.gate" == caught.value.key


def test_d3_t4_without_a_context_the_network_is_the_plain_one():
    """With a context of width 0 the weights are those of the plain network of the same seed, and so is every bit."""
    options = {"hidden": (7, 5), "activation": "softplus", "quadratic": 0.01, "target_scaling": True, "seed": 9}
    plain, partial = InputConvexNetwork(4, **options), PartiallyInputConvexNetwork(4, 0, **options)
    rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    for network in (plain, partial):
        network.standardization.set_statistics(np.float32([1, 2, 3, 4]), np.float32([1, 2, 1, 3]))
        network.target_scaling.adapt(np.float64([3.0, 5.0, 10.0]))
    assert len(plain.get_weights()) == len(partial.get_weights())
    assert plain(rows).numpy().tobytes() == partial(rows).numpy().tobytes()
    assert plain(rows).numpy().tobytes() == partial([rows, rows[:, :0]]).numpy().tobytes()
    for index in range(3):  # and with other weights than those of the start
        plain.trainable_variables[index].assign(plain.trainable_variables[index] + 0.1)
        partial.trainable_variables[index].assign(partial.trainable_variables[index] + 0.1)
    assert plain(rows).numpy().tobytes() == partial(rows).numpy().tobytes()


def test_gradients_by_x_and_second_derivatives_are_right_by_differences():
    """In float64, gradient and Hessian by x at a fixed context are those of central differences, the latter >= 0."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model = small()
        x, context = np.array([[0.3, -1.0, 2.0]]), np.array([[0.5, -0.7]])

        def gradient(point):
            rows = tf.constant(point)
            with tf.GradientTape() as tape:
                tape.watch(rows)
                score = model([rows, tf.constant(context)])
            return tape.gradient(score, rows).numpy()[0]

        def score(point):
            return float(model([tf.constant(point), tf.constant(context)]).numpy()[0])

        steps = np.eye(3) * 1e-5
        slopes = [(score(x + step) - score(x - step)) / 2e-5 for step in steps]
        np.testing.assert_allclose(gradient(x), slopes, rtol=1e-6, atol=1e-8)
        hessian = np.array([(gradient(x + step) - gradient(x - step)) / 2e-5 for step in steps])
        np.testing.assert_allclose(hessian, hessian.T, rtol=1e-5, atol=1e-8)
        assert np.linalg.eigvalsh((hessian + hessian.T) / 2)[0] > 0
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ((0, 2), {}, "dim: expected a whole number of at least 1"),
        ((3, -1), {}, "context_dim: expected a whole number of at least 0"),
        ((3, 2), {"context_units": 0}, "context_units: expected a whole number of at least 1"),
        ((3, 2), {"hidden": ()}, "hidden: expected at least one width"),
        ((3, 2), {"context_activation": "sin"}, "context_activation: expected one of softplus"),
    ],
)
def test_argument_is_refused_by_name_when_it_makes_no_network(arguments, options, expected):
    """Widths and names that make no network are refused with what was expected."""
    with pytest.raises(ValueError, match=expected):
        PartiallyInputConvexNetwork(*arguments, **options)


def test_manifest_names_the_contexts_columns_and_the_certificate_the_convex_input(published):
    """The manifest states x and the context with their columns; the score is certified in x for each context."""
    manifest = parse((published / "manifest.json").read_bytes())
    assert (3, FEATURES, 2, CONTEXT) == (
        manifest.dim,
        manifest.features,
        manifest.context_dim,
        manifest.context_features,
    )
    assert (["x"], ["context"]) == (manifest.certificate["convex_in"], manifest.certificate["for_each"])
    sizes = {key: len(manifest.data[key]) for key in ("feature_means", "context_means", "context_deviations")}
    assert {"feature_means": 3, "context_means": 2, "context_deviations": 2} == sizes


def test_published_version_beats_a_constant_context(published):
    """The context teaches something: R2 above 0.8, where the best function of x alone stays far below."""
    metrics = json.loads((published / "manifest.json").read_bytes())["metrics"]
    assert metrics["held_out"]["r2"] > 0.8


@pytest.mark.parametrize("engine", ["program", "tensorflow"])
def test_published_version_answers_alike_on_both_engines(published, engine):
    """Either engine gives the probe's answers again, with gradients by x, and each row the same bits anywhere."""
    live = model_version.load(published, engine=engine)
    probe = live.loaded.probe
    live.reproduce(probe)
    score, gradient = live.score_and_gradient(probe.x, probe.context)
    assert ((16,), (16, 3)) == (score.shape, gradient.shape)
    alone = [live.score_and_gradient(probe.x[i : i + 1], probe.context[i : i + 1]) for i in range(16)]
    assert score.tobytes() == np.concatenate([each for each, _ in alone]).tobytes()
    assert gradient.tobytes() == np.concatenate([each for _, each in alone]).tobytes()


def test_notebook_is_told_what_to_send_when_the_context_is_missing(published):
    """A version with a context answers no rows alone."""
    live = model_version.load(published, engine="program")
    with pytest.raises(InvalidArgumentError, match="send context beside rows, 2 numbers for each instance"):
        live.score(np.zeros((2, 3)))


def edited(published, folder, change):
    """Return a copy of a version with its manifest changed and sealed again."""
    copy = folder / "models" / "seasonal" / "1"
    shutil.copytree(published, copy)
    document = json.loads((copy / "manifest.json").read_bytes())
    change(document)
    (copy / "manifest.json").write_bytes(seal(document))
    return copy


def test_manifest_that_hides_the_context_is_refused(published, tmp_path):
    """A manifest without the context, or with another width, does not speak of the model that is there."""

    def hide(document):
        del document["input"]["context"]

    with pytest.raises(VersionRefusedError) as caught:
        loader.load(edited(published, tmp_path, hide), model="seasonal", version=1)
    assert "manifest-signature" == caught.value.rule


def test_evaluation_reads_the_contexts_columns_from_the_file(job, published):
    """`evaluate` finds features and context by name, wherever they stand in the file."""
    found = evaluation.evaluate(published, job / "rows.csv")
    assert (FEATURES, CONTEXT) == (found.rows.features, found.rows.context)
    assert (500, 3) == found.answers.gradient.shape
    assert found.metrics["r2"] > 0.8


def test_retrain_starts_from_the_champion_with_a_context(job, tmp_path):
    """The nightly job warm-starts such a network and publishes the next version."""
    shutil.copytree(job, tmp_path / "job")
    path = tmp_path / "job" / "job.toml"
    path.write_text(path.read_text().replace("steps = 400", "steps = 20"))
    outcome = retrain.retrain(load_config(path))
    assert "start: the weights of champion version 1" == outcome.lines[0]
    assert "2" == outcome.published.name


def test_retrain_refuses_a_column_that_moved_from_context_to_features(job, tmp_path):
    """What was context and is a feature now is another model: refused, the column named."""
    shutil.copytree(job, tmp_path / "job")
    path = tmp_path / "job" / "job.toml"
    path.write_text(path.read_text().replace('["season", "place"]', '["season"]'))
    with pytest.raises(DataError, match="they differ in context place, place"):
        retrain.retrain(load_config(path))


def test_example_reads_its_context_out_of_the_shipped_file():
    """The configuration in training/examples: eight measurements in which the score is convex, for each age and sex."""
    config = load_config(Path(pipeline.__file__).parent / "examples" / "diabetes_by_age.toml")
    table = create_objective(config).read(config.data)
    assert (("bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"), ("age", "sex")) == (table.features, table.context)
    assert [32.1, 101.0, 157.0, 93.2, 38.0, 4.0, 4.8598, 87.0, 59.0, 2.0] == table.x[0].tolist()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('context = ["cost"]', "data.context"),
        ('context = ["season"]\nfeatures = ["season", "a"]', "data.context"),
        ('context = ["season", "season"]', "data.context"),
    ],
)
def test_configuration_is_refused_when_a_column_stands_for_two_things(tmp_path, line, key):
    """A context that is the target, a feature, or named twice is a fault of `data.context`."""
    path = write_job(tmp_path)
    path.write_text(path.read_text().replace('context = ["season", "place"]', line))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert key == caught.value.key
