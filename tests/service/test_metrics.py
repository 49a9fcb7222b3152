"""Metrics: what is counted under which labels."""

from service.answered import AnsweredRequest
from service.metrics import Metrics


def lines(metrics):
    """Return the lines of the rendered text."""
    return metrics.render().decode().splitlines()


def test_requests_are_counted_by_model_protocol_and_code():
    """A request adds to its counter, its rows, and its time to the histogram."""
    metrics = Metrics()
    metrics.count_load("m", "available")
    metrics.count_request(AnsweredRequest("rest", "OK", 0.003, model="m", num_rows=5))
    text = lines(metrics)
    assert 'convex_requests_total{code="OK",model="m",protocol="rest"} 1.0' in text
    assert 'convex_rows_total{model="m"} 5.0' in text
    assert 'convex_request_seconds_bucket{le="0.0025",model="m",protocol="rest"} 0.0' in text
    assert 'convex_request_seconds_bucket{le="0.005",model="m",protocol="rest"} 1.0' in text


def test_invented_model_names_do_not_become_labels():
    """A name that no version was ever loaded of is counted under the empty name, so callers cannot fill the memory."""
    metrics = Metrics()
    for number in range(50):
        metrics.count_request(AnsweredRequest("grpc", "NOT_FOUND", 0.001, model=f"invented-{number}"))
    text = lines(metrics)
    assert 'convex_requests_total{code="NOT_FOUND",model="",protocol="grpc"} 50.0' in text
    assert not any("invented" in line for line in text)


def test_loads_and_swaps_are_counted():
    """A refusal carries its rule; a swap its model."""
    metrics = Metrics()
    metrics.count_load("m", "refused", "nonneg-matmul")
    metrics.count_swap("m")
    assert 'convex_version_loads_total{model="m",outcome="refused",rule="nonneg-matmul"} 1.0' in lines(metrics)
    assert 'convex_swaps_total{model="m"} 1.0' in lines(metrics)


def test_batches_are_rendered_from_what_batchers_counted():
    """Sizes and waits are cumulative histograms; rows that wait, drops by reason, failures and deaths are numbers."""
    metrics = Metrics()
    statistics = metrics.batch_statistics("m", ("score", "gradient"))
    assert statistics is metrics.batch_statistics("m", ("score", "gradient"))
    statistics.watch(lambda: 7)
    for num_rows in (1, 3, 5000):
        statistics.count_batch(num_rows, (0.002,))
    statistics.count_dropped("deadline", 4)
    statistics.count_failed_batch()
    statistics.count_thread_replaced()
    metrics.count_refusal("m")
    labels = 'model="m",outputs="score,gradient"'
    assert {
        f"convex_queue_rows{{{labels}}} 7.0",
        f'convex_batch_rows_bucket{{le="1.0",{labels}}} 1.0',
        f'convex_batch_rows_bucket{{le="2.0",{labels}}} 1.0',
        f'convex_batch_rows_bucket{{le="4.0",{labels}}} 2.0',
        f'convex_batch_rows_bucket{{le="+Inf",{labels}}} 3.0',
        f"convex_batch_rows_sum{{{labels}}} 5004.0",
        f"convex_batch_rows_count{{{labels}}} 3.0",
        f'convex_queue_seconds_bucket{{le="0.0025",{labels}}} 3.0',
        f'convex_dropped_rows_total{{{labels},reason="deadline"}} 4.0',
        f'convex_dropped_rows_total{{{labels},reason="cancelled"}} 0.0',
        f"convex_failed_batches_total{{{labels}}} 1.0",
        f"convex_batch_threads_replaced_total{{{labels}}} 1.0",
        'convex_refusals_total{model="m"} 1.0',
    } <= set(lines(metrics))


def test_two_servers_of_one_process_do_not_mix():
    """Each Metrics has a registry of its own."""
    first, second = Metrics(), Metrics()
    first.count_swap("m")
    assert not any(line.startswith("convex_swaps_total") for line in lines(second))
