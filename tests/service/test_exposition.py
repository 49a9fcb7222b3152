"""Prometheus' text: what a reader of the format gets back."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.batch_statistics import Distribution
from service.exposition import Family, Page

GAUGE = Family("depth", "gauge", ("who",), "How deep.")
PLAIN = Family("lines_total", "counter", (), "How many.")
TIMES = Family("seconds", "histogram", ("who",), "How long.")


def test_page_is_the_text_of_the_format_line_by_line():
    """Each family has its two comment lines once, then its samples, however they were added."""
    page = Page()
    times = Distribution((0.5, 1.0))
    for seconds in (0.25, 0.5, 8.0):
        times.add(seconds)
    page.add(GAUGE, ("a",), 1)
    page.add_distribution(TIMES, ("a",), times)
    page.add(GAUGE, ("b",), 2.5)
    page.add(PLAIN, (), 3)
    expected = """\
# HELP depth How deep.
# TYPE depth gauge
depth{who="a"} 1.0
depth{who="b"} 2.5
# HELP seconds How long.
# TYPE seconds histogram
seconds_bucket{who="a",le="0.5"} 2.0
seconds_bucket{who="a",le="1.0"} 2.0
seconds_bucket{who="a",le="+Inf"} 3.0
seconds_sum{who="a"} 8.75
seconds_count{who="a"} 3.0
# HELP lines_total How many.
# TYPE lines_total counter
lines_total 3.0
"""
    assert expected == page.text()


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", '\\n"', "é\t{}=,", "%d", ""])
def test_label_of_any_characters_is_read_back(value):
    """Quotes, backslashes and new lines are escaped as the format says: its own parser reads the value."""
    page = Page()
    page.add(GAUGE, (value,), 1)
    (family,) = text_string_to_metric_families(page.text())
    assert [{"who": value}] == [sample.labels for sample in family.samples]


def test_histogram_without_labels_is_read_back():
    """Without labels the bound stands alone, and sum and count have no braces."""
    page = Page()
    times = Distribution((2.0,))
    times.add(1.0)
    page.add_distribution(Family("seconds", "histogram", (), "How long."), (), times)
    (family,) = text_string_to_metric_families(page.text())
    assert [
        ("seconds_bucket", {"le": "2.0"}, 1.0),
        ("seconds_bucket", {"le": "+Inf"}, 1.0),
        ("seconds_sum", {}, 1.0),
        ("seconds_count", {}, 1.0),
    ] == [(sample.name, sample.labels, sample.value) for sample in family.samples]


def test_labels_that_do_not_fit_the_family_are_refused():
    """One value too few is a defect, not a page without a label."""
    with pytest.raises(ValueError, match="shorter"):
        Page().add(GAUGE, (), 1)


def test_histogram_of_any_label_is_read_back():
    """A percent sign in a label is no place for a number."""
    page = Page()
    page.add_distribution(TIMES, ("%d%%",), Distribution((2.0,)))
    (family,) = text_string_to_metric_families(page.text())
    assert {"%d%%"} == {sample.labels["who"] for sample in family.samples}
