"""The object graph and the checkpoint: one reading, or a refusal. Each attack is a way to serve other weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.certification import certify
from tests.service.program import foreign_models as foreign
from tests.service.program.programs import build, draw_weights

Edit = Callable[[foreign.Change], Path]
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def refusal(folder: Path) -> VersionRefusedError:
    """Return the refusal of the folder."""
    with pytest.raises(VersionRefusedError) as caught:
        certify(folder)
    return caught.value


def objects(message: Any) -> Any:
    """Return the nodes of the object graph."""
    return message.meta_graphs[0].object_graph_def.nodes


def first(message: Any, kind: str) -> Any:
    """Return the first object of a kind."""
    return next(node for node in objects(message) if node.WhichOneof("kind") == kind)


def out_of_range(message: Any) -> None:
    """Give the root a child that does not exist."""
    objects(message)[0].children.add(local_name="ghost", node_id=10_000)


def negative(message: Any) -> None:
    """Give the root a child counted from the end, as Python would."""
    objects(message)[0].children.add(local_name="ghost", node_id=-1)


def dependency_out_of_range(message: Any) -> None:
    """Give the root a dependency that does not exist."""
    objects(message)[0].dependencies.add(local_name="ghost", node_id=10_000)


def registered(message: Any) -> None:
    """Let a class registered in the process make the object."""
    first(message, "variable").registered_name = "tf.TrackableDataStructure"


def saver_of_its_own(message: Any) -> None:
    """Let the object restore itself."""
    first(message, "variable").registered_saver = "custom"


def saveable_of_its_own(message: Any) -> None:
    """Let functions of the model restore the object."""
    first(message, "variable").saveable_objects["VARIABLE_VALUE"].restore_function = 2


def slots(message: Any) -> None:
    """Say that the root is an optimizer."""
    objects(message)[0].slot_variables.add(slot_name="m")


def parts(message: Any) -> None:
    """Say that a variable is in several parts."""
    first(message, "variable").variable.experimental_distributed_variable_components.add(name="part")


def asset(message: Any) -> None:
    """Turn a variable into an asset."""
    first(message, "variable").asset.asset_file_def_index = 0


def resource(message: Any) -> None:
    """Turn a variable into a resource."""
    first(message, "variable").resource.device = "/CPU:0"


def keras_object(message: Any) -> None:
    """Turn the root into a Keras model."""
    objects(message)[0].user_object.identifier = "_tf_keras_model"


def variable_with_children(message: Any) -> None:
    """Let the loader set an attribute of a variable."""
    first(message, "variable").children.add(local_name="_handle", node_id=0)


def function_with_children(message: Any) -> None:
    """Let the loader replace what the signature's function captured."""
    first(message, "bare_concrete_function").children.add(local_name="_captured_inputs", node_id=0)


def method_replaced(message: Any) -> None:
    """Let the loader replace the method that finds the variables to restore."""
    objects(message)[0].children.add(local_name="_trackable_children", node_id=1)


def tracking_off(message: Any) -> None:
    """Let the loader switch the tracking of variables off."""
    objects(message)[0].children.add(local_name="_self_setattr_tracking", node_id=1)


def class_replaced(message: Any) -> None:
    """Let the loader replace the root's class."""
    objects(message)[0].children.add(local_name="__class__", node_id=1)


@pytest.mark.parametrize(
    "change",
    [
        out_of_range, negative, dependency_out_of_range, registered, saver_of_its_own, saveable_of_its_own, slots,
        parts, asset, resource, keras_object, variable_with_children, function_with_children, method_replaced,
        tracking_off, class_replaced,
    ],
)  # fmt: skip
def test_object_with_behaviour_of_its_own_is_refused(edit: Edit, change: foreign.Change) -> None:
    """Only variables, functions, constants and plain objects, joined by harmless names, are let through."""
    assert "object-graph" == refusal(edit(change)).rule


def test_numbers_of_a_list_must_be_written_in_one_way(tmp_path: Path) -> None:
    """`00` sets the same place of a list as `0`, and is restored under another name."""
    module = foreign.Scoring()
    module.numbers = [tf.Variable(tf.ones([3])), tf.Variable(tf.ones([3]))]
    folder = foreign.save(
        tmp_path / "model", lambda x: tf.reduce_sum(tf.square(x * module.numbers[0] + module.numbers[1]), -1), module
    )
    certify(folder)

    def rename(message: Any) -> None:
        listed = next(n for n in objects(message) if n.user_object.identifier == "trackable_list_wrapper")
        listed.children[1].local_name = "00"

    assert "object-graph" == refusal(foreign.edited(folder, tmp_path / "edited", rename)).rule


@pytest.fixture
def restored(network_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that gives a copy of the network's folder with a changed checkpoint."""

    def change(edit: Callable[[dict[str, Any], Any], None]) -> Path:
        tensors, graph = foreign.checkpoint(network_folder)
        edit(tensors, graph)
        return foreign.with_checkpoint(network_folder, tmp_path / "restored", tensors, graph)

    return change


def test_negative_weight_in_the_checkpoint_is_refused(restored: Callable[..., Path]) -> None:
    """The sign of one hidden weight, flipped in the checkpoint alone, is refused by name, value and place."""

    def flip(tensors: dict[str, Any], _: Any) -> None:
        tensors["kernel" + SUFFIX][2, 1] *= -1

    error = refusal(restored(flip))
    assert "nonneg-matmul" == error.rule
    assert "kernel has 1 negative entries" in error.reason
    assert f"{-float(draw_weights().kernel[2, 1])!r} at [2, 1]" in error.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["kernel", "bias", "first"])
def test_weight_that_is_no_number_is_refused(restored: Callable[..., Path], name: str, value: float) -> None:
    """NaN and infinity in a variable are refused before any sign is read."""

    def spoil(tensors: dict[str, Any], _: Any) -> None:
        tensors[name + SUFFIX].flat[0] = value

    assert "finite-weights" == refusal(restored(spoil)).rule


def other_shape(tensors: dict[str, Any], _: Any) -> None:
    """Give the kernel another shape."""
    tensors["kernel" + SUFFIX] = np.ones((4, 5), np.float32)


def other_type(tensors: dict[str, Any], _: Any) -> None:
    """Give the kernel another type."""
    tensors["kernel" + SUFFIX] = tensors["kernel" + SUFFIX].astype(np.float64)


def lost(tensors: dict[str, Any], _: Any) -> None:
    """Leave the kernel out."""
    del tensors["kernel" + SUFFIX]


def child(graph: Any, name: str) -> Any:
    """Return the root's child of that name."""
    return next(entry for entry in graph.nodes[0].children if entry.local_name == name)


def swapped(_: dict[str, Any], graph: Any) -> None:
    """Let two variables of one shape restore each other's values."""
    one, two = child(graph, "last_kernel"), child(graph, "kernel")
    one.node_id, two.node_id = two.node_id, one.node_id


def no_name(_: dict[str, Any], graph: Any) -> None:
    """Forget the kernel's name."""
    child(graph, "kernel").local_name = "other"


def shared(_: dict[str, Any], graph: Any) -> None:
    """Restore two variables from one object: TensorFlow restores the first and leaves the second."""
    child(graph, "bias").node_id = child(graph, "kernel").node_id


def shared_key(_: dict[str, Any], graph: Any) -> None:
    """Restore two variables from one value."""
    graph.nodes[child(graph, "bias").node_id].attributes[0].checkpoint_key = "kernel" + SUFFIX


def key_within_a_key(tensors: dict[str, Any], graph: Any) -> None:
    """Write a key of which TensorFlow takes another part."""
    key = "kernel/.ATTRIBUTES/x" + SUFFIX
    tensors[key] = np.abs(tensors["kernel" + SUFFIX])
    graph.nodes[child(graph, "kernel").node_id].attributes[0].checkpoint_key = key


def key_of_another_attribute(tensors: dict[str, Any], graph: Any) -> None:
    """Write a key that ends otherwise than its name: TensorFlow reads the name's."""
    tensors["kernel/.ATTRIBUTES/OTHER"] = np.abs(tensors["kernel" + SUFFIX])
    graph.nodes[child(graph, "kernel").node_id].attributes[0].checkpoint_key = "kernel/.ATTRIBUTES/OTHER"


def two_values(_: dict[str, Any], graph: Any) -> None:
    """Write two values of one variable."""
    graph.nodes[child(graph, "kernel").node_id].attributes.add(name="VARIABLE_VALUE", checkpoint_key="bias" + SUFFIX)


def own_saver(_: dict[str, Any], graph: Any) -> None:
    """Let a registered saver restore the kernel."""
    graph.nodes[child(graph, "kernel").node_id].registered_saver.name = "custom"


def two_children(_: dict[str, Any], graph: Any) -> None:
    """Write two children of one name."""
    graph.nodes[0].children.add(local_name="kernel", node_id=child(graph, "bias").node_id)


def outside(_: dict[str, Any], graph: Any) -> None:
    """Write a child that does not exist."""
    graph.nodes[0].children.add(local_name="ghost", node_id=999)


def before_the_first(_: dict[str, Any], graph: Any) -> None:
    """Write a child counted from the end."""
    child(graph, "kernel").node_id = -1


def empty(_: dict[str, Any], graph: Any) -> None:
    """Write no objects at all."""
    del graph.nodes[:]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (other_shape, "variable"), (other_type, "variable"), (lost, "variable"), (no_name, "variable"),
        (shared, "variable"), (shared_key, "variable"), (key_within_a_key, "variable"),
        (key_of_another_attribute, "variable"), (two_values, "variable"), (own_saver, "variable"),
        (two_children, "variable"), (outside, "variable"), (before_the_first, "variable"), (empty, "variable"),
        (swapped, "variable"),
    ],
)  # fmt: skip
def test_checkpoint_with_more_than_one_reading_is_refused(
    restored: Callable[..., Path], change: Callable[[dict[str, Any], Any], None], rule: str
) -> None:
    """A value that is missing, of another shape, or restored in another way than by its own name is refused."""
    assert rule == refusal(restored(change)).rule


def test_values_exchanged_for_one_reader_only_are_refused(tmp_path: Path) -> None:
    """Two variables of one shape: Python's loader restores by names, TensorFlow Serving by the saver's function."""
    module = foreign.Scoring()
    module.scale, module.slope = tf.Variable([1.0, 2.0, 3.0]), tf.Variable([-1.0, 2.0, -3.0])
    folder = foreign.save(
        tmp_path / "model",
        lambda x: tf.reduce_sum(tf.nn.softplus(x) * module.scale + x * module.slope, -1),
        module,
    )
    certify(folder)
    tensors, graph = foreign.checkpoint(folder)
    one, two = child(graph, "scale"), child(graph, "slope")
    one.node_id, two.node_id = two.node_id, one.node_id
    exchanged = foreign.with_checkpoint(folder, tmp_path / "exchanged", tensors, graph)
    loaded = tf.saved_model.load(str(exchanged))
    assert [-1.0, 2.0, -3.0] == loaded.scale.numpy().tolist()
    assert "signature-mismatch" == refusal(exchanged).rule


def test_proved_weights_are_the_networks(network_folder: Path) -> None:
    """Every number of the program comes from the variable that the network reads."""
    expected = sorted(array.tobytes() for array in build(draw_weights()).weights() if array.size > 3)
    received = sorted(array.tobytes() for array in certify(network_folder).program.weights() if array.size > 3)
    assert expected == received
