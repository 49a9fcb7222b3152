"""`GET /models/<model>/versions/<version>`: what a person, or the page, wants to know of one live version.

Above: `app`. Below: `registry`, which lends the version.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flask
import orjson

from service.errors import InvalidArgumentError
from service.model_version import ModelVersion
from service.registry import Registry
from service.signature import CONTEXT

_MAX_STEPS = 256
"""Steps of a proof that are told; a network has a few for each layer."""

_VERSION = re.compile(r"[1-9][0-9]{0,18}")


def routes(registry: Registry) -> flask.Blueprint:
    """Return the route that describes one version."""
    blueprint = flask.Blueprint("versions", __name__)

    @blueprint.get("/models/<model>/versions/<version>")
    def describe(model: str, version: str) -> flask.Response:
        if not _VERSION.fullmatch(version):
            message = f"version: expected a whole number from 1, received '{version[:40]}'."
            raise InvalidArgumentError(message)
        with registry.acquire(model, int(version)) as live:
            flask.g.signature = live.signature
            document = _describe(live)
        return flask.Response(orjson.dumps(document, default=dict), mimetype="application/json")

    return blueprint


def _describe(live: ModelVersion) -> dict[str, object]:
    """Return what the proof made at load and a manifest say; no path, no file name, no configuration."""
    manifest, signature = live.loaded.manifest, live.signature
    data = {} if manifest is None else manifest.data
    return {
        "model": signature.model,
        "version": signature.version,
        "dim": signature.dim,
        "features": list(signature.features),
        **describe_context(*signature.context),
        "outputs": list(signature.outputs),
        "convexity": live.convexity,
        "unproved_reason": live.loaded.unproved_reason,
        "engine": live.engine.name,
        "made_elsewhere": signature.made_elsewhere,
        "created": live.created,
        "task": None if manifest is None else manifest.task,
        "threshold": None if manifest is None else manifest.threshold,
        "certificate": live.proof(_MAX_STEPS),
        "metrics": live.metrics,
        "feature_means": _numbers(data.get("feature_means"), signature.dim),
        "feature_deviations": _numbers(data.get("feature_deviations"), signature.dim),
        **_context_data(data, signature.context_dim),
    }


def describe_context(dim: int, features: Sequence[str]) -> dict[str, object]:
    """Return what the context of a model is, nothing where it takes none."""
    return {CONTEXT: {"dim": dim, "features": list(features)}} if dim else {}


def _context_data(data: Mapping[str, Any], dim: int) -> dict[str, object]:
    names = ("context_means", "context_deviations") if dim else ()
    return {name: _numbers(data.get(name), dim) for name in names}


def _numbers(value: Any, dim: int) -> list[float] | None:
    """Return `dim` finite numbers out of a manifest, or None where there is anything else."""
    if not isinstance(value, list) or len(value) != dim:
        return None
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in value):
        return None
    try:
        numbers = [float(number) for number in value]
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
