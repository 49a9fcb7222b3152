"""Reading the file: damaged, hostile and unusual files end in a refusal, whatever is wrong with them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program import graph
from service.program.certification import certify
from tests.service.program import foreign_models as foreign

Edit = Callable[[foreign.Change], Path]


@pytest.fixture
def copy(network_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the network's folder."""
    return Path(shutil.copytree(network_folder, tmp_path / "copy"))


def rule_of(folder: Path) -> str:
    """Return the rule by which the folder is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        certify(folder)
    return caught.value.rule


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("saved_model.pb", "saved-model"),
        ("variables/variables.index", "variable"),
        ("variables/variables.data-00000-of-00001", "variable"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "a folder"])
def test_file_that_is_missing_or_cut_short_is_refused(copy: Path, name: str, rule: str, damage: str) -> None:
    """Each file of the SavedModel, missing, empty, half or a folder: refused, never a crash."""
    path = copy / name
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(data[: len(data) // 2 if damage == "half" else 0])
    expected = {rule, "meta-graph"} if (name, damage) == ("saved_model.pb", "empty") else {rule}
    assert rule_of(copy) in expected


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """No folder, no model."""
    assert "saved-model" == rule_of(tmp_path / "nowhere")


def test_any_flipped_bit_of_the_graph_ends_in_a_proof_or_a_refusal(copy: Path) -> None:
    """400 random bit flips and 100 random cuts of saved_model.pb raise nothing but refusals."""
    path = copy / "saved_model.pb"
    data = path.read_bytes()
    generator = np.random.default_rng(12)
    refused = 0
    for trial in range(500):
        damaged = bytearray(data)
        if trial % 5:
            damaged[generator.integers(len(data))] ^= 1 << generator.integers(8)
        else:
            start = int(generator.integers(len(data)))
            del damaged[start : start + int(generator.integers(1, 50))]
        path.write_bytes(damaged)
        try:
            certify(copy)
        except VersionRefusedError:
            refused += 1
    assert refused > 100


def test_any_flipped_bit_of_the_weights_is_refused(copy: Path) -> None:
    """The checkpoint's own checksums see every flipped bit of the numbers."""
    path = copy / "variables" / "variables.data-00000-of-00001"
    data = path.read_bytes()
    generator = np.random.default_rng(13)
    for _ in range(40):
        damaged = bytearray(data)
        damaged[generator.integers(len(data))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        assert "variable" == rule_of(copy)


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb"])
def test_second_form_of_the_model_is_refused(copy: Path, name: str) -> None:
    """Readers differ on which of two forms they take."""
    (copy / name).write_bytes(b"")
    assert "saved-model" == rule_of(copy)


def no_signatures(message: Any) -> None:
    """Forget the root's signatures."""
    root = message.meta_graphs[0].object_graph_def.nodes[0]
    kept = [child for child in root.children if child.local_name != "signatures"]
    del root.children[:]
    root.children.extend(kept)


def plain_object_for_signatures(message: Any) -> None:
    """Let the signatures be a plain object."""
    nodes = message.meta_graphs[0].object_graph_def.nodes
    node = next(node for node in nodes if node.user_object.identifier == "signature_map")
    node.user_object.identifier = "_generic_user_object"


@pytest.mark.parametrize("change", [no_signatures, plain_object_for_signatures])
def test_model_without_signatures_is_refused(edit: Edit, change: foreign.Change) -> None:
    """A model that nothing can be asked of is refused."""
    assert "signature-missing" == rule_of(edit(change))


def function_renamed(message: Any) -> None:
    """Bind the signature to a function that is not saved."""
    nodes = message.meta_graphs[0].object_graph_def.nodes
    nodes[foreign.signature_object(message)].bare_concrete_function.concrete_function_name = "missing"


def definition_lost(message: Any) -> None:
    """Call a function that is not defined."""
    foreign.signature_function(message).node_def[0].op = "PartitionedCall"
    for node in foreign.signature_function(message).node_def:
        if node.op in {"PartitionedCall", "StatefulPartitionedCall"}:
            node.attr["f"].func.name = "missing"


def tensor_lost(message: Any) -> None:
    """Answer a tensor that is not there."""
    function = foreign.signature_function(message)
    for name in list(function.ret):
        function.ret[name] = "missing:output:0"


def tensor_misspelt(message: Any) -> None:
    """Answer a tensor whose number is none."""
    function = foreign.signature_function(message)
    for name in list(function.ret):
        function.ret[name] = function.ret[name].rpartition(":")[0] + ":x"


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (function_renamed, {"function-missing"}),
        (definition_lost, {"function-missing"}),
        (tensor_lost, {"function-missing"}),
        (tensor_misspelt, {"function-missing"}),
    ],
)
def test_name_of_nothing_is_refused(edit: Edit, change: foreign.Change, rules: set[str]) -> None:
    """Functions and tensors that are named and not there are refused."""
    assert rule_of(edit(change)) in rules


@pytest.mark.parametrize("position", [0, -1, 9999])
def test_capture_of_something_else_than_a_variable_is_refused(edit: Edit, position: int) -> None:
    """A signature may capture variables only; numbers out of range, or from the end, are none."""

    def change(message: Any) -> None:
        name = foreign.signature_function(message).signature.name
        message.meta_graphs[0].object_graph_def.concrete_functions[name].bound_inputs[0] = position

    assert rule_of(edit(change)) in {"variable", "signature-mismatch"}


def test_read_of_a_strange_resource_is_refused(edit: Edit) -> None:
    """A ReadVariableOp may read the model's variables only, not the row or what it computes."""

    def change(message: Any) -> None:
        for function in message.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if node.op == "ReadVariableOp" and function.signature.input_arg:
                    node.input[0] = function.signature.input_arg[0].name

    assert "variable" == rule_of(edit(change))


@pytest.mark.parametrize("text", [b"", b"\x00", b"not a number"])
def test_constant_that_does_not_decode_is_refused(tmp_path: Path, text: bytes) -> None:
    """A constant whose bytes do not fill its shape is refused."""
    folder = foreign.save(tmp_path / "model", lambda x: tf.reduce_sum(x * np.array([1, 2, 3], np.float32), -1))

    def change(message: Any) -> None:
        for function in message.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if node.op == "Const" and node.attr["value"].tensor.dtype == tf.float32.as_datatype_enum:
                    node.attr["value"].tensor.tensor_content = text + b"x"
                    del node.attr["value"].tensor.float_val[:]

    assert "constant" == rule_of(foreign.edited(folder, tmp_path / "edited", change))


def test_huge_variable_is_refused_before_it_is_read(network_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes in the checkpoint's index are added up first."""
    certify(network_folder)
    monkeypatch.setattr(graph, "MAX_VARIABLE_BYTES", 100)
    assert "size-limit" == rule_of(network_folder)
