"""`tensorflow.serving.PredictionService`: Predict and GetModelMetadata as TensorFlow Serving's clients know them.

Above: `server`. Below: `scorer`, `codecs.tensor_proto`, `signature_definitions`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from service.codecs import fields, tensor_proto
from service.errors import FailedPreconditionError, InvalidArgumentError, ScoringError, UnimplementedError
from service.protos import tensorflow_serving as protos
from service.registry import Registry
from service.rpc.interceptors import current_call
from service.rpc.model_spec import read_target, reword, write_answerer
from service.rpc.signature_definitions import METADATA_FIELD, describe
from service.scorer import Answer, Scorer
from service.settings import Settings
from service.signature import DEFAULT_SIGNATURE, FileSignature, Signature

SERVICE = "tensorflow.serving.PredictionService"

_MAX_SHOWN = 40
_UNOFFERED = ("Classify", "Regress", "MultiInference")


class PredictionService:
    """The methods of the service, each from a request message to a response message.

    Args:
        scorer: scores rows.
        registry: lends a version to describe.
        settings: `tensor_content` says how outputs are written.

    Thread safety: every method may be called from any thread.
    """

    def __init__(self, scorer: Scorer, registry: Registry, settings: Settings) -> None:
        self._scorer = scorer
        self._registry = registry
        self._as_content = settings.tensor_content

    def handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """Return the handlers to add to a server; what is not offered says so."""
        methods = {
            "Predict": _handler(
                self.predict, protos.PredictRequest, protos.PredictResponse, fields.check_predict_request
            ),
            "GetModelMetadata": _handler(
                self.get_model_metadata,
                protos.GetModelMetadataRequest,
                protos.GetModelMetadataResponse,
                fields.check_small,
            ),
            **{name: refuse_method(name, "Predict") for name in _UNOFFERED},
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def predict(self, request: Any, _context: grpc.ServicerContext) -> Any:
        """Return score, gradient and support, or those that `output_filter` names, of the rows.

        They are the one input, or `x` and `context`.

        Raises:
            ScoringError: as `Scorer.score`; unknown versions, labels, signatures, inputs and outputs in TensorFlow
                Serving's words.
        """
        target = read_target(request)
        current_call().model = target.model or ""
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        found: list[Signature] = []
        outputs: list[str] = []  # in our own names, known once it is known which version answers

        def rows_for(signature: Signature) -> NDArray[np.floating]:
            found.append(signature)
            call = current_call()
            call.version = signature.version
            called = _called(signature_name, signature)
            call.signature = signature_name
            _check_inputs(request, called)
            x, *context = (tensor_proto.decode(request.inputs[name], name) for name in called.inputs)
            rows = signature.joined(x, context[0] if context else None, name=called.input_name)
            _check_filter(request.output_filter, called.outputs)
            outputs.extend(_own_name(name, called) for name in request.output_filter or called.outputs)
            return rows

        try:
            answer = self._scorer.score(target, rows_for, outputs, caller=current_call().caller, name="inputs")
        except ScoringError as error:
            if found:
                raise
            raise reword(error, target) from error
        return self._respond(answer.signature, _called(signature_name, answer.signature), answer)

    def get_model_metadata(self, request: Any, _context: grpc.ServicerContext) -> Any:
        """Return the signatures of a version as a `SignatureDefMap`.

        Raises:
            ScoringError: no metadata field, or another than `signature_def`; unknown model, version or label.
        """
        target = read_target(request)
        if not request.metadata_field:
            message = "GetModelMetadataRequest must specify at least one metadata_field"
            raise InvalidArgumentError(message)
        for field in request.metadata_field:
            if field != METADATA_FIELD:
                raise InvalidArgumentError(f"Metadata field {field[:_MAX_SHOWN]} is not supported")
        try:
            with self._registry.acquire(target.model, target.version, target.label) as version:
                signature = version.signature
        except ScoringError as error:
            raise reword(error, target) from error
        current_call().model, current_call().version = signature.model, signature.version
        response = protos.GetModelMetadataResponse()
        write_answerer(response.model_spec, signature)
        response.metadata[METADATA_FIELD].Pack(describe(signature))
        return response

    def _respond(self, signature: Signature, called: FileSignature, answer: Answer) -> Any:
        call = current_call()
        call.num_rows = len(next(iter(answer.outputs.values())))
        if answer.convexity == "unproved":
            call.initial_metadata.append(("x-convexity", answer.convexity))
        response = protos.PredictResponse()
        write_answerer(response.model_spec, signature, called.name)
        for name, array in answer.outputs.items():
            is_score = name == "score"
            tensor_proto.encode(
                array[:, None] if is_score and called.is_column else array,
                response.outputs[called.score_name if is_score else name],
                as_content=self._as_content,
                dtype=called.dtype_of(name),
            )
        return response


def refuse_method(name: str, instead: str) -> "grpc.RpcMethodHandler[Any, Any]":
    """Return a handler that says that a method is not offered, without parsing the request."""

    def refuse(_request: bytes, _context: grpc.ServicerContext) -> Any:
        raise UnimplementedError(f"{name} is not offered. Use {instead}.")

    return grpc.unary_unary_rpc_method_handler(refuse)


def _handler(
    method: Callable[[Any, grpc.ServicerContext], Any], request: Any, response: Any, check: Callable[[bytes], None]
) -> "grpc.RpcMethodHandler[Any, Any]":
    def parse(data: bytes) -> Any:
        check(data)
        return request.FromString(data)

    return grpc.unary_unary_rpc_method_handler(method, parse, response.SerializeToString)


def _called(signature_name: str, signature: Signature) -> FileSignature:
    for called in signature.file_signatures:
        if called.name == signature_name:
            if called.input_dtype == "string":
                offered = [f"'{other.name}'" for other in signature.file_signatures if other.input_dtype != "string"]
                message = f"Predict with the signature '{signature_name[:_MAX_SHOWN]}' is not offered. "
                raise UnimplementedError(f"{message}Use {' or '.join(offered)}.")
            return called
    raise FailedPreconditionError(f'Serving signature key "{signature_name[:_MAX_SHOWN]}" not found.')


def _own_name(output: str, called: FileSignature) -> str:
    return "score" if output == called.score_name else output


def _check_inputs(request: Any, signature: FileSignature) -> None:
    sent, expected = set(request.inputs), set(signature.inputs)
    if len(sent) != len(expected):
        message = (
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_set(sent)}) != "
            f"len({_set(expected)}). Sent extra: {_set(sent - expected)}. "
            f"Missing but required: {_set(expected - sent)}."
        )
        raise InvalidArgumentError(message)
    if sent != expected:
        missing = next(name for name in signature.inputs if name not in sent)
        message = (
            f"Signature input alias: {missing} not found in request and no default value provided. "
            f"Inputs expected to be in the set {_set(expected)}."
        )
        raise InvalidArgumentError(message)


def _check_filter(wanted: Iterable[str], available: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for name in wanted:
        if name not in available:
            message = (
                f"output tensor alias not found in signature: {name[:_MAX_SHOWN]} "
                f"Outputs expected to be in the set {_set(available)}."
            )
            raise InvalidArgumentError(message)
        if name in seen:
            raise InvalidArgumentError(f"duplicate output tensor alias: {name}")
        seen.add(name)


def _set(names: Iterable[str]) -> str:
    joined = ",".join(sorted(names))
    return "{" + joined[:_MAX_SHOWN] + "}"
