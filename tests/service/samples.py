"""Reads Prometheus' text as Prometheus does, and adds up what has the labels that a test names."""

from prometheus_client.parser import text_string_to_metric_families


def total(text: bytes, name: str, **labels: str) -> float:
    """Return the sum of the samples of that name that have these labels, whatever others they have; -1 for none.

    The parser gives a counter whose name does not end with `_total`, as TensorFlow Serving's, a name that does.
    """
    found = [
        sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name in {name, f"{name}_total"} and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else -1.0
