"""Steps of a plan joined, so that fewer numbers go through memory: a factor is applied where a product is made.

Above: `plan`. The operations of a number and their order stay as they are.
"""

import enum
from collections.abc import Sequence

from service.program.kernel.buffers import NOWHERE

_GONE = -1

Step = dict[str, float]
"""The fields of one step, by name; places are still numbers of buffers, each buffer begun by one step."""


class Operation(enum.IntEnum):
    """What a step does; see `steps.h`."""

    FILL = 0
    PRODUCT = 1
    SUM = 2
    SCALE = 3
    DIVIDE = 4
    TIMES = 5
    MAXIMUM = 6
    REST = 7
    DOT = 8
    SOFTPLUS = 16
    LEAKY_RELU = 17
    ELU = 18
    EXP = 19
    SQUARE = 20
    SQUARED_LEAKY = 21
    ABS = 22


def joined(steps: Sequence[Step]) -> list[Step]:
    """Return the steps, those joined that make a buffer and multiply it by another, if nobody else reads it.

    A product takes the other buffer as its `second`; numbers that are the same for every row become factors. What
    nobody reads is not made.
    """
    readers = _places_used(steps, ("first", "second"))
    writers = _places_used(steps, ("out", "slope"))
    found = [dict(step) for step in steps]
    for position, step in enumerate(found):
        made = writers.get(step["first"], [])
        if step["operation"] != Operation.TIMES or len(made) != 1 or readers[step["first"]] != [position]:
            continue
        maker = found[made[0]]
        other = writers.get(step["second"], [])
        if maker["operation"] == Operation.FILL and maker["bias"]:
            step |= {"operation": Operation.SCALE, "first": step["second"], "second": NOWHERE, "numbers": maker["bias"]}
        elif maker["operation"] == Operation.PRODUCT and not step["accumulates"] and max(other, default=0) < made[0]:
            found[position] = {**maker, "second": step["second"], "out": step["out"]}
        else:
            continue
        maker["operation"] = _GONE
    kept = [step for step in found if step["operation"] != _GONE]
    read = _places_used(kept, ("first", "second"))
    return [step for step in kept if step["operation"] != Operation.FILL or step["out"] < 0 or step["out"] in read]


def _places_used(steps: Sequence[Step], names: Sequence[str]) -> dict[float, list[int]]:
    """Return the positions of the steps that use each buffer under one of the names."""
    used: dict[float, list[int]] = {}
    for position, step in enumerate(steps):
        for number in {step[name] for name in names}:
            if number >= 0:
                used.setdefault(number, []).append(position)
    return used
