"""Inlining: nested and shared functions, and functions that call each other without end."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import function_pb2

from service.errors import VersionRefusedError
from service.program import inlining
from service.program.inlining import GraphNode, Inliner, Reference, decode_attribute, output_number


def define(name: str, nodes: list[tuple[str, str, list[str]]], result: str, arguments: tuple[str, ...] = ("x",)) -> Any:
    """Return a function of nodes (name, op, inputs); an op that begins with `call ` calls a function."""
    function = function_pb2.FunctionDef()
    function.signature.name = name
    for argument in arguments:
        function.signature.input_arg.add(name=argument)
    function.signature.output_arg.add(name="y")
    function.ret["y"] = result
    for node_name, op, inputs in nodes:
        node = function.node_def.add(name=node_name, op="PartitionedCall" if op.startswith("call ") else op)
        node.input.extend(inputs)
        if op.startswith("call "):
            node.attr["f"].func.name = op.removeprefix("call ")
        if op == "Const":
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.float32(2)))
    return function


def inline(*functions: Any, start: str = "f") -> list[str]:
    """Return the ops of the inlined graph of `start`'s output, in order."""
    return [node.op for node in graph_of(*functions, start=start).nodes]


def graph_of(*functions: Any, start: str = "f", decode: Any = tf.make_ndarray) -> inlining.InlinedGraph:
    """Return the inlined graph of `start`'s output."""
    inliner = Inliner({function.signature.name: function for function in functions}, decode)
    return inliner.run(start, [inliner.add(GraphNode("x", "Input"))], 0)


def rule_of(*functions: Any, start: str = "f") -> str:
    """Return the rule by which inlining is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        inline(*functions, start=start)
    return caught.value.rule


def test_calls_are_replaced_by_their_bodies() -> None:
    """Two functions deep, identities gone, in an order in which each node reads earlier ones."""
    inner = define("inner", [("r", "Relu", ["x"]), ("i", "Identity", ["r:activations:0"])], "i:output:0")
    outer = define("f", [("c", "call inner", ["x"]), ("s", "Square", ["c:output:0"])], "s:y:0")
    graph = graph_of(inner, outer)
    assert ["Input", "Relu", "Square"] == [node.op for node in graph.nodes]
    assert Reference(2) == graph.output
    assert (Reference(1),) == graph.nodes[2].inputs


def test_shared_function_is_inlined_for_each_call() -> None:
    """A function called twice gives two bodies; one call read twice gives one."""
    inner = define("inner", [("r", "Relu", ["x"])], "r:activations:0")
    twice = define("f", [("a", "call inner", ["x"]), ("b", "call inner", ["a:output:0"])], "b:output:0")
    once = define("f", [("a", "call inner", ["x"]), ("s", "Add", ["a:output:0", "a:output:0"])], "s:z:0")
    assert ["Input", "Relu", "Relu"] == inline(inner, twice)
    assert ["Input", "Relu", "Add"] == inline(inner, once)


def test_only_what_the_output_needs_is_visited() -> None:
    """Nodes off the way to the output are left out."""
    function = define("f", [("used", "Relu", ["x"]), ("unused", "Square", ["x"])], "used:activations:0")
    assert ["Input", "Relu"] == inline(function)


def test_constant_of_a_shared_function_is_decoded_once() -> None:
    """However often its function is called, a constant is one array."""
    decoded = []

    def decode(tensor: Any) -> Any:
        decoded.append(tensor)
        return tf.make_ndarray(tensor)

    inner = define("inner", [("c", "Const", []), ("m", "Mul", ["x", "c:output:0"])], "m:z:0")
    outer = define("f", [("a", "call inner", ["x"]), ("b", "call inner", ["a:output:0"])], "b:output:0")
    graph = graph_of(inner, outer, decode=decode)
    values = [node.value for node in graph.nodes if node.op == "Constant"]
    assert (1, 2) == (len(decoded), len(values))
    assert values[0] is values[1]


def test_function_that_calls_itself_is_refused() -> None:
    """Recursion ends at the depth limit, directly and through another function."""
    assert "depth-limit" == rule_of(define("f", [("c", "call f", ["x"])], "c:output:0"))
    one = define("f", [("c", "call g", ["x"])], "c:output:0")
    two = define("g", [("c", "call f", ["x"])], "c:output:0")
    assert "depth-limit" == rule_of(one, two)


@pytest.mark.parametrize("op", ["call inner", "Relu"])
def test_functions_that_double_at_each_level_are_refused(op: str) -> None:
    """Forty levels of two calls each are 2^40 calls: counted and refused, also where no op is ever reached."""
    empty = define("inner", [], "x")
    functions = [empty, define("f0", [("c", op, ["x"])], "c:output:0" if op.startswith("call") else "c:activations:0")]
    for level in range(1, 40):
        calls = [("a", f"call f{level - 1}", ["x"]), ("b", f"call f{level - 1}", ["a:output:0"])]
        functions.append(define(f"f{level}", calls, "b:output:0"))
    assert "size-limit" == rule_of(*functions, start="f39")


def test_constants_add_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large constant in a function that is called often is counted each time."""
    monkeypatch.setattr(inlining, "MAX_INLINED_BYTES", 3 * 4)
    inner = define("inner", [("c", "Const", []), ("m", "Mul", ["x", "c:output:0"])], "m:z:0")
    calls = [("c0", "call inner", ["x"])] + [(f"c{i}", "call inner", [f"c{i - 1}:output:0"]) for i in range(1, 4)]
    assert "size-limit" == rule_of(inner, define("f", calls, "c3:output:0"))


def test_node_that_depends_on_itself_is_refused() -> None:
    """A cycle is found, of one node and of two."""
    assert "cycle" == rule_of(define("f", [("a", "Relu", ["a:activations:0"])], "a:activations:0"))
    nodes = [("a", "Relu", ["b:activations:0"]), ("b", "Relu", ["a:activations:0"])]
    assert "cycle" == rule_of(define("f", nodes, "a:activations:0"))


def test_long_chain_needs_no_recursion() -> None:
    """Fifty thousand nodes in a row are inlined without Python's stack."""
    nodes = [("n0", "Relu", ["x"])] + [(f"n{i}", "Relu", [f"n{i - 1}:activations:0"]) for i in range(1, 50_000)]
    assert 50_001 == len(inline(define("f", nodes, "n49999:activations:0")))


@pytest.mark.parametrize(
    ("nodes", "result", "rule"),
    [
        ([("c", "call missing", ["x"])], "c:output:0", "function-missing"),
        ([("c", "call f", [])], "c:output:0", "function-arity"),
        ([("c", "call g", ["x"])], "c:output:1", "function-arity"),
        ([("i", "Identity", [])], "i:output:0", "function-arity"),
        ([("i", "Identity", ["x", "x"])], "i:output:0", "function-arity"),
        ([("r", "ReadVariableOp", [])], "r:value:0", "function-arity"),
        ([("r", "ReadVariableOp", ["x"])], "r:value:0", "variable"),
        ([], "x:0", "function-missing"),
        ([], "", "function-missing"),
        ([("r", "Relu", ["y"])], "r:activations:0", "function-missing"),
    ],
)
def test_body_that_does_not_fit_is_refused(nodes: list[tuple[str, str, list[str]]], result: str, rule: str) -> None:
    """Missing functions, tensors and arguments are refused by rule."""
    assert rule == rule_of(define("g", [], "x"), define("f", nodes, result))


def test_attributes_come_as_python_values() -> None:
    """Strings, shapes, lists and functions are decoded; an empty value is None."""
    value = tf.compat.v1.AttrValue
    assert "NHWC" == decode_attribute(value(s=b"NHWC"))
    assert decode_attribute(value(b=True)) is True
    assert decode_attribute(value()) is None
    listed = value()
    listed.list.i.extend([1, -1])
    assert (1, -1) == decode_attribute(listed)
    shapes = value()
    shapes.list.shape.add().dim.add(size=3)
    assert ((3,),) == decode_attribute(shapes)
    assert (2,) == decode_attribute(value(shape=tf.TensorShape([2]).as_proto()))
    called = value()
    called.func.name = "g"
    assert "g" == decode_attribute(called)


def test_output_is_told_by_its_name_where_an_op_has_several() -> None:
    """The variance of a batch normalisation is its third output, not its first; an unknown name is no output."""
    assert [0, 2] == [output_number("FusedBatchNormV3", name, 0) for name in ("y", "batch_variance")]
    assert 3 == output_number("Split", "output", 3)
    for argument, index in (("batch_variance", 1), ("z", 0)):
        with pytest.raises(VersionRefusedError) as caught:
            output_number("FusedBatchNormV3", argument, index)
        assert "function-missing" == caught.value.rule
