"""The signatures of a version as TensorFlow describes them: what GetModelMetadata answers.

Above: `prediction_service`. Below: `signature` and `protos`.
"""

from typing import Any

from service.protos import tensorflow_serving as protos
from service.signature import Signature

METADATA_FIELD = "signature_def"

_FLOAT = protos.DATA_TYPES["DT_FLOAT"]
_STRING = protos.DATA_TYPES["DT_STRING"]
_ANY_NUMBER = -1
_PREDICT = "tensorflow/serving/predict"
_REGRESS = "tensorflow/serving/regress"


def describe(signature: Signature) -> Any:
    """Return the `SignatureDefMap` of a version: `serving_default`, `score` and `regress`."""
    rows = [_ANY_NUMBER, signature.dim]
    shapes = {"score": [_ANY_NUMBER], "gradient": rows}
    definitions = protos.SignatureDefMap()

    default = definitions.signature_def["serving_default"]
    default.method_name = _PREDICT
    _describe_tensor(default.inputs[signature.input_name], f"serving_default_{signature.input_name}:0", _FLOAT, rows)
    for name in signature.outputs:
        # TensorFlow orders the results of a function by name.
        place = sorted(signature.outputs).index(name)
        _describe_tensor(default.outputs[name], f"StatefulPartitionedCall:{place}", _FLOAT, shapes[name])

    score = definitions.signature_def["score"]
    score.method_name = _PREDICT
    _describe_tensor(score.inputs[signature.input_name], f"score_{signature.input_name}:0", _FLOAT, rows)
    _describe_tensor(score.outputs["score"], "StatefulPartitionedCall_1:0", _FLOAT, shapes["score"])

    regress = definitions.signature_def["regress"]
    regress.method_name = _REGRESS
    _describe_tensor(regress.inputs["inputs"], "regress_inputs:0", _STRING, [_ANY_NUMBER])
    _describe_tensor(regress.outputs["outputs"], "StatefulPartitionedCall_2:0", _FLOAT, [_ANY_NUMBER])
    return definitions


def _describe_tensor(tensor: Any, name: str, dtype: int, shape: list[int]) -> None:
    tensor.name = name
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
