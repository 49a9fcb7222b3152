"""The Flask application: the routes of its neighbours, what every answer carries, how every error looks.

Above: `worker`, which serves it on `server`, which buffers whole requests. Below: the scorer and the registry.
"""

import time

import flask
from werkzeug.exceptions import HTTPException

from service import tracing
from service.answered import OK, AnsweredRequest
from service.errors import ScoringError
from service.metrics import Metrics
from service.registry import Registry
from service.rest import failures, files, native, operations, versions, wsgi
from service.scorer import Scorer
from service.settings import Settings

METRICS = "convex_scoring.metrics"
"""Key of `app.extensions` under which the HTTP server finds the `Metrics` that count what it answers by itself."""

SCORE_ROUTES = "convex_scoring.score_routes"
"""Key of `app.extensions` under which the HTTP server finds the `ScoreRoutes`, to answer several at once."""

_PROTOCOL = "rest"


def create_app(scorer: Scorer, registry: Registry, metrics: Metrics, settings: Settings) -> flask.Flask:
    """Return the WSGI application of one server.

    Every answer carries `X-Request-ID`; every answer of a version `X-Model-Version`. Every error has the native form,
    `{"error": {"code", "message", "request_id"}}`.

    Thread safety: the application may be called from any thread.
    """
    app = flask.Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # a path that is not ours is 404, never a redirect

    @app.before_request
    def begin() -> None:
        flask.g.started = flask.request.environ.get(wsgi.ARRIVAL, time.monotonic())
        flask.g.request_id = tracing.request_id(flask.request.headers.get("X-Request-ID"))
        flask.g.error = flask.g.signature = None
        metrics.begin(_PROTOCOL)

    @app.after_request
    def finish(response: flask.Response) -> flask.Response:
        signature = flask.g.signature
        response.headers["X-Request-ID"] = flask.g.request_id
        if signature is not None:
            response.headers["X-Model-Version"] = str(signature.version)
        if not wsgi.is_given_up(flask.request.environ):
            metrics.count_request(_answered(response))
        return response

    @app.teardown_request
    def end(_error: BaseException | None) -> None:
        metrics.end(_PROTOCOL)

    app.register_error_handler(ScoringError, failures.respond_to_scoring_error)
    app.register_error_handler(HTTPException, failures.respond_to_http_error)
    app.register_error_handler(Exception, failures.respond_to_defect)
    app.register_blueprint(versions.routes(registry))
    app.register_blueprint(operations.routes(registry, metrics, settings))
    app.register_blueprint(files.routes(other_paths=native.PATHS))
    app.extensions[METRICS] = metrics
    routes = native.ScoreRoutes(app.wsgi_app, scorer, registry, metrics, settings)
    app.extensions[SCORE_ROUTES] = routes
    app.wsgi_app = routes  # type: ignore[method-assign]
    return app


def _answered(response: flask.Response) -> AnsweredRequest:
    """Return what is known of the present request, whose answer this is."""
    request, signature, error = flask.request, flask.g.signature, flask.g.error
    return AnsweredRequest(
        protocol=_PROTOCOL,
        code=OK if error is None else error.code,
        seconds=time.monotonic() - flask.g.started,
        request_id=flask.g.request_id,
        method=request.method,
        path=request.path,
        status=response.status_code,
        model="" if signature is None else signature.model,
        version=None if signature is None else signature.version,
        bytes_in=request.content_length or 0,
        bytes_out=response.calculate_content_length() or 0,
        peer=request.remote_addr or "",
        refusal=None if error is None else error.refusal,
    )
