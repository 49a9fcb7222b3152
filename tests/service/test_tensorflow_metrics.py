"""The metrics under TensorFlow Serving's names: its labels, its buckets, its microseconds."""

import pytest

from service.answered import AnsweredRequest
from service.metrics import KEPT_SECONDS, Metrics
from service.tensorflow_metrics import ALL, LATENCY_BUCKETS_MICROSECONDS
from tests.service.samples import total

PREFIX = ":tensorflow:serving:"


def answered(protocol="rest", code="OK", **changes):
    """Return a request for scores of model m that took 2 ms."""
    method = "POST" if protocol == "rest" else "Predict"
    usual = {"method": method, "model": "m", "version": 3, "signature": "score", "num_rows": 3}
    return AnsweredRequest(protocol, code, 0.002, **(usual | changes))


def render(*requests):
    """Return the page after some requests of a model that is known."""
    metrics = Metrics()
    metrics.count_load("m", "available")
    for request in requests:
        metrics.count_request(request)
    return metrics.render(with_tensorflow_names=True)


def test_requests_are_counted_by_model_and_status():
    """Versions and protocols add up, as its counter knows neither; names that are not known have the empty name."""
    requests = [answered(), answered("grpc", version=4), answered(code="NOT_FOUND"), answered(model="invented")]
    text = render(*requests)
    counted = {("m", "OK"): 2, ("m", "NOT_FOUND"): 1, ("", "OK"): 1}
    assert counted == {
        (model, status): total(text, f"{PREFIX}request_count", model_name=model, status=status)
        for model, status in counted
    }


def test_latency_is_in_microseconds_of_its_buckets_and_of_ok_alone():
    """33 buckets from 10 us, each 1.8 times the one before; 2 ms falls below 10 * 1.8^10 = 3570.5 and above 1983.6."""
    assert (33, 10.0, 18.0) == (len(LATENCY_BUCKETS_MICROSECONDS), *LATENCY_BUCKETS_MICROSECONDS[:2])
    text = render(answered(), answered("grpc"), answered("grpc"), answered(code="INTERNAL"))
    name = f"{PREFIX}request_latency"
    assert 1 == total(text, f"{name}_count", model_name="m", API="predict", entrypoint="REST")
    assert 2 == total(text, f"{name}_count", model_name="m", API="Predict", entrypoint="GRPC")
    assert 4000 == pytest.approx(total(text, f"{name}_sum", model_name="m", entrypoint="GRPC"))
    below, above = (repr(LATENCY_BUCKETS_MICROSECONDS[index]) for index in (9, 10))
    assert (0, 3) == (total(text, f"{name}_bucket", le=below), total(text, f"{name}_bucket", le=above))


def test_examples_are_the_rows_of_requests():
    """A total, and a histogram with bounds of powers of two."""
    text = render(answered(), answered(num_rows=5))
    assert 8 == total(text, f"{PREFIX}request_example_count_total", model="m")
    bounds = {"2.0": 0, "4.0": 1, "8.0": 2, "16384.0": 2}
    assert bounds == {le: total(text, f"{PREFIX}request_example_counts_bucket", model="m", le=le) for le in bounds}


def test_what_asks_for_no_scores_is_not_counted():
    """Probes, pages and metadata are no requests of its counter."""
    text = render(answered(method="GET"), answered("grpc", method="GetModelStatus"))
    assert -1 == total(text, f"{PREFIX}request_count")


def test_numbers_stay_when_a_version_leaves_and_go_with_their_model():
    """Its counters never fall while the model is there, whatever versions come and go."""
    now = [0.0]
    metrics = Metrics(clock=lambda: now[0])
    metrics.count_load("m", "available")
    metrics.count_request(answered())
    metrics.forget_gone([])
    assert 1 == total(metrics.render(with_tensorflow_names=True), f"{PREFIX}request_count")
    now[0] = KEPT_SECONDS
    text = metrics.render([], with_tensorflow_names=True)
    assert [-1] * 4 == [total(text, family.name) for family in ALL[:1] + ALL[3:]] * 2


def test_names_stand_on_its_own_path_alone():
    """Our page is not made longer by them."""
    metrics = Metrics()
    metrics.count_request(answered())
    assert b":tensorflow:" not in metrics.render()
