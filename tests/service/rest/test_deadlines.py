"""Deadlines and a full queue over REST: 504 and 429 in the form of the contract, before anything is computed."""

import time

import numpy as np
import pytest

from service.rest.app import create_app
from tests.service.quadratic_versions import make_service
from tests.service.samples import total

BODY = b'{"instances": [[1, 2, 3]]}'
OCTETS = "application/octet-stream"


@pytest.fixture
def service():
    """Return a service with one live version that has room for 8 rows."""
    service = make_service(max_queue_rows=8)
    service.publish("m", 1)
    return service


@pytest.fixture
def live(service):
    """Return the live version."""
    with service.registry.acquire("m") as live:
        return live


@pytest.fixture
def client(service):
    """Return a client of the application."""
    return create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()


def fill(live, num_rows=8):
    """Take room as requests that wait do; each row takes a quarter of a second."""
    share = live._room.open_share()
    live._room.enter(share, num_rows, 12 * num_rows)
    share.seconds_per_row = 0.25


@pytest.mark.parametrize("seconds", ["1", "0.5", "86400", ".25", "30."])
def test_timeout_is_accepted_in_seconds_with_a_fraction(client, seconds):
    """A request with time to spare is answered."""
    assert 200 == client.post("/score", data=BODY, headers={"X-Request-Timeout": seconds}).status_code


@pytest.mark.parametrize(
    "seconds", ["0", "0.0", "-1", "", "soon", "1e3", "nan", "inf", "86401", "1 s", "1,5", "9" * 50]
)
def test_timeout_that_is_no_time_is_refused(client, live, seconds):
    """A value that is not a number of seconds above 0 is 400, and says what was expected."""
    response = client.post("/score", data=BODY, headers={"X-Request-Timeout": seconds})
    assert (400, "INVALID_ARGUMENT") == (response.status_code, response.json["error"]["code"])
    expected = f"X-Request-Timeout: expected seconds above 0 and at most 86400, such as 0.5, received '{seconds[:40]}'."
    assert expected == response.json["error"]["message"]
    assert [] == live.engine.calls


@pytest.mark.parametrize(("header", "waited"), [({"X-Request-Timeout": "5"}, 6.0), ({}, 31.0)])
def test_deadline_counts_from_the_arrival_of_the_request(client, live, header, waited):
    """A request that waited longer for its thread than it had time, its own or the server's, is 504 unread."""
    environment = {"convex_scoring.arrival_seconds": time.monotonic() - waited}
    response = client.post("/score", data=b"not even JSON", headers=header, environ_overrides=environment)
    assert (504, "DEADLINE_EXCEEDED") == (response.status_code, response.json["error"]["code"])
    assert [] == live.engine.calls


@pytest.mark.parametrize(
    ("body", "kind"), [(b"not even JSON", "application/json"), (np.zeros(3, np.float32).tobytes(), OCTETS)]
)
def test_full_queue_is_refused_unread_with_a_time_to_come_again(service, client, live, body, kind):
    """429 with `Retry-After` and the contract's error, before the body is looked at."""
    fill(live)
    response = client.post("/score", data=body, content_type=kind, headers={"X-Request-ID": "id-1"})
    assert (429, "2") == (response.status_code, response.headers["Retry-After"])
    message = "the queue is full: 8 rows (96 bytes) wait, at most 8 rows (67108864 bytes) may. Try again in 2 s."
    assert {"error": {"code": "RESOURCE_EXHAUSTED", "message": message, "request_id": "id-1"}} == response.json
    assert [] == live.engine.calls
    text = service.metrics.render()
    assert 1 == total(text, "convex_refusals_total", model="m", protocol="rest", reason="queue_full")
    assert 1 == total(text, "convex_requests_total", model="m", version="", code="RESOURCE_EXHAUSTED")


def test_request_larger_than_the_room_that_is_left_is_refused(client, live):
    """Three rows have no room where two do."""
    fill(live, 6)
    for num_rows, status in ((3, 429), (2, 200)):
        body = np.zeros((num_rows, 3), np.float32).tobytes()
        assert status == client.post("/score", data=body, content_type=OCTETS).status_code
