"""The object graph of a SavedModel: what its objects may be, and which checkpoint key restores each variable.

TensorFlow's Python loader builds objects from it, sets them as attributes of each other by name, and restores
variables along those names. Only graphs for which there is one reading are let through. Above: `graph`; works on the
parsed messages and needs no TensorFlow.
"""

import collections
import re
from collections.abc import Sequence
from typing import Any

from service.errors import VersionRefusedError

USER_OBJECTS = frozenset(
    {
        "_generic_user_object", "signature_map", "trackable_dict_wrapper", "trackable_list_wrapper",
        "trackable_tuple_wrapper",
    }
)  # fmt: skip
"""Plain objects of the object graph. Anything else (hash table, asset, Keras 2 object) has behaviour of its own."""

CONSTANT = "tf.TrackableConstant"
"""The one registered class that is let through: a constant that a function has captured, as TensorFlow writes it."""

_NUMBERED = frozenset({"trackable_list_wrapper", "trackable_tuple_wrapper"})
_ATTRIBUTES = "/.ATTRIBUTES/"
_VALUE = "VARIABLE_VALUE"
_PLACE = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_FUNCTIONS = {"function": re.compile(r"trace_[0-9]{1,9}"), "bare_concrete_function": re.compile(r"capture_[0-9]{1,9}")}
"""How TensorFlow names the children of functions; the loader sets them as attributes and reads none of them."""


def check(object_graph: Any, reserved: frozenset[str]) -> None:
    """Refuse an object graph that holds anything but variables, functions, constants and plain objects.

    Args:
        object_graph: parsed `tensorflow.SavedObjectGraph`.
        reserved: attributes that every object of TensorFlow has: a child of such a name would replace a method.

    Raises:
        VersionRefusedError: rule `object-graph`.
    """
    if object_graph.nodes[0].user_object.identifier != "_generic_user_object":
        raise VersionRefusedError("object-graph", "the first object of the model is not a plain object")
    for position, node in enumerate(object_graph.nodes):
        _check_kind(position, node)
        _check_children(position, node, len(object_graph.nodes))
        for child in node.children:
            _check_name(position, node, child, reserved)


def _check_kind(position: int, node: Any) -> None:
    kind = node.WhichOneof("kind")
    plain = kind in {"variable", "function", "bare_concrete_function", "constant"} or (
        kind == "user_object" and node.user_object.identifier in USER_OBJECTS
    )
    named = node.registered_name and not (kind == "constant" and node.registered_name == CONSTANT)
    if not plain or named or node.HasField("serialized_user_proto"):
        what = node.registered_name or (node.user_object.identifier if kind == "user_object" else kind)
        reason = f"object {position} of the model is a {what}, not a variable, function, constant or plain object"
        raise VersionRefusedError("object-graph", reason)
    if node.saveable_objects or node.registered_saver or node.slot_variables:
        reason = f"object {position} of the model restores itself in its own way; only plain variables may be restored"
        raise VersionRefusedError("object-graph", reason)
    if kind == "variable" and node.variable.experimental_distributed_variable_components:
        raise VersionRefusedError("object-graph", f"variable {position} of the model is in several parts")


def _check_children(position: int, node: Any, count: int) -> None:
    names = [child.local_name for child in node.children]
    inside = all(0 <= child.node_id < count for child in (*node.children, *node.dependencies))
    if not inside or len(set(names)) != len(names):
        reason = f"object {position} of the model has a child that does not exist, or two of one name"
        raise VersionRefusedError("object-graph", reason)


def _check_name(position: int, node: Any, child: Any, reserved: frozenset[str]) -> None:
    name = child.local_name
    kind = node.WhichOneof("kind")
    if kind == "user_object" and node.user_object.identifier in _NUMBERED:
        good = _PLACE.fullmatch(name) is not None
    elif kind == "user_object" and node.user_object.identifier == "_generic_user_object":
        good = name == "__call__" or not (name in reserved or name.startswith(("__", "_self_")))
    else:
        good = kind == "user_object" or (kind in _FUNCTIONS and _FUNCTIONS[kind].fullmatch(name) is not None)
    if not good:
        raise VersionRefusedError("object-graph", f"object {position} of the model has a child named {name[:80]!a}")


def restored_keys(object_graph: Any, saved: Any) -> dict[int, str]:
    """Return the checkpoint key of each variable's object, matched as TensorFlow restores it.

    Both object graphs are walked from the root along equal names.

    Args:
        object_graph: the SavedModel's, which `check` has passed.
        saved: the checkpoint's own, `tensorflow.TrackableObjectGraph`.

    Raises:
        VersionRefusedError: `variable`, where there is more than one way to match, or a value that is restored in
            another way than whole and under its own name.
    """
    _check_saved(saved.nodes)
    pairs: dict[int, int] = {}
    waiting = [(0, 0)]
    while waiting:
        node, counterpart = waiting.pop()
        if pairs.setdefault(node, counterpart) != counterpart:
            raise VersionRefusedError("variable", f"object {node} of the model is saved under two identities")
        children = {child.local_name: child.node_id for child in saved.nodes[counterpart].children}
        waiting.extend(
            (child.node_id, children[child.local_name])
            for child in object_graph.nodes[node].children
            if child.local_name in children and pairs.get(child.node_id) != children[child.local_name]
        )
    keys = {node: key for node, counterpart in pairs.items() if (key := _key(saved.nodes[counterpart])) is not None}
    for what, values in (("object", pairs.values()), ("value", keys.values())):
        if any(count > 1 for count in collections.Counter(values).values()):
            raise VersionRefusedError("variable", f"two objects of the model are restored from one saved {what}")
    return keys


def _check_saved(nodes: Sequence[Any]) -> None:
    """Require that the checkpoint's own object graph has one reading, too."""
    if not nodes:
        raise VersionRefusedError("variable", "the checkpoint names no objects")
    for node in nodes:
        names = [child.local_name for child in node.children]
        inside = all(0 <= child.node_id < len(nodes) for child in node.children)
        if not inside or len(set(names)) != len(names):
            reason = "an object of the checkpoint has a child that does not exist, or two of one name"
            raise VersionRefusedError("variable", reason)


def _key(node: Any) -> str | None:
    """Return the checkpoint key of a saved object's value, None where it has none.

    TensorFlow takes the key up to `.ATTRIBUTES/` and appends the name, so only keys of that very form are read alike.
    """
    if node.HasField("registered_saver"):
        raise VersionRefusedError("variable", "an object of the checkpoint is restored by a saver of its own")
    if not node.attributes:
        return None
    key = str(node.attributes[0].checkpoint_key)
    plain = len(node.attributes) == 1 and node.attributes[0].name == _VALUE
    if not plain or key.count(".ATTRIBUTES/") != 1 or not key.endswith(_ATTRIBUTES + _VALUE):
        raise VersionRefusedError("variable", f"a value of the checkpoint has the unusual key {key[:80]!a}")
    return key
