"""Ends a run with its 20 slowest tests and a list RUN / NOT RUN, and fails it for a skip that nobody has listed.

Whoever keeps the end of the output alone has what counts: after the lists come the failures with their tracebacks, then
pytest's summary with a line for each. A failure is also told in one line when it happens, for a run that is cut off.
A skip or an expected failure must stand in `tests/not_run.toml` with its reason. Loaded by `tests/conftest.py`;
`tests/house/test_run_report.py` shows it at work.
"""

import collections
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest

NUM_SLOWEST = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make test` asks for the lists; the check of skips is always on."""
    parser.addoption("--run-report", action="store_true", help="end with the slowest tests and a list RUN / NOT RUN")
    parser.addoption("--not-run", default="tests/not_run.toml", help="the file of allowed skips, id = reason")


def pytest_configure(config: pytest.Config) -> None:
    """Start the record of this run."""
    path = config.rootpath / config.getoption("--not-run")
    config.pluginmanager.register(RunReport(read_allowed(path), lists=config.getoption("--run-report")), "run-report")


def read_allowed(path: Path) -> dict[str, str]:
    """Return {test id: reason} of the listed skips.

    Raises:
        pytest.UsageError: an entry without a reason.
    """
    allowed = tomllib.loads(path.read_text()) if path.exists() else {}
    for test, reason in allowed.items():
        if not (isinstance(reason, str) and reason.strip()):
            message = f"{path.name}: {test} has no reason. Write why it does not run."
            raise pytest.UsageError(message)
    return allowed


class RunReport:
    """The record of one run.

    Args:
        allowed: {test id: reason}; an id without `[parameters]` covers all of them, a file's id the whole file.
        lists: whether to print the lists at the end.
    """

    def __init__(self, allowed: dict[str, str], *, lists: bool) -> None:
        self.allowed = allowed
        self.lists = lists
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.run: set[str] = set()
        self.not_run: dict[str, str] = {}
        self.num_deselected = 0
        self.terminal: pytest.TerminalReporter | None = None

    def is_allowed(self, test: str) -> bool:
        """Return whether this test's skip is listed."""
        return any(name in self.allowed for name in (test, test.partition("[")[0], test.partition("::")[0]))

    def unlisted(self) -> list[str]:
        """Return the tests that did not run and are not listed."""
        return sorted(test for test in self.not_run if not self.is_allowed(test))

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Find the terminal."""
        self.terminal = session.config.pluginmanager.getplugin("terminalreporter") if self.lists else None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that was skipped as a whole."""
        if report.skipped:
            self.not_run[report.nodeid] = reason_of(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one phase of one test, and tell a failure at once."""
        self.seconds[report.nodeid] += report.duration
        if report.failed and self.terminal is not None:
            self.terminal.write_line(f"\nFAILED   {report.nodeid} ({report.when}): {first_line_of(report)}", red=True)
        if report.skipped:
            self.not_run[report.nodeid] = reason_of(report)
        elif report.when == "call":
            self.run.add(report.nodeid)

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Count what `-m` or `-k` left out."""
        self.num_deselected += len(items)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that passed but for an unlisted skip."""
        if self.unlisted() and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
        """Print the lists before pytest prints what failed, and the unlisted skips after it."""
        if self.lists:
            self.print_lists(terminalreporter)
        yield
        for test in self.unlisted():
            line = f"FAILED   {test}: skipped, and not listed in tests/not_run.toml ({self.not_run[test]})"
            terminalreporter.write_line(line, red=True)

    def print_lists(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the slowest tests and what ran."""
        write = terminalreporter.write_line
        terminalreporter.section(f"the {NUM_SLOWEST} slowest tests")
        for test, seconds in sorted(self.seconds.items(), key=lambda item: -item[1])[:NUM_SLOWEST]:
            write(f"{seconds:7.2f} s  {test}")
        terminalreporter.section("RUN / NOT RUN")
        for file, count in sorted(collections.Counter(test.partition("::")[0] for test in self.run).items()):
            write(f"RUN      {file}: {count}")
        for test, reason in sorted(self.not_run.items()):
            write(f"NOT RUN  {test}: {self.allowed.get(test, reason)}")
        if self.num_deselected:
            write(f"NOT RUN  {self.num_deselected} left out by -m or -k")


def first_line_of(report: pytest.TestReport) -> str:
    """Return the first line of what a failure says."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).strip().partition("\n")[0]


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why a test or module was skipped."""
    reason = getattr(report, "wasxfail", None)
    if reason is not None:
        return f"expected to fail: {reason or 'no reason given'}"
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)
