"""The signature table of a SavedModel, and the check that it means what the object graph means.

TensorFlow's Python loader binds signatures through the object graph, TensorFlow Serving through the signature table
and the main graph. Both must call the same function on the same variables, or what is proved is not what is served.
Above: `graph`. Works on the parsed messages and needs no TensorFlow.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.errors import VersionRefusedError
from service.program import safety

RESTORE = frozenset({"AssignVariableOp", "Const", "DisableCopyOnRead", "Identity", "NoOp", "RestoreV2"})
"""Ops of the function that TensorFlow Serving runs to restore the variables; it reads one file and assigns."""


class SignatureTable:
    """The signature table with the main graph that it names.

    Args:
        meta_graph: the parsed meta graph.
        keys: checkpoint key of each variable, by its number in the object graph.
        aliases: checkpoint key -> another one under which the same value is saved, bit for bit. Keras saves each
            variable twice, and the two readers take one each.
    """

    def __init__(self, meta_graph: Any, keys: Mapping[int, str], aliases: Mapping[str, str] | None = None) -> None:
        """Index functions and nodes, and find which checkpoint key each variable handle is restored from."""
        self.functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}
        self._meta_graph = meta_graph
        self._concrete = meta_graph.object_graph_def.concrete_functions
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        same = aliases or {}
        self._keys = {position: same.get(key, key) for position, key in keys.items()}
        self._restored = {name: same.get(key, key) for name, key in self._restored_keys().items()}

    def concrete_function(self, name: str) -> Any:
        """Return the saved concrete function of that name.

        Raises:
            VersionRefusedError: `function-missing`.
        """
        if name not in self._concrete:
            raise VersionRefusedError("function-missing", f"function {name} is not among the saved functions")
        return self._concrete[name]

    def checked(self, signature: str, function: str, arguments: Sequence[str], outputs: Sequence[str]) -> Any:
        """Return the SignatureDef of `signature` if it is the call of `function` that the object graph binds.

        Raises:
            VersionRefusedError: `signature-mismatch`, saying what differs.
        """
        declared = self._meta_graph.signature_def.get(signature)
        if declared is None:
            problem = "is missing from the signature table"
        elif sorted(declared.outputs) != list(outputs) or sorted(declared.inputs) != sorted(arguments):
            problem = "has other inputs or outputs in the signature table than its function"
        else:
            problem = self._difference(declared, function, arguments, outputs)
        if problem:
            raise VersionRefusedError("signature-mismatch", f"signature {signature} {problem}")
        return declared

    def _difference(self, declared: Any, function: str, arguments: Sequence[str], outputs: Sequence[str]) -> str:
        placeholders = [declared.inputs[argument].name.split(":")[0] for argument in arguments]
        for index, output in enumerate(outputs):
            node_name, _, number = declared.outputs[output].name.partition(":")
            node = self._nodes.get(node_name)
            if node is None or node.op not in safety.CALLS or list(safety.called_functions(node)) != [function]:
                return "calls another function in the signature table"
            if (number or "0") != str(index):
                return "orders its outputs differently in the signature table"
            if not self._feeds(node, placeholders, self._concrete[function].bound_inputs):
                return "binds other variables in the signature table"
        return ""

    def _feeds(self, node: Any, placeholders: Sequence[str], bound: Sequence[int]) -> bool:
        """Whether the call is fed the placeholders and then handles restored as the bound variables are, in order."""
        names = [name.split(":")[0] for name in node.input if not name.startswith("^")]
        count = len(placeholders)
        if len(names) != count + len(bound) or names[:count] != list(placeholders) or len(set(placeholders)) != count:
            return False
        if any(name not in self._nodes or self._nodes[name].op != "Placeholder" for name in placeholders):
            return False
        return all(self._is_bound_to(name, position) for name, position in zip(names[count:], bound, strict=True))

    def _is_bound_to(self, name: str, position: int) -> bool:
        """Whether a node of the main graph has the value of an object of the object graph, for both readers."""
        objects = self._meta_graph.object_graph_def.nodes
        if not 0 <= position < len(objects):
            return False
        bound = objects[position]
        if bound.WhichOneof("kind") == "constant":
            return name == str(bound.constant.operation) and name in self._nodes and self._nodes[name].op == "Const"
        return self._restored[name] == self._keys.get(position) if name in self._restored else self._is_never_set(name)

    def _is_never_set(self, name: str) -> bool:
        """Whether a handle is of a variable that nothing sets where TensorFlow Serving loads the model.

        So `tf.saved_model.save` leaves a Keras model's: TensorFlow Serving answers with an error then, and never with
        another function than the one that the object graph binds.
        """
        node = self._nodes.get(name)
        if node is None or node.op != "VarHandleOp" or not node.attr["shared_name"].s:
            return False
        names = [other.attr["shared_name"].s or other.name.encode() for other in self._nodes.values()
                 if other.op == "VarHandleOp"]  # fmt: skip
        return names.count(node.attr["shared_name"].s) == 1

    def _restored_keys(self) -> dict[str, str]:
        """Return the checkpoint key that the saver's restore function assigns to each handle of the main graph."""
        saver = self._meta_graph.saver_def
        restore = self._nodes.get(saver.restore_op_name)
        if restore is None:
            return {}
        called = list(safety.called_functions(restore))
        function = self.functions.get(called[0]) if len(called) == 1 else None
        inputs = [name.split(":")[0] for name in restore.input if not name.startswith("^")]
        if function is None or len(inputs) != len(function.signature.input_arg) or not inputs:
            raise _not_understood()
        prefix, *arguments = [argument.name for argument in function.signature.input_arg]
        if inputs[0] != saver.filename_tensor_name.split(":")[0] or len(set(inputs)) != len(inputs):
            raise _not_understood()
        handles = dict(zip(arguments, inputs[1:], strict=True))
        self._require_own_resources(handles.values())
        return _assigned_keys(function, prefix, handles)

    def _require_own_resources(self, names: Iterable[str]) -> None:
        """Require that each handle is a variable of its own: two with one shared name are one variable.

        A container would tell them apart, but the one named `localhost` is the one without a name.
        """
        every = [node for node in self._nodes.values() if node.op == "VarHandleOp"]
        bearers = collections.Counter(node.attr["shared_name"].s for node in every)
        for name in names:
            node = self._nodes.get(name)
            if node is None or node.op != "VarHandleOp" or not node.attr["shared_name"].s:
                raise _not_understood()
            if bearers[node.attr["shared_name"].s] > 1:
                raise VersionRefusedError("signature-mismatch", "two variables of the main graph share one value")


def _not_understood() -> VersionRefusedError:
    reason = "the saver's restore function assigns a variable in a way that is not understood"
    return VersionRefusedError("signature-mismatch", reason)


def _assigned_keys(function: Any, prefix: str, handles: Mapping[str, str]) -> dict[str, str]:
    """Return which checkpoint key a restore function assigns to each handle; it may do nothing else."""
    nodes = {node.name: node for node in function.node_def}
    found: dict[str, str] = {}
    for node in function.node_def:
        if node.op not in RESTORE:
            raise _not_understood()
        if node.op != "AssignVariableOp":
            continue
        inputs = [name for name in node.input if not name.startswith("^")]
        key = _restored_key(inputs[1], nodes, prefix) if len(inputs) == 2 else None
        if key is None or inputs[0] not in handles or found.setdefault(handles[inputs[0]], key) != key:
            raise _not_understood()
    return found


def _restored_key(tensor: str, nodes: Mapping[str, Any], prefix: str) -> str | None:
    """Return the checkpoint key behind a tensor of the restore function, through identities, None where unclear."""
    for _ in range(len(nodes) + 1):
        name, *place = tensor.split(":")
        node = nodes.get(name)
        inputs = [] if node is None else [name for name in node.input if not name.startswith("^")]
        if node is not None and node.op == "Identity" and len(inputs) == 1:
            tensor = inputs[0]
            continue
        if node is None or node.op != "RestoreV2" or len(inputs) != 3 or inputs[0] != prefix:
            return None
        if len(place) != 2 or not place[1].isdigit():
            return None
        keys, slices = (_strings(nodes.get(name.split(":")[0])) for name in inputs[1:])
        index = int(place[1])
        if index >= len(keys) or any(slices) or len(slices) != len(keys):
            return None
        return keys[index].decode("utf-8", "replace")
    return None


def _strings(node: Any) -> list[bytes]:
    """Return the strings of a Const node, none where it is not written out in full."""
    if node is None or node.op != "Const":
        return []
    tensor = node.attr["value"].tensor
    sizes = [dimension.size for dimension in tensor.tensor_shape.dim]
    return list(tensor.string_val) if sizes == [len(tensor.string_val)] else []
