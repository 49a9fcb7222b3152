"""The Flask application: the routes of its neighbours, what every answer carries, how every error looks.

Above: `worker`, which serves it on `server`, which buffers whole requests. Below: the scorer and the registry.
"""

import time

import flask
from werkzeug.exceptions import HTTPException

from service import tracing
from service.answered import OK, AnsweredRequest, signature_name
from service.errors import ScoringError
from service.metrics import Metrics
from service.registry import Registry
from service.rest import failures, files, native, operations, versions, wsgi
from service.scorer import Scorer
from service.settings import Settings

METRICS = "convex_scoring.metrics"
"""Key of `app.extensions` under which the HTTP server finds the `Metrics` that count what it answers by itself."""

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
        flask.g.error = None
        flask.g.signature = flask.g.outputs = flask.g.caller = None
        flask.g.num_rows = 0
        metrics.begin(_PROTOCOL)

    @app.after_request
    def finish(response: flask.Response) -> flask.Response:
        signature = flask.g.signature
        response.headers["X-Request-ID"] = flask.g.request_id
        if signature is not None:
            response.headers["X-Model-Version"] = str(signature.version)
        metrics.count_request(_answered(response, registry))
        return response

    @app.teardown_request
    def end(_error: BaseException | None) -> None:
        metrics.end(_PROTOCOL)

    app.register_error_handler(ScoringError, failures.respond_to_scoring_error)
    app.register_error_handler(HTTPException, failures.respond_to_http_error)
    app.register_error_handler(Exception, failures.respond_to_defect)
    app.register_blueprint(native.routes(scorer, settings))
    app.register_blueprint(versions.routes(registry))
    app.register_blueprint(operations.routes(registry, metrics, settings))
    app.register_blueprint(files.routes())
    app.extensions[METRICS] = metrics
    return app


def _answered(response: flask.Response, registry: Registry) -> AnsweredRequest:
    """Return what is known of the present request, whose answer this is."""
    request, noted = flask.request, flask.g
    signature, error, caller = noted.signature, noted.error, noted.caller
    return AnsweredRequest(
        protocol=_PROTOCOL,
        code=OK if error is None else error.code,
        seconds=time.monotonic() - noted.started,
        request_id=noted.request_id,
        method=request.method,
        path=request.path,
        status=response.status_code,
        model=_asked_model(registry) if signature is None else signature.model,
        version=None if signature is None else signature.version,
        signature="" if caller is None or signature is None else signature_name(noted.outputs),
        num_rows=noted.num_rows,
        bytes_in=request.content_length or 0,
        bytes_out=response.calculate_content_length() or 0,
        queue_seconds=None if caller is None else caller.queue_seconds,
        compute_seconds=None if caller is None else caller.compute_seconds,
        peer=request.remote_addr or "",
        refusal=None if error is None else error.refusal,
    )


def _asked_model(registry: Registry) -> str:
    """Return the model that a request names of which no version was found; the default one where it may name none."""
    arguments = flask.request.view_args
    if arguments is None or flask.request.method != "POST":
        return ""
    return arguments.get("model") or registry.default_model or ""
