"""Metrics: what is counted under which labels."""

from service.metrics import Metrics


def lines(metrics):
    """Return the lines of the rendered text."""
    return metrics.render().decode().splitlines()


def test_requests_are_counted_by_model_protocol_and_code():
    """A request adds to its counter, its rows, and its time to the histogram."""
    metrics = Metrics()
    metrics.count_load("m", "available")
    metrics.count_request("m", "rest", "OK", 0.003, num_rows=5)
    text = lines(metrics)
    assert 'convex_requests_total{code="OK",model="m",protocol="rest"} 1.0' in text
    assert 'convex_rows_total{model="m"} 5.0' in text
    assert 'convex_request_seconds_bucket{le="0.0025",model="m",protocol="rest"} 0.0' in text
    assert 'convex_request_seconds_bucket{le="0.005",model="m",protocol="rest"} 1.0' in text


def test_invented_model_names_do_not_become_labels():
    """A name that no version was ever loaded of is counted under the empty name, so callers cannot fill the memory."""
    metrics = Metrics()
    for number in range(50):
        metrics.count_request(f"invented-{number}", "grpc", "NOT_FOUND", 0.001)
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


def test_two_servers_of_one_process_do_not_mix():
    """Each Metrics has a registry of its own."""
    first, second = Metrics(), Metrics()
    first.count_swap("m")
    assert not any(line.startswith("convex_swaps_total") for line in lines(second))
