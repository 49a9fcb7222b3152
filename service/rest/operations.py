"""What operators and probes ask: alive, ready, what is live, what was counted.

Above: `app`. Below: `registry` and `metrics`.
"""

import flask
import orjson

from service import logs
from service.errors import UnavailableError
from service.metrics import CONTENT_TYPE, Metrics
from service.registry import ModelStatus, Registry, VersionStatus
from service.rest.versions import describe_context
from service.settings import Settings


def routes(registry: Registry, metrics: Metrics, settings: Settings) -> flask.Blueprint:
    """Return the routes that show state and change none."""
    blueprint = flask.Blueprint("operations", __name__)

    @blueprint.get("/healthz")
    def alive() -> flask.Response:
        trouble = registry.trouble()
        return _json({"status": "stuck", "reason": trouble}, 500) if trouble else _json({"status": "alive"})

    @blueprint.get("/readyz")
    def ready() -> flask.Response:
        if not registry.ready(settings.require_models):
            raise UnavailableError(_why_not_ready(registry, settings))
        return _json({"status": "ready"})

    @blueprint.get("/models")
    def models() -> flask.Response:
        return _json({"models": [_model(status) for status in registry.models()]})

    @blueprint.get("/metrics")
    def rendered_metrics() -> flask.Response:
        text = metrics.render(registry.models(), logs.num_dropped_lines())
        return flask.Response(text, content_type=CONTENT_TYPE)

    @blueprint.get("/monitoring/prometheus/metrics")
    def rendered_metrics_of_tensorflow_serving() -> flask.Response:
        text = metrics.render(registry.models(), logs.num_dropped_lines(), with_tensorflow_names=True)
        return flask.Response(text, content_type=CONTENT_TYPE)

    return blueprint


def _why_not_ready(registry: Registry, settings: Settings) -> str:
    if registry.draining:
        return "not ready: the server is about to end. Ask another one."
    available = {
        status.name for status in registry.models() if any(version.state == "AVAILABLE" for version in status.versions)
    }
    missing = [name for name in settings.require_models if name not in available]
    if missing:
        return f"not ready: no version is available of {', '.join(missing)}. GET /models says why."
    if not available:
        return "not ready: no version of any model is available. GET /models says why."
    return "not ready: the models folder is still being looked through. Try again later."


def _model(status: ModelStatus) -> dict[str, object]:
    told = {"label_problem": status.label_problem, "policy_problem": status.policy_problem}
    return {
        "name": status.name,
        "default": status.default,
        "dim": status.dim,
        "features": list(status.features),
        **describe_context(*status.context),
        "labels": dict(status.labels),
        "policy": status.policy,
        **{name: problem for name, problem in told.items() if problem},
        "versions": [_version(version) for version in status.versions],
    }


def _version(status: VersionStatus) -> dict[str, object]:
    return {
        "version": status.version,
        "state": status.state,
        "convexity": status.convexity,
        "engine": status.engine,
        "tile_rows": list(status.tile_rows),
        "created": status.created,
        "metrics": dict(status.metrics),
        "made_elsewhere": status.made_elsewhere,
        "proof": {"num_steps": status.num_steps, "steps": list(status.steps)},
        "reason": f"{status.rule}: {status.reason}" if status.rule else status.reason,
    }


def _json(document: object, status: int = 200) -> flask.Response:
    return flask.Response(orjson.dumps(document, default=dict), status, mimetype="application/json")
