"""The numbers of several processes that serve as one, gathered into one page.

Above: `metrics`, which writes on either, and `fleet`, which gathers. Below: `exposition`, `batch_statistics`. Numbers
are plain data that pickles.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from service.batch_statistics import Distribution
from service.exposition import Family, Sheet

_Labels = tuple[str, ...]
_GATHERED: Mapping[str, Callable[[float, float], float]] = {"sum": lambda a, b: a + b, "max": max, "min": min}


class Numbers:
    """What would stand on a page, as numbers: written like a page, and added up with others.

    Example:
        >>> rows = Family("rows_total", "counter", ("model",), "Rows scored.")
        >>> one, other = Numbers(), Numbers()
        >>> one.add(rows, ("m",), 3)
        >>> other.add(rows, ("m",), 4)
        >>> one.gather(other, {"rows_total": rows})
        >>> one.total("rows_total")
        7.0

    Thread safety: none; each is written by one thread, and then read.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._plain: dict[str, dict[_Labels, float]] = {}
        self._distributions: dict[str, dict[_Labels, Distribution]] = {}

    def add(self, family: Family, values: tuple[object, ...], number: float) -> None:
        """Add one number, together with what is there under the same labels as the family says."""
        series = self._plain.setdefault(family.name, {})
        labels = tuple(map(str, values))
        before = series.get(labels)
        series[labels] = float(number) if before is None else _GATHERED[family.gathered](before, float(number))

    def add_distribution(self, family: Family, values: tuple[object, ...], distribution: Distribution) -> None:
        """Add one histogram, bucket by bucket, to what is there under the same labels."""
        series = self._distributions.setdefault(family.name, {})
        labels = tuple(map(str, values))
        found = series.get(labels)
        if found is None:
            found = series[labels] = Distribution(distribution.bounds)
        counts = tuple(distribution.counts)  # in one step: they may change meanwhile
        found.counts = [before + count for before, count in zip(found.counts, counts, strict=True)]
        found.total += distribution.total

    def gather(self, other: "Numbers", families: Mapping[str, Family], *, is_gone: bool = False) -> None:
        """Add the numbers of another process.

        Args:
            other: its numbers.
            families: by their names; what is of no family among them is left out.
            is_gone: whether the process has ended: then only what it counted is added, not what it was.
        """
        for name, series in other._plain.items():
            family = families.get(name)
            if family is not None and not (is_gone and family.kind == "gauge"):
                for labels, number in series.items():
                    self.add(family, labels, number)
        for name, distributions in other._distributions.items():
            family = families.get(name)
            if family is not None:
                for labels, distribution in distributions.items():
                    self.add_distribution(family, labels, distribution)

    def write(self, sheet: Sheet, families: Collection[Family]) -> None:
        """Write everything that is of one of these families, in their order."""
        for family in families:
            for labels, number in self._plain.get(family.name, {}).items():
                sheet.add(family, labels, number)
            for labels, distribution in self._distributions.get(family.name, {}).items():
                sheet.add_distribution(family, labels, distribution)

    def total(self, name: str) -> float:
        """Return the sum of a family of plain numbers over all labels."""
        return sum(self._plain.get(name, {}).values())

    def values_of(self, names: _Labels, families: Mapping[str, Family]) -> set[_Labels]:
        """Return the values that labels of these names have together, in the families that have them all."""
        return {
            tuple(labels[place] for place in places)
            for series, places in self._series_with(names, families)
            for labels in series
        }

    def drop(self, names: _Labels, values: _Labels, families: Mapping[str, Family]) -> None:
        """Drop every number whose labels of these names have these values."""
        for series, places in self._series_with(names, families):
            for labels in [labels for labels in series if tuple(labels[place] for place in places) == values]:
                del series[labels]

    def _series_with(
        self, names: _Labels, families: Mapping[str, Family]
    ) -> Iterator[tuple[dict[_Labels, Any], list[int]]]:
        everything: dict[str, dict[_Labels, Any]] = {**self._plain, **self._distributions}
        for name, series in everything.items():
            family = families.get(name)
            if family is not None and set(names) <= set(family.labels):
                yield series, [family.labels.index(label) for label in names]
