"""The page: its files as they lie in `page/`, and `GET /`, which is the page for people and an index for programs.

Scripts, styles and pictures come from here alone; `blob:` lets the page look at a picture of the user's own.

Above: `app`. Below: nothing but the files; the page gets its numbers from the same routes as every other client.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import flask
import orjson
from werkzeug.routing import Rule

from service.errors import NotFoundError

FOLDER = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".txt": "text/plain; charset=utf-8",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # keep it, ask each time: an unchanged file costs one answer without a body
}
_INDEX = "index.html"
_ICON = "favicon.ico"


@dataclasses.dataclass(frozen=True)
class _File:
    """One file of the page, in memory."""

    data: bytes
    content_type: str
    etag: str


def routes(folder: Path = FOLDER, other_paths: Sequence[str] = ()) -> flask.Blueprint:
    """Return the routes of the page, whose files are read now and never again: a request's path opens no file.

    Args:
        folder: where the files are.
        other_paths: verb and path of what is answered in front of the application, for the index.
    """
    blueprint = flask.Blueprint("page", __name__)
    files = _read(folder)

    @blueprint.get("/")
    def index() -> flask.Response:
        if flask.request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            response = _respond(files[_INDEX])
        else:
            paths = sorted({*_paths(flask.current_app.url_map.iter_rules()), *other_paths})
            body = orjson.dumps({"service": "convex-scoring", "paths": paths})
            response = flask.Response(body, mimetype="application/json")
        response.vary.add("Accept")
        return response

    @blueprint.get("/favicon.ico")
    def icon() -> flask.Response:
        return _respond(files[_ICON])

    @blueprint.get("/page/<path:name>")
    def file(name: str) -> flask.Response:
        if name not in files:
            message = f"the page has no file '{name[:40]}'. GET / with Accept: text/html is the page."
            raise NotFoundError(message)
        return _respond(files[name])

    return blueprint


def _read(folder: Path) -> Mapping[str, _File]:
    """Return {path below the folder: file} of the files that have a type of the web."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TYPES:
            data = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            files[name] = _File(data, _TYPES[path.suffix], hashlib.sha256(data).hexdigest()[:32])
    return files


def _respond(file: _File) -> flask.Response:
    """Return a file, or 304 to a client that has it."""
    response = flask.Response(file.data, content_type=file.content_type, headers=_HEADERS)
    response.set_etag(file.etag)
    response.make_conditional(flask.request)
    return response


def _paths(rules: Iterable[Rule]) -> set[str]:
    return {f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"HEAD"}}
