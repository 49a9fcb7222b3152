"""Safety: what a SavedModel may hold at all. Every refusal names its rule, and nothing of the file is executed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program import graph, safety
from service.program.certification import certify
from tests.service.program import foreign_models as foreign
from tests.service.program.programs import DIM

Edit = Callable[[foreign.Change], Path]


def rule_of(folder: Path) -> str:
    """Return the rule by which `certify` refuses the folder."""
    with pytest.raises(VersionRefusedError) as caught:
        certify(folder)
    return caught.value.rule


def total(x: Any) -> Any:
    """Return the sum over the features, [n]."""
    return tf.reduce_sum(x, axis=-1)


def planted_write(path: Path) -> list[Any]:
    """Return the nodes of a WriteFile op with its two constants."""
    nodes = []
    for name, value in (("where", str(path)), ("what", "executed")):
        node = tf.compat.v1.NodeDef(name=name, op="Const")
        node.attr["dtype"].type = tf.string.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        nodes.append(node)
    nodes.append(tf.compat.v1.NodeDef(name="planted", op="WriteFile", input=["where", "what"]))
    return nodes


def printed(x: Any) -> Any:
    """Return a score behind a print that only a control edge ties to it."""
    tf.print(tf.shape(x), output_stream="file:///dev/null")
    return total(tf.square(x))


def by_python(x: Any) -> Any:
    """Return a score that Python code computes."""
    return tf.ensure_shape(tf.py_function(lambda rows: tf.reduce_sum(rows, -1), [x], tf.float32), [None])


def scanned(x: Any) -> Any:
    """Return a score through a loop."""
    return tf.while_loop(lambda i, _: i < 3, lambda i, s: (i + 1, s + total(x)), (0, total(x)))[1]


NOT_ALLOWED = {
    "print behind a control edge": printed,
    "python function": by_python,
    "loop": scanned,
    "softmax over the rows": lambda x: total(tf.nn.softmax(x, axis=0)),
    "cumulated": lambda x: total(tf.cumsum(x)),
    "sorted": lambda x: total(tf.sort(x, axis=0)),
    "rounded": lambda x: total(tf.round(x)),
    "floored": lambda x: total(tf.floor(x)),
    "fake quantised": lambda x: total(tf.quantization.fake_quant_with_min_max_args(x)),
    "random": lambda x: total(x) + tf.random.uniform([]),
    "stateless random": lambda x: total(x) + tf.random.stateless_uniform([], [1, 2]),
    "time": lambda x: total(x) + tf.cast(tf.timestamp(), tf.float32),
    "a file read": lambda x: total(x) + tf.strings.to_number(tf.io.read_file("/etc/hostname")),
}


@pytest.mark.parametrize("name", NOT_ALLOWED)
def test_model_with_another_op_is_refused(tmp_path: Path, name: str) -> None:
    """Effects, state, chance, loops, Python and ops that move rows: no such op may stand anywhere."""
    assert "op-not-allowed" == rule_of(foreign.save(tmp_path / "model", NOT_ALLOWED[name]))


STRANGE = {
    "error function": tf.math.erf,
    "complementary error function": tf.math.erfc,
    "logarithm of a softmax": tf.nn.log_softmax,
    "capped": tf.nn.relu6,
    "scaled elu": tf.nn.selu,
    "softsign": tf.nn.softsign,
    "guarded quotient": lambda x: tf.math.divide_no_nan(x, 1.0 + tf.abs(x)),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_op_is_refused_only_where_the_score_needs_it(tmp_path: Path, name: str) -> None:
    """A pure op that no rule knows, or calls convex, is no harm beside the score and is refused on the way to it."""

    def beside(x: Any) -> Any:
        STRANGE[name](x)
        return total(x)

    expected = "atom-convex" if name in {"capped", "scaled elu"} else "not-lifted"
    assert expected == rule_of(foreign.save(tmp_path / "on the way", lambda x: total(STRANGE[name](x))))
    assert DIM == certify(foreign.save(tmp_path / "beside", beside)).dim


def test_pure_model_passes(network_folder: Path) -> None:
    """The checks pass an ordinary export, and two functions deep."""
    safety.check(foreign.read(network_folder))


def test_assignment_in_a_signature_is_refused(tmp_path: Path) -> None:
    """A model that counts its calls is no function of a row."""
    module = foreign.Scoring()
    module.calls = tf.Variable(0.0)

    def counting(x: Any) -> Any:
        return total(x) + module.calls.assign_add(1.0)

    assert "op-not-allowed" == rule_of(foreign.save(tmp_path / "model", counting, module))


def test_hash_table_is_refused(tmp_path: Path) -> None:
    """Tables are resources with an initialiser of their own, which runs at load."""
    module = foreign.Scoring()
    module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [2.0]), 0.0)
    folder = foreign.save(tmp_path / "model", lambda x: total(x) + module.table.lookup(tf.constant(1)), module)
    assert "init-op" == rule_of(folder)


def test_asset_is_refused(tmp_path: Path) -> None:
    """Files that the model reads are no part of the proof."""
    (tmp_path / "words.txt").write_text("1")
    module = foreign.Scoring()
    module.asset = tf.saved_model.Asset(str(tmp_path / "words.txt"))
    assert "asset" == rule_of(foreign.save(tmp_path / "model", total, module))


@pytest.mark.parametrize("place", ["init op", "main graph", "unused function", "signature", "restore", "gradient"])
def test_planted_write_is_refused_and_never_runs(edit: Edit, tmp_path: Path, place: str) -> None:
    """A WriteFile planted anywhere is refused before TensorFlow sees the graph: the file does not come to be."""
    target = tmp_path / "written"

    def plant(message: Any) -> None:
        meta_graph = message.meta_graphs[0]
        nodes = planted_write(target)
        if place in {"init op", "main graph"}:
            meta_graph.graph_def.node.extend(nodes)
            if place == "init op":
                meta_graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "planted"
            return
        if place == "unused function":
            function = meta_graph.graph_def.library.function.add()
            function.signature.name = "__inference_unused_1"
        else:
            function = {
                "signature": lambda: foreign.signature_function(message),
                "restore": lambda: foreign.restore_function(message),
                "gradient": lambda: foreign.signature_function(message, "serving_default"),
            }[place]()
        for node in nodes:
            node.name = f"planted_{node.name}"
            node.input[:] = [f"planted_{name}:output:0" for name in node.input]
            function.node_def.append(node)
        if place == "gradient":
            function.control_ret["planted"] = "planted_planted"
            function.signature.control_output.append("planted")

    folder = edit(plant)
    assert ("init-op" if place == "init op" else "op-not-allowed") == rule_of(folder)
    assert not target.exists()


@pytest.mark.parametrize("collection", ["saved_model_main_op", "legacy_init_op"])
def test_init_op_of_a_collection_must_do_nothing(edit: Edit, collection: str) -> None:
    """What TensorFlow 1's collections name runs at load as well."""

    def name_init_op(message: Any) -> None:
        message.meta_graphs[0].collection_def[collection].node_list.value.append("StatefulPartitionedCall")

    assert "init-op" == rule_of(edit(name_init_op))


def test_opaque_init_collection_is_refused(edit: Edit) -> None:
    """A collection whose entry is not a plain name cannot be judged."""

    def opaque(message: Any) -> None:
        message.meta_graphs[0].collection_def["saved_model_main_op"].bytes_list.value.append(b"StatefulPartitionedCall")

    assert "init-op" == rule_of(edit(opaque))


def test_tensorflow_1_export_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """A graph without an object graph says which exporter to use."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, DIM], name="x")
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "model"), {"x": x}, {"score": total(x)})
    with pytest.raises(VersionRefusedError, match="TensorFlow 1 export") as caught:
        certify(tmp_path / "model")
    assert "tensorflow-1" == caught.value.rule


def test_two_meta_graphs_are_refused(edit: Edit) -> None:
    """Readers choose one by tags, and the proof would be of the other; none at all is refused as well."""
    assert "meta-graph" == rule_of(edit(lambda message: message.meta_graphs.add().CopyFrom(message.meta_graphs[0])))
    with pytest.raises(VersionRefusedError) as caught:
        safety.check(graph.saved_model_pb2.SavedModel())
    assert "meta-graph" == caught.value.rule


def big_constant(*sizes: int) -> foreign.Change:
    """Return a change that adds a constant of one value for a whole shape."""

    def change(message: Any) -> None:
        node = message.meta_graphs[0].graph_def.node.add(name="big", op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        tensor = node.attr["value"].tensor
        tensor.dtype = tf.float32.as_datatype_enum
        tensor.float_val.append(1.0)
        for size in sizes:
            tensor.tensor_shape.dim.add(size=size)

    return change


@pytest.mark.parametrize("sizes", [(2**40,), (2**20, 2**20, 2**20), (-1,), (2,) * 255, (2,) * 100_000])
def test_constant_that_expands_beyond_the_limit_is_refused(edit: Edit, sizes: tuple[int, ...]) -> None:
    """One value that stands for 2^40, a negative size, or a hundred thousand axes: refused before it is decoded."""
    assert "size-limit" == rule_of(edit(big_constant(*sizes)))


def test_constant_that_is_not_of_its_type_is_refused(edit: Edit) -> None:
    """TensorFlow's graph optimiser ends the process on a float constant that holds strings: refused before."""

    def spoil(message: Any) -> None:
        function = foreign.signature_function(message)
        node = function.node_def.add(name="spoilt", op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("text"))

    assert "constant" == rule_of(edit(spoil))


def test_too_many_nodes_are_refused(edit: Edit) -> None:
    """Nodes are counted before anything is done with them."""

    def crowd(message: Any) -> None:
        for number in range(safety.MAX_NODES):
            message.meta_graphs[0].graph_def.node.add(name=f"n{number}", op="NoOp")

    assert "size-limit" == rule_of(edit(crowd))


def duplicate_function(message: Any) -> None:
    """Define the signature's function twice, with different bodies."""
    library = message.meta_graphs[0].graph_def.library
    evil = library.function.add()
    evil.CopyFrom(foreign.signature_function(message))
    evil.node_def[0].name += "_other"


def duplicate_node(message: Any) -> None:
    """Add a second node of one name."""
    function = foreign.signature_function(message)
    function.node_def.add().CopyFrom(function.node_def[0])


def duplicate_main_node(message: Any) -> None:
    """Add a second node of the name of the call."""
    message.meta_graphs[0].graph_def.node.add().CopyFrom(foreign.call_node(message))


def node_named_as_argument(message: Any) -> None:
    """Give a node the name of the function's argument."""
    function = foreign.signature_function(message)
    function.node_def.add(name=function.signature.input_arg[0].name, op="NoOp")


def function_named_as_op(message: Any) -> None:
    """Define a function with the name of an op: TensorFlow's Python loader runs it wherever the op stands."""
    function = message.meta_graphs[0].graph_def.library.function.add()
    function.CopyFrom(foreign.signature_function(message))
    function.signature.name = "Softplus"


def duplicate_child(message: Any) -> None:
    """Give the root two children `signatures`: one reader takes the first, another the last."""
    nodes = message.meta_graphs[0].object_graph_def.nodes
    nodes[0].children.add(local_name="signatures", node_id=foreign.signature_object(message))


@pytest.mark.parametrize(
    "change",
    [
        duplicate_function, duplicate_node, duplicate_main_node, node_named_as_argument, function_named_as_op,
        duplicate_child,
    ],
)  # fmt: skip
def test_name_that_means_two_things_is_refused(edit: Edit, change: foreign.Change) -> None:
    """Readers disagree on which of two bearers of one name they take."""
    assert "duplicate-name" == rule_of(edit(change))


def api_substitute(message: Any) -> None:
    """Mark a function as one of two that the graph optimiser may exchange."""
    foreign.signature_function(message).attr["api_implements"].s = b"score"


def compiled(message: Any) -> None:
    """Ask for another compiler."""
    foreign.signature_function(message).attr["_XlaMustCompile"].b = True


def filled_in_by_the_caller(message: Any) -> None:
    """Leave an attribute to the function's caller."""
    node = foreign.signature_function(message).node_def[0]
    node.attr["T"].placeholder = "T"


def attribute_of_the_call(message: Any) -> None:
    """Let a call fill in an attribute of its function."""
    foreign.call_node(message).attr["f"].func.attr["T"].type = tf.float32.as_datatype_enum


def other_executor(message: Any) -> None:
    """Let a call choose its executor."""
    foreign.call_node(message).attr["executor_type"].s = b"SINGLE_THREADED_EXECUTOR"


def half_precision(message: Any) -> None:
    """Let a call ask the graph optimiser to round to half precision."""
    configuration = graph.config_pb2.ConfigProto()
    configuration.graph_options.rewrite_options.auto_mixed_precision = 1
    foreign.call_node(message).attr["config_proto"].s = configuration.SerializeToString()


def unreadable_configuration(message: Any) -> None:
    """Give a call options that do not parse."""
    foreign.call_node(message).attr["config_proto"].s = b"\xff\xff"


@pytest.mark.parametrize(
    "change",
    [
        api_substitute, compiled, filled_in_by_the_caller, attribute_of_the_call, other_executor, half_precision,
        unreadable_configuration,
    ],
)  # fmt: skip
def test_attribute_that_changes_what_runs_is_refused(edit: Edit, change: foreign.Change) -> None:
    """What would exchange, recompile or round a function after it was read is refused."""
    assert "attribute" == rule_of(edit(change))


def test_expanded_bytes_counts_what_a_decoder_would_allocate() -> None:
    """Eight bytes for each element of the shape, and the strings themselves."""
    assert 8 * 6 == safety.expanded_bytes(tf.make_tensor_proto(np.zeros((2, 3), np.float32)))
    assert 8 * 2 + 5 == safety.expanded_bytes(tf.make_tensor_proto([b"abc", b"de"]))
