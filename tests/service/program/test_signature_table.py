"""The signature table: TensorFlow Serving's reading of the file must be the one that is proved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.certification import certify
from tests.service.program import foreign_models as foreign

Edit = Callable[[foreign.Change], Path]


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SavedModel with two variables of one shape, one of which must not be negative, and a gradient."""
    module = foreign.Scoring()
    module.scale, module.slope = tf.Variable([1.0, 2.0, 3.0]), tf.Variable([-1.0, 2.0, -3.0])

    def score(x: Any) -> Any:
        return tf.reduce_sum(tf.nn.softplus(x) * module.scale + x * module.slope, -1)

    folder = tmp_path_factory.mktemp("paired") / "model"
    return foreign.save(folder, foreign.with_gradient(score), module, others={"score": score})


def rule_after(paired: Path, folder: Path, change: foreign.Change) -> str:
    """Return the rule by which the changed SavedModel is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        certify(foreign.edited(paired, folder / "edited", change))
    return caught.value.rule


def data_inputs(node: Any) -> list[str]:
    """Return a node's inputs that are no control edges."""
    return [name for name in node.input if not name.startswith("^")]


def main_node(message: Any, op: str) -> Any:
    """Return the main graph's first node of an op."""
    return next(node for node in message.meta_graphs[0].graph_def.node if node.op == op)


def restore_node(message: Any) -> Any:
    """Return the main graph's restore node."""
    meta_graph = message.meta_graphs[0]
    return next(node for node in meta_graph.graph_def.node if node.name == meta_graph.saver_def.restore_op_name)


def permuted_handles(message: Any) -> None:
    """Feed the call its variables in another order."""
    node = foreign.call_node(message)
    node.input[1], node.input[2] = node.input[2], node.input[1]


def same_handle_twice(message: Any) -> None:
    """Feed the call one variable twice."""
    node = foreign.call_node(message)
    node.input[2] = node.input[1]


def lost_handle(message: Any) -> None:
    """Leave a variable out."""
    del foreign.call_node(message).input[2]


def constant_for_a_handle(message: Any) -> None:
    """Feed the call something else than a variable."""
    foreign.call_node(message).input[1] = main_node(message, "Const").name


def other_placeholder(message: Any) -> None:
    """Feed the call another placeholder than the signature's."""
    foreign.call_node(message).input[0] = foreign.call_node(message, "score").input[0]


def input_is_no_placeholder(message: Any) -> None:
    """Let the signature's input be a constant."""
    node = main_node(message, "Const").name
    message.meta_graphs[0].signature_def["serving_default"].inputs["x"].name = f"{node}:0"
    foreign.call_node(message).input[0] = node


def other_function(message: Any) -> None:
    """Call another function of the same kind."""
    other = foreign.call_node(message, "score").attr["f"].func.name
    foreign.call_node(message).attr["f"].func.name = other


def other_outputs(message: Any) -> None:
    """Exchange the outputs' places."""
    outputs = message.meta_graphs[0].signature_def["serving_default"].outputs
    outputs["score"].name, outputs["gradient"].name = outputs["gradient"].name, outputs["score"].name


def output_beside_the_call(message: Any) -> None:
    """Answer a node that is no call."""
    outputs = message.meta_graphs[0].signature_def["serving_default"].outputs
    outputs["score"].name = main_node(message, "Const").name + ":0"


def output_without_a_name(message: Any) -> None:
    """Answer nothing."""
    message.meta_graphs[0].signature_def["serving_default"].outputs["score"].name = ""


def output_missing(message: Any) -> None:
    """Forget an output."""
    del message.meta_graphs[0].signature_def["serving_default"].outputs["gradient"]


def signature_missing(message: Any) -> None:
    """Forget a signature."""
    del message.meta_graphs[0].signature_def["score"]


def output_packed_with_a_hole(message: Any) -> None:
    """Let the gradient be None for Python's loader: the tensors after it move."""
    name = foreign.signature_function(message).signature.name
    concrete = message.meta_graphs[0].object_graph_def.concrete_functions[name]
    concrete.output_signature.dict_value.fields["gradient"].none_value.SetInParent()


def output_packed_deeper(message: Any) -> None:
    """Let an output be a list of two tensors: the ones after it move."""
    name = foreign.signature_function(message).signature.name
    concrete = message.meta_graphs[0].object_graph_def.concrete_functions[name]
    gradient = concrete.output_signature.dict_value.fields["gradient"]
    values = [type(gradient).FromString(gradient.SerializeToString()) for _ in range(2)]
    gradient.list_value.values.extend(values)


def exchanged_assignments(message: Any) -> None:
    """Let TensorFlow Serving restore each variable from the other's value."""
    one, two = (node for node in foreign.restore_function(message).node_def if node.op == "AssignVariableOp")
    one.input[1], two.input[1] = two.input[1], one.input[1]


def exchanged_restore_arguments(message: Any) -> None:
    """Hand the restore function the variables in another order."""
    node = restore_node(message)
    node.input[1], node.input[2] = node.input[2], node.input[1]


def assigned_again_behind_an_identity(message: Any) -> None:
    """Assign a variable a second time, through an identity of its handle."""
    function = foreign.restore_function(message)
    one, two = (node for node in function.node_def if node.op == "AssignVariableOp")
    alias = function.node_def.add(name="alias", op="Identity", input=[one.input[0]])
    alias.attr["T"].type = tf.resource.as_datatype_enum
    again = function.node_def.add(name="again", op="AssignVariableOp", input=["alias:output:0", two.input[1]])
    again.attr["dtype"].type = tf.float32.as_datatype_enum


def restored_from_another_file(message: Any) -> None:
    """Restore from a path that stands in the graph."""
    function = foreign.restore_function(message)
    path = function.node_def.add(name="elsewhere", op="Const")
    path.attr["dtype"].type = tf.string.as_datatype_enum
    path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/elsewhere/variables"))
    next(node for node in function.node_def if node.op == "RestoreV2").input[0] = "elsewhere:output:0"


def restore_fed_another_path(message: Any) -> None:
    """Hand the restore function a path of its own."""
    restore_node(message).input[0] = main_node(message, "Const").name


def restored_in_part(message: Any) -> None:
    """Restore slices of the values."""
    function = foreign.restore_function(message)
    node = next(node for node in function.node_def if node.op == "RestoreV2")
    slices = next(other for other in function.node_def if other.name == node.input[2].split(":")[0])
    slices.attr["value"].tensor.string_val[0] = b"3 0,3"


def saved_at_restore(message: Any) -> None:
    """Write a file when the variables are restored."""
    foreign.restore_function(message).node_def.add(name="written", op="SaveV2")


def one_resource(message: Any) -> None:
    """Give both variables one shared name: TensorFlow Serving then has one variable."""
    one, two, *_ = (node for node in message.meta_graphs[0].graph_def.node if node.op == "VarHandleOp")
    one.attr["shared_name"].s = two.attr["shared_name"].s


def one_resource_in_two_containers(message: Any) -> None:
    """Tell the variables apart by a container whose name is the default: TensorFlow Serving then has one variable."""
    one_resource(message)
    next(node for node in message.meta_graphs[0].graph_def.node if node.op == "VarHandleOp").attr[
        "container"
    ].s = b"localhost"


def nameless_resources(message: Any) -> None:
    """Give the variables no shared name: TensorFlow Serving then has one variable for all."""
    for node in message.meta_graphs[0].graph_def.node:
        if node.op == "VarHandleOp":
            node.attr["shared_name"].s = b""


def no_restore(message: Any) -> None:
    """Name no restore node."""
    message.meta_graphs[0].saver_def.restore_op_name = "missing"


def assignment_without_inputs(message: Any) -> None:
    """Leave an assignment's inputs out."""
    node = next(node for node in foreign.restore_function(message).node_def if node.op == "AssignVariableOp")
    del node.input[:]


def names_cut_short(message: Any) -> None:
    """Write fewer keys than the shape says: the last one then stands for the rest."""
    function = foreign.restore_function(message)
    node = next(node for node in function.node_def if node.op == "RestoreV2")
    keys = next(other for other in function.node_def if other.name == node.input[1].split(":")[0])
    del keys.attr["value"].tensor.string_val[1:]


CHANGES = [
    permuted_handles, same_handle_twice, lost_handle, constant_for_a_handle, other_placeholder,
    input_is_no_placeholder, other_function, other_outputs, output_beside_the_call, output_without_a_name,
    output_missing, signature_missing, exchanged_assignments,
    exchanged_restore_arguments, assigned_again_behind_an_identity, restored_from_another_file,
    restore_fed_another_path, restored_in_part, one_resource, one_resource_in_two_containers,
    nameless_resources,
    assignment_without_inputs, names_cut_short, saved_at_restore,
]  # fmt: skip


def test_ordinary_export_is_read_alike(paired: Path) -> None:
    """TensorFlow's own table passes: both signatures, the gradient, both variables."""
    assert ("score", "serving_default") == certify(paired).signatures


@pytest.mark.parametrize("change", CHANGES)
def test_table_that_means_something_else_is_refused(paired: Path, tmp_path: Path, change: foreign.Change) -> None:
    """Another function, order, variable, file, slice or resource for one of the two readers: refused."""
    assert "signature-mismatch" == rule_after(paired, tmp_path, change)


@pytest.mark.parametrize("change", [output_packed_with_a_hole, output_packed_deeper])
def test_outputs_that_are_not_one_tensor_each_are_refused(paired: Path, tmp_path: Path, change: foreign.Change) -> None:
    """TensorFlow counts tensors where it packs outputs: None, or a list, would move the ones after it."""
    assert "signature-outputs" == rule_after(paired, tmp_path, change)


def test_assignments_without_a_restore_node_are_refused(paired: Path, tmp_path: Path) -> None:
    """A function that assigns variables and that no saver names could be called by anybody."""
    assert "op-not-allowed" == rule_after(paired, tmp_path, no_restore)
