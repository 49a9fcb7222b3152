"""`ModelSpec`: which version a TensorFlow Serving request means, which one answered, and what is said if there is none.

Above: `prediction_service`, `model_service`. Below: `scorer`'s target and the registry's errors.
"""

from typing import Any

from service.errors import InvalidArgumentError, NotFoundError, ScoringError, UnavailableError
from service.scorer import Target
from service.signature import Signature

_MAX_SHOWN = 40


def read_target(request: Any) -> Target:
    """Return which version a request with a `model_spec` means.

    Raises:
        InvalidArgumentError: there is no model_spec, or it has no name; in TensorFlow Serving's words.
    """
    if not request.HasField("model_spec"):
        message = "Missing ModelSpec"
        raise InvalidArgumentError(message)
    spec = request.model_spec
    if not spec.name:
        message = "ModelSpec has no name specified."
        raise InvalidArgumentError(message)
    choice = spec.WhichOneof("version_choice")
    return Target(
        model=spec.name,
        version=spec.version.value if choice == "version" else None,
        label=spec.version_label if choice == "version_label" else None,
    )


def reword(error: ScoringError, target: Target) -> ScoringError:
    """Return the registry's error in TensorFlow Serving's words, where it has words for it.

    A version that is not available yet is NOT_FOUND here, as its clients expect, and not UNAVAILABLE.
    """
    if isinstance(error, NotFoundError | UnavailableError):
        name = (target.model or "")[:_MAX_SHOWN]
        which = f"Latest({name})" if target.version is None else f"Specific({name}, {target.version})"
        return NotFoundError(f"Servable not found for request: {which}")
    if isinstance(error, InvalidArgumentError) and target.label is not None:
        return InvalidArgumentError(f"Unrecognized servable version label: {target.label[:_MAX_SHOWN]}")
    return error


def write_answerer(spec: Any, signature: Signature, signature_name: str = "") -> None:
    """Write the model and the resolved version that answered into an empty `ModelSpec`."""
    spec.name = signature.model
    spec.version.value = signature.version
    spec.signature_name = signature_name
