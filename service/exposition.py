"""Prometheus' text format: families of numbers, written line by line.

Above: `metrics`. Below: `batch_statistics`, whose distributions become histograms. Own code beside prometheus-client,
whose writer takes 120 ms for the lines of a hundred versions, in which no request is answered.
"""

import dataclasses
import functools
import itertools
from typing import Protocol

from service.batch_statistics import Distribution

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of the format."""

_MOST_SERIES = 8192
_MOST_HISTOGRAMS = 2048  # of some 2 KiB each
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclasses.dataclass(frozen=True, eq=False)  # each is itself alone, and hashed in no time
class Family:
    """Numbers of one meaning.

    Args:
        name: as a query names it; a histogram's without `_bucket`, `_sum`, `_count`.
        kind: "counter", "gauge" or "histogram".
        labels: names of the labels, in the order of the values.
        meaning: one line, the page's HELP and the README's last column.
        gathered: how the numbers of several processes under the same labels become one: "sum", "max" or "min".
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    gathered: str = "sum"


class Sheet(Protocol):
    """What numbers are written on: a page for a reader, or numbers to be gathered."""

    def add(self, family: Family, values: tuple[object, ...], number: float) -> None:
        """Add one number of a counter or gauge under the values of its labels."""

    def add_distribution(self, family: Family, values: tuple[object, ...], distribution: Distribution) -> None:
        """Add one histogram under the values of its labels."""


class Page:
    """The lines of one scrape, family by family.

    Example:
        >>> page = Page()
        >>> rows = Family("rows_total", "counter", ("model",), "Rows scored.")
        >>> page.add(rows, ("m",), 3)
        >>> print(page.text(), end="")
        # HELP rows_total Rows scored.
        # TYPE rows_total counter
        rows_total{model="m"} 3.0
    """

    def __init__(self) -> None:
        """Begin with an empty page."""
        self._lines: dict[Family, list[str]] = {}

    def add(self, family: Family, values: tuple[object, ...], number: float) -> None:
        """Add one number of a counter or gauge under the values of its labels."""
        self._of(family).append(f"{_name_and_labels(family, values)} {float(number)!r}\n")

    def add_distribution(self, family: Family, values: tuple[object, ...], distribution: Distribution) -> None:
        """Add one histogram under the values of its labels."""
        counts = tuple(distribution.counts)  # a copy in one step: numbers that change while they are added fit no more
        reached = tuple(itertools.accumulate(counts))
        form = _histogram(family, values, distribution.bounds)
        self._of(family).append(form % (*reached, distribution.total, reached[-1]))

    def text(self) -> str:
        """Return the page."""
        return "".join("".join(lines) for lines in self._lines.values())

    def _of(self, family: Family) -> list[str]:
        lines = self._lines.get(family)
        if lines is None:
            lines = self._lines[family] = [
                f"# HELP {family.name} {family.meaning}\n",
                f"# TYPE {family.name} {family.kind}\n",
            ]
        return lines


# Most of a page is the same at every scrape: a series' text is made once, and its numbers are put into it.
@functools.lru_cache(maxsize=_MOST_SERIES)
def _name_and_labels(family: Family, values: tuple[object, ...]) -> str:
    return family.name + _braces(_labels(family, values))


@functools.lru_cache(maxsize=_MOST_HISTOGRAMS)
def _histogram(family: Family, values: tuple[object, ...], bounds: tuple[float, ...]) -> str:
    """Return the lines of a histogram with a place for each number: reached counts, sum, count."""
    name, labels = family.name, _labels(family, values).replace("%", "%%")
    others = f"{labels}," if labels else ""
    lines = [f'{name}_bucket{{{others}le="{bound!r}"}} %d.0\n' for bound in bounds]
    lines.append(f'{name}_bucket{{{others}le="+Inf"}} %d.0\n')
    return "".join((*lines, f"{name}_sum{_braces(labels)} %r\n", f"{name}_count{_braces(labels)} %d.0\n"))


def _labels(family: Family, values: tuple[object, ...]) -> str:
    pairs = zip(family.labels, values, strict=True)
    return ",".join(f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in pairs)


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""
