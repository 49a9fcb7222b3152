"""Numbers of several processes, gathered."""

import pickle

import pytest

from service.batch_statistics import Distribution
from service.exposition import Family, Page
from service.numbers import Numbers

COUNT = Family("rows_total", "counter", ("model", "version"), "Rows.")
OLDEST = Family("oldest_seconds", "gauge", ("model",), "Age.", "max")
START = Family("start_seconds", "gauge", (), "Start.", "min")
WAITING = Family("waiting", "gauge", (), "Waiting.")
TIMES = Family("times_seconds", "histogram", ("model",), "Times.")
FAMILIES = {family.name: family for family in (COUNT, OLDEST, START, WAITING, TIMES)}


def numbers(count, oldest, start, *times):
    """Return the numbers of one process."""
    found = Numbers()
    found.add(COUNT, ("m", 3), count)
    found.add(OLDEST, ("m",), oldest)
    found.add(START, (), start)
    found.add(WAITING, (), 1)
    distribution = Distribution((1.0, 2.0))
    for seconds in times:
        distribution.add(seconds)
    found.add_distribution(TIMES, ("m",), distribution)
    return found


def text(*gathered):
    """Return the page of numbers of several processes, `(numbers, whether gone)` each."""
    together, page = Numbers(), Page()
    for each, is_gone in gathered:
        together.gather(pickle.loads(pickle.dumps(each)), FAMILIES, is_gone=is_gone)  # noqa: S301  (as between processes)
    together.write(page, FAMILIES.values())
    return page.text()


def test_numbers_of_two_processes_become_one_as_each_family_says():
    """Counters, histograms and gauges add up; ages are the largest, starts the first."""
    page = text((numbers(3, 0.5, 100, 0.5, 1.5), False), (numbers(4, 0.25, 90, 5.0), False))
    assert 'rows_total{model="m",version="3"} 7.0\n' in page
    assert 'oldest_seconds{model="m"} 0.5\n' in page
    assert "start_seconds 90.0\n" in page
    assert "waiting 2.0\n" in page
    assert 'times_seconds_bucket{model="m",le="1.0"} 1.0\n' in page
    assert 'times_seconds_bucket{model="m",le="+Inf"} 3.0\n' in page
    assert 'times_seconds_sum{model="m"} 7.0\n' in page


def test_process_that_is_gone_leaves_what_it_counted_and_not_what_it_was():
    """Its counters and histograms are added, its gauges are not."""
    page = text((numbers(3, 9.0, 1, 0.5), True), (numbers(4, 0.25, 90), False))
    assert 'rows_total{model="m",version="3"} 7.0\n' in page
    assert 'oldest_seconds{model="m"} 0.25\n' in page
    assert "waiting 1.0\n" in page
    assert 'times_seconds_count{model="m"} 1.0\n' in page


def test_numbers_of_labels_are_found_and_dropped_together():
    """Those with the values go, wherever these labels are; others stay."""
    found = numbers(3, 0.5, 100)
    found.add(COUNT, ("m", 4), 1)
    assert {("m", "3"), ("m", "4")} == found.values_of(("model", "version"), FAMILIES)
    found.drop(("model", "version"), ("m", "3"), FAMILIES)
    assert {("m", "4")} == found.values_of(("model", "version"), FAMILIES)
    assert 1.0 == found.total("rows_total")
    found.drop(("model",), ("m",), FAMILIES)
    assert set() == found.values_of(("model",), FAMILIES)


def test_histograms_of_other_buckets_do_not_add_up():
    """Two processes of one program have the same; a sum of others would be a lie."""
    found = numbers(1, 1, 1, 1.0)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        found.add_distribution(TIMES, ("m",), Distribution((1.0,)))
