"""Functions inlined: from a library of function definitions to one list of nodes for one output.

Above: `graph` binds the file's functions and variables and asks here; below: `lifting` reads the result. Works on the
parsed messages and needs no TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.safety import CALLS, CHOICES, MAX_DEPTH, MAX_NODES

MAX_INLINED_BYTES = 2 * 1024 * 1024 * 1024
MAX_CALLS = 10_000


@dataclasses.dataclass(frozen=True)
class Reference:
    """Output number `output` of the inlined node number `node`."""

    node: int
    output: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class GraphNode:
    """One op of the inlined graph.

    Args:
        name: the op's name with its callers' names in front.
        op: TensorFlow's op type; `Input` for x, `Context` for the context, `Examples` for serialized examples,
            `Handle` for a variable that was not read yet, `Constant` for a constant or a variable's value.
        inputs: what it reads.
        attributes: its attributes as Python values.
        value: of `Constant` and `Handle`.
        label: the variable's name, where the value comes from one.
    """

    name: str
    op: str
    inputs: tuple[Reference, ...] = ()
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    value: NDArray[Any] | None = None
    label: str = ""


@dataclasses.dataclass(frozen=True)
class InlinedGraph:
    """Nodes in an order in which each reads earlier ones, and the output asked for."""

    nodes: tuple[GraphNode, ...]
    output: Reference


def decode_attribute(value: Any) -> Any:
    """Return an AttrValue as a Python value; a shape as a tuple, a list as a tuple, a tensor as its message."""
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return None
        case "s":
            return value.s.decode("utf-8", "replace")
        case "shape":
            return tuple(dimension.size for dimension in value.shape.dim)
        case "list":
            entries = value.list
            if entries.shape:
                return tuple(tuple(dimension.size for dimension in shape.dim) for shape in entries.shape)
            return tuple(entries.i) or tuple(entries.type) or tuple(entries.f) or tuple(entries.s)
        case "func":
            return value.func.name
        case _:
            return getattr(value, kind)


OUTPUTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        ("y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2", "reserve_space_3"),
    ),
    "BroadcastGradientArgs": ("r0", "r1"),
    "Unique": ("y", "idx"),
    "TopKV2": ("values", "indices"),
}
"""The names of the outputs of ops that have several, one tensor each, in order. Any other op has one name."""


def output_number(op: str, argument: str, index: int) -> int:
    """Return which output of an op `argument:index` is."""
    names = OUTPUTS.get(op)
    if names is None:
        return index
    if argument not in names or index != 0:
        raise VersionRefusedError("function-missing", f"output {argument}:{index} of an op {op} is not defined")
    return names.index(argument)


class Inliner:
    """Inlines calls while it walks back from an output; only what the output needs is visited.

    Args:
        functions: function definitions by name.
        decode_constant: TensorProto message -> array, sizes checked.

    The calls are counted, not only the nodes: functions that do nothing but call each other twice, forty deep, would
    keep it busy for ever.
    """

    def __init__(self, functions: Mapping[str, Any], decode_constant: Callable[[Any], NDArray[Any]]) -> None:
        """Start with no nodes."""
        self._functions = functions
        self._decode_constant = decode_constant
        self._nodes: list[GraphNode] = []
        self._node_by_name: dict[str, dict[str, Any]] = {}
        self._constants: dict[tuple[str, str], NDArray[Any]] = {}
        self._calls = 0
        self._bytes = 0

    def add(self, node: GraphNode) -> Reference:
        """Append a node.

        Raises:
            VersionRefusedError: `size-limit`, beyond `MAX_NODES` nodes or `MAX_INLINED_BYTES` of constants.
        """
        self._bytes += 0 if node.value is None else int(node.value.nbytes)
        if len(self._nodes) >= MAX_NODES or self._bytes > MAX_INLINED_BYTES:
            reason = f"over {MAX_NODES} nodes or {MAX_INLINED_BYTES} bytes of constants after inlining"
            raise VersionRefusedError("size-limit", reason)
        self._nodes.append(node)
        return Reference(len(self._nodes) - 1)

    def run(self, function: str, arguments: Sequence[Reference], output: int) -> InlinedGraph:
        """Return the graph of output number `output` of `function` applied to `arguments`.

        Raises:
            VersionRefusedError: `function-missing`, `function-arity`, `depth-limit`, `cycle`, `size-limit`.
        """
        result = _Frame(self, function, tuple(arguments), prefix="", depth=0).result(output)
        return InlinedGraph(tuple(self._nodes), result)

    def _call(self, name: str) -> tuple[Any, Mapping[str, Any]]:
        """Return a function's definition and its nodes by name, and count the call."""
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise VersionRefusedError("size-limit", f"over {MAX_CALLS} calls of functions")
        if name not in self._functions:
            raise VersionRefusedError("function-missing", f"function {name} is called but not defined")
        definition = self._functions[name]
        if name not in self._node_by_name:
            self._node_by_name[name] = {node.name: node for node in definition.node_def}
        return definition, self._node_by_name[name]

    def _constant(self, function: str, node: Any) -> NDArray[Any]:
        """Return a Const node's array; however often its function is called, it is one array."""
        place = (function, node.name)
        if place not in self._constants:
            self._constants[place] = self._decode_constant(node.attr["value"].tensor)
        return self._constants[place]


class _Frame:
    """One call of one function: its arguments, and what is known of its tensors."""

    def __init__(
        self, inliner: Inliner, function: str, arguments: tuple[Reference, ...], *, prefix: str, depth: int
    ) -> None:
        if depth > MAX_DEPTH:
            raise VersionRefusedError("depth-limit", f"functions call each other over {MAX_DEPTH} deep")
        self._inliner = inliner
        self._definition, self._node_by_name = inliner._call(function)
        self._function = function
        self._prefix = prefix
        self._depth = depth
        names = [argument.name for argument in self._definition.signature.input_arg]
        if len(names) != len(arguments):
            reason = f"function {function} takes {len(names)} arguments and is given {len(arguments)}"
            raise VersionRefusedError("function-arity", reason)
        self._known: dict[str, Reference] = dict(zip(names, arguments, strict=True))
        self._calls: dict[str, _Frame] = {}
        self._bases: dict[str, int] = {}

    def result(self, output: int) -> Reference:
        """Return the function's output number `output`."""
        outputs = self._definition.signature.output_arg
        if not 0 <= output < len(outputs):
            raise VersionRefusedError(
                "function-arity", f"function {self._definition.signature.name} has no output {output}"
            )
        return self._resolve(self._definition.ret[outputs[output].name])

    def _resolve(self, wanted: str) -> Reference:
        waiting = [wanted]
        open_tensors: set[str] = set()
        while waiting:
            tensor = waiting[-1]
            if tensor in self._known:
                waiting.pop()
                continue
            node, output = self._producer(tensor)
            missing = [name for name in _data_inputs(node) if name not in self._known]
            if missing:
                if tensor in open_tensors:
                    raise VersionRefusedError("cycle", f"node {node.name} of the graph depends on itself")
                open_tensors.add(tensor)
                waiting.extend(missing)
                continue
            self._known[tensor] = self._emit(node, output)
            waiting.pop()
        return self._known[wanted]

    def _producer(self, tensor: str) -> tuple[Any, int]:
        """Return the node and the output number that a function-body tensor name `node:argument:index` means."""
        parts = tensor.split(":")
        node = self._node_by_name.get(parts[0])
        if node is None or len(parts) != 3 or not parts[2].isdigit():
            reason = f"tensor {tensor[:80]} of function {self._definition.signature.name} is not defined"
            raise VersionRefusedError("function-missing", reason)
        return node, output_number(node.op, parts[1], int(parts[2]))

    def _emit(self, node: Any, output: int) -> Reference:
        inputs = tuple(self._known[name] for name in _data_inputs(node))
        name = f"{self._prefix}{node.name}"
        if node.op in CALLS:
            return self._call(node.name, node.attr["f"].func.name, inputs).result(output)
        if node.op in CHOICES:
            return self._call(node.name, self._chosen(node, inputs), inputs[1:]).result(output)
        if node.op in {"Identity", "ReadVariableOp"}:
            if len(inputs) != 1:
                raise VersionRefusedError("function-arity", f"node {name} reads {len(inputs)} tensors, expected one")
            return inputs[0] if node.op == "Identity" else self._read(name, inputs[0])
        if node.op == "Const":
            value = self._inliner._constant(self._function, node)
            return self._inliner.add(GraphNode(name, "Constant", value=value, label=name))
        if node.name not in self._bases:
            attributes = {key: decode_attribute(value) for key, value in node.attr.items() if not key.startswith("_")}
            self._bases[node.name] = self._inliner.add(GraphNode(name, node.op, inputs, attributes)).node
        return Reference(self._bases[node.name], output)

    def _call(self, name: str, function: str, arguments: tuple[Reference, ...]) -> "_Frame":
        """Return the one call that node `name` makes."""
        if name not in self._calls:
            self._calls[name] = _Frame(self._inliner, function, arguments, prefix=self._prefix, depth=self._depth + 1)
        return self._calls[name]

    def _chosen(self, node: Any, inputs: tuple[Reference, ...]) -> str:
        """Return the function that an If or a Case calls: always the same, because a constant says which.

        Raises:
            VersionRefusedError: `control-flow`, where it is no constant of the graph.
        """
        choice = self._inliner._nodes[inputs[0].node] if inputs else None
        is_constant = choice is not None and choice.op == "Constant" and choice.label == choice.name  # of no variable
        value = choice.value if choice is not None and is_constant else None
        if value is None or value.shape != () or value.dtype.kind not in "biuf":
            reason = f"{node.op} {self._prefix}{node.name} chooses by something that is no constant"
            raise VersionRefusedError("control-flow", f"{reason}. Choose before the export, or by a maximum.")
        if "Case" in node.op:
            branches = [function.name for function in node.attr["branches"].list.func]
            index = int(value) if 0 <= int(value) < len(branches) else len(branches) - 1
            return branches[index] if branches else ""
        return str(node.attr["then_branch" if value else "else_branch"].func.name)

    def _read(self, name: str, variable: Reference) -> Reference:
        handle = self._inliner._nodes[variable.node]
        if handle.op != "Handle":
            raise VersionRefusedError("variable", f"node {name} reads a variable that is not one of the model's")
        return self._inliner.add(GraphNode(name, "Constant", value=handle.value, label=handle.label))


def _data_inputs(node: Any) -> list[str]:
    return [name for name in node.input if not name.startswith("^")]
