"""Sizes of tiles in which a row has the same bits, found by trying them, and the cheapest cut of a batch into them.

Above: engines, which make one for each version that they serve. Below: `tiles`, `evaluation`, `verification`.

Bits change with the number of rows of a product because a library for linear algebra takes another path through its
kernels: another order of the same sum. The path hangs on sizes alone, never on the numbers, so that sizes may be tried
on samples, once. What a sample must do is show another order where there is one. A score hides it well: a last bit of
one product is rounded away in the sum that follows, in some networks for all but one of 2,000 rows. A product alone
shows it for one row in five at least (measured over 391 shapes). So each operation of a program is tried by itself, on
rows of which no bit is rounded away, and then the whole of it. No library promises any of this: what is tried is what
is known.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from service.program.evaluation import operations
from service.program.program import AffineNode, AtomNode, Program
from service.program.tiles import run_in_tiles
from service.program.verification import Probe, verification_rows

Rows = NDArray[np.float32]
Compute = Callable[[Rows, tuple[str, ...]], Mapping[str, Rows]]
"""One tile [size, dim] and the outputs that are wanted -> output name -> its array of `size` rows."""

TRIAL_ROWS = 253
"""Rows on which sizes are tried: 3 less than 256, so that the last tile of every size is padded."""

BOTH = ("score", "gradient")
_ATOM = 140
"""Time of one number's activation and slope, in multiply-adds of a product."""


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Sizes of tiles, and how a batch is cut into them.

    A tile of T rows is taken to cost T + `overhead_rows`, whether its rows are used or padding. The cut of a batch is
    the one of least cost, and depends on nothing but its number of rows.

    Args:
        sizes: rows of a tile, ascending.
        overhead_rows: what a call costs before its first row, in rows.
    """

    sizes: tuple[int, ...]
    overhead_rows: float
    _first: tuple[int, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find the first tile of the cheapest cut of every number of rows up to the largest size."""
        first, cost = [self.sizes[0]], [0.0]
        for num_rows in range(1, self.sizes[-1] + 1):
            best = min((size + self.overhead_rows + cost[max(0, num_rows - size)], -size) for size in self.sizes)
            cost.append(best[0])
            first.append(-best[1])
        object.__setattr__(self, "_first", tuple(first))

    def cut(self, num_rows: int) -> Iterator[int]:
        """Yield the sizes of the tiles for `num_rows` rows, in order; the last may be padded. No rows: one tile."""
        largest = self.sizes[-1]
        while num_rows > largest:
            yield largest
            num_rows -= largest
        yield (size := self._first[num_rows])
        while (num_rows := num_rows - size) > 0:
            yield (size := self._first[num_rows])


def admit(compute: Compute, rows: Rows, sizes: Iterable[int], fixed: int) -> tuple[int, ...]:
    """Return the sizes in which `rows` have the same score and gradient as in tiles of `fixed` rows, bit for bit.

    Each size is tried with the rows in another order, so that a row stands at another place of its tile, with padding,
    with both outputs and with the score alone.

    Args:
        compute: the engine's tile.
        rows: [n, dim]; those whose score or gradient is not finite are no evidence.
        sizes: to try.
        fixed: the size that is there in any case.

    Returns:
        What is left of `sizes`, ascending, with `fixed`. `fixed` alone where it does not agree with itself.
    """
    wholes = (lambda piece: compute(piece, BOTH), lambda piece: compute(piece, BOTH[:1]))
    expected = run_in_tiles(wholes[0], rows, _equal(fixed, len(rows)))
    agreeing = {size for size in {*sizes, fixed} if all(_keeps(whole, rows, expected, size) for whole in wholes)}
    return tuple(sorted(agreeing)) if fixed in agreeing else (fixed,)


def admit_operations(program: Program, sizes: Iterable[int], fixed: int) -> tuple[int, ...]:
    """Return the sizes in which every operation of a program, tried alone, gives the bits of tiles of `fixed` rows.

    Args:
        program: the program, on its own weights in float32.
        sizes: to try.
        fixed: as for `admit`.

    Returns:
        As `admit`.
    """
    agreeing = {*sizes, fixed}
    generator = np.random.default_rng(int(program.weights_sha256, 16))
    for width, operation in operations(program):
        rows = generator.standard_normal((TRIAL_ROWS, width)) * np.exp2(generator.integers(-4, 5, (TRIAL_ROWS, width)))

        def alone(piece: Rows, operation: Callable[[Rows], tuple[Rows, ...]] = operation) -> dict[str, Rows]:
            return {str(number): array for number, array in enumerate(operation(piece))}

        numbers = rows.astype(np.float32)
        expected = run_in_tiles(alone, numbers, _equal(fixed, TRIAL_ROWS))
        agreeing = {size for size in agreeing if _keeps(alone, numbers, expected, size)}
    return tuple(sorted(agreeing)) if fixed in agreeing else (fixed,)


def trial_rows(width: int, probe: Probe | None, seed: str, num_rows: int = TRIAL_ROWS) -> Rows:
    """Return the probe's rows and normal rows of four scales around their mean, `num_rows` in all.

    Args:
        width: number of features of a row, the context's included.
        probe: the version's probe, or None.
        seed: hexadecimal text that fixes the rows.
        num_rows: how many.
    """
    pieces = [verification_rows(width, probe, seed)]
    while sum(map(len, pieces)) < num_rows:
        pieces.append(verification_rows(width, probe, f"{len(pieces):x}{seed}"))
    return np.concatenate(pieces)[:num_rows]


def overhead_rows(program: Program, call_work: float) -> float:
    """Return how many rows of a program take the time of one call before its first row.

    Args:
        program: the program.
        call_work: time of the call, in multiply-adds of a product.
    """
    products = sum(
        term.operator.coefficients.size for node in program.nodes if isinstance(node, AffineNode) for term in node.terms
    )
    atoms = sum(node.width for node in program.nodes if isinstance(node, AtomNode))
    return call_work / (2 * products + _ATOM * atoms + 1)


def _equal(size: int, num_rows: int) -> list[int]:
    """Return the cut of `num_rows` into tiles of one size."""
    return [size] * -(-num_rows // size)


def _keeps(tile: Callable[[Rows], Mapping[str, Rows]], rows: Rows, expected: Mapping[str, Rows], size: int) -> bool:
    """Whether tiles of `size` give every row, at another place, the bits that are expected of it."""
    order = np.random.default_rng(size).permutation(len(rows))
    received = run_in_tiles(tile, rows[order], _equal(size, len(rows)))
    finite = np.ones(len(rows), np.bool_)
    for values in expected.values():
        finite &= np.isfinite(values).reshape(len(rows), -1).all(axis=1)
    used = finite[order]
    return bool(used.any()) and all(
        values[used].tobytes() == expected[name][order][used].tobytes() for name, values in received.items()
    )
