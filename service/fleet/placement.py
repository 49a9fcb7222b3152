"""Which processor each worker keeps to. Pure.

Above: `commander`. Below: nothing.
"""

from collections.abc import Collection


def processors(num_workers: int, allowed: Collection[int]) -> list[int | None]:
    """Return a processor for each worker, or None for each where there are fewer processors than workers.

    A Python process that wanders between processors, or spreads its threads over several, answers fewer requests than
    one that keeps to its own. What is left over is for the commander, the loads and everything else.

    Args:
        num_workers: how many.
        allowed: processors that this process may use.
    """
    if num_workers > len(allowed):
        return [None] * num_workers
    return [*sorted(allowed)[:num_workers]]
