"""Other files of the same function: every name changed, nodes and functions in another order, two more calls around it.

Works on the parsed saved_model.pb. A verdict must not depend on any of it.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

CALL = "StatefulPartitionedCall"

Change = Callable[[Any], None]


def renamed(message: Any) -> None:
    """Give every function, node, argument, variable and handle another name, consistently."""
    graph = message.meta_graphs[0].graph_def
    functions = {function.signature.name: f"f{i}" for i, function in enumerate(graph.library.function)}
    for function in graph.library.function:
        _rename_function(function)
    main = {node.name: f"n{i}" for i, node in enumerate(graph.node)}
    _rename_nodes(graph.node, main)
    _rename_main(message.meta_graphs[0], main)
    for node in itertools.chain(graph.node, *(function.node_def for function in graph.library.function)):
        _rename_calls(node, functions)
        if node.op == "VarHandleOp":
            node.attr["shared_name"].s = f"handle of {node.name}".encode()
    for function in graph.library.function:
        function.signature.name = functions[function.signature.name]
        _rename_backward(function, functions)
    for gradient in graph.library.registered_gradients:
        gradient.gradient_func = functions[gradient.gradient_func]
    _rename_objects(message.meta_graphs[0].object_graph_def, functions, main)


def _rename_function(function: Any) -> None:
    names = {argument.name: f"a{i}" for i, argument in enumerate(function.signature.input_arg)}
    names |= {node.name: f"n{i}" for i, node in enumerate(function.node_def)}
    _rename_nodes(function.node_def, names)
    for argument in function.signature.input_arg:
        argument.name = names[argument.name]
    returned = {f"o{i}": function.ret[output.name] for i, output in enumerate(function.signature.output_arg)}
    function.ret.clear()
    for i, output in enumerate(function.signature.output_arg):
        output.name = f"o{i}"
        function.ret[output.name] = _translated(returned[output.name], names)
    for key in list(function.control_ret):
        function.control_ret[key] = names[function.control_ret[key]]


def _rename_nodes(nodes: Any, names: Mapping[str, str]) -> None:
    for node in nodes:
        node.name = names[node.name]
        node.input[:] = [_translated(source, names) for source in node.input]
        if "_class" in node.attr:
            del node.attr["_class"]


def _translated(tensor: str, names: Mapping[str, str]) -> str:
    control = "^" if tensor.startswith("^") else ""
    name, *place = tensor.removeprefix("^").split(":")
    return ":".join([control + names[name], *place])


def _rename_calls(node: Any, functions: Mapping[str, str]) -> None:
    for attribute in node.attr.values():
        for function in [attribute.func] if attribute.HasField("func") else attribute.list.func:
            function.name = functions[function.name]


def _rename_backward(function: Any, functions: Mapping[str, str]) -> None:
    for key in ("forward_function_name", "backward_function_name"):
        if key in function.attr:
            name = function.attr[key].s.decode()
            function.attr[key].s = functions.get(name, name).encode()


def _rename_main(meta_graph: Any, names: Mapping[str, str]) -> None:
    saver = meta_graph.saver_def
    for field in ("filename_tensor_name", "save_tensor_name", "restore_op_name"):
        if getattr(saver, field):
            setattr(saver, field, _translated(getattr(saver, field), names))
    for signature in meta_graph.signature_def.values():
        for information in (*signature.inputs.values(), *signature.outputs.values()):
            information.name = _translated(information.name, names)
    for collection in meta_graph.collection_def.values():
        collection.node_list.value[:] = [_translated(name, names) for name in collection.node_list.value]


def _rename_objects(objects: Any, functions: Mapping[str, str], main: Mapping[str, str]) -> None:
    concrete = {name: _copy(value) for name, value in objects.concrete_functions.items()}
    objects.concrete_functions.clear()
    for name, value in concrete.items():
        objects.concrete_functions[functions[name]].CopyFrom(value)
    for position, node in enumerate(objects.nodes):
        kind = node.WhichOneof("kind")
        if kind == "bare_concrete_function":
            name = node.bare_concrete_function.concrete_function_name
            node.bare_concrete_function.concrete_function_name = functions[name]
        elif kind == "function":
            node.function.concrete_functions[:] = [functions[name] for name in node.function.concrete_functions]
        elif kind == "variable":
            node.variable.name = f"variable{position}"
        elif kind == "constant":
            node.constant.operation = main[node.constant.operation]


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def reordered(message: Any, seed: int = 0) -> None:
    """Put the nodes of every function, the functions, and the nodes of the main graph in another order."""
    generator = np.random.default_rng(seed)
    graph = message.meta_graphs[0].graph_def
    for items in (graph.node, graph.library.function, *(function.node_def for function in graph.library.function)):
        shuffled = [_copy(items[i]) for i in generator.permutation(len(items))]
        del items[:]
        items.extend(shuffled)


def wrapped(message: Any, times: int = 2) -> None:
    """Let every signature call a function that calls a function that calls what it called before."""
    meta_graph = message.meta_graphs[0]
    objects = meta_graph.object_graph_def
    signatures = next(child.node_id for child in objects.nodes[0].children if child.local_name == "signatures")
    for child in objects.nodes[signatures].children:
        bound = objects.nodes[child.node_id].bare_concrete_function
        for _ in range(times):
            inner = bound.concrete_function_name
            outer = _wrap(meta_graph.graph_def.library, inner)
            objects.concrete_functions[outer].CopyFrom(objects.concrete_functions[inner])
            for output in meta_graph.signature_def[child.local_name].outputs.values():
                name = output.name.split(":")[0]
                node = next(node for node in meta_graph.graph_def.node if node.name == name)
                node.attr["f"].func.name = outer
            bound.concrete_function_name = outer


def _wrap(library: Any, inner: str) -> str:
    definition = next(function for function in library.function if function.signature.name == inner)
    outer = library.function.add()
    outer.signature.CopyFrom(definition.signature)
    outer.signature.name = f"{inner}_wrapped"
    del outer.signature.control_output[:]
    for index, attributes in definition.arg_attr.items():
        outer.arg_attr[index].CopyFrom(attributes)
    call = outer.node_def.add(name="wrapped_call", op=CALL)
    call.attr["f"].func.name = inner
    for argument in outer.signature.input_arg:
        call.input.append(argument.name)
        call.attr["Tin"].list.type.append(argument.type)
    for i, output in enumerate(outer.signature.output_arg):
        call.attr["Tout"].list.type.append(output.type)
        through = outer.node_def.add(name=f"through_{i}", op="Identity", input=[f"wrapped_call:output:{i}"])
        through.attr["T"].type = output.type
        outer.ret[output.name] = f"through_{i}:output:0"
    return outer.signature.name


def all_three(message: Any) -> None:
    """Wrap, rename and reorder."""
    wrapped(message)
    renamed(message)
    reordered(message)


CHANGES: dict[str, Change] = {
    "renamed": renamed, "reordered": reordered, "wrapped": wrapped, "all three": all_three,
}  # fmt: skip
