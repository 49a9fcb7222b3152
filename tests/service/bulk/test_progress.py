"""What a bulk job says while it runs."""

import io

from rich.console import Console

from service.bulk.progress import counting


def test_log_gets_a_plain_line_every_ten_seconds():
    """Without a terminal, lines tell rows done and rows in all, and not for every batch."""
    file, seconds = io.StringIO(), iter([0.0, 3.0, 12.0, 12.0, 14.0])
    with counting("score m", 100, Console(file=file), clock=lambda: next(seconds)) as count:
        for _ in range(3):
            count(10)
    assert ["score m: 20 of 100 rows"] == file.getvalue().splitlines()


def test_terminal_gets_one_live_bar():
    """On a terminal one bar shows how many of the rows are done."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    with counting("score m", 100, console) as count:
        count(100)
    assert "100/100" in file.getvalue()
