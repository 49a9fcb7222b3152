"""The log of one job: a line a step, each with the job's run id, for people or as one JSON object a line.

At the bottom of training; `retrain` names its steps here, `night` opens and closes it. A step's line is written when it
is over, with its seconds and its facts; the step that is on is known meanwhile, so that a failure can say where.
"""

import contextlib
import math
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import structlog

from training import progress

FORMATS = ("console", "json")

_LINES = 10


def new_run_id() -> str:
    """Return twelve hexadecimal digits that no other run has."""
    return uuid.uuid4().hex[:12]


class JobLog:
    """The lines of one run.

    Args:
        run_id: stands in each line.
        log_format: "console" or "json"; "" writes no line.
        stream: where lines go, by default standard error as it is at each line.
        clock: seconds.
    """

    def __init__(
        self,
        run_id: str = "",
        log_format: str = "",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """No step is on; `listen` is called when one begins."""
        self.run_id = run_id or new_run_id()
        self.log_format = log_format
        self.steps: list[dict[str, Any]] = []
        self.listen: Callable[[], None] = lambda: None
        self._stream = stream
        self._clock = clock
        self._began = clock()
        self._step_began = self._began
        self._facts: dict[str, Any] = {}
        self.current = ""

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return round(self._clock() - self._began, 3)

    def step(self, name: str) -> None:
        """End the step that is on, with its line, and begin the next."""
        self.end_step()
        self.current, self._step_began, self._facts = name, self._clock(), {}
        self.listen()

    def facts(self, **facts: Any) -> None:
        """Keep facts of the step that is on, for its line."""
        self._facts.update(facts)

    def end_step(self, **facts: Any) -> None:
        """Write the line of the step that is on; without one, nothing."""
        if not self.current:
            return
        self.facts(**facts)
        line = {"step": self.current, "seconds": round(self._clock() - self._step_began, 3), **self._facts}
        self.steps.append(line)
        self.current = ""
        self.line(line["step"], **{key: value for key, value in line.items() if key != "step"})

    def line(self, event: str, level: str = "info", **facts: Any) -> None:
        """Write a line: a step's, or another's."""
        stream = self._stream or sys.stderr
        if not self.log_format or stream is None:
            return
        text = render(self.log_format, event, level, {"run_id": self.run_id, **facts}, colors=stream.isatty())
        with contextlib.suppress(OSError, ValueError):  # a reader that went away, a full disk: no reason to stop
            stream.write(f"{text}\n")
            stream.flush()

    def tell(self, sentence: str) -> None:
        """Write a sentence: as it is for people, as a line where lines are JSON."""
        if self.log_format == "json":
            self.line("told", sentence=sentence)
        elif self.log_format:
            with contextlib.suppress(OSError, ValueError):
                (self._stream or sys.stderr).write(f"{sentence}\n")

    @contextlib.contextmanager
    def progress(self, title: str, steps: int, names: tuple[str, str] = ("loss", "loss")) -> Iterator[progress.Report]:
        """Yield what a training run reports to: `progress.reporting`, or where lines are JSON about ten of them."""
        if self.log_format != "json":
            with progress.reporting(title, steps, names=names) as report:
                yield report
            return
        due = 0

        def write(step: int, train_loss: float, validation_loss: float) -> None:
            nonlocal due
            if step >= due:
                losses: dict[str, Any] = {f"training_{names[0]}": train_loss, f"validation_{names[1]}": validation_loss}
                self.line("progress", taken=step, budget=steps, **losses)
                due = step + max(1, steps // _LINES)

        yield write


def render(log_format: str, event: str, level: str, facts: Mapping[str, Any], *, colors: bool = False) -> str:
    """Return one line as the server's log has them: time, level, event, facts."""
    line: Any = {"event": event, "level": level}
    line.update({key: plain(value) for key, value in facts.items() if plain(value) is not None})
    line = structlog.processors.TimeStamper(fmt="iso", utc=True)(None, level, line)
    if log_format == "json":
        return str(structlog.processors.JSONRenderer()(None, level, line))
    return str(structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)(None, level, line))


def plain(value: Any) -> Any:
    """Return a fact as JSON holds it: numbers and truth values as they are, but none that is not finite; else texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
