"""`POST /score` of a model with a context: every body that may carry it, and every way to get it wrong."""

import io

import numpy as np
import pytest

from service.rest.app import create_app
from tests.service.context_versions import CONTEXT, GRADIENT, SCORE, X, publish
from tests.service.quadratic_versions import make_service

OCTETS, NPY = "application/octet-stream", "application/x-npy"
PATH = "/models/gated/score"
MISSING = (
    "context: missing. Model gated version 1 answers for a context: send context beside instances, 2 numbers "
    "for each instance."
)


@pytest.fixture
def service():
    """Return a service of one model with a context and of one without."""
    service = make_service(max_request_rows=4)
    publish(service)
    service.publish("plain", 1)
    service.registry.scanned()
    return service


@pytest.fixture
def client(service):
    """Return a client of the application."""
    return create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()


def npy(array):
    """Return an array as NumPy writes it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def by_name(rows, names):
    """Return rows as objects."""
    return [dict(zip(names, row, strict=True)) for row in rows.tolist()]


def test_instances_are_answered_for_the_context_beside_them(client):
    """JSON with `context` gets the score and the gradient by x, three entries wide."""
    answer = client.post(PATH, json={"instances": X.tolist(), "context": CONTEXT.tolist()}).get_json()
    assert (SCORE, GRADIENT) == (answer["score"], answer["gradient"])


def test_objects_by_feature_name_may_stand_for_either_part(client):
    """Instances and contexts may be objects by the names of their own columns."""
    body = {
        "instances": by_name(X, ("radius", "texture", "area")),
        "context": by_name(CONTEXT, ("season", "place")),
        "outputs": ["score"],
    }
    assert SCORE == client.post(PATH, json=body).get_json()["score"]


@pytest.mark.parametrize("kind", [OCTETS, NPY])
def test_table_of_x_and_then_the_context_is_answered(client, kind):
    """Octets and .npy hold five columns a row: x, then the context."""
    rows = np.hstack([X, CONTEXT])
    data = npy(rows) if kind == NPY else rows.tobytes()
    answer = client.post(PATH, data=data, headers={"Content-Type": kind}).get_json()
    assert (SCORE, GRADIENT) == (answer["score"], answer["gradient"])


def test_no_instances_with_no_context_are_answered_by_nothing(client):
    """Zero rows are fine with an empty context."""
    answer = client.post(PATH, json={"instances": [], "context": []}).get_json()
    assert ([], []) == (answer["score"], answer["gradient"])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            {"instances": [[1, 2, 3]]},
            MISSING,
        ),
        (
            {"instances": [[1, 2, 3]], "context": [[1, 2], [3, 4]]},
            "context: received 2 for 1 instances. Send one context for each instance.",
        ),
        (
            {"instances": [[1, 2, 3]], "context": [[1, 2, 3]]},
            "context: expected shape [n, 2] for model gated version 1, received [1, 3]. Send 2 numbers each.",
        ),
        (
            {"instances": [[1, 2, 3, 1, 0]], "context": [[1, 0]]},
            "instances: expected shape [n, 3] for model gated version 1, received [1, 5]. Send 3 numbers each.",
        ),
        (
            {"instances": [[1, 2, 3]], "context": [[1, "0"]]},
            "context[0][1]: expected a number, received a string.",
        ),
        (
            {"instances": [[1, 2, 3]], "context": [[1, 1e39]]},
            "context[0][1] is infinite in float32. Send finite numbers, at most 3.4e38 in size.",
        ),
        (
            {"instances": [[1, 2, 3]], "context": [1]},
            "context[0]: expected a list of 2 numbers or an object by feature name, received a number.",
        ),
        (
            {"instances": [[1, 2, 3]], "context": 7},
            "context: expected a list, one list of numbers for each instance, received a number.",
        ),
        (
            {"instances": [[1, 2, 3]], "context": [{"season": 1}]},
            "context[0]: the feature 'place' is missing. Send all 2 features.",
        ),
    ],
)
def test_wrong_context_is_refused_with_what_to_send(client, body, sentence):
    """Missing, of another length, width or kind, not finite: INVALID_ARGUMENT, the place and the cure in the words."""
    response = client.post(PATH, json=body)
    assert (400, "INVALID_ARGUMENT", sentence) == (
        response.status_code,
        response.get_json()["error"]["code"],
        response.get_json()["error"]["message"],
    )


@pytest.mark.parametrize("context", [[], [[1, 2]]])
def test_context_is_refused_by_a_model_that_takes_none(client, context):
    """What the model does not take is not ignored: it might have been meant."""
    response = client.post("/models/plain/score", json={"instances": [[1, 2, 3]], "context": context})
    error = response.get_json()["error"]
    expected = "context: model plain version 1 takes none. Send instances alone."
    assert (400, "INVALID_ARGUMENT", expected) == (response.status_code, error["code"], error["message"])


@pytest.mark.parametrize(
    ("kind", "data", "part"),
    [
        (
            OCTETS,
            X.tobytes(),
            "20 bytes (5 little-endian float32 a row for model gated version 1: 3 of x, then",
        ),
        (NPY, npy(X), "received [2, 3]. Send 5 numbers per instance: 3 of x, then 2 of the context."),
    ],
)
def test_table_without_the_context_is_refused_with_the_columns_to_send(client, kind, data, part):
    """A table as wide as x alone is told how wide it must be, and what of."""
    response = client.post(PATH, data=data, headers={"Content-Type": kind})
    assert 400 == response.status_code
    assert part in response.get_json()["error"]["message"]


def test_models_tell_the_context_beside_the_features(client):
    """`GET /models` and a version's own route name the context's columns; a model without one has no such field."""
    gated, plain = sorted(client.get("/models").get_json()["models"], key=lambda model: model["name"])
    assert {"dim": 2, "features": ["season", "place"]} == gated["context"]
    assert "context" not in plain
    described = client.get("/models/gated/versions/1").get_json()
    assert ({"dim": 2, "features": ["season", "place"]}, None) == (described["context"], described["context_means"])


def test_row_joins_x_and_context_for_the_engine(service, client):
    """Inside, a row is [x | context], so that batches and tiles need not know of contexts."""
    client.post(PATH, json={"instances": X.tolist(), "context": CONTEXT.tolist()})
    with service.registry.acquire("gated") as live:
        assert np.hstack([X, CONTEXT]).tolist() == live.engine.rows
