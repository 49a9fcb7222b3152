"""How soon a worker that ended is replaced, and when it is given up. Pure: time is an argument.

Above: `commander`. Below: nothing.
"""

import dataclasses

STEADY_SECONDS = 10.0
"""A worker that lived so long was well: what ends it then is no reason to wait."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 30.0
MOST_FAILURES = 5
"""So many workers in a row that did not live long, and none that lives: a new one would end as they did."""


@dataclasses.dataclass
class Patience:
    """What is remembered of how workers end.

    The pause before a replacement is 0.05 s after one that lived long, and doubles with each in the same place that did
    not, up to 30 s. When `MOST_FAILURES` in a row, whatever their places, did not live long and none lives now, it is
    hopeless: the server ends, and who started it sees that.
    """

    num_failures: int = 0  # in a row, in all places
    in_place: dict[int, int] = dataclasses.field(default_factory=dict)

    def note_end(self, slot: int, lived_seconds: float) -> float:
        """Return how long to wait until the place is taken again.

        Args:
            slot: place of the worker that ended.
            lived_seconds: since it began to serve; 0 for one that never did.
        """
        if lived_seconds >= STEADY_SECONDS:
            self.num_failures = self.in_place[slot] = 0
            return FIRST_PAUSE_SECONDS
        self.num_failures += 1
        failures = self.in_place[slot] = self.in_place.get(slot, 0) + 1
        return float(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 32)))

    def is_hopeless(self, num_alive: int) -> bool:
        """Whether no worker can be kept.

        Args:
            num_alive: workers that serve now.
        """
        return num_alive == 0 and self.num_failures >= MOST_FAILURES
