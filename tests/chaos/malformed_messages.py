"""Spoilt PredictRequests as real protobuf bytes, and a judge of them that shares no decoder with the service."""

import random

import numpy as np
from google.protobuf.message import DecodeError

from service.protos import tensorflow_serving as protos

MAX_ROWS = 65536
MAX_SPLAT_BYTES = 1 << 20
DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8")}
VALUES = {1: "float_val", 2: "double_val"}
SIZES = [-1, 0, 1, 2, 3, 4, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 40, -(1 << 63), (1 << 63) - 1]
NUMBERS = [np.nan, np.inf, -np.inf, 1e39, 3e38, 1e-45, -0.0, 1e20, 0.1]
LONG = "".join(map(str, range(200)))  # no part of it of 40 characters is found twice
TAGS = [
    b"\x0a",
    b"\x12",
    b"\x1a",
    b"\x08",
    b"\x2d",
    b"\x31",
    b"\x7b",
    b"\x7c",
    b"\x00",
    b"\xff\xff\xff\xff\x0f",
    b"\x80" * 9,
]


def filled(message, rows, dtype=1, shape=None, **values):
    """Write a tensor into the input x of a request."""
    tensor = message.inputs["x"]
    tensor.dtype = dtype
    for size in np.shape(rows) if shape is None else shape:
        tensor.tensor_shape.dim.add(size=size)
    for name, value in (values or {"tensor_content": np.asarray(rows, DTYPES.get(dtype, "<f4")).tobytes()}).items():
        if name == "tensor_content":
            tensor.tensor_content = value
        else:
            getattr(tensor, name).extend(value)
    return message


def named(model):
    """Return a request for a model, without rows."""
    return protos.PredictRequest(model_spec={"name": model})


def bombs(model):
    """Return the named cases of the reference, each a few bytes that claim much or say nothing sensible."""
    rows = np.ones((2, 3), np.float32)
    nested = b""
    for _ in range(99):  # variant_val -> tensors -> variant_val ...
        nested = b"\x1a" + varint(len(nested)) + nested
        nested = b"\x7a" + varint(len(nested)) + nested
    deep = named(model).SerializeToString() + field(2, field(1, b"x") + field(2, nested))
    messages = [
        filled(named(model), rows, shape=(10_000_000, 3), float_val=[1.0]),
        filled(named(model), rows, shape=((1 << 31) - 1, 3), float_val=[1.0]),
        filled(named(model), rows, shape=(1 << 31, 3), float_val=[1.0]),
        filled(named(model), rows, shape=(-1, 3)),
        filled(named(model), rows, shape=(-1, -1)),
        filled(named(model), rows, shape=(1 << 40, 1 << 40)),
        filled(named(model), rows, shape=(-5, 3)),
        filled(named(model), rows, dtype=7, shape=(1_000_000, 3), string_val=[b"a"]),
        filled(named(model), rows, shape=(2, 2), tensor_content=b"\0" * 8),
        filled(named(model), rows, tensor_content=b"\0" * 5),
        filled(named(model), rows, shape=(0, 32), tensor_content=b""),
        filled(named(model), rows, dtype=20),
        filled(named(model), rows, dtype=0),
        filled(named(model), rows, dtype=101),
        filled(named(model), rows, float_val=[1.0] * 7),
        filled(named(model), rows, float_val=[1.0] * 6, tensor_content=b"\0" * 24),
        filled(named(model), rows, shape=(MAX_ROWS + 1, 3), float_val=[1.0]),
    ]
    rankless = filled(named(model), rows, shape=(), float_val=[1.0, 2.0])
    rankless.inputs["x"].tensor_shape.unknown_rank = True
    return [message.SerializeToString() for message in [*messages, rankless]] + [deep]


class MeaninglessError(ValueError):
    """The message is none that should be answered with scores."""


class MessageCorpus:
    """Makes spoilt requests.

    Args:
        model: of three features.
        seed: numbers of a seed; the same give the same requests.
    """

    def __init__(self, model, *seed):
        self.model = model
        self.rng = random.Random(repr(seed))  # noqa: S311  (the same requests for the same seed, and no secrets)
        self.bombs = bombs(model)

    def message(self):
        """Return the bytes of one more."""
        share = self.rng.random()
        if share < 0.1:
            return self.pick(self.bombs)
        data = self.fields().SerializeToString()
        return self.spoil(data) if share < 0.6 else data

    def pick(self, choices):
        """Return one of them."""
        return choices[self.rng.randrange(len(choices))]

    def rows(self):
        """Return a few rows, now and then with an odd number."""
        numbers = [float(self.rng.randrange(256)) for _ in range(3 * self.rng.randrange(4))]
        if numbers and self.rng.random() < 0.2:
            numbers[self.rng.randrange(len(numbers))] = self.pick(NUMBERS)
        return np.array(numbers).reshape(-1, 3)

    def fields(self):
        """Return a request in one of its encodings, with nothing or some fields changed for others."""
        message, rows = named(self.model), self.rows()
        dtype = self.pick([1, 1, 2])
        with np.errstate(over="ignore", invalid="ignore"):
            values = {VALUES[dtype]: rows.astype(DTYPES[dtype]).ravel().tolist()} if self.rng.random() < 0.5 else {}
            if self.rng.random() < 0.1:
                values = {VALUES[dtype]: [1.0]}
            filled(message, rows, dtype, **values)
        for change in (self.change_shape, self.change_tensor, self.change_spec, self.change_request):
            if self.rng.random() < 0.15:
                change(message)
        return message

    def change_shape(self, message):
        """Another size, one size more or less, or an unknown rank."""
        shape = message.inputs["x"].tensor_shape
        if shape.dim and self.rng.random() < 0.6:
            self.pick(shape.dim).size = self.pick(SIZES)
        elif self.rng.random() < 0.5:
            shape.dim.add(size=self.pick(SIZES))
        else:
            shape.unknown_rank = True

    def change_tensor(self, message):
        """Another type, or values that are too many, too few, of another kind, or in both places."""
        tensor = message.inputs["x"]
        kind = self.rng.randrange(5)
        if kind == 0:
            tensor.dtype = self.pick([0, 2, 1, 3, 7, 20, 101, 999, 2**31 - 1])
        elif kind == 1:
            tensor.float_val.append(self.pick(NUMBERS[3:]))
        elif kind == 2:
            tensor.tensor_content += self.rng.randbytes(self.rng.randrange(1, 9))
        elif kind == 3:
            self.pick([tensor.int_val, tensor.double_val, tensor.bool_val]).append(1)
        else:
            tensor.ClearField(self.pick(["float_val", "double_val", "tensor_content", "tensor_shape", "dtype"]))

    def change_spec(self, message):
        """Another model, version, label or signature."""
        spec = message.model_spec
        kind = self.rng.randrange(4)
        if kind == 0:
            spec.name = self.pick(["", LONG, "../../etc/passwd", "\0", "\u20ac"])
        elif kind == 1:
            spec.version.value = self.pick([1, 0, -1, 2, (1 << 63) - 1])
        elif kind == 2:
            spec.version_label = self.pick(["", "stable", LONG])
        else:
            spec.signature_name = self.pick(["serving_default", "score", "regress", LONG])

    def change_request(self, message):
        """Another output, or another input beside the good one or instead of it."""
        kind = self.rng.randrange(4)
        if kind == 0:
            message.output_filter.append(self.pick(["score", "gradient", "", LONG]))
        elif kind == 1:
            message.output_filter.extend(["score", "score"])
        elif kind == 2:
            message.inputs[self.pick(["y", "", LONG])].CopyFrom(message.inputs["x"])
        else:
            del message.inputs["x"]

    def spoil(self, data):
        """Return bytes with one to three things done to them."""
        for _ in range(self.rng.randrange(1, 4)):
            place = self.rng.randrange(len(data) + 1)
            end = min(len(data), place + self.rng.randrange(1, 12))
            before, cut, after = data[:place], data[place:end], data[end:]
            byte = self.rng.randbytes(1)
            choices = [byte + cut[1:], byte + cut[1:], cut[1:], cut + cut, self.pick(TAGS) + cut, b"", cut[::-1]]
            data = before + self.pick(choices) + after
        return data


def judge(data, model):
    """Return rows as float32 [n, 3] and the names of the outputs.

    Raises:
        MeaninglessError: the message is none that should be answered with scores.
    """
    try:
        message = protos.PredictRequest.FromString(data)
    except DecodeError as error:
        raise MeaninglessError from error
    spec = message.model_spec
    signature = spec.signature_name or "serving_default"
    choice = spec.WhichOneof("version_choice")
    is_version = choice is None or (choice == "version" and spec.version.value == 1)
    if spec.name != model or not is_version or signature not in ("serving_default", "score"):
        raise MeaninglessError(spec)
    available = ["score"] if signature == "score" else ["score", "gradient"]
    wanted = list(message.output_filter) or available
    if set(message.inputs) != {"x"} or len(set(wanted)) != len(wanted) or not set(available).issuperset(wanted):
        raise MeaninglessError(wanted)
    return _rows(message.inputs["x"]), [name for name in available if name in wanted]


def _rows(tensor):
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    if tensor.dtype not in DTYPES or tensor.tensor_shape.unknown_rank or len(shape) != 2 or shape[1] != 3:
        raise MeaninglessError(shape)
    if not 0 <= shape[0] <= MAX_ROWS:
        raise MeaninglessError(shape)
    values = list(getattr(tensor, VALUES[tensor.dtype]))
    content = tensor.tensor_content
    if content:
        if values or len(content) != shape[0] * 3 * DTYPES[tensor.dtype].itemsize:
            raise MeaninglessError
        values = np.frombuffer(content, DTYPES[tensor.dtype]).tolist()
    elif len(values) == 1 and shape[0] * 3 * DTYPES[tensor.dtype].itemsize <= MAX_SPLAT_BYTES:
        values = values * (3 * shape[0])
    if len(values) != 3 * shape[0]:
        raise MeaninglessError
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.array(values, np.float64).astype(np.float32).reshape(-1, 3)
    if not np.isfinite(rows).all():
        raise MeaninglessError
    return rows


def varint(number):
    """Return a number as protobuf writes it."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def field(number, data):
    """Return a field with a length, as it stands on the wire."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data
