"""SavedModels that are damaged, or made to do harm: each with the rules by which it may be refused.

`build_all` saves them; whatever one of them would write is called `WRITTEN`, so that a test sees whether anything ran.
"""

# ruff: noqa: D103 - a builder's name says what it is

import gzip
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.service.program import foreign_models as foreign
from tests.service.program.programs import DIM

WRITTEN = "executed.txt"
FLOAT = tf.float32.as_datatype_enum

Build = Callable[[Path, Path], Any]
"""Makes the SavedModel in the second folder, out of a good one in the first or from nothing."""

HOSTILE: dict[str, tuple[Build, frozenset[str]]] = {}


def hostile(*rules: str) -> Callable[[Build], Build]:
    """Register a builder whose SavedModel must be refused by one of `rules`."""

    def register(build: Build) -> Build:
        HOSTILE[build.__name__] = (build, frozenset(rules))
        return build

    return register


def edit(*rules: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a change of a good model's parsed file."""

    def register(change: Callable[[Any], None]) -> Callable[[Any], None]:
        def build(good: Path, folder: Path) -> None:
            foreign.edited(good, folder, change)

        build.__name__ = change.__name__
        hostile(*rules)(build)
        return change

    return register


def model(*rules: str, **options: Any) -> Callable[[foreign.Function], foreign.Function]:
    """Register a function of the rows, exported by TensorFlow."""

    def register(score: foreign.Function) -> foreign.Function:
        def build(_good: Path, folder: Path) -> None:
            foreign.save(folder, score, **options)

        build.__name__ = score.__name__
        hostile(*rules)(build)
        return score

    return register


def total(x: Any) -> Any:
    """Return a convex score."""
    return tf.reduce_sum(tf.nn.softplus(x), -1)


# ------------------------------------------------------------------------------------------------------ damaged files


@hostile("saved-model")
def truncated_graph(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    data = (good / "saved_model.pb").read_bytes()
    (folder / "saved_model.pb").write_bytes(data[: len(data) // 2])


@hostile("meta-graph")
def graph_of_no_bytes(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    (folder / "saved_model.pb").write_bytes(b"")


@hostile("saved-model")
def random_bytes(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    (folder / "saved_model.pb").write_bytes(np.random.default_rng(1).bytes(4096))


@hostile("saved-model")
def compressed_graph(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    (folder / "saved_model.pb").write_bytes(gzip.compress((good / "saved_model.pb").read_bytes()))


@hostile("saved-model")
def graph_that_is_a_folder(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pb").mkdir()


@hostile("saved-model")
def graph_that_is_a_pipe(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    (folder / "saved_model.pb").unlink()
    os.mkfifo(folder / "saved_model.pb")


@hostile("saved-model")
def empty_folder(_good: Path, folder: Path) -> None:
    folder.mkdir()


@hostile("saved-model")
def graph_as_text(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pbtxt").write_text(str(foreign.read(good))[:1000])


@hostile("variable")
def no_variables(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    shutil.rmtree(folder / "variables")


@hostile("variable")
def truncated_variables(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    data = folder / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-40])


@hostile("variable")
def random_variables(good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    (folder / "variables" / "variables.index").write_bytes(np.random.default_rng(2).bytes(2048))


def _with_tensors(good: Path, folder: Path, change: Callable[[Any], Any]) -> None:
    tensors, objects = foreign.checkpoint(good)
    changed = {name: change(value) if value.dtype == np.float32 else value for name, value in tensors.items()}
    foreign.with_checkpoint(good, folder, changed, objects)


@hostile("variable")
def variables_of_another_shape(good: Path, folder: Path) -> None:
    _with_tensors(good, folder, lambda value: np.zeros((3, *value.shape), np.float32))


@hostile("variable")
def variables_of_another_type(good: Path, folder: Path) -> None:
    _with_tensors(good, folder, lambda value: value.astype(np.float64))


@hostile("finite-weights")
def weights_that_are_no_numbers(good: Path, folder: Path) -> None:
    _with_tensors(good, folder, lambda value: np.full_like(value, np.nan))


@hostile("finite-weights")
def infinite_weights(good: Path, folder: Path) -> None:
    _with_tensors(good, folder, lambda value: np.full_like(value, np.inf))


# -------------------------------------------------------------------------------------------------------------- sizes


def _constant(function: Any, name: str, sizes: tuple[int, ...]) -> Any:
    node = function.node_def.add(name=name, op="Const")
    node.attr["dtype"].type = FLOAT
    tensor = node.attr["value"].tensor
    tensor.dtype = FLOAT
    tensor.float_val.append(1.0)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    return node


@edit("size-limit")
def one_value_for_a_huge_shape(message: Any) -> None:
    _constant(foreign.signature_function(message), "huge", (2**20, 2**20))


@edit("size-limit")
def constant_of_a_negative_size(message: Any) -> None:
    _constant(foreign.signature_function(message), "huge", (-5, 2**62))


@edit("size-limit")
def constant_of_a_hundred_thousand_axes(message: Any) -> None:
    _constant(foreign.signature_function(message), "huge", (1,) * 100_000)


@edit("size-limit")
def many_large_constants(message: Any) -> None:
    for i in range(40):
        _constant(foreign.signature_function(message), f"large{i}", (2**10, 2**10))


@edit("size-limit")
def a_hundred_thousand_nodes(message: Any) -> None:
    nodes = foreign.signature_function(message).node_def
    nodes.extend([tf.compat.v1.NodeDef(name=f"idle{i}", op="NoOp") for i in range(100_001)])


@model("size-limit", "not-lifted", "op-not-allowed", "cast")
def range_without_end(x: Any) -> Any:
    return total(x) + tf.reduce_sum(tf.range(0.0, tf.constant(1e12), 1.0))


@model("size-limit", "not-lifted", "op-not-allowed")
def fill_without_end(x: Any) -> Any:
    return total(x) + tf.reduce_sum(tf.fill(tf.constant([2**20, 2**20]), 1.0))


@model("size-limit", "not-lifted", "op-not-allowed", "row-axis")
def features_tiled_without_end(x: Any) -> Any:
    return total(tf.tile(x, [1, 2**29]))


@model("size-limit", "not-lifted", "op-not-allowed", "row-axis")
def features_padded_without_end(x: Any) -> Any:
    return total(tf.pad(x, [[0, 0], [0, 2**30]]))


@model("size-limit", "not-lifted", "op-not-allowed", "row-axis")
def broadcast_without_end(x: Any) -> Any:
    return total(x) + tf.reduce_sum(tf.broadcast_to(tf.constant(1.0), tf.constant([2**20, 2**20])))


@model("size-limit", "not-lifted", "op-not-allowed")
def product_of_constants_without_end(x: Any) -> Any:
    ones = tf.fill([2**14, 1], 1.0)
    return total(x) + tf.reduce_sum(ones * tf.transpose(ones) * tf.reshape(ones, [-1, 1, 1]))


@hostile("size-limit")
def a_thousand_signatures(good: Path, folder: Path) -> None:
    def change(message: Any) -> None:
        meta_graph = message.meta_graphs[0]
        objects = meta_graph.object_graph_def
        place = next(child.node_id for child in objects.nodes[0].children if child.local_name == "signatures")
        bound = foreign.signature_object(message)
        for i in range(1000):
            objects.nodes[place].children.add(node_id=bound, local_name=f"s{i}")
            meta_graph.signature_def[f"s{i}"].CopyFrom(meta_graph.signature_def["serving_default"])

    foreign.edited(good, folder, change)


# -------------------------------------------------------------------------------------------- functions without end


def _function(message: Any, name: str, callees: tuple[str, ...], op: str = "AddV2") -> None:
    """Add a function of one tensor that calls others and adds their results."""
    function = message.meta_graphs[0].graph_def.library.function.add()
    function.signature.name = name
    function.signature.input_arg.add(name="x", type=FLOAT)
    function.signature.output_arg.add(name="y", type=FLOAT)
    for i, callee in enumerate(callees):
        call = function.node_def.add(name=f"c{i}", op="PartitionedCall", input=["x"])
        call.attr["f"].func.name = callee
        call.attr["Tin"].list.type.append(FLOAT)
        call.attr["Tout"].list.type.append(FLOAT)
    results = [f"c{i}:output:0" for i in range(len(callees))] or ["x"]
    add = function.node_def.add(name="add", op=op, input=(results * 2)[:2] if op == "AddV2" else results[:1])
    add.attr["T"].type = FLOAT
    function.ret["y"] = "add:z:0" if op == "AddV2" else "add:y:0"


def _call_first(message: Any, name: str) -> None:
    """Let the default signature's function give its first result through a call of `name`."""
    function = foreign.signature_function(message)
    output = function.signature.output_arg[-1].name
    call = function.node_def.add(name="planted", op="PartitionedCall", input=[function.ret[output]])
    call.attr["f"].func.name = name
    call.attr["Tin"].list.type.append(FLOAT)
    call.attr["Tout"].list.type.append(FLOAT)
    function.ret[output] = "planted:output:0"


@edit("depth-limit")
def function_that_calls_itself(message: Any) -> None:
    _function(message, "__inference_ouroboros_1", ("__inference_ouroboros_1",))
    _call_first(message, "__inference_ouroboros_1")


@edit("depth-limit")
def functions_that_call_each_other(message: Any) -> None:
    _function(message, "__inference_hen_1", ("__inference_egg_1",), "Neg")
    _function(message, "__inference_egg_1", ("__inference_hen_1",), "Neg")
    _call_first(message, "__inference_hen_1")


@edit("size-limit")
def functions_that_double_forty_times(message: Any) -> None:
    for i in range(40):
        _function(message, f"__inference_level_{i}", (f"__inference_level_{i + 1}",) * 2)
    _function(message, "__inference_level_40", ())
    _call_first(message, "__inference_level_0")


@edit("depth-limit")
def functions_nested_too_deep(message: Any) -> None:
    for i in range(66):
        _function(message, f"__inference_level_{i}", (f"__inference_level_{i + 1}",), "Neg")
    _function(message, "__inference_level_66", (), "Neg")
    _call_first(message, "__inference_level_0")


@edit("function-missing")
def call_of_no_function(message: Any) -> None:
    _call_first(message, "__inference_nowhere_1")


@edit("cycle")
def graph_with_a_cycle(message: Any) -> None:
    function = foreign.signature_function(message)
    output = function.signature.output_arg[-1].name
    first = function.node_def.add(name="first", op="AddV2", input=[function.ret[output], "second:y:0"])
    second = function.node_def.add(name="second", op="Neg", input=["first:z:0"])
    for node in (first, second):
        node.attr["T"].type = FLOAT
    function.ret[output] = "first:z:0"


# ------------------------------------------------------------------------------------------ the wrong kind of a model


@hostile("tensorflow-1")
def tensorflow_1_export(_good: Path, folder: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, DIM], name="x")
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"x": x}, {"score": total(x)})


@hostile("signature-inputs")
def two_inputs(_good: Path, folder: Path) -> None:
    specs = [foreign.ROWS, tf.TensorSpec([None, DIM], tf.float32, name="y")]
    foreign.save(folder, lambda x, y: total(x + y), spec=specs)


@hostile("signature-inputs", "op-not-allowed")
def ragged_rows(_good: Path, folder: Path) -> None:
    ragged = tf.RaggedTensorSpec([None, None], tf.float32)
    function = tf.function(lambda x: {"score": tf.reduce_sum(x.to_tensor(), -1)}, input_signature=[ragged])
    tf.saved_model.save(foreign.Scoring(), str(folder), signatures=function)


@hostile("signature-inputs", "op-not-allowed")
def rows_of_text(_good: Path, folder: Path) -> None:
    spec = tf.TensorSpec([None, DIM], tf.string, name="x")
    foreign.save(folder, lambda x: total(tf.strings.to_number(x)), spec=spec)


@hostile("signature-inputs")
def rows_of_any_rank(_good: Path, folder: Path) -> None:
    foreign.save(folder, total, spec=tf.TensorSpec(None, tf.float32, name="x"))


@model("signature-outputs")
def vector_of_scores(x: Any) -> Any:
    return tf.nn.softplus(x)


@model("op-not-allowed", "signature-outputs")
def answers_of_text(x: Any) -> Any:
    return tf.strings.as_string(total(x))


@model("signatures-differ", others={"other": lambda x: 2.0 * total(x)})
def signatures_that_differ(x: Any) -> Any:
    return total(x)


@edit("signature-missing")
def no_signature(message: Any) -> None:
    objects = message.meta_graphs[0].object_graph_def
    place = next(child.node_id for child in objects.nodes[0].children if child.local_name == "signatures")
    del objects.nodes[place].children[:]


@edit("meta-graph")
def two_meta_graphs(message: Any) -> None:
    message.meta_graphs.add().CopyFrom(message.meta_graphs[0])


@edit("object-graph")
def object_that_does_not_exist(message: Any) -> None:
    message.meta_graphs[0].object_graph_def.nodes[0].children.add(node_id=2**31 - 1, local_name="lost")


# ------------------------------------------------------------------------------------------------------ effects, state


def _planted(folder: Path) -> list[Any]:
    """Return the nodes of a WriteFile op."""
    nodes = []
    for name, value in (("where", str(folder.parent / WRITTEN)), ("what", "executed")):
        node = tf.compat.v1.NodeDef(name=name, op="Const")
        node.attr["dtype"].type = tf.string.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        nodes.append(node)
    return [*nodes, tf.compat.v1.NodeDef(name="planted", op="WriteFile", input=["where", "what"])]


@hostile("init-op")
def write_in_the_init_op(good: Path, folder: Path) -> None:
    def change(message: Any) -> None:
        meta_graph = message.meta_graphs[0]
        meta_graph.graph_def.node.extend(_planted(folder))
        meta_graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "planted"

    foreign.edited(good, folder, change)


@hostile("init-op")
def write_in_an_old_init_collection(good: Path, folder: Path) -> None:
    def change(message: Any) -> None:
        message.meta_graphs[0].graph_def.node.extend(_planted(folder))
        message.meta_graphs[0].collection_def["legacy_init_op"].node_list.value.append("planted")

    foreign.edited(good, folder, change)


def _write_in(good: Path, folder: Path, function_of: Callable[[Any], Any]) -> None:
    def change(message: Any) -> None:
        function = function_of(message)
        for node in _planted(folder):
            node.input[:] = [f"{name}:output:0" for name in node.input]
            function.node_def.append(node)
        function.control_ret["planted"] = "planted"
        function.signature.control_output.append("planted")

    foreign.edited(good, folder, change)


@hostile("op-not-allowed")
def write_behind_a_control_edge(good: Path, folder: Path) -> None:
    _write_in(good, folder, foreign.signature_function)


@hostile("op-not-allowed")
def write_while_restoring(good: Path, folder: Path) -> None:
    _write_in(good, folder, foreign.restore_function)


@hostile("op-not-allowed")
def write_by_tensorflow_itself(_good: Path, folder: Path) -> None:
    path = str(folder.parent / WRITTEN)

    def score(x: Any) -> Any:
        tf.io.write_file(path, "executed")
        return total(x)

    foreign.save(folder, score)


@hostile("op-not-allowed")
def assignment_in_the_signature(_good: Path, folder: Path) -> None:
    module = foreign.Scoring()
    module.count = tf.Variable(0.0)

    def score(x: Any) -> Any:
        return total(x) + module.count.assign_add(1.0)

    foreign.save(folder, score, module)


@hostile("op-not-allowed")
def assignment_in_another_signature(_good: Path, folder: Path) -> None:
    module = foreign.Scoring()
    module.weight = tf.Variable(1.0)

    def spoil(x: Any) -> Any:
        return total(x) * module.weight.assign(-1.0)

    foreign.save(folder, lambda x: total(x) * module.weight, module, others={"spoil": spoil})


@model("op-not-allowed")
def print_behind_a_control_edge(x: Any) -> Any:
    tf.print("executed", output_stream="file:///dev/null")
    return total(x)


@model("op-not-allowed")
def assertion_behind_a_control_edge(x: Any) -> Any:
    tf.debugging.assert_greater(x, 0.0)
    return total(x)


@model("op-not-allowed")
def python_function(x: Any) -> Any:
    return tf.ensure_shape(tf.py_function(lambda rows: tf.reduce_sum(rows, -1), [x], tf.float32), [None])


@model("op-not-allowed")
def numpy_function(x: Any) -> Any:
    return tf.ensure_shape(tf.numpy_function(lambda rows: rows.sum(-1), [x], tf.float32), [None])


@model("op-not-allowed")
def file_that_is_read(x: Any) -> Any:
    return total(x) + tf.strings.to_number(tf.io.read_file("/etc/hostname"))


@model("op-not-allowed")
def loop_without_end(x: Any) -> Any:
    return tf.while_loop(lambda _: True, lambda s: (s + total(x),), (total(x),))[0]


@hostile("init-op", "object-graph")
def hash_table(_good: Path, folder: Path) -> None:
    module = foreign.Scoring()
    module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [2.0]), 0.0)
    foreign.save(folder, lambda x: total(x) + module.table.lookup(tf.constant(1)), module)


@hostile("asset")
def asset_file(_good: Path, folder: Path) -> None:
    words = folder.parent / f"{folder.name}.words"
    words.write_text("1")
    module = foreign.Scoring()
    module.asset = tf.saved_model.Asset(str(words))
    foreign.save(folder, total, module)


@edit("op-not-allowed")
def op_of_an_unknown_name(message: Any) -> None:
    foreign.signature_function(message).node_def.add(name="planted", op="MyCompanysOp")


@edit("duplicate-name")
def function_with_the_name_of_an_op(message: Any) -> None:
    _function(message, "AddV2", ())


@edit("attribute")
def function_that_stands_in_for_another(message: Any) -> None:
    foreign.signature_function(message).attr["api_implements"].s = b"evil"


@edit("signature-mismatch", "object-graph", "variable")
def signature_bound_to_a_variable(message: Any) -> None:
    objects = message.meta_graphs[0].object_graph_def
    variable = next(i for i, node in enumerate(objects.nodes) if node.WhichOneof("kind") == "variable")
    place = next(child.node_id for child in objects.nodes[0].children if child.local_name == "signatures")
    objects.nodes[place].children[0].node_id = variable


def build_all(folder: Path, *, skip: frozenset[str] = frozenset()) -> dict[str, Path]:
    """Save every hostile model below `folder`, and return their folders; a good one lies beside, as `good`."""
    module, score = foreign.network()
    good = foreign.save(folder / "good", score, module)
    for name, (build, _) in itertools.filterfalse(lambda item: item[0] in skip, HOSTILE.items()):
        build(good, folder / name)
    return {name: folder / name for name in HOSTILE if name not in skip}
