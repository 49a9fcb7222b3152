"""The page of several workers, some of which have ended."""

from service.answered import AnsweredRequest
from service.fleet.tally import Tally
from service.lifecycle import ModelStatus, VersionState, VersionStatus
from service.metrics import KEPT_SECONDS, Metrics
from tests.service.samples import total
from tests.service.test_metrics import Clock


def model(*versions):
    """Return the status of m with these versions available."""
    statuses = tuple(VersionStatus("m", version, VersionState.AVAILABLE) for version in versions)
    return ModelStatus("m", True, 3, (), {}, "", statuses)


def worker(num_requests, version=3):
    """Return the counters of a worker that answered so many requests."""
    metrics = Metrics()
    metrics.know_models(["m"])
    for _ in range(num_requests):
        metrics.count_request(AnsweredRequest("rest", "OK", 0.003, model="m", version=version, signature="score"))
    return metrics


def page(tally, *versions, own=None):
    """Return the page while these versions are available."""
    models = [model(*versions)]
    return tally.page((own or Metrics()).numbers(models), 2, models)


def test_page_has_the_requests_of_all_workers_and_of_each():
    """The sum under the request's labels, and under each worker's place."""
    tally = Tally(2)
    tally.note(0, worker(3).numbers())
    tally.note(1, worker(4).numbers())
    text = page(tally, 3)
    assert 7 == total(text, "convex_requests_total", model="m", version="3", code="OK")
    assert 7 == total(text, "convex_request_seconds_count", model="m")
    assert [3, 4] == [total(text, "convex_worker_requests_total", worker=name) for name in "01"]
    assert 2 == total(text, "convex_workers")


def test_counters_go_on_where_the_workers_that_counted_have_ended():
    """A killed worker's last numbers stay, its successor's are added, and its gauges go with it."""
    tally = Tally(2)
    first = worker(3)
    first.begin("rest")
    tally.note(0, first.numbers())
    tally.note(1, worker(4).numbers())
    tally.note_end(0, "killed")
    text = page(tally, 3)
    assert 7 == total(text, "convex_requests_total", model="m")
    assert 0 == total(text, "convex_requests_in_flight")
    assert 1 == total(text, "convex_workers_ended_total", reason="killed")
    tally.note(0, worker(2).numbers())
    text = page(tally, 3)
    assert 9 == total(text, "convex_requests_total", model="m")
    assert [5, 4] == [total(text, "convex_worker_requests_total", worker=name) for name in "01"]


def test_worker_that_was_asked_to_end_is_counted_as_no_failure():
    """Its counts stay all the same."""
    tally = Tally(1)
    tally.note(0, worker(3).numbers())
    tally.note_end(0)
    text = page(tally, 3)
    assert 3 == total(text, "convex_requests_total", model="m")
    assert 0 == total(text, "convex_workers_ended_total")


def test_what_ended_workers_counted_of_a_version_leaves_the_page_some_time_after_it():
    """Ten minutes after the version has gone, as the living workers' numbers of it; the model's others stay."""
    clock = Clock()
    tally = Tally(1, clock)
    tally.note(0, worker(3, version=3).numbers())
    tally.note_end(0, "exit")
    assert 3 == total(page(tally, 4), "convex_requests_total", version="3")
    clock.seconds = KEPT_SECONDS - 1.0
    assert 3 == total(page(tally, 4), "convex_requests_total", version="3")
    clock.seconds = KEPT_SECONDS
    assert -1 == total(page(tally, 4), "convex_requests_total", version="3")


def test_state_of_versions_and_loads_is_the_commanders_alone():
    """What is live is told once, and loads are counted by who loads."""
    tally = Tally(2)
    for slot in range(2):
        tally.note(slot, worker(1).numbers())
    own = Metrics()
    own.count_load("m", "available", seconds=1.0)
    text = page(tally, 3, own=own)
    assert 1 == total(text, "convex_version_state", version="3")
    assert 1 == total(text, "convex_version_loads_total")
    assert 1 == total(text, "convex_build_info")
