"""What a training run says while it runs: a bar on a terminal, plain lines in a log.

At the bottom of training; `trainer` reports to a callable, `pipeline` makes one here.
"""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[int, float, float], None]
"""Called with the steps taken, the training loss since the last report, and the validation loss."""

_LINES = 10


def silent(_step: int, _train_loss: float, _validation_loss: float) -> None:
    """Say nothing."""


@contextlib.contextmanager
def reporting(
    title: str, steps: int, console: Console | None = None, names: tuple[str, str] = ("loss", "loss")
) -> Iterator[Report]:
    """Yield a `Report` that shows a run of at most `steps` steps on `console`, by default standard error.

    A terminal gets one live bar; anything else about ten plain lines, and one for the last report. `names` says what
    the two losses are.
    """
    console = console or Console(stderr=True)
    losses = f"training {names[0]} {{:.4f}}, validation {names[1]} {{:.4f}}"
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=steps)
            yield lambda step, *values: bar.update(
                task, completed=step, description=f"{title}: {losses.format(*values)}"
            )
        return
    last: list[str] = []
    due = 0

    def write(step: int, train_loss: float, validation_loss: float) -> None:
        nonlocal due
        line = f"{title}: step {step} of at most {steps}, {losses.format(train_loss, validation_loss)}"
        last[:] = [line]
        if step >= due:
            console.print(line, highlight=False, soft_wrap=True)
            last.clear()
            due = step + max(1, steps // _LINES)

    yield write
    for line in last:
        console.print(line, highlight=False, soft_wrap=True)
