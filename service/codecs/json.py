"""The native JSON request and answer.

Strict by orjson (no NaN, no bytes after the document, depth capped, UTF-8 only; the last of two equal keys wins), and
then by type: nothing but a number is ever taken for one. Above: `rest`. Below: `signature` and `errors`.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from service.codecs.decimals import settle_tie, unambiguous
from service.codecs.structure import check_structure, count_byte
from service.errors import InvalidArgumentError, PayloadTooLargeError
from service.signature import CONTEXT, Signature

_Kind = TypeVar("_Kind")

MAX_VERSION = (1 << 63) - 1

_FIELDS = ("instances", "context", "outputs", "version", "label")
_NUMBERS = frozenset({float, int})
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    NoneType: "null",
    int: "a number",
    float: "a number",
}
_MAX_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """The fields of a native request, each of the right type; which version they mean is not known yet.

    Args:
        instances: the list under `instances`, elements unchecked.
        outputs: names of the outputs, or None where the field is missing.
        version: version number, 1 to 2^63 - 1, or None.
        label: version label, or None.
        context: the list under `context`, elements unchecked, or None where the field is missing.
        has_numbers_alone: whether nothing but numbers and lists stands in both lists.
    """

    instances: list[object]
    outputs: tuple[str, ...] | None = None
    version: int | None = None
    label: str | None = None
    context: list[object] | None = None
    has_numbers_alone: bool = False


def decode_request(body: bytes, max_rows: int) -> ScoreRequest:
    """Return the request that a JSON body holds.

    Memory: at most 14 times a large body, while it runs (see `structure`).

    Args:
        body: the document.
        max_rows: largest number of instances of one request.

    Raises:
        InvalidArgumentError: not JSON, not an object, an unknown or missing field, a field of another type.
        PayloadTooLargeError: more than `max_rows` instances.
    """
    check_structure(body, max_rows)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"body: not JSON: {error.msg}, at line {error.lineno} column {error.colno}. Send a JSON object."
        raise InvalidArgumentError(message) from error
    if type(document) is not dict:
        message = f'body: expected a JSON object, received {_KINDS[type(document)]}. Send {{"instances": [[...]]}}.'
        raise InvalidArgumentError(message)
    for field in document:
        if field not in _FIELDS:
            raise InvalidArgumentError(f"body: unknown field {unknown_name(field, _FIELDS)}")
    if "instances" not in document:
        message = "body: the field 'instances' is missing. Send a list of instances, one list of numbers each."
        raise InvalidArgumentError(message)
    instances = _checked(document, "instances", list, "a list of instances")
    if len(instances) > max_rows:
        message = f"instances: received {len(instances)} instances, at most {max_rows} in one request. Split it."
        raise PayloadTooLargeError(message)
    return ScoreRequest(
        instances=instances,
        outputs=_output_names(document) if "outputs" in document else None,
        version=_version(document) if "version" in document else None,
        label=_checked(document, "label", str, "a string") if "label" in document else None,
        context=_checked(document, CONTEXT, list, "a list, one list of numbers for each instance")
        if CONTEXT in document
        else None,
        has_numbers_alone=_has_numbers_alone(body, document),
    )


def decode_both(request: ScoreRequest, signature: Signature) -> NDArray[np.floating]:
    """Return the rows of a request, float64 [n, width]: its instances, and the context of each behind it.

    Raises:
        InvalidArgumentError: as `decode_rows`, of either; a context is missing, or not taken, or not one for each.
    """
    are_numbers = request.has_numbers_alone
    x, context = decode_rows(request.instances, signature, are_numbers=are_numbers), None
    if request.context is not None:
        context = np.empty((0, 0))
        if signature.context_dim > 0:
            context = decode_rows(request.context, signature.of_context(), CONTEXT, are_numbers=are_numbers)
    return signature.joined(x, context)


def decode_rows(
    instances: Sequence[object], signature: Signature, name: str = "instances", *, are_numbers: bool = False
) -> NDArray[np.float64]:
    """Return instances as rows.

    Args:
        instances: each a list of numbers, or an object by feature name where the model has names.
        signature: of the version that is asked.
        name: what the request calls them, for the error's location.
        are_numbers: whether it is known that they hold nothing but numbers and lists.

    Returns:
        float64 [n, width]. All instances have the same width, but `signature.validate` compares it with `dim`; no
        instance at all is [0, dim]. Possibly not finite in float32.

    Raises:
        InvalidArgumentError: an instance of another kind, ragged instances, anything but a number, an unknown or a
            missing feature: each by its position.
    """
    if not instances:
        return np.empty((0, signature.dim))
    rows = [_row(instance, f"{name}[{index}]", signature) for index, instance in enumerate(instances)]
    widths = set(map(len, rows))
    if len(widths) > 1:
        index = next(index for index, row in enumerate(rows) if len(row) != signature.dim)
        message = f"{name}[{index}]: expected {signature.dim} numbers, received {len(rows[index])}."
        raise InvalidArgumentError(message)
    if not are_numbers and not _NUMBERS.issuperset(map(type, chain.from_iterable(rows))):
        raise _not_a_number(rows, name)
    width = widths.pop()
    try:
        values = np.fromiter(chain.from_iterable(rows), dtype=np.float64, count=len(rows) * width)
    except (TypeError, ValueError):  # a list, or an object without keys, in the place of a number
        raise _not_a_number(rows, name) from None
    return settle_tie(values).reshape(len(rows), width)


def encode_answer(signature: Signature, outputs: Mapping[str, NDArray[np.floating]]) -> bytes:
    """Return the answer's JSON; each float32 as the shortest decimal that reads back to it.

    Args:
        signature: of the version that answered.
        outputs: name -> finite float32 array, in the order to print.
    """
    arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in outputs.items()}
    body = orjson.dumps(
        {"model": signature.model, "version": signature.version, **arrays}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    return unambiguous(body, arrays.values())


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return how an error names an unknown name, its nearest known one and all that there are (at most ten)."""
    names = list(known)
    nearest = difflib.get_close_matches(name[:_MAX_SHOWN], names, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"'{name[:_MAX_SHOWN]}'.{hint} Known: {listed}."


def _checked(document: Mapping[str, object], field: str, kind: type[_Kind], expected: str) -> _Kind:
    value = document[field]
    if type(value) is not kind:
        raise InvalidArgumentError(f"{field}: expected {expected}, received {_KINDS[type(value)]}.")
    return value


def _has_numbers_alone(body: bytes, document: Mapping[str, object]) -> bool:
    """Whether no text, boolean or null stands in a document but the texts that its fields were found to be.

    A text more would have two quotes more, `true` and `null` a u, `false` an f: they are counted in a tenth of the time
    of a look at the kind of each number. True only where it is sure; where something is escaped it is not.

    Args:
        body: the document, UTF-8.
        document: the same, of known fields of the right types.
    """
    outputs, label = document.get("outputs"), document.get("label")
    texts = [*document, *(outputs if isinstance(outputs, list) else ()), *([label] if isinstance(label, str) else ())]
    known = "".join(texts)
    return (
        b"\\" not in body
        and count_byte(body, b'"') == 2 * len(texts)
        and count_byte(body, b"u") == known.count("u")
        and count_byte(body, b"f") == known.count("f")
    )


def _output_names(document: Mapping[str, object]) -> tuple[str, ...]:
    names = _checked(document, "outputs", list, "a list of output names")
    for index, name in enumerate(names):
        if type(name) is not str:
            message = f"outputs[{index}]: expected the name of an output, received {_KINDS[type(name)]}."
            raise InvalidArgumentError(message)
    return tuple(names)


def _version(document: Mapping[str, object]) -> int:
    version = document["version"]
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        received = "a number outside of that" if type(version) in _NUMBERS else _KINDS[type(version)]
        message = f"version: expected a whole number from 1 to {MAX_VERSION}, received {received}."
        raise InvalidArgumentError(message)
    return version


def _row(instance: object, place: str, signature: Signature) -> list[object]:
    if type(instance) is list:
        return instance
    if type(instance) is not dict:
        by_name = " or an object by feature name" if signature.features else ""
        message = f"{place}: expected a list of {signature.dim} numbers{by_name}, received {_KINDS[type(instance)]}."
        raise InvalidArgumentError(message)
    if not signature.features:
        message = (
            f"{place}: received an object, but model {signature.model} version {signature.version} has no "
            f"feature names. Send a list of {signature.dim} numbers."
        )
        raise InvalidArgumentError(message)
    if len(instance) != signature.dim or any(name not in instance for name in signature.features):
        raise _feature_error(instance, place, signature)
    return [instance[name] for name in signature.features]


def _feature_error(instance: Mapping[str, object], place: str, signature: Signature) -> InvalidArgumentError:
    known = frozenset(signature.features)
    unknown = next((name for name in instance if name not in known), None)
    if unknown is not None:
        found = f"unknown feature {unknown_name(unknown, signature.features)}"
    else:
        missing = next(name for name in signature.features if name not in instance)
        found = f"the feature '{missing[:_MAX_SHOWN]}' is missing. Send all {signature.dim} features."
    return InvalidArgumentError(f"{place}: {found}")


def _not_a_number(rows: Sequence[Sequence[object]], name: str) -> InvalidArgumentError:
    index, column, kind = next(
        (index, column, type(value))
        for index, row in enumerate(rows)
        for column, value in enumerate(row)
        if type(value) not in _NUMBERS
    )
    return InvalidArgumentError(f"{name}[{index}][{column}]: expected a number, received {_KINDS[kind]}.")
