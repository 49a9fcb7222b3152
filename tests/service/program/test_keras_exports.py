"""What Keras leaves in a SavedModel beside the model: a second copy of each variable, and ops that nothing runs."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.certification import certify
from service.program.evaluation import evaluate_both
from tests.service.program import foreign_models as foreign

KERNELS = ("first", "second", "last")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a plain Keras network whose second and last kernels are not negative."""
    rows = keras.Input((3,), name="row")
    hidden = keras.layers.Dense(4, activation="softplus", name="first")(rows)
    hidden = keras.layers.Dense(4, activation="softplus", name="second")(hidden)
    network = keras.Model(rows, keras.layers.Dense(1, name="last")(hidden))
    for name in KERNELS[1:]:
        layer = network.get_layer(name)
        layer.set_weights([np.abs(layer.get_weights()[0]) + 0.01, layer.get_weights()[1]])
    return network


@pytest.fixture(scope="module")
def exported(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `model.export` writes."""
    folder = tmp_path_factory.mktemp("keras") / "exported"
    model.export(str(folder), verbose=False)
    return folder


def closed_form(model: keras.Model, rows: Any) -> Any:
    """Return the network's scores, from its weights in float64."""
    values = np.asarray(rows, np.float64)
    for name in KERNELS:
        kernel, bias = (np.asarray(array, np.float64) for array in model.get_layer(name).get_weights())
        values = values @ kernel + bias
        values = values if name == "last" else np.logaddexp(0, values)
    return values[:, 0]


def rule_of(folder: Path) -> str:
    """Return the rule by which the folder is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        certify(folder)
    return caught.value.rule


def test_keras_export_is_proved_and_its_program_is_the_closed_form(model: keras.Model, exported: Path) -> None:
    """`model.export` of a plain Keras network is lifted to the network's formula, names as the file has them."""
    result = certify(exported)
    rows = np.random.default_rng(3).standard_normal((20, 3)) * 3
    np.testing.assert_allclose(evaluate_both(result.program, rows)[0], closed_form(model, rows), rtol=1e-12)
    assert ("row", "output_0", ("serve", "serving_default")) == (
        result.input_name,
        result.score_name,
        tuple(sorted(result.signatures)),
    )


def test_keras_model_saved_by_tensorflow_is_the_same_program(
    model: keras.Model, exported: Path, tmp_path: Path
) -> None:
    """`tf.saved_model.save` of a Keras model leaves variables that TensorFlow Serving never sets: one function."""
    function = tf.function(lambda row: {"y": model(row)}, input_signature=[tf.TensorSpec([None, 3], tf.float32)])
    tf.saved_model.save(model, str(tmp_path / "saved"), signatures=function)
    assert certify(exported).program.program_sha256 == certify(tmp_path / "saved").program.program_sha256


def test_second_copy_of_another_value_is_refused(exported: Path, tmp_path: Path) -> None:
    """TensorFlow Serving restores the second copy of a variable: were its value another, so were the function."""
    tensors, graph = foreign.checkpoint(exported)
    name = next(name for name in tensors if name.startswith("_all_variables"))
    tensors[name].flat[0] += 1.0
    assert "signature-mismatch" == rule_of(foreign.with_checkpoint(exported, tmp_path / "changed", tensors, graph))


def idle_assignment(message: Any) -> Any:
    """Return an assignment of the main graph that nothing runs."""
    return next(node for node in message.meta_graphs[0].graph_def.node if node.op == "AssignVariableOp")


def main_node(message: Any, name: str) -> Any:
    """Return a node of the main graph by the name of a tensor."""
    return next(node for node in message.meta_graphs[0].graph_def.node if node.name == name.split(":")[0])


def reached_by_a_signature(message: Any) -> None:
    """Let a signature wait for the assignment."""
    output = message.meta_graphs[0].signature_def["serving_default"].outputs["output_0"]
    main_node(message, output.name).input.append("^" + idle_assignment(message).name)


def reached_by_the_saver(message: Any) -> None:
    """Let the restoring wait for the assignment."""
    main_node(message, message.meta_graphs[0].saver_def.restore_op_name).input.append(
        "^" + idle_assignment(message).name
    )


def reached_by_a_collection(message: Any) -> None:
    """Name the assignment in a collection, as an op of its own to run."""
    collection = message.meta_graphs[0].collection_def["to_run"]
    collection.node_list.value.append(idle_assignment(message).name)


def answered_by_a_signature(message: Any) -> None:
    """Let a further signature of the table fetch the assignment."""
    outputs = message.meta_graphs[0].signature_def["further"].outputs
    outputs["done"].name = idle_assignment(message).name


def part_of_a_sparse_output(message: Any) -> None:
    """Let a further signature of the table name the assignment as the values of a sparse tensor."""
    outputs = message.meta_graphs[0].signature_def["further"].outputs
    outputs["done"].coo_sparse.values_tensor_name = idle_assignment(message).name + ":0"


@pytest.mark.parametrize(
    "change",
    [
        reached_by_a_signature,
        reached_by_the_saver,
        reached_by_a_collection,
        answered_by_a_signature,
        part_of_a_sparse_output,
    ],
)
def test_assignment_that_may_be_run_is_refused(exported: Path, tmp_path: Path, change: foreign.Change) -> None:
    """An assignment in the main graph is let pass only where nothing that is ever run reaches it."""
    assert "op-not-allowed" == rule_of(foreign.edited(exported, tmp_path / "edited", change))


@pytest.mark.parametrize("shared_name", [b"Variable_1", b""])
def test_variable_that_is_never_set_is_refused_when_it_may_be_another(
    model: keras.Model, tmp_path: Path, shared_name: bytes
) -> None:
    """Two handles of one shared name are one variable, and one without a name takes its node's."""
    function = tf.function(lambda row: {"y": model(row)}, input_signature=[tf.TensorSpec([None, 3], tf.float32)])
    tf.saved_model.save(model, str(tmp_path / "saved"), signatures=function)

    def share(message: Any) -> None:
        handles = {node.name: node for node in message.meta_graphs[0].graph_def.node if node.op == "VarHandleOp"}
        handles["first/kernel"].attr["shared_name"].s = shared_name

    assert "signature-mismatch" == rule_of(foreign.edited(tmp_path / "saved", tmp_path / "edited", share))
