"""What a bulk job says while it runs: a bar on a terminal, plain lines in a log.

Beside `scoring`, which counts rows to it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Count = Callable[[int], None]
"""Called with the number of rows that are done since the last call."""

_LINE_SECONDS = 10.0


@contextlib.contextmanager
def counting(
    title: str, num_rows: int | None, console: Console, clock: Callable[[], float] = time.monotonic
) -> Iterator[Count]:
    """Yield a `Count` that shows how far a job is.

    Args:
        title: what is done.
        num_rows: how many rows there are, or None where nobody knows.
        console: a terminal gets one live bar; anything else a plain line every ten seconds.
        clock: seconds.
    """
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=num_rows)
            yield lambda rows: bar.update(task, advance=rows)
        return
    of = "" if num_rows is None else f" of {num_rows}"
    done, due = 0, clock() + _LINE_SECONDS

    def count(rows: int) -> None:
        nonlocal done, due
        done += rows
        if clock() >= due:
            console.print(f"{title}: {done}{of} rows", highlight=False, soft_wrap=True)
            due = clock() + _LINE_SECONDS

    yield count
