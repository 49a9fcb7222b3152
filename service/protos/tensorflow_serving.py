"""TensorFlow Serving's messages, from a descriptor set in a private descriptor pool.

The stock stubs import all of TensorFlow (seconds, hundreds of megabytes), and a second copy of TensorFlow's messages in
protobuf's default pool collides with TensorFlow itself in one process; a pool of our own does neither. On the wire the
messages are the same. `codecs.tensor_proto` and `rpc` stand above; nothing of ours below.
"""

import functools
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation

_DESCRIPTOR_SET = Path(__file__).with_name("tensorflow_serving.desc")


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    if api_implementation.Type() != "upb":
        message = (
            f"protobuf: received the implementation '{api_implementation.Type()}', expected 'upb' (bounded nesting, "
            "speed). Unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION or install a protobuf wheel for this platform."
        )
        raise RuntimeError(message)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTOR_SET.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _message(name: str) -> Any:
    """Return the class of a message by its full name (`Any`: its attributes exist only at run time)."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


def _enum(name: str) -> dict[str, int]:
    """Return an enum's values by name."""
    return {value.name: value.number for value in _pool().FindEnumTypeByName(name).values}


TensorProto = _message("tensorflow.TensorProto")
DATA_TYPES = _enum("tensorflow.DataType")
ERROR_CODES = _enum("tensorflow.error.Code")

PredictRequest = _message("tensorflow.serving.PredictRequest")
PredictResponse = _message("tensorflow.serving.PredictResponse")
GetModelMetadataRequest = _message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = _message("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = _message("tensorflow.serving.SignatureDefMap")
GetModelStatusRequest = _message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = _message("tensorflow.serving.GetModelStatusResponse")
VERSION_STATES = _enum("tensorflow.serving.ModelVersionStatus.State")

ModelServerConfig = _message("tensorflow.serving.ModelServerConfig")


def parse_text(text: str, message: Any) -> None:
    """Read protobuf's text form into a message of this pool.

    Raises:
        ValueError: it is not one; the text says where.
    """
    from google.protobuf import text_format  # here: few servers have such a file

    try:
        text_format.Parse(text, message, descriptor_pool=_pool())
    except (text_format.ParseError, RecursionError) as err:
        raise ValueError(str(err)) from err
