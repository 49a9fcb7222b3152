"""Metrics: what is counted under which labels, what leaves the page again, and that scrapes are in nobody's way."""

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import metric_families
from service.answered import AnsweredRequest
from service.batch_statistics import Depth
from service.errors import Refusal
from service.lifecycle import ModelStatus, VersionState, VersionStatus
from service.metrics import KEPT_SECONDS, MOST_GONE, Metrics
from tests.service.samples import total

REQUEST = {"model": "m", "version": "3", "signature": "score", "protocol": "rest"}
BATCH = {"model": "m", "version": "3", "outputs": "score,gradient"}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        """Return the time."""
        return self.seconds


def model(*versions, labels=(), name="m"):
    """Return the status of a model; a version is a number that is AVAILABLE, or a number and its state (and rule)."""
    pairs = [version if isinstance(version, tuple) else (version, "AVAILABLE") for version in versions]
    statuses = [VersionStatus(name, number, VersionState(state), "", *rule) for number, state, *rule in pairs]
    newest_first = tuple(sorted(statuses, key=lambda status: -status.version))
    return ModelStatus(name, True, 3, (), dict(labels), "", newest_first)


def answered(version=3, **changes):
    """Return a request for the score of a version that was answered OK."""
    usual = {"protocol": "rest", "code": "OK", "seconds": 0.003, "model": "m", "version": version, "signature": "score"}
    return AnsweredRequest(**(usual | changes))


def test_requests_are_counted_by_model_version_signature_protocol_and_code():
    """A request adds to its counter, its rows and bytes, and its time to the histogram."""
    metrics = Metrics()
    metrics.count_load("m", "available")
    metrics.count_request(answered(num_rows=5, bytes_in=100, bytes_out=40))
    metrics.count_request(answered(num_rows=2, bytes_in=10, bytes_out=4))
    metrics.count_request(answered(code="OUT_OF_RANGE", bytes_in=1, bytes_out=2))
    text = metrics.render()
    assert 2 == total(text, "convex_requests_total", code="OK", **REQUEST)
    assert 1 == total(text, "convex_requests_total", code="OUT_OF_RANGE", **REQUEST)
    assert 7 == total(text, "convex_rows_total", **REQUEST)
    assert 111 == total(text, "convex_request_bytes_total", **REQUEST)
    assert 46 == total(text, "convex_response_bytes_total", **REQUEST)
    assert 0 == total(text, "convex_request_seconds_bucket", le="0.0025", code="OK", **REQUEST)
    assert 2 == total(text, "convex_request_seconds_bucket", le="0.005", code="OK", **REQUEST)
    assert 0.006 == total(text, "convex_request_seconds_sum", code="OK", **REQUEST)


def test_names_that_callers_invent_do_not_become_labels():
    """A model that was never loaded, its version and a signature that nobody has are counted under empty names."""
    metrics = Metrics()
    for number in range(50):
        metrics.count_request(answered(number, model=f"invented-{number}", code="NOT_FOUND"))
    metrics.count_load("m", "available")
    metrics.count_request(answered(signature="invented"))
    text = metrics.render()
    empty = {"model": "", "version": "", "signature": ""}
    assert 50 == total(text, "convex_requests_total", code="NOT_FOUND", **empty)
    assert 1 == total(text, "convex_requests_total", model="m", version="3", signature="")
    assert b"invented" not in text


def test_refusals_are_counted_by_protocol_and_reason():
    """Every reason has a number of its own, and a request that was not turned away has none."""
    metrics = Metrics()
    metrics.count_load("m", "available")
    for reason in Refusal:
        metrics.count_request(answered(None, code="RESOURCE_EXHAUSTED", protocol="grpc", refusal=reason))
    metrics.count_request(answered())
    text = metrics.render()
    refused = {"model": "m", "protocol": "grpc"}
    assert [1.0] * 6 == [total(text, "convex_refusals_total", reason=reason, **refused) for reason in Refusal]
    assert 6 == total(text, "convex_refusals_total")


def test_in_flight_is_what_has_begun_and_not_ended():
    """Each protocol has a gauge that falls again."""
    metrics = Metrics()
    for step in (metrics.begin, metrics.begin, metrics.end):
        step("rest")
    metrics.begin("grpc")
    metrics.watch_http(lambda: (7, 3))
    text = metrics.render()
    assert (7, 3) == (total(text, "convex_http_connections"), total(text, "convex_http_requests"))
    assert [1, 1] == [total(text, "convex_requests_in_flight", protocol=name) for name in ("rest", "grpc")]


def test_loads_and_swaps_are_counted_with_their_times():
    """A refusal carries its rule, a load its seconds, a swap its model and when it was."""
    metrics = Metrics(wall_clock=lambda: 1795263331.25)
    metrics.count_load("m", "refused", "nonneg-matmul", 0.3)
    metrics.count_load("m", "available", seconds=4.0)
    metrics.count_swap("m")
    metrics.count_swap("m")
    text = metrics.render()
    assert 1 == total(text, "convex_version_loads_total", model="m", outcome="refused", rule="nonneg-matmul")
    assert 1 == total(text, "convex_version_loads_total", model="m", outcome="available", rule="")
    assert 1 == total(text, "convex_version_load_seconds_bucket", outcome="refused", le="0.5")
    assert 4 == total(text, "convex_version_load_seconds_sum", outcome="available")
    assert 2 == total(text, "convex_swaps_total", model="m")
    assert 1795263331.25 == total(text, "convex_last_swap_timestamp_seconds", model="m")


def test_batches_are_rendered_from_what_batchers_counted():
    """Sizes, waits and times are cumulative histograms; what waits, drops, failures and deaths are numbers."""
    metrics = Metrics()
    statistics = metrics.batch_statistics("m", 3, ("score", "gradient"))
    assert statistics is metrics.batch_statistics("m", 3, ("score", "gradient"))
    statistics.watch(lambda: Depth(7, 2, 1.5))
    for num_rows in (1, 3, 5000):
        statistics.count_batch(num_rows, (0.002,))
    statistics.timed(lambda _rows: None)(None)
    statistics.count_dropped("deadline", 4)
    statistics.count_failed_batch()
    statistics.count_thread_replaced()
    text = metrics.render()
    expected = {
        ("convex_queue_rows", 7),
        ("convex_queue_requests", 2),
        ("convex_queue_oldest_seconds", 1.5),
        ("convex_batch_rows_sum", 5004),
        ("convex_batch_rows_count", 3),
        ("convex_compute_seconds_count", 1),
        ("convex_dropped_rows_total", 4),
        ("convex_failed_batches_total", 1),
        ("convex_batch_threads_replaced_total", 1),
    }
    assert expected == {(name, total(text, name, **BATCH)) for name, _ in expected}
    buckets = {"1.0": 1, "2.0": 1, "4.0": 2, "4096.0": 2, "+Inf": 3}
    assert buckets == {bound: total(text, "convex_batch_rows_bucket", le=bound, **BATCH) for bound in buckets}
    assert 3 == total(text, "convex_queue_seconds_bucket", le="0.0025", **BATCH)
    assert 0 == total(text, "convex_dropped_rows_total", reason="cancelled", **BATCH)


def test_states_labels_and_newest_version_are_those_of_the_moment():
    """What is shown of versions is what the registry says at the scrape, and nothing of the scrape before."""
    metrics = Metrics()
    before = metrics.render([model((1, "AVAILABLE"), (2, "LOADING"), labels={"stable": 1})])
    after = metrics.render([model((1, "UNLOADING"), (2, "AVAILABLE"), labels={"stable": 2})])
    assert (1, 2) == tuple(total(text, "convex_newest_version", model="m") for text in (before, after))
    assert (1, 2) == tuple(total(text, "convex_label_version", model="m", label="stable") for text in (before, after))
    states = {"1": "UNLOADING", "2": "AVAILABLE"}
    assert 2 == total(after, "convex_version_state")
    assert [1, 1] == [total(after, "convex_version_state", version=v, state=state) for v, state in states.items()]


def test_version_that_ended_is_shown_only_if_it_was_refused():
    """A version that served and left is no news; of the refused ones the sixteen newest are shown."""
    ended = [(number, "END", "nonneg-matmul") for number in range(1, 31)]
    text = Metrics().render([model((50, "END"), (40, "AVAILABLE"), *ended)])
    assert 17 == total(text, "convex_version_state")
    assert [-1, 1, 1, -1] == [total(text, "convex_version_state", version=str(v)) for v in (50, 30, 15, 14)]


def test_numbers_of_a_version_leave_the_page_some_time_after_it_has_gone():
    """The last count of a version can still be scraped for ten minutes; the model's other versions stay."""
    clock = Clock()
    metrics = Metrics(clock=clock)
    metrics.count_load("m", "available")
    for version in (1, 2):
        metrics.count_request(answered(version))
        metrics.batch_statistics("m", version, ("score",)).count_batch(1, ())
    present = [model(2, (1, "END"))]

    def shown():
        text = metrics.render(present)
        names = ("convex_requests_total", "convex_request_seconds_count", "convex_batch_rows_count")
        return [total(text, name, version=version) for version in ("1", "2") for name in names]

    assert [1] * 6 == shown()
    clock.seconds = KEPT_SECONDS - 1.0
    assert [1] * 6 == shown()
    clock.seconds = KEPT_SECONDS
    assert [-1, -1, -1, 1, 1, 1] == shown()


def test_version_that_comes_back_keeps_its_numbers():
    """A version that is loaded again within the ten minutes is not gone: they begin anew when it leaves again."""
    clock = Clock()
    metrics = Metrics(clock=clock)
    metrics.count_load("m", "available")
    metrics.count_request(answered(1))
    for seconds, versions in ((0.0, [2]), (500.0, [1, 2]), (900.0, [2])):
        clock.seconds = seconds
        metrics.forget_gone([model(*versions)])
    clock.seconds = 1400.0
    assert 1 == total(metrics.render([model(2)]), "convex_requests_total", version="1")


def test_page_does_not_grow_in_a_year_of_nightly_versions():
    """Nights in which every version and every retired one is asked leave as many lines as the first week."""
    clock = Clock()
    metrics = Metrics(clock=clock)
    sizes = []
    for night in range(1, 366):
        clock.seconds = 86400.0 * night
        metrics.count_load("m", "available", seconds=1.0)
        metrics.count_swap("m")
        metrics.forget_gone([model(night, (night - 1, "END"))])
        metrics.count_request(answered(night))
        metrics.batch_statistics("m", night, ("score",)).count_batch(1, (0.1,))
        versions = [night, *((old, "END") for old in range(1, night))]
        sizes.append(len(metrics.render([model(*versions)]).splitlines()))
    assert {sizes[7]} == set(sizes[7:])


def test_storm_of_versions_keeps_no_more_than_the_newest_gone():
    """A hundred versions within a moment do not wait for their ten minutes: the longest gone make room."""
    clock = Clock()
    metrics = Metrics(clock=clock)
    metrics.count_load("m", "available")
    for version in range(1, 200):
        clock.seconds += 0.01
        metrics.count_request(answered(version))
        metrics.forget_gone([model(version + 1)])
    text = metrics.render([model(200)])
    assert MOST_GONE == total(text, "convex_requests_total")
    assert [-1, 1] == [total(text, "convex_requests_total", version=version) for version in ("100", "199")]


def test_model_that_has_gone_leaves_no_label():
    """A model whose folder is no more is forgotten with all that was counted of it, and its name is any name again."""
    clock = Clock()
    metrics = Metrics(clock=clock)
    metrics.count_load("m", "available", seconds=1.0)
    metrics.count_swap("m")
    metrics.count_request(answered(1, refusal=Refusal.DEADLINE))
    metrics.count_request(answered(None))
    metrics.forget_gone([])
    clock.seconds = KEPT_SECONDS
    assert b'model="m"' not in metrics.render([])
    metrics.count_request(answered(1))
    assert 1 == total(metrics.render([]), "convex_requests_total", model="", version="")


def test_requests_are_passed_on_after_they_were_counted():
    """Who was given to the metrics hears of each request, the counted ones and those of invented models."""
    told = []
    metrics = Metrics(told.append)
    requests = [answered(), answered(model="invented")]
    for request in requests:
        metrics.count_request(request)
    assert requests == told


def test_two_servers_of_one_process_do_not_mix():
    """Each Metrics has numbers of its own."""
    first, second = Metrics(), Metrics()
    first.count_swap("m")
    assert -1 == total(second.render(), "convex_swaps_total")


def full():
    """Return metrics in which every family has a number."""
    metrics = Metrics()
    metrics.count_load("m", "available", seconds=1.0)
    metrics.count_swap("m")
    metrics.count_request(answered(refusal=Refusal.DEADLINE))
    statistics = metrics.batch_statistics("m", 3, ("score",))
    statistics.count_batch(1, (0.1,))
    statistics.timed(lambda _rows: None)(None)
    return metrics.render([model(3, labels={"stable": 3})], num_dropped_lines=2)


def test_page_holds_every_family_of_the_table_and_no_other():
    """Name, kind, labels and meaning on the page are those of the table that the README shows."""
    shown = {}
    for family in text_string_to_metric_families(full().decode()):
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        shown[name] = (family.type, labels, family.documentation)
    table = metric_families.table()
    assert {
        name: (kind, set(filter(None, labels.split(", "))), meaning) for name, kind, labels, meaning in table
    } == shown
    assert len(table) == len(shown)


def test_names_follow_the_conventions_of_prometheus():
    """Counters end with _total, no gauge or histogram does, and units are seconds and bytes, written out."""
    for name, kind, _labels, meaning in metric_families.table():
        assert name.startswith(("convex_", "process_"))
        assert (kind == "counter") == name.endswith("_total")
        assert not any(unit in name for unit in ("milli", "micro", "_ms", "kilo", "mega"))
        assert meaning.endswith(".")
        assert "\\" not in meaning


def test_lost_lines_threads_and_build_are_on_the_page():
    """Log lines that were lost, this process's threads and what is installed are told."""
    text = full()
    assert 2 == total(text, "convex_log_lines_dropped_total")
    assert total(text, "process_threads") >= threading.active_count()
    assert total(text, "process_resident_memory_bytes") > 1e6
    assert 1 == total(text, "convex_build_info")


@pytest.mark.parametrize("num_threads", [4])
def test_every_request_is_counted_while_versions_come_and_go_and_the_page_is_read(num_threads):
    """No scrape fails, and none loses or doubles a request, whatever happens in between."""
    metrics = Metrics()
    metrics.count_load("m", "available")
    stop, failures, each = threading.Event(), [], 3000

    def read():
        version = 3
        while not stop.is_set():
            version += 1
            metrics.batch_statistics("m", version, ("score",)).watch(lambda: Depth(1, 1, 0.0))
            try:
                list(text_string_to_metric_families(metrics.render([model(3, version)]).decode()))
            except Exception as error:  # noqa: BLE001  # any at all fails the test
                failures.append(error)

    def count():
        for _ in range(each):
            metrics.begin("rest")
            metrics.count_request(answered(refusal=Refusal.DEADLINE))
            metrics.end("rest")

    reader = threading.Thread(target=read)
    counters = [threading.Thread(target=count) for _ in range(num_threads)]
    for thread in (reader, *counters):
        thread.start()
    for thread in counters:
        thread.join()
    stop.set()
    reader.join()
    text = metrics.render([model(3)])
    names = ("convex_requests_total", "convex_request_seconds_count", "convex_refusals_total")
    assert [num_threads * each] * 3 == [total(text, name) for name in names]
    assert ([], 0) == (failures, total(text, "convex_requests_in_flight"))


def test_request_is_counted_while_a_scrape_stands_still():
    """A scrape that hangs in the middle of the page holds nothing that a request needs."""
    metrics = Metrics()
    metrics.count_load("m", "available")
    inside, go_on = threading.Event(), threading.Event()

    def hang():
        inside.set()
        assert go_on.wait(20)
        return Depth()

    statistics = metrics.batch_statistics("m", 3, ("score",))
    statistics.watch(hang)
    scrape = threading.Thread(target=metrics.render, args=([model(3)],))
    scrape.start()
    assert inside.wait(20)
    work = threading.Thread(
        target=lambda: (
            metrics.begin("rest"),
            metrics.count_request(answered(refusal=Refusal.DRAINING)),
            statistics.count_batch(1, (0.1,)),
            metrics.end("rest"),
        )
    )
    work.start()
    work.join(20)
    assert not work.is_alive()
    go_on.set()
    scrape.join(20)
    assert not scrape.is_alive()
