"""Progress: a bar on a terminal, a few plain lines elsewhere."""

import io

from rich.console import Console

from training import progress


def run(terminal: bool, steps: int = 1000) -> str:
    """Return what a run of a hundred reports writes."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=150)
    with progress.reporting("tumours", steps, console) as report:
        for step in range(0, steps + 1, 10):
            report(step, 0.5, 0.25)
    return out.getvalue()


def test_log_gets_about_ten_plain_lines_and_the_last_report():
    """No control characters, no line a step."""
    lines = run(terminal=False).splitlines()
    assert "tumours: step 0 of at most 1000, training loss 0.5000, validation loss 0.2500" == lines[0]
    assert lines[-1].startswith("tumours: step 1000 of")
    assert 11 == len(lines)
    assert "\x1b" not in "".join(lines)


def test_log_gets_the_last_report_also_between_the_lines():
    """A run that stops early ends with its last numbers."""
    out = io.StringIO()
    with progress.reporting("m", 1000, Console(file=out, width=150)) as report:
        report(0, 1.0, 1.0)
        report(50, 0.5, 0.5)
    assert out.getvalue().splitlines()[-1].startswith("m: step 50 of")


def test_terminal_gets_a_bar():
    """One live line with the count."""
    written = run(terminal=True)
    assert "\x1b" in written
    assert "1000/1000" in written


def test_silent_says_nothing(capsys):
    """The default of the trainer."""
    progress.silent(1, 0.5, 0.5)
    assert ("", "") == capsys.readouterr()
