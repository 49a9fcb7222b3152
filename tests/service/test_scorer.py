"""The data plane: one request, one version, checked rows in, wanted outputs out."""

import numpy as np
import pytest

from service.caller import Caller
from service.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PayloadTooLargeError,
    ResourceExhaustedError,
)
from service.scorer import Target
from tests.service.quadratic_versions import make_service

ROWS = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]])


@pytest.fixture
def service():
    """Return a service with versions 1 and 2 of the model m and at most 4 rows a request."""
    service = make_service(max_request_rows=4)
    service.publish("m", 1)
    service.publish("m", 2)
    return service


def score(service, target=None, rows=ROWS, outputs=None, **options):
    """Score rows that need no decoding."""
    return service.scorer.score(target or Target("m"), lambda _signature: rows, outputs, **options)


def test_score_returns_score_and_gradient_of_the_newest_version(service):
    """Without a version the newest answers, both outputs in wire order, in closed form."""
    answer = score(service)
    assert ("m", 2, "proved") == (answer.signature.model, answer.signature.version, answer.convexity)
    assert ["score", "gradient"] == list(answer.outputs)
    np.testing.assert_array_equal(np.float32([14.0, 1.25]), answer.outputs["score"])
    np.testing.assert_array_equal(np.float32(2 * ROWS), answer.outputs["gradient"])


def test_score_does_no_gradient_work_when_none_is_wanted(service):
    """The engine is asked for the wanted outputs alone."""
    live = service.publish("other", 1)
    assert ["score"] == list(score(service, Target("other"), outputs=["score"]).outputs)
    assert [(2, ("score",))] == live.engine.calls


def test_score_orders_outputs_by_the_wire_whatever_was_asked_first(service):
    """The order of the request is not the order of the answer."""
    assert ["score", "gradient"] == list(score(service, outputs=["gradient", "score"]).outputs)


@pytest.mark.parametrize(
    ("rows", "error", "found"),
    [
        (np.zeros((2, 4)), InvalidArgumentError, "rows: expected shape [n, 3] for model m version 2, received [2, 4]"),
        (np.zeros(3), InvalidArgumentError, "received [3]"),
        (np.array([[0, np.nan, 0]]), InvalidArgumentError, "rows[0][1] is NaN"),
        (np.array([[0, 0, 0], [0, 0, 1e39]]), InvalidArgumentError, "rows[1][2] is infinite in float32"),
        (np.zeros((5, 3)), PayloadTooLargeError, "received 5 instances, at most 4"),
        (np.array([[0, 0, 0], [0, 1e30, 0]]), OutOfRangeError, "rows[1]: score or gradient leaves float32"),
    ],
)
def test_bad_rows_are_refused_by_the_name_that_the_protocol_gives_them(service, rows, error, found):
    """Shape, finiteness, number and range are errors of their own class, located by the caller's word for rows."""
    with pytest.raises(error) as refusal:
        score(service, rows=rows, name="rows")
    assert found in refusal.value.message


def test_rows_are_not_decoded_when_there_is_no_such_version(service):
    """Whoever asks for what is not there costs no decoding."""
    with pytest.raises(NotFoundError):
        service.scorer.score(Target("m", 9), lambda _signature: pytest.fail("decoded"))


def test_rows_are_not_decoded_when_the_queue_is_full(service):
    """A version that has no room for a single row says so before it looks at any."""
    live = service.publish("m", 3)
    live._room.enter(live._room.open_share(), service.settings.max_queue_rows, 4)
    with pytest.raises(ResourceExhaustedError):
        service.scorer.score(Target("m", 3), lambda _signature: pytest.fail("decoded"))
    service.scorer.check_room("m")  # versions 1 and 2 have room
    assert "m" == score(service, Target("m", 2)).signature.model


def test_rows_are_not_computed_when_the_deadline_has_passed(service):
    """A deadline that passed while the rows were decoded costs nothing more."""
    live = service.publish("m", 3)
    with pytest.raises(DeadlineExceededError):
        score(service, Target("m", 3), caller=Caller(deadline_seconds=0.0))
    assert [] == live.engine.calls


def test_lease_is_given_back_when_rows_cannot_be_decoded(service):
    """A request that fails leaves nothing held: the version can be retired at once."""

    def refuse(_signature):
        message = "no"
        raise InvalidArgumentError(message)

    with pytest.raises(InvalidArgumentError):
        service.scorer.score(Target("m", 1), refuse)
    assert service.registry.retire("m", 1, timeout_seconds=0.0)
