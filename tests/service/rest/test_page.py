"""The page's files and the route that describes one version, without a browser; test_page in end_to_end has one."""

import re

import pytest

from service.program.curvature import Certificate, Step
from service.rest import files
from service.rest.app import create_app
from service.signature import Signature
from tests.service.quadratic_versions import make_service

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"
TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "ico": "image/x-icon",
    "jpg": "image/jpeg",
    "txt": "text/plain",
}
NAMES = sorted(path.relative_to(files.FOLDER).as_posix() for path in files.FOLDER.rglob("*.*"))
PROGRAMS = [name for name in NAMES if name.endswith((".html", ".css", ".js"))]
CREDIT = re.compile(r'<a href="https://(?:www\.flickr\.com/photos|creativecommons\.org/licenses)/[\w./]+"')


@pytest.fixture
def service():
    """Return a service without a version."""
    return make_service()


@pytest.fixture
def client(service):
    """Return a client of the application."""
    return create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (BROWSER, "text/html"),
        ("text/html", "text/html"),
        ("*/*", "application/json"),
        (None, "application/json"),
        ("application/json, text/html;q=0.5", "application/json"),
    ],
)
def test_root_is_the_page_when_html_is_asked_for_and_an_index_otherwise(client, accept, expected):
    """A browser gets the page, a program the index, and a cache is told that the two differ."""
    response = client.get("/", headers={} if accept is None else {"Accept": accept})
    assert (200, expected) == (response.status_code, response.mimetype)
    assert "Accept" in response.vary


@pytest.mark.parametrize("name", NAMES)
def test_file_is_served_with_its_type_and_the_headers_that_keep_it_safe(client, name):
    """Every file of the folder has a type, loads from here alone, and is asked for again cheaply."""
    response = client.get(f"/page/{name}")
    assert (200, TYPES[name.rpartition(".")[2]]) == (response.status_code, response.mimetype)
    assert (files.FOLDER / name).read_bytes() == response.data
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' blob:;")
    assert 1 == response.headers["Content-Security-Policy"].count("blob:")
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert "nosniff" == response.headers["X-Content-Type-Options"]
    assert "no-cache" == response.headers["Cache-Control"]
    again = client.get(f"/page/{name}", headers={"If-None-Match": response.headers["ETag"]})
    assert (304, b"") == (again.status_code, again.data)
    assert 200 == client.get(f"/page/{name}", headers={"If-None-Match": '"another"'}).status_code


def test_page_is_the_same_file_and_the_icon_is_where_browsers_look(client):
    """`/` is index.html, and `/favicon.ico` is an icon: a missing one would be an error in every console."""
    assert client.get("/page/index.html").data == client.get("/", headers={"Accept": "text/html"}).data
    icon = client.get("/favicon.ico")
    assert (200, "image/x-icon", b"\0\0\1\0") == (icon.status_code, icon.mimetype, icon.data[:4])


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/nothing.js",
        "/page/../files.py",
        "/page/..%2ffiles.py",
        "/page/photographs",
        "/page/photographs/",
        "/page/photographs/../index.html",
        "/page/photographs%2f..%2findex.html",
        "/page/%2e%2e/files.py",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/page/.%00.js",
        "/page/INDEX.HTML",
    ],
)
def test_nothing_else_is_served_when_a_path_tries_to_leave_the_folder(client, path):
    """A path is looked up among names read at the start, so no path reaches another file."""
    response = client.get(path)
    assert (404, "NOT_FOUND") == (response.status_code, response.json["error"]["code"])


def test_files_load_nothing_from_elsewhere_and_hold_no_inline_script(client):
    """But for links to the photographers no address of another host, no inline script or style, no missing file."""
    assert 5 <= len(PROGRAMS)
    for name in PROGRAMS:
        text = CREDIT.sub("<a", (files.FOLDER / name).read_text())
        assert [] == re.findall(r"https?:|//\w+\.\w+/|\bon\w+=\"|<style|\sstyle=|\beval\(|innerHTML", text)
        for path in re.findall(r"[\"'(](/page/[\w./]+)", text):
            assert 200 == client.get(path).status_code, path
    index = (files.FOLDER / "index.html").read_text()
    assert [] == [script for script in re.findall(r"<script[^>]*>", index) if " src=" not in script]


def test_photographs_are_credited_beside_them_and_on_the_page():
    """Photographer and licence of each picture stand in a file of its folder and as links in the page."""
    credits = (files.FOLDER / "photographs" / "CREDITS.txt").read_text()
    index = (files.FOLDER / "index.html").read_text()
    pictures = {path.name for path in (files.FOLDER / "photographs").iterdir()} - {"CREDITS.txt"}
    assert {"china.jpg", "flower.jpg"} == pictures
    for link in ("danielbuechele/6061409035/", "vultilion/6056698931/"):
        assert f"https://www.flickr.com/photos/{link}" in credits
        assert f'href="https://www.flickr.com/photos/{link}"' in index
    assert "https://creativecommons.org/licenses/by/2.0/" in credits
    assert 'href="https://creativecommons.org/licenses/by/2.0/"' in index


def test_version_is_described_by_its_manifest_and_the_proof_made_at_load(service, client):
    """What the page needs beyond `GET /models`: threshold, certificate, means and deviations of the features."""
    data = {"file": "secret.csv", "feature_means": [1.5, 2, -3.25], "feature_deviations": [0.5, 1, 2]}
    service.publish("m", 2, threshold=0.5, data=data, task="classification")
    response = client.get("/models/m/versions/2")
    assert "2" == response.headers["X-Model-Version"]
    assert {
        "model": "m",
        "version": 2,
        "dim": 3,
        "features": ["radius", "texture", "area"],
        "outputs": ["score", "gradient"],
        "convexity": "proved",
        "unproved_reason": "",
        "engine": "program",
        "made_elsewhere": False,
        "created": "2026-11-20T03:00:12Z",
        "task": "classification",
        "threshold": 0.5,
        "certificate": {
            "convex_in": ["x"],
            "proved": True,
            "gradient": "checked",
            "strong_convexity": 2.0,
            "rounding_margin": 1e-6,
            "steps": [{"node": "quadratic/Square", "rule": "convex-of-affine", "curvature": "convex"}],
            "num_steps": 1,
            "untaken": [],
            "weights_sha256": "0" * 64,
            "program_sha256": "1" * 64,
        },
        "metrics": {"held_out": {"rows": 112}},
        "feature_means": [1.5, 2.0, -3.25],
        "feature_deviations": [0.5, 1.0, 2.0],
    } == response.json


def test_version_made_elsewhere_is_described_without_a_manifest(service, client):
    """What only a manifest knows is empty or null, and the proof is there all the same."""
    signature = Signature("m", 3, 3, made_elsewhere=True)
    service.publish("m", 3, signature=signature)
    told = client.get("/models/m/versions/3").json
    assert (True, "", None, None, {}) == tuple(
        told[name] for name in ("made_elsewhere", "created", "task", "threshold", "metrics")
    )
    assert (None, None, []) == (told["feature_means"], told["feature_deviations"], told["features"])
    assert 1 == told["certificate"]["num_steps"]
    (listed,) = client.get("/models").json["models"][0]["versions"]
    assert (True, "", 1) == (listed["made_elsewhere"], listed["created"], listed["proof"]["num_steps"])


def test_steps_of_a_long_proof_are_bounded_and_counted(service, client):
    """A proof of a thousand steps is told with its count: 16 in the list of models, 256 in the version's route."""
    step = Step("node", "convex-of-affine", "convex", "a convex function of an affine one is convex")
    service.publish("m", 1, certificate=Certificate((step,) * 1000, 0.0, "0" * 64, "1" * 64))
    proof = client.get("/models").json["models"][0]["versions"][0]["proof"]
    assert (1000, 16) == (proof["num_steps"], len(proof["steps"]))
    certificate = client.get("/models/m/versions/1").json["certificate"]
    assert (1000, 256) == (certificate["num_steps"], len(certificate["steps"]))


@pytest.mark.parametrize("means", [None, "1,2,3", [1.0, 2.0], [1.0, "2", 3.0], [1.0, True, 3.0], [10**400, 1, 1]])
def test_means_are_left_out_when_a_manifest_says_something_else(service, client, means):
    """The manifest's `data` may hold anything; only as many finite numbers as features are passed on."""
    service.publish("m", 1, data={"feature_means": means})
    assert client.get("/models/m/versions/1").json["feature_means"] is None


def test_unproved_version_is_described_with_the_reason_and_no_certificate(service, client):
    """Where a version is served without a proof, the page can say so and why."""
    service.publish("m", 1, proved=False)
    described = client.get("/models/m/versions/1").json
    assert ("unproved", None) == (described["convexity"], described["certificate"])
    assert "Cos" in described["unproved_reason"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/models/m/versions/9", 404),
        ("/models/other/versions/1", 404),
        ("/models/m/versions/0", 400),
        ("/models/m/versions/x", 400),
        ("/models/m/versions/99999999999999999999", 400),
    ],
)
def test_version_that_is_not_here_is_an_error_in_the_usual_form(service, client, path, status):
    """A model or version that is not served is not found, a text that is no version is refused."""
    service.publish("m", 1)
    response = client.get(path)
    assert status == response.status_code
    assert {"code", "message", "request_id"} == response.json["error"].keys()
