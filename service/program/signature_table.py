"""The signature table of a SavedModel, and the check that it means what the object graph means.

TensorFlow's Python loader binds signatures through the object graph, TensorFlow Serving through the signature table
and the main graph. Both must call the same function on the same variables, or what is proved is not what is served.
Above: `graph`. Works on the parsed messages and needs no TensorFlow.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import VersionRefusedError
from service.program import safety


class SignatureTable:
    """The signature table with the main graph that it names.

    Args:
        meta_graph: the parsed meta graph.
        keys: checkpoint key of each variable, by its number in the object graph.
    """

    def __init__(self, meta_graph: Any, keys: Mapping[int, str]) -> None:
        """Index functions and nodes, and find which checkpoint key each variable handle is restored from."""
        self.functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}
        self._meta_graph = meta_graph
        self._concrete = meta_graph.object_graph_def.concrete_functions
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._keys = keys
        self._restored = self._restored_keys()

    def concrete_function(self, name: str) -> Any:
        """Return the saved concrete function of that name.

        Raises:
            VersionRefusedError: `function-missing`.
        """
        if name not in self._concrete:
            raise VersionRefusedError("function-missing", f"function {name} is not among the saved functions")
        return self._concrete[name]

    def checked(self, signature: str, function: str, argument: str, outputs: Sequence[str]) -> Any:
        """Return the SignatureDef of `signature` if it is the call of `function` that the object graph binds.

        Raises:
            VersionRefusedError: `signature-mismatch`, saying what differs.
        """
        declared = self._meta_graph.signature_def.get(signature)
        if declared is None:
            problem = "is missing from the signature table"
        elif sorted(declared.outputs) != list(outputs) or list(declared.inputs) != [argument]:
            problem = "has other inputs or outputs in the signature table than its function"
        else:
            problem = self._difference(declared, function, argument, outputs)
        if problem:
            raise VersionRefusedError("signature-mismatch", f"signature {signature} {problem}")
        return declared

    def _difference(self, declared: Any, function: str, argument: str, outputs: Sequence[str]) -> str:
        placeholder = declared.inputs[argument].name.split(":")[0]
        for index, output in enumerate(outputs):
            node_name, _, number = declared.outputs[output].name.partition(":")
            node = self._nodes.get(node_name)
            if node is None or node.op not in safety.CALLS or list(safety.called_functions(node)) != [function]:
                return "calls another function in the signature table"
            if int(number or "0") != index:
                return "orders its outputs differently in the signature table"
            if not self._feeds(node, placeholder, self._concrete[function].bound_inputs):
                return "binds other variables in the signature table"
        return ""

    def _feeds(self, node: Any, placeholder: str, bound: Sequence[int]) -> bool:
        """Whether the call is fed the placeholder and then, in order, handles restored as the bound variables are."""
        names = [name.split(":")[0] for name in node.input if not name.startswith("^")]
        if len(names) != 1 + len(bound) or names[0] != placeholder:
            return False
        if placeholder not in self._nodes or self._nodes[placeholder].op != "Placeholder":
            return False
        return all(
            name in self._restored and self._restored[name] == self._keys.get(position)
            for name, position in zip(names[1:], bound, strict=True)
        )

    def _restored_keys(self) -> dict[str, str]:
        """Return the checkpoint key that the saver's restore function assigns to each handle of the main graph."""
        restore = self._nodes.get(self._meta_graph.saver_def.restore_op_name)
        called = [] if restore is None else list(safety.called_functions(restore))
        if restore is None or len(called) != 1 or called[0] not in self.functions:
            return {}
        function = self.functions[called[0]]
        nodes = {node.name: node for node in function.node_def}
        handles = {
            argument.name: name.split(":")[0]
            for argument, name in zip(
                function.signature.input_arg, (name for name in restore.input if not name.startswith("^")), strict=False
            )
        }
        found: dict[str, str] = {}
        for node in function.node_def:
            if node.op != "AssignVariableOp" or node.input[0] not in handles:
                continue
            handle = handles[node.input[0]]
            key = _restored_key(node.input[1], nodes)
            if self._nodes[handle].op != "VarHandleOp" or key is None or found.setdefault(handle, key) != key:
                reason = "the saver's restore function assigns a variable in a way that is not understood"
                raise VersionRefusedError("signature-mismatch", reason)
        return found


def _restored_key(tensor: str, nodes: Mapping[str, Any]) -> str | None:
    """Return the checkpoint key behind a tensor of the restore function, through identities."""
    for _ in range(len(nodes) + 1):
        name, _, place = tensor.partition(":")
        node = nodes.get(name)
        if node is None:
            return None
        if node.op == "Identity":
            tensor = node.input[0]
            continue
        if node.op != "RestoreV2":
            return None
        names = nodes.get(node.input[1].split(":")[0])
        index = int(place.rpartition(":")[2])
        if names is None or names.op != "Const" or index >= len(names.attr["value"].tensor.string_val):
            return None
        return str(names.attr["value"].tensor.string_val[index].decode("utf-8", "replace"))
    return None
