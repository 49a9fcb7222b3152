"""Living random histories of a state machine, each drawn anew.

Hypothesis draws the first ten examples of a run independently and makes most later ones of an earlier one, by repeating
parts of it; ten thousand histories are therefore a thousand runs of ten, each from its own seed.
"""

import functools
from collections.abc import Collection

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

_A_RUN = 10
_NUM_STEPS = 30
_ALL_PHASES = (Phase.generate, Phase.shrink)


def live_histories(
    machine: type[RuleBasedStateMachine], num_histories: int, phases: Collection[Phase] = _ALL_PHASES
) -> None:
    """Live so many histories of 30 steps, the same ones each time; raise what the first bad one raises.

    Args:
        machine: the state machine.
        num_histories: a multiple of 10.
        phases: without `Phase.shrink` a bad history is raised as it was found.
    """
    chosen = settings(
        max_examples=_A_RUN,
        stateful_step_count=_NUM_STEPS,
        deadline=None,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    for run in range(num_histories // _A_RUN):
        seeded = functools.partial(machine)
        seeded._hypothesis_internal_use_seed = run  # what `hypothesis.seed` sets
        run_state_machine_as_test(seeded, settings=chosen)
