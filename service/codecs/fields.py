"""What a PredictRequest may be made of, counted on the wire before protobuf builds anything of it.

A field of two bytes may become a message of two hundred: 64 MiB of empty `inputs` take 5.5 GiB once parsed, whatever
the decoder of tensors refuses later. The values of a tensor, which are what makes an honest message large, take what
they take on the wire. So of a large message everything else is bounded, by one walk along its fields. Above: `rpc`.
Below: `errors`.
"""

import re
from collections.abc import Mapping

from service.errors import InvalidArgumentError

SMALL_BYTES = 1 << 16
"""Messages up to this size are not walked: whatever they hold, they take some 6 MiB at most."""

_MAX_FIELDS = 4096
_VARINT, _LENGTH = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_GROUPS = (3, 4)  # begin and end: marks without a length, parsed as unknown fields

# Which fields hold fields of their own, from a PredictRequest down to a tensor's dimensions.
_Fields = Mapping[int, "_Fields"]
_TENSOR: _Fields = {2: {2: {}}}  # tensor_shape -> dim
_REQUEST: _Fields = {2: {2: _TENSOR}}  # inputs -> value

_VALUES = frozenset({4, 5, 6})  # of a tensor: tensor_content, float_val, double_val
_SINGLE_VALUES = re.compile(rb"(?:\x2d.{4}|\x31.{8})++", re.DOTALL)  # float_val and double_val that are not packed


def check_small(data: bytes) -> None:
    """Refuse a message of a kind that is never large.

    Raises:
        InvalidArgumentError: it has more than `SMALL_BYTES`.
    """
    if len(data) > SMALL_BYTES:
        message = f"the message has {len(data)} bytes, expected at most {SMALL_BYTES}. Send only what it is for."
        raise InvalidArgumentError(message)


def check_predict_request(data: bytes) -> None:
    """Refuse a large message that is large by anything but the values of its tensors.

    Time is that of at most 4096 fields, and linear in the size for values sent one by one. What is no protobuf at all
    may pass: the parser says so.

    Args:
        data: a serialized PredictRequest.

    Raises:
        InvalidArgumentError: more than 4096 fields, or more than 64 KiB beside the values.
    """
    if len(data) > SMALL_BYTES:
        _Walk(data).walk(0, len(data), _REQUEST)


class _Walk:
    """One walk over one message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._num_fields = 0
        self._other_bytes = 0

    def walk(self, position: int, end: int, inner: _Fields) -> None:
        """Count the fields from `position` to `end`; `inner` names those that have fields of their own."""
        while position < end:
            if inner is _TENSOR and (run := _SINGLE_VALUES.match(self._data, position, end)):
                position = run.end()
                continue
            tag, position = self._varint(position, end)
            field, kind = tag >> 3, tag & 7
            self._count(0)
            if kind == _LENGTH:
                position = self._enter(field, position, end, inner)
            elif kind == _VARINT:
                _, position = self._varint(position, end)
            elif kind in _FIXED_BYTES:
                position += _FIXED_BYTES[kind]
            elif kind not in _GROUPS:
                return  # no protobuf from here on

    def _enter(self, field: int, position: int, end: int, inner: _Fields) -> int:
        """Walk or count what a field with a length holds; return where it ends."""
        size, position = self._varint(position, end)
        stop = min(end, position + size)
        below = inner.get(field)
        if below is not None:
            self.walk(position, stop, below)
        elif not (inner is _TENSOR and field in _VALUES):
            self._count(stop - position, 0)
        return stop

    def _count(self, num_bytes: int, num_fields: int = 1) -> None:
        self._num_fields += num_fields
        self._other_bytes += num_bytes
        if self._num_fields > _MAX_FIELDS or self._other_bytes > SMALL_BYTES:
            message = (
                f"the message is too large beside its tensors' values: more than {_MAX_FIELDS} fields or {SMALL_BYTES} "
                "bytes. Send the rows as one tensor's tensor_content, float_val or double_val."
            )
            raise InvalidArgumentError(message)

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """Return the number at `position` and where it ends; what is cut off or too long ends the walk at `end`."""
        number = 0
        for shift in range(0, 70, 7):
            if position >= end:
                return 0, end
            byte = self._data[position]
            position += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number, position
        return 0, end
