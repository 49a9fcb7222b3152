"""The gradient audit: what it lists, that its two ways agree, what it refuses, and that it leaves no trace."""

import dataclasses
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from training import audit as audits
from training import pipeline
from training.__main__ import main
from training.audit import AuditError, Rule, audit, minimax_subject, value_subject
from training.config import ConfigError, NetworkConfig, ObjectiveConfig, TrainerConfig, load_config
from training.datasets import Samples, Table
from training.gradients import MissingGradientError
from training.icnn import InputConvexNetwork
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.objectives.classification import Classification
from training.objectives.minimax import minimax_value
from training.objectives.transport import Transport
from training.runs import Entry, Part, Subject

DIM, WIDTH, ROWS = 3, 5, 64
X, Y = (np.random.default_rng(seed).normal(seed, 1.0, (200, DIM)).astype(np.float32) for seed in (0, 1))
NONE, ZERO, OTHER = "None", "0", "non-zero"

Activation = Callable[[Any], Any]


def by_maximum(x: Any) -> Any:
    """Return a leaky ReLU as users write it."""
    return tf.maximum(x, 0.2 * x)


def squared(x: Any) -> Any:
    """Return the square of a leaky ReLU."""
    return tf.square(by_maximum(x))


def plain(activations: list[Any], name: str, *, output_bias: bool = True, seed: int = 1) -> keras.Model:
    """Return a network of plain Keras layers: kernel and passthrough are layers of their own."""
    keras.utils.set_random_seed(seed)
    rows = keras.Input((DIM,))
    z = keras.layers.Dense(WIDTH, activations[0], name=f"{name}_0")(rows)
    for k, activation in enumerate(activations[1:], start=1):
        last = k == len(activations) - 1
        units = 1 if last else WIDTH
        kept = keras.layers.Dense(units, use_bias=False, kernel_constraint="non_neg", name=f"{name}_{k}_kernel")(z)
        free = keras.layers.Dense(units, use_bias=output_bias or not last, name=f"{name}_{k}")(rows)
        z = keras.layers.Activation(activation, name=f"{name}_{k}_activation")(keras.layers.Add()([kept, free]))
    return keras.Model(rows, z, name=name)


def layered(activations: list[Any], name: str, seed: int = 1) -> keras.Model:
    """Return the same of the library's layer, by names of the registry; the first layer is plain."""
    keras.utils.set_random_seed(seed)
    rows = keras.Input((DIM,))
    z = keras.layers.Dense(WIDTH, activations[0], name=f"{name}_0")(rows)
    for k, activation in enumerate(activations[1:], start=1):
        units = 1 if k == len(activations) - 1 else WIDTH
        z = DensePartiallyConstrained(units, activation, positivity="penalty", name=f"{name}_{k}")([z, rows])
    return keras.Model(rows, z, name=name)


def curved(name: str = "f") -> keras.Model:
    """Return a network with curvature everywhere, for the other side of the minimax."""
    return plain(["softplus", "softplus", "linear"], name, seed=2)


def found(g: keras.Model) -> dict[str, tuple[str, Rule]]:
    """Return answer and rule of each bias of a network in the place of g, by the number of its layer.

    The place of f has a bowl without variables, which costs a test less than a network.
    """

    def bowl(x: Any) -> Any:
        return tf.reduce_sum(tf.math.softplus(x) + 0.5 * tf.square(x), axis=-1)

    subject = minimax_subject(g, g, X, Y)
    loss = partial(minimax_value, bowl, lambda y: g(y)[:, 0])
    findings = audit(dataclasses.replace(subject, parts=subject.parts[1:], loss=loss)).findings
    biases = [one for one in findings if one.variable.endswith("/bias")]
    return {one.variable.split("/")[0].split("_")[1]: (one.answer, one.rule) for one in biases}


# --------------------------------------------------------------------------------------------------- the table of D1
RELU_SQUARED = "relu_squared"
FUNCTIONS: dict[str, Any] = {
    "maximum": by_maximum,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.2),
    "relu": "relu",
    "softplus": "softplus",
    "elu": "elu",
    "smooth_leaky": lambda x: 0.2 * x + 0.8 * tf.math.softplus(x),
    RELU_SQUARED: lambda x: tf.square(tf.nn.relu(x)),
}
KINKED = {"maximum": NONE, "leaky_relu": ZERO, "relu": ZERO}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_d1_t2_audit_lists_exactly_the_biases_that_get_none_or_zero(name):
    """By operations and by numbers alike: a kinked layer's bias, a kinked output's, and that of a linear output."""
    phi, kinked = keras.activations.get(FUNCTIONS[name]), KINKED.get(name)
    trains, stuck = (OTHER, Rule.TRAINS), (kinked, Rule.NO_CURVATURE)
    linear = found(plain([squared, phi, "linear"], "g"))
    assert {"0": trains, "1": stuck if kinked else trains, "2": (NONE, Rule.OUTPUT_BIAS)} == linear
    activated = found(plain([squared, phi, phi], "g"))
    assert {"0": trains, "1": stuck if kinked else trains, "2": stuck if kinked else trains} == activated


def test_d1_t2_audit_lists_the_same_biases_where_activations_are_decorated():
    """A decorator makes 0 of None, and no difference to what is listed."""
    stuck = (ZERO, Rule.NO_CURVATURE)
    activated = found(plain([tf.function(squared), tf.function(by_maximum), tf.function(by_maximum)], "g"))
    assert {"0": (OTHER, Rule.TRAINS), "1": stuck, "2": stuck} == activated


@pytest.mark.parametrize("name", ["leaky_relu", "smooth_leaky"])
def test_d1_t2_audit_lists_the_same_biases_in_layers_of_the_library(name):
    """`DensePartiallyConstrained` in the place of plain layers, its penalty beside the loss, changes nothing."""
    trains, stuck = (OTHER, Rule.TRAINS), (ZERO, Rule.NO_CURVATURE)
    second = stuck if name in KINKED else trains
    assert {"0": trains, "1": second, "2": (NONE, Rule.OUTPUT_BIAS)} == found(layered([squared, name, None], "g"))


@pytest.mark.parametrize(
    ("activations", "expected"),
    [
        ([squared, by_maximum, "softplus", "linear"], [OTHER, OTHER, OTHER, NONE]),
        ([squared, "softplus", by_maximum, "linear"], [OTHER, OTHER, NONE, NONE]),
        ([by_maximum, by_maximum, by_maximum, "linear"], [NONE, NONE, NONE, NONE]),
    ],
)
def test_one_curved_activation_takes_all_biases_before_it_off_the_list(activations, expected):
    """The examples of three hidden layers: what bends helps what stands before it and nothing behind it."""
    assert expected == [answer for answer, _ in found(plain(activations, "g")).values()]


def test_d1_t3_nothing_is_listed_when_activations_are_curved_and_output_biases_left_out():
    """With both cures the list is empty, and every trainable variable of f and g moves in one optimiser step."""
    phi = FUNCTIONS["smooth_leaky"]
    f, g = (plain([squared, phi, "linear"], name, output_bias=False, seed=seed) for name, seed in (("f", 3), ("g", 4)))
    subject = minimax_subject(f, g, X, Y)
    result = audit(subject)
    assert () == result.listed
    assert {Rule.TRAINS} == {one.rule for one in result.findings}
    variables = [*f.trainable_variables, *g.trainable_variables]
    with tf.GradientTape() as tape:
        loss = subject.loss(*subject.draw(np.random.default_rng(0), ROWS))
    before = [variable.numpy() for variable in variables]
    keras.optimizers.Adam(0.01).apply(tape.gradient(loss, [one.value for one in variables]), variables)
    assert all((old != new.numpy()).any() for old, new in zip(before, variables, strict=True))


def test_f_is_listed_with_its_gauge_alone():
    """Kinks do f no harm, which enters by its values; the constant of a linear output cancels to exactly 0.0."""
    result = audit(minimax_subject(plain([squared, by_maximum, "linear"], "f"), curved("g"), X, Y))
    listed = {one.variable: (one.answer, one.largest, one.rule) for one in result.listed if one.network == "f"}
    assert {"f_2/bias": (ZERO, 0.0, Rule.GAUGE)} == listed
    activated = audit(minimax_subject(plain([squared, by_maximum, by_maximum], "f"), curved("g"), X, Y))
    assert [] == [one.variable for one in activated.listed if one.network == "f"]


# ------------------------------------------------------------------------------------------------------- value losses
def mean_square(target: Any, output: Any) -> Any:
    """Return squared errors."""
    return ops.square(target - output)


class Thresholded(keras.layers.Layer):
    """A window whose width stands in the condition alone, as users write it first."""

    def build(self, _shape: Any) -> None:
        """Make the width, and a factor that is used."""
        self.width = self.add_weight(name="width", shape=(1,), initializer="ones")
        self.factor = self.add_weight(name="factor", shape=(1,), initializer="ones")

    def call(self, x: Any) -> Any:
        """Return the factor inside of the width, else 0."""
        inside = ops.logical_and(x > -self.width, x < self.width)
        return ops.where(inside, self.factor * ops.exp(-ops.square(x)), ops.zeros_like(x))


def rules(model: keras.Model, loss: Any = mean_square, targets: Any = None) -> dict[str, Rule]:
    """Return the rule of each variable of a model under a loss of its values, by layer and name."""
    result = audit(value_subject(model, loss, X, X[:, :1] if targets is None else targets))
    return {local(one.variable): one.rule for one in result.findings}


def local(path: str) -> str:
    """Return a variable's layer and name."""
    return "/".join(path.split("/")[-2:])


def test_s22_b_parameter_that_occurs_only_in_a_condition_is_reported_with_this_reason():
    """The audit names the width, the comparisons, and that it is in the value of no branch; the factor trains."""
    model = keras.Sequential([keras.Input((DIM,)), Thresholded(name="window"), keras.layers.Dense(1, name="out")])
    result = audit(value_subject(model, mean_square, X, X[:, :1]))
    (one,) = result.listed
    assert ("window/width", NONE, Rule.CONDITION) == (local(one.variable), one.answer, one.rule)
    assert "It occurs only in a condition (Greater, Less), which chooses a branch: it is in the value of" in one.reason
    assert "enter the value" in one.cure
    assert {"window/factor", "out/kernel", "out/bias"} == {v for v, rule in rules(model).items() if rule is Rule.TRAINS}


@pytest.mark.parametrize(
    ("function", "rule", "words"),
    [
        (lambda x: ops.round(x), Rule.CUT, "through R"),
        (lambda x: ops.stop_gradient(x), Rule.CUT, "through StopGradient"),
        (lambda x: ops.cast(ops.argmax(x, axis=-1, keepdims=True), "float32"), Rule.CUT, "through ArgMax"),
        (lambda x: ops.cast(x > 0.0, "float32"), Rule.CONDITION, "in a condition (Greater)"),
        (lambda x: ops.zeros_like(x), Rule.CUT, ""),
    ],
)
def test_operation_without_a_derivative_is_named_with_the_variables_that_it_cuts_off(function, rule, words):
    """What lies before a rounding, a choice or a stop is listed with that operation; what lies behind trains."""
    rows = keras.Input((DIM,))
    hidden = keras.layers.Lambda(function)(keras.layers.Dense(WIDTH, name="before")(rows))
    model = keras.Model(rows, keras.layers.Dense(1, name="after")(keras.layers.Concatenate()([hidden, rows])))
    listed = {local(one.variable): one for one in audit(value_subject(model, mean_square, X, X[:, :1])).listed}
    assert {"before/kernel", "before/bias"} == set(listed)
    assert {rule} == {one.rule for one in listed.values()}
    assert all(words in one.reason for one in listed.values())


def test_unused_variable_is_told_from_one_that_is_cut_off():
    """A layer that has a weight and does not use it is said to be unused."""

    class Idle(Thresholded):
        """A window without its width."""

        def call(self, x: Any) -> Any:
            """Return x by the factor."""
            return x * self.factor

    model = keras.Sequential([keras.Input((DIM,)), Idle(name="window"), keras.layers.Dense(1, name="out")])
    assert {"window/width": Rule.UNUSED} == {v: rule for v, rule in rules(model).items() if rule is not Rule.TRAINS}


@pytest.mark.parametrize("loss", [mean_square, keras.losses.binary_crossentropy], ids=["regression", "classification"])
@pytest.mark.parametrize("activation", ["relu", by_maximum, "softplus"])
def test_every_variable_trains_under_losses_of_values(loss, activation):
    """A regression and a classification see every bias, the output's among them, kinks or none."""
    last = "sigmoid" if loss is not mean_square else "linear"
    model = keras.Sequential(
        [keras.Input((DIM,)), keras.layers.Dense(WIDTH, activation), keras.layers.Dense(1, last, name="out")]
    )
    targets = (X[:, :1] > 0.0).astype(np.float32)
    assert {Rule.TRAINS} == set(rules(model, loss, targets).values())


def test_zero_on_the_sample_is_told_from_structural_zero():
    """Units that no row switches on at any draw could train elsewhere: they are not listed, and said to be silent."""
    model = keras.Sequential(
        [
            keras.Input((DIM,)),
            keras.layers.Lambda(lambda x: ops.relu(x - 1e3)),
            keras.layers.Dense(WIDTH, use_bias=False, name="far"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    result = audit(value_subject(model, mean_square, X, X[:, :1]))
    silent = {local(one.variable): (one.answer, one.rule) for one in result.findings if one.rule is not Rule.TRAINS}
    assert {"far/kernel": (ZERO, Rule.SAMPLE), "out/kernel": (ZERO, Rule.SAMPLE)} == silent
    assert () == result.listed
    assert "Zero on 2 batches at each of 3 draws" in result.findings[0].reason


# ---------------------------------------------------------------------------------------- where the two ways disagree
@tf.custom_gradient
def half_told(x: Any) -> Any:
    """Return x^2 with a derivative that hides its own x: right once, None when it is differentiated again."""
    return x * x, lambda upstream: 2.0 * tf.stop_gradient(x) * upstream


def test_s6_d_unexpected_none_raises_and_names_the_variables():
    """Operations that bend, and a gradient that does not say so: None without a rule is an error, not a line."""
    g = plain([half_told, by_maximum, "linear"], "g")
    with pytest.raises(MissingGradientError, match=r"no gradient reaches g_0/bias\. ") as caught:
        audit(minimax_subject(curved(), g, X, Y))
    assert ("g_0/bias",) == caught.value.paths


def test_audit_refuses_a_gradient_where_operations_allow_none():
    """A rounding with a gradient that its author made up is a contradiction, and is named as one."""

    @tf.custom_gradient
    def step(x: Any) -> Any:
        return tf.round(x), lambda upstream: upstream

    model = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(1, step, name="out")])
    with pytest.raises(AuditError, match=r"out/kernel: by its operations it can get no gradient \(behind an") as caught:
        audit(value_subject(model, mean_square, X, X[:, :1]))
    assert Rule.CUT is caught.value.rule
    assert caught.value.largest > 0.0


# ------------------------------------------------------------------------------------------------------ what it leaves
def test_audit_leaves_every_weight_as_it_was_and_draws_no_number_of_others():
    """Weights come back bit for bit, non-negative ones among them, and the generators of the process stay."""
    network = InputConvexNetwork(DIM, (WIDTH,), "softplus", seed=1)
    before = network.get_weights()
    tf.random.set_seed(1)
    np.random.seed(1)  # noqa: NPY002  # the process's own generator is what must stay
    expected = np.random.RandomState(1).normal()
    audit(value_subject(network, lambda y, score: ops.square(y - score), X, X[:, 0]))
    assert expected == np.random.normal()  # noqa: NPY002
    assert all(np.array_equal(old, new) for old, new in zip(before, network.get_weights(), strict=True))
    assert [] == network.losses


def test_audit_draws_kernels_that_their_constraint_allows():
    """A network that is convex by its constraint is looked at with weights that it could have."""
    smallest, sums = [], []
    network = InputConvexNetwork(DIM, (WIDTH, WIDTH), "softplus", seed=1)

    def loss(u: Any, v: Any) -> Any:
        smallest.append(min(float(ops.min(layer.kernel)) for layer in network.constrained))
        sums.append(sum(float(ops.sum(layer.kernel)) for layer in network.constrained))
        return ops.mean(ops.square(network(u) - v))

    subject = value_subject(network, mean_square, X, X[:, 0])
    audit(dataclasses.replace(subject, loss=loss))
    assert audits.DRAWS * audits.BATCHES == len(smallest)
    assert audits.DRAWS == len(set(sums))
    assert min(smallest) >= 0.0


def test_penalty_is_named_where_it_alone_moves_a_variable():
    """A regulariser on a bias that the loss cannot see is said to be all that moves it."""
    rows = keras.Input((DIM,))
    hidden = keras.layers.Dense(WIDTH, squared, name="g_0")(rows)
    output = keras.layers.Dense(1, bias_regularizer="l2", name="g_1")(hidden)
    result = audit(minimax_subject(curved(), keras.Model(rows, output, name="g"), X, Y))
    assert ["g_1/bias"] == [one.variable for one in result.listed if one.network == "g"]
    assert result.listed[-1].reason.endswith("Only a penalty moves it.")


# ------------------------------------------------------------------------------------------------------- in a training
def transport_run(network: NetworkConfig, **objective: Any) -> tuple[Any, Any]:
    """Return a transport job's objective and a run of it."""
    names = tuple("abc")
    data = Samples(*(Table(names, rows.astype(np.float64), np.empty((len(rows), 0))) for rows in (X, Y)))
    task = Transport(ObjectiveConfig(**objective), batch=32)
    settings = TrainerConfig(steps=2, batch=32)
    return task, task.start(task.create_network(network, data, 1), data, data, settings)


@pytest.mark.parametrize(
    "network", [NetworkConfig(), NetworkConfig((6, 5), "smooth_leaky", "squared_leaky")], ids=["default", "squared"]
)
def test_s6_c_every_bias_but_the_gauges_gets_a_gradient_by_default(network):
    """With the default configuration, and with a squared first layer, only the two constants are listed."""
    result = audit(transport_run(network)[1].subject())
    assert ["f/output/bias", "g/output/bias"] == [one.variable for one in result.listed]
    assert [Rule.GAUGE, Rule.OUTPUT_BIAS] == [one.rule for one in result.listed]
    assert [True, True] == [one.left_out for one in result.listed]
    biases = [one for one in result.findings if one.variable.endswith("/bias") and not one.left_out]
    assert (4, {OTHER}) == (len(biases), {one.answer for one in biases})


def configured(folder: Any, **changes: str) -> Any:
    """Return the small transport job of `moved_once` with the user's own activations."""
    path = folder / "job.toml"
    text = path.read_text().replace(
        "hidden = [4]", "hidden = [4, 4]\nactivation = 'leaky_relu'\nfirst_activation = 'squared_leaky'"
    )
    for old, new in changes.items():
        text = text.replace(f"{old} = 1", f"{old} = 1\n{new}")
    path.write_text(text)
    return path


USERS = [
    ("f/output/bias", "gauge", "It is left out of training."),
    ("g/hidden_1/bias", "no later curved activation", "Use a curved activation in its layer or a later one"),
    ("g/output/bias", "output bias", "It is left out of training."),
]


def test_s6_b_training_of_the_users_configuration_reports_every_affected_bias_first(moved, capsys):
    """Before any step: each bias by name, the reason and the cure; then the job ends, and nothing is published."""
    path = configured(moved)
    assert 2 == main(["train", str(path)])
    lines = capsys.readouterr().err.splitlines()
    assert "gradient audit: 15 of 18 variables get a gradient" == lines[0]
    for line, (variable, rule, cure) in zip(lines[1:4], USERS, strict=True):
        assert line.startswith(f"gradient audit: {variable}: ")
        assert f"({rule}). " in line
        assert cure in line
    assert "every activation from this layer to the output has a second derivative of zero" in lines[2]
    assert re.match(
        r"error: network\.activation: .*'leaky_relu', with which no gradient reaches g/hidden_1/bias", lines[4]
    )
    assert 5 == len(lines)


def test_s6_b_users_configuration_trains_without_those_biases_when_asked_to(moved, capsys):
    """With `untrained = "freeze"` the report comes first, the run goes on, and the version's report has the table."""
    path = configured(moved, inner_steps='untrained = "freeze"')
    assert 0 == main(["train", str(path)])
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert ["gradient audit: "] * 4 == [line[:16] for line in lines[:4]]
    assert "step 0" in lines[4]
    version = sorted((moved / "models" / "moved").iterdir())[-1]
    recorded = json.loads((version / "report.json").read_text())["gradient_audit"]
    listed = {one["variable"]: one["rule"] for one in recorded["variables"] if one["cure"]}
    assert {variable: rule for variable, rule, _ in USERS} == listed
    assert (3, 2) == (recorded["draws"], recorded["batches"])
    page = (version / "report.html").read_text()
    assert "15 of 18 trainable variables get a gradient" in page
    assert "g/hidden_1/bias" in page


def test_frozen_bias_stays_as_it_starts_and_all_others_move():
    """What the audit listed is taken out of the run; nothing else is."""
    network = NetworkConfig(hidden=(6, 5), activation="leaky_relu", first_activation="squared_leaky")
    _, run = transport_run(network, untrained="freeze", inner_steps=1)
    listed = {one.variable for one in audit(run.subject()).listed}
    run.leave_out(listed)
    variables = [*run.f.trainable_variables, *run.g.trainable_variables]
    before = {variable.path: variable.numpy() for variable in variables}
    run.step()
    assert listed == {one.path for one in variables if np.array_equal(before[one.path], one.numpy())}
    assert {"f/output/bias", "g/hidden_1/bias", "g/output/bias"} == listed


@pytest.mark.parametrize(
    ("hidden", "activation", "first", "offender"),
    [
        ((4, 4), "relu", "", "activation"),
        ((4, 4), "leaky_relu(0.2)", "softplus", "activation"),
        ((4,), "relu", "", "activation"),
        ((4,), "softplus", "leaky_relu(0.2)", "first_activation"),
    ],
)
def test_transport_is_refused_with_the_key_of_the_layer_whose_biases_it_cannot_train(
    moved, hidden, activation, first, offender
):
    """The last activation must be curved: that is the first layer's where there is only one."""
    config = load_config(moved / "job.toml")
    network = NetworkConfig(hidden=hidden, activation=activation, first_activation=first)
    config = dataclasses.replace(config, network=network)
    _, run = transport_run(network)
    with pytest.raises(ConfigError, match=r"with which no gradient reaches g/\w+/bias") as caught:
        pipeline.audit_run(config, run)
    assert f"network.{offender}" == caught.value.key


# --------------------------------------------------------------------------------------------------------- the command
def test_audit_command_prints_the_table_and_exits_3_where_training_is_refused(moved, capsys):
    """Every variable is a line, each without a gradient has reason and cure below it; nothing is trained."""
    path = configured(moved)
    assert 3 == main(["audit", str(path)])
    out = capsys.readouterr().out
    assert "f enters the loss by the difference of two means of its values" in out
    assert "g enters the loss by its gradient with respect to the row" in out
    rows = re.findall(r"^([fg]/\S+) +(None|0|non-zero) +(\S+) +(.+)$", out, re.MULTILINE)
    assert 18 == len(rows)
    silent = {variable: rule for variable, answer, _, rule in rows if answer != OTHER}
    assert {variable: rule for variable, rule, _ in USERS} == silent
    assert ["1"] == [entry.name for entry in (moved / "models" / "moved").iterdir()]


def test_audit_command_prints_json_and_exits_0_where_every_variable_trains(trained, capsys):
    """One object with each variable's answer, rule, reason and cure; a classification lists none."""
    assert 0 == main(["audit", str(trained / "job.toml"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert {"its values"} == set(document["networks"].values())
    assert {("non-zero", "gets a gradient", "", "")} == {
        (one["answer"], one["rule"], one["reason"], one["cure"]) for one in document["variables"]
    }
    assert 8 == len(document["variables"])


def test_supervised_run_shows_the_audit_its_own_loss():
    """A classification's subject is its logistic loss on rows of its training side, with nothing left out."""
    table = Table(tuple("abc"), X.astype(np.float64), (X[:, 0] > 0.0).astype(np.float64))
    task = Classification()
    run = task.start(task.create_network(NetworkConfig(hidden=(4,)), table, 1), table, table, TrainerConfig(batch=32))
    subject = run.subject()
    u, v = subject.draw(np.random.default_rng(0), 16)
    scores = run.network(u).numpy()
    assert np.mean(np.logaddexp(0.0, scores) - v.numpy() * scores) == pytest.approx(float(subject.loss(u, v)), rel=1e-5)
    assert ((), (Entry.VALUE,)) == (subject.untrained, tuple(part.entry for part in subject.parts))
    assert {Rule.TRAINS} == {one.rule for one in audit(subject).findings}


def test_missing_gradient_of_a_supervised_step_is_refused_by_name():
    """A layer that the loss does not use ends the run at its first step with the names of its variables."""
    table = Table(tuple("abc"), X.astype(np.float64), X[:, 0].astype(np.float64))
    task = Classification()
    network = task.create_network(NetworkConfig(hidden=(4,)), table, 1)
    task.loss = lambda model, x, y: ops.mean(ops.square(ops.squeeze(model.first(x)[:, :1], -1) - y))
    run = task.start(network, table, table, TrainerConfig(batch=32))
    with pytest.raises(MissingGradientError, match=r"output/kernel, .*output/passthrough, .*output/bias"):
        run.step()
    part = Part(network, lambda x: network.first(x)[:, :1], Entry.VALUE)
    subject = Subject((part,), lambda u, v: ops.mean(ops.square(part.score(u)[:, 0] - v)), run.subject().draw)
    listed = [one.variable.partition("/")[2] for one in audit(subject).listed]
    assert ["output/kernel", "output/passthrough", "output/bias"] == listed
