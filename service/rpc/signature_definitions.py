"""The signatures of a version as TensorFlow describes them: what GetModelMetadata answers.

Above: `prediction_service`. Below: `signature` and `protos`.
"""

from typing import Any

from service.protos import tensorflow_serving as protos
from service.signature import CONTEXT, Signature

METADATA_FIELD = "signature_def"

_TYPES = {
    "float32": protos.DATA_TYPES["DT_FLOAT"],
    "float64": protos.DATA_TYPES["DT_DOUBLE"],
    "string": protos.DATA_TYPES["DT_STRING"],
}
_ANY_NUMBER = -1
_PREDICT = "tensorflow/serving/predict"
_REGRESS = "tensorflow/serving/regress"


def describe(signature: Signature) -> Any:
    """Return the `SignatureDefMap` of a version: its file's signatures, with the gradient where that is added."""
    definitions = protos.SignatureDefMap()
    for number, described in enumerate(signature.file_signatures):
        definition = definitions.signature_def[described.name]
        definition.method_name = _REGRESS if described.name == "regress" else _PREDICT
        rows = [_ANY_NUMBER] if described.input_dtype == "string" else [_ANY_NUMBER, signature.dim]
        tensor = definition.inputs[described.input_name]
        _describe_tensor(tensor, f"{described.name}_{described.input_name}:0", described.input_dtype, rows)
        if described.context_dtype:
            _describe_tensor(
                definition.inputs[CONTEXT],
                f"{described.name}_{CONTEXT}:0",
                described.context_dtype,
                [_ANY_NUMBER, signature.context_dim],
            )
        call = f"StatefulPartitionedCall_{number}" if number else "StatefulPartitionedCall"
        for place, name in enumerate(sorted(described.outputs)):  # TensorFlow orders the results of a function by name
            is_score = name == described.score_name
            dtype = described.score_dtype if is_score else described.dtype_of(name)
            beside = [signature.dim] if name == "gradient" else []
            shape = [_ANY_NUMBER, *([1] if described.is_column else [])] if is_score else [_ANY_NUMBER, *beside]
            _describe_tensor(definition.outputs[name], f"{call}:{place}", dtype, shape)
    return definitions


def _describe_tensor(tensor: Any, name: str, dtype: str, shape: list[int]) -> None:
    tensor.name = name
    tensor.dtype = _TYPES[dtype]
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
