"""Probes and state: alive, ready, what is live, what was counted."""

import pytest

from service.rest.app import create_app
from tests.service.quadratic_versions import make_service


@pytest.fixture
def service():
    """Return a service that requires the model m and has seen nothing yet."""
    return make_service(require_models=("m",))


@pytest.fixture
def client(service):
    """Return a client of the application."""
    return create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()


def test_readyz_follows_the_registry_from_start_to_drain(service, client):
    """Ready is: scanned, every required model available, not about to end; alive is always."""

    def ready():
        assert 200 == client.get("/healthz").status_code
        response = client.get("/readyz")
        return response.status_code, response.json.get("error", {}).get("code"), response.text

    assert (503, "UNAVAILABLE") == ready()[:2]
    service.publish("other", 1)
    service.registry.scanned()
    assert 503 == ready()[0]
    assert "no version is available of m" in ready()[2]
    service.publish("m", 1)
    assert (200, None) == ready()[:2]
    service.registry.start_draining()
    assert 503 == ready()[0]
    assert "about to end" in ready()[2]


def test_healthz_fails_while_an_engine_hangs(service, client, monkeypatch):
    """Liveness says 500 and where it hangs, so that the process is replaced; afterwards it is well again."""
    monkeypatch.setattr(service.registry, "trouble", lambda: "batcher-m-1: the engine has computed one batch for 31 s")
    response = client.get("/healthz")
    assert (500, "stuck") == (response.status_code, response.json["status"])
    assert "batcher-m-1" in response.json["reason"]
    monkeypatch.undo()
    assert 200 == client.get("/healthz").status_code


@pytest.mark.parametrize(("is_published", "found"), [(False, "no version of any model"), (True, "looked through")])
def test_readyz_says_why_when_nothing_is_required(is_published, found):
    """Without a version, and before the first scan is over, the answer says which of the two it is."""
    service = make_service()
    if is_published:
        service.publish("m", 1)
    client = create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()
    response = client.get("/readyz")
    assert 503 == response.status_code
    assert found in response.json["error"]["message"]


def test_models_lists_what_the_contract_names(service, client):
    """Each model with its labels and versions, newest first, in exactly the contract's fields."""
    service.publish("m", 3)
    service.registry.begin("m", 4)
    service.registry.refuse("m", 4, "nonneg-matmul", "node dense/kernel has a weight of -0.03")
    service.registry.set_labels("m", {"stable": 3})
    service.registry.set_policy("m", "latest:1")
    live = {
        "version": 3,
        "state": "AVAILABLE",
        "convexity": "proved",
        "engine": "program",
        "tile_rows": [4],
        "created": "2026-11-20T03:00:12Z",
        "metrics": {"held_out": {"rows": 112}},
        "made_elsewhere": False,
        "proof": {
            "num_steps": 1,
            "steps": [{"node": "quadratic/Square", "rule": "convex-of-affine", "curvature": "convex"}],
        },
        "reason": "",
    }
    refused = {
        **dict.fromkeys(("convexity", "engine", "created"), ""),
        "version": 4,
        "state": "END",
        "tile_rows": [],
        "metrics": {},
        "made_elsewhere": False,
        "proof": {"num_steps": 0, "steps": []},
        "reason": "nonneg-matmul: node dense/kernel has a weight of -0.03",
    }
    model = {
        "name": "m",
        "default": True,
        "dim": 3,
        "features": ["radius", "texture", "area"],
        "labels": {"stable": 3},
        "policy": "latest:1",
        "versions": [refused, live],
    }
    assert {"models": [model]} == client.get("/models").json


def test_models_says_why_a_label_was_not_followed(service, client):
    """A label whose version is not available changes nothing, and the status tells."""
    service.publish("m", 3)
    service.registry.set_labels("m", {"stable": 9})
    (model,) = client.get("/models").json["models"]
    assert {} == model["labels"]
    assert "stable=9" in model["label_problem"]


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics"])
def test_metrics_are_rendered_at_both_paths(service, client, path):
    """Prometheus finds the same metrics at our path and at TensorFlow Serving's."""
    service.publish("m", 1)
    response = client.get(path)
    assert 200 == response.status_code
    assert response.content_type.startswith("text/plain")
    assert 'convex_version_loads_total{model="m",outcome="available",rule=""} 1.0' in response.text


def test_root_lists_the_paths_that_there_are(client):
    """`GET /` is a small index, in which every path answers something else than 404."""
    paths = client.get("/").json["paths"]
    assert {"POST /score", "POST /models/<model>/score", "GET /models", "GET /readyz"} <= set(paths)
    for line in paths:
        verb, path = line.split(" ")
        assert b"no such path" not in client.open(path, method=verb).data
