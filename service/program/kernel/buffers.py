"""Buffers of a plan and their places in scratch memory, which those share that are not needed at once.

Above: `plan`.
"""

from collections.abc import Sequence

NOWHERE = -4
"""No place."""

_GRAIN = 16
"""Floats of a line of the cache: no buffer begins within one."""


class Buffers:
    """Hands out buffers by number, and finds a place for each once it is known which step uses which."""

    def __init__(self) -> None:
        self._widths: list[int] = []

    def new(self, width: int) -> int:
        """Return the number of a new buffer of `width` floats a row, from 0."""
        self._widths.append(-(-width // _GRAIN) * _GRAIN)
        return len(self._widths) - 1

    def placed(self, used: Sequence[Sequence[int]]) -> tuple[dict[int, int], int]:
        """Return the place of each buffer in floats a row, and how many floats a row are needed.

        A buffer's place is its own from the first step that uses it to the last; numbers below 0 are no buffers. First
        fit: the lowest place that is free for as long.

        Args:
            used: for each step the buffers that it reads or writes.
        """
        lives: dict[int, tuple[int, int]] = {}
        for step, numbers in enumerate(used):
            for number in numbers:
                if number >= 0:
                    lives[number] = (lives.get(number, (step, step))[0], step)
        places: dict[int, int] = {}
        for number, (first, last) in sorted(lives.items(), key=lambda item: item[1]):
            taken = sorted(
                (places[other], places[other] + self._widths[other])
                for other in places
                if lives[other][0] <= last and lives[other][1] >= first
            )
            place = 0
            for start, end in taken:
                if place + self._widths[number] <= start:
                    break
                place = max(place, end)
            places[number] = place
        return places, max((places[number] + self._widths[number] for number in places), default=0)
