"""User functions in convex networks: what a role refuses, and what the prover says of the exported operations."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from tensorflow.core.protobuf import saved_model_pb2

from service.errors import VersionRefusedError
from service.program.certification import certify
from service.program.verification import Probe, verify
from training import export
from training.activations import Role
from training.functions.declarations import Properties
from training.functions.registry import FunctionRefusedError, register, unregister
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.function import Function

HIDDEN = Properties(convex=True, non_decreasing=True)
CONVEX = Properties(convex=True, non_decreasing=False)
DIM = 3
ROWS = np.random.default_rng(0).normal(size=(40, DIM))


def squareplus(x):
    """Return (x + sqrt(x^2 + 4)) / 2."""
    return (x + ops.sqrt(ops.square(x) + 4.0)) / 2.0


def squareplus_gradient(x, upstream):
    """Return its derivative, times what comes from above."""
    return upstream * (1.0 + x / ops.sqrt(ops.square(x) + 4.0)) / 2.0


def pairs_log_sum_exp(x):
    """Return the log-sum-exp of each row, kept as a feature."""
    return ops.logsumexp(x, axis=-1, keepdims=True)


def pairs_gradient(x, upstream):
    """Return the softmax, times what comes from above."""
    return upstream * ops.exp(x - ops.logsumexp(x, axis=-1, keepdims=True))


def bent_far_away(x):
    """Return relu, but for a bend at a million, which no scan of [-30, 30] sees."""
    return ops.relu(x) - 2.0 * ops.relu(x - 1e6)


def turning_far_away(x):
    """Return a convex function that falls only below minus a million."""
    return ops.relu(x) + ops.relu(-x - 1e6)


def network(first, *hidden):
    """Return a convex network of three features with user functions after its first and its other layers."""
    x = keras.Input((DIM,))
    z = Function(first, role="first layer only")(keras.layers.Dense(4, kernel_initializer=glorot(1))(x))
    for number, name in enumerate((*hidden, None)):
        start = {"kernel_initializer": glorot(2 * number), "passthrough_initializer": glorot(2 * number + 1)}
        z = DensePartiallyConstrained(4 if name else 1, **start)([z, x])
        z = Function(name, role="hidden")(z) if name else z
    return keras.Model(x, ops.squeeze(z, axis=-1))


def glorot(seed):
    """Return an initialiser with a seed."""
    return keras.initializers.GlorotNormal(seed)


def saved(model, folder) -> Path:
    """Return the folder to which a model's score was saved, with nothing beside it."""
    module = tf.Module()
    module.numbers = [variable.value for variable in model.variables]
    rows = tf.TensorSpec([None, DIM], tf.float32, name="x")
    serve = tf.function(lambda x: {"score": model(x)}, input_signature=[rows])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return two folders of one network with three functions, as `stage` writes it: without and with own gradients."""
    folders = []
    for analytic in (False, True):
        gradients = (squareplus_gradient, pairs_gradient) if analytic else (None, None)
        register("bowl", properties=CONVEX)(tf.function(ops.square))
        register("pairs", properties=HIDDEN, gradient=gradients[1], row_shape=(4,))(pairs_log_sum_exp)
        register("plus", properties=HIDDEN, gradient=gradients[0])(squareplus)
        folders.append(tmp_path_factory.mktemp("exported"))
        export.stage(network("bowl", "pairs", "plus"), folders[-1], name="small", rows=ROWS)
        for name in ("bowl", "pairs", "plus"):
            unregister(name)
    return folders


def nodes(folder):
    """Yield every node of every function in the file."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((folder / "saved_model.pb").read_bytes())
    for function in message.meta_graphs[0].graph_def.library.function:
        yield from function.node_def


@pytest.mark.parametrize("role", ["hidden", "first layer only"])
def test_s15_f_function_without_declaration_is_refused_on_the_convex_path(role, register_function):
    """A function that promises nothing may stand anywhere but there."""
    register_function("undeclared", squareplus)
    Function("undeclared")
    with pytest.raises(FunctionRefusedError, match=r"'undeclared' declares no properties.*properties=Properties"):
        Function("undeclared", role=role)


@pytest.mark.parametrize(
    ("forward", "properties", "role", "row_shape"),
    [
        (ops.square, CONVEX, "hidden", ()),
        (ops.tanh, Properties(convex=False, non_decreasing=True), "hidden", ()),
        (ops.tanh, Properties(convex=False, non_decreasing=True), "first layer only", ()),
        (lambda x: ops.max(x, axis=-1) - ops.min(x, axis=-1), CONVEX, "hidden", (3,)),
    ],
)
def test_s15_f_function_unfit_for_its_role_is_refused_with_three_points(
    forward, properties, role, row_shape, register_function
):
    """What is declared truly but does not keep convexity in that place comes with a violated midpoint."""
    register_function("unfit", forward, properties=properties, row_shape=row_shape)
    with pytest.raises(FunctionRefusedError, match=rf"the role '{role}' needs: f\(x\) = unfit") as refused:
        Function("unfit", role=role)
    found = refused.value.counterexample
    assert found.points[1] == pytest.approx((found.points[0] + found.points[2]) / 2, abs=1e-12)
    assert found.values[1] > (found.values[0] + found.values[2]) / 2


def test_role_that_is_none_of_the_roles_is_refused(register_function):
    """There are two roles on the convex path."""
    register_function("convex", squareplus, properties=HIDDEN)
    for role in ("output", Role.NEVER):
        with pytest.raises(ValueError, match=r"never|output"):
            Function("convex", role=role)


def test_s15_f_network_with_a_function_without_a_role_is_not_exported(register_function, tmp_path):
    """There is no certificate for what nobody declared, whatever its operations are."""
    register_function("undeclared", squareplus)
    x = keras.Input((DIM,))
    z = keras.layers.Dense(1)(Function("undeclared", name="mine")(x))
    with pytest.raises(FunctionRefusedError, match=r"mine: 'undeclared' stands on the way to the score without a role"):
        export.stage(keras.Model(x, ops.squeeze(z, axis=-1)), tmp_path, name="small", rows=ROWS)
    assert [] == list(tmp_path.iterdir())


def test_network_with_declared_functions_is_proved_from_its_files(exported):
    """A bowl after the first layer, log-sum-exp and squareplus: lifted, proved, and equal to what the file answers."""
    for folder in exported:
        run, probe = export.reload(folder), Probe.from_bytes((folder / "probe.npz").read_bytes())
        assert "checked" == verify(certify(folder).program, run, probe).gradient


def test_s19_d_analytic_gradient_changes_neither_program_nor_certificate(exported):
    """With and without it the same program is proved in the same steps; of the gradient the file keeps operations."""
    proofs = []
    for folder in exported:
        certified = certify(folder)
        steps = [(step.rule, step.curvature, step.min_weight) for step in certified.certificate.steps]
        proofs.append((certified.certificate.program_sha256, certified.certificate.weights_sha256, steps))
        assert not any("_gradient_op_type" in node.attr for node in nodes(folder))
    assert proofs[0] == proofs[1]
    assert [False, True] == [any(node.op == "IdentityN" for node in nodes(folder)) for folder in exported]


@pytest.mark.parametrize("forward", [bent_far_away, turning_far_away])
def test_s15_f_false_declaration_that_the_scan_misses_is_refused_by_the_prover(forward, register_function, tmp_path):
    """The scan sees nothing wrong up to 30; the proof reads the operations and does not get through."""
    register_function("far", forward, properties=HIDDEN)
    register_function("plus", squareplus, properties=HIDDEN)
    with pytest.raises(VersionRefusedError) as refused:
        certify(saved(network("plus", "far"), tmp_path))
    assert "nonneg-scale" == refused.value.rule


def test_decision_for_the_batch_is_refused_by_the_prover(register_function, tmp_path):
    """A cond looks at other rows, so a score with one is no function of its row, though both branches are convex."""
    register_function("decided", by_cond, properties=CONVEX)
    register_function("plus", squareplus, properties=HIDDEN)
    with pytest.raises(VersionRefusedError, match="chooses by something that is no constant"):
        certify(saved(network("decided", "plus"), tmp_path))


def by_cond(x):
    """Return the square, by one of two branches that agree."""
    return tf.cond(ops.sum(x) > 0.0, lambda: ops.square(x), lambda: x * x)


def saved_by_hand(forward, gradient, folder, *, with_code=False):
    """Save sum(f(x)) and its gradient with a custom gradient that no registry has seen, its code beside it or not."""

    @tf.custom_gradient
    def function(x):
        return forward(x), lambda upstream: gradient(x, upstream)

    @tf.function(input_signature=[tf.TensorSpec([None, DIM], tf.float32, name="x")])
    def serve(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_sum(function(x), axis=-1)
        return {"score": score, "gradient": tape.gradient(score, x)}

    options = tf.saved_model.SaveOptions(experimental_custom_gradients=with_code)
    tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": serve}, options=options)
    return folder


def test_prover_reads_the_forward_operations_and_not_the_gradient(tmp_path):
    """A concave function with the gradient of a convex one is refused: IdentityN hands on what it is given."""
    folder = saved_by_hand(lambda x: -tf.square(x), lambda x, u: 2.0 * x * u, tmp_path)
    assert any(node.op == "IdentityN" for node in nodes(folder))
    with pytest.raises(VersionRefusedError) as refused:
        certify(folder)
    assert "nonneg-scale" == refused.value.rule


@pytest.mark.parametrize("factor", [1.01, 0.0, -1.0])
def test_gradient_that_lies_is_refused_at_load_though_the_score_is_proved(factor, tmp_path):
    """The score is convex whatever its gradient says, and the file's own gradient must then be the program's."""
    for number, right in enumerate([1.0, factor]):
        folder = saved_by_hand(tf.square, lambda x, u, right=right: right * 2.0 * x * u, tmp_path / str(number))
        program = certify(folder).program
        run = export.reload(folder)
        if right == 1.0:
            verify(program, run, None)
            continue
        with pytest.raises(VersionRefusedError) as refused:
            verify(program, run, None)
        assert "gradient" == refused.value.rule


def test_file_that_keeps_the_code_of_a_gradient_is_refused_though_it_is_right(tmp_path):
    """TensorFlow's default saves the gradient's function with tensors that it captured: no pure function of a row."""
    folder = saved_by_hand(tf.square, lambda x, u: 2.0 * x * u, tmp_path, with_code=True)
    with pytest.raises(VersionRefusedError) as refused:
        certify(folder)
    assert "object-graph" == refused.value.rule
