"""Prometheus' text format: families of numbers, written line by line.

Above: `metrics`. Below: `batch_statistics`, whose distributions become histograms. Own code beside prometheus-client,
whose writer takes 120 ms for the lines of a hundred versions, in which no request is answered.
"""

import dataclasses
import functools
from collections.abc import Sequence

from service.batch_statistics import Distribution

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of the format."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclasses.dataclass(frozen=True)
class Family:
    """Numbers of one meaning.

    Args:
        name: as a query names it; a histogram's without `_bucket`, `_sum`, `_count`.
        kind: "counter", "gauge" or "histogram".
        labels: names of the labels, in the order of the values.
        meaning: one line, the page's HELP and the README's last column.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


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

    def add(self, family: Family, values: Sequence[object], number: float) -> None:
        """Add one number of a counter or gauge under the values of its labels."""
        self._of(family).append(f"{family.name}{_braces(_labels(family, values))} {float(number)!r}\n")

    def add_distribution(self, family: Family, values: Sequence[object], distribution: Distribution) -> None:
        """Add one histogram under the values of its labels."""
        lines, labels = self._of(family), _labels(family, values)
        begin = f'{family.name}_bucket{{{labels}{"," if labels else ""}le="'
        reached = 0
        counts = tuple(distribution.counts)  # a copy in one step: numbers that change while they are added fit no more
        for bound, count in zip(_shown(distribution.bounds), counts, strict=True):
            reached += count
            lines.append(f'{begin}{bound}"}} {reached}.0\n')
        lines.append(f"{family.name}_sum{_braces(labels)} {distribution.total!r}\n")
        lines.append(f"{family.name}_count{_braces(labels)} {reached}.0\n")

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


def _labels(family: Family, values: Sequence[object]) -> str:
    pairs = zip(family.labels, values, strict=True)
    return ",".join(f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in pairs)


@functools.lru_cache(maxsize=64)
def _shown(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(repr, bounds), "+Inf")


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""
