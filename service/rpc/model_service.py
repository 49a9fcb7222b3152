"""`tensorflow.serving.ModelService`: GetModelStatus.

Above: `server`. Below: `registry`.
"""

from collections.abc import Sequence
from typing import Any

import grpc

from service.errors import InvalidArgumentError, NotFoundError
from service.protos import tensorflow_serving as protos
from service.registry import Registry, VersionStatus
from service.rpc.interceptors import current_call
from service.rpc.model_spec import read_target
from service.rpc.prediction_service import refuse_method
from service.scorer import Target

SERVICE = "tensorflow.serving.ModelService"

_MAX_SHOWN = 40


class ModelService:
    """The methods of the service, each from a request message to a response message.

    Args:
        registry: knows the state of every version.

    Thread safety: every method may be called from any thread.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """Return the handlers to add to a server; what is not offered says so."""
        methods = {
            "GetModelStatus": grpc.unary_unary_rpc_method_handler(
                self.get_model_status,
                protos.GetModelStatusRequest.FromString,
                protos.GetModelStatusResponse.SerializeToString,
            ),
            "HandleReloadConfigRequest": refuse_method(
                "HandleReloadConfigRequest", "the models folder: a new version in it is loaded by itself"
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def get_model_status(self, request: Any, _context: grpc.ServicerContext) -> Any:
        """Return the states of a model's versions, newest first, or that of the one asked for.

        Raises:
            ScoringError: no model_spec; unknown model, version or label, in TensorFlow Serving's words.
        """
        target = _read_target(request)
        response = protos.GetModelStatusResponse()
        for status in self._select(target):
            entry = response.model_version_status.add(version=status.version, state=protos.VERSION_STATES[status.state])
            if status.rule or (status.reason and status.state == "END"):
                entry.status.error_code = protos.ERROR_CODES["FAILED_PRECONDITION"]
                entry.status.error_message = f"{status.rule}: {status.reason}" if status.rule else status.reason
            else:
                entry.status.error_message = status.reason
        current_call().model = target.model or ""
        return response

    def _select(self, target: Target) -> Sequence[VersionStatus]:
        model = target.model or ""
        try:
            statuses = self._registry.statuses(model)
        except NotFoundError as error:
            message = f"Could not find any versions of model {model[:_MAX_SHOWN]}"
            raise NotFoundError(message) from error
        version = target.version
        if target.label is not None:
            version = self._registry.labels(model).get(target.label)
            if version is None:
                raise InvalidArgumentError(f"Unrecognized servable version label: {target.label[:_MAX_SHOWN]}")
        if version is None:
            return statuses
        chosen = [status for status in statuses if status.version == version]
        if not chosen:
            raise NotFoundError(f"Could not find version {version} of model {model[:_MAX_SHOWN]}")
        return chosen


def _read_target(request: Any) -> Target:
    # An empty name is, other than to Predict, a model of which nothing is found.
    if request.HasField("model_spec") and not request.model_spec.name:
        return Target(model="")
    return read_target(request)
