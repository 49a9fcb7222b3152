"""The run's report: an unlisted skip fails the run, a listed one does not, and the lists are printed."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SKIPS = """
import pytest

def test_runs():
    pass

@pytest.mark.skip(reason="the moon is full")
def test_skipped():
    pass

@pytest.mark.parametrize("x", [1, 2])
def test_skips_itself(x):
    pytest.skip("no GPU")

@pytest.mark.xfail(reason="a known defect")
def test_expected_to_fail():
    assert False
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run a test file in a process of its own with the report alone, and this file of allowed skips."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run_tests(source: str, allowed: str = "", *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_some=source)
        pytester.path.joinpath("not_run.toml").write_text(allowed)
        options = ("-p", "tests.plugins.run_report", "-p", "no:cacheprovider", "--not-run=not_run.toml")
        return pytester.runpytest_subprocess(*options, *arguments)

    return run_tests


def test_run_fails_when_a_skip_is_not_listed(run) -> None:
    """A skip, a skip from inside and an expected failure each fail a run whose tests passed."""
    result = run(SKIPS)
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    result.stdout.fnmatch_lines_random(
        [
            "FAILED *test_some.py::test_skipped: skipped, and not listed*(the moon is full)",
            "FAILED *test_some.py::test_skips_itself?1?: skipped, and not listed*(no GPU)",
            "FAILED *test_some.py::test_skips_itself?2?: skipped, and not listed*(no GPU)",
            "FAILED *test_some.py::test_expected_to_fail: skipped, and not listed*(expected to fail: a known defect)",
        ]
    )


def test_run_fails_when_a_whole_module_is_skipped_and_not_listed(run) -> None:
    """A module that skips itself on import does not slip through."""
    result = run('import pytest\npytest.importorskip("no_such_module_anywhere")\n')
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    result.stdout.fnmatch_lines(["FAILED *test_some.py: skipped, and not listed*"])


def test_run_passes_when_every_skip_is_listed(run) -> None:
    """Listed by its id, or by its function's id for all parameters, a skip is shown with the listed reason."""
    allowed = """
        "test_some.py::test_skipped" = "needs a new moon"
        "test_some.py::test_skips_itself" = "needs a GPU"
        "test_some.py::test_expected_to_fail" = "waits for a fix"
    """
    result = run(SKIPS, allowed, "--run-report")
    assert pytest.ExitCode.OK == result.ret
    result.stdout.fnmatch_lines(
        [
            "*the 20 slowest tests*",
            "*s  test_some.py::test_*",
            "*RUN / NOT RUN*",
            "RUN      test_some.py: 1",
            "NOT RUN  test_some.py::test_skipped: needs a new moon",
        ]
    )
    result.stdout.no_fnmatch_line("FAILED*")


FAILS = """
import pytest

@pytest.fixture
def broken():
    yield
    raise OSError("the disk is full")

def test_fails():
    assert 1 == 2

def test_ends_badly(broken):
    pass
"""


def test_failures_are_told_at_once_and_stand_at_the_end_when_there_are_lists(run) -> None:
    """Each has a line when it happens; after the lists come tracebacks, pytest's summary, and nothing but its count."""
    result = run(FAILS, "", "--run-report", "-q")
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    expected = [
        "FAILED   test_some.py::test_fails (call): assert 1 == 2",
        "FAILED   test_some.py::test_ends_badly (teardown): OSError: the disk is full",
        "*the 20 slowest tests*",
        "*RUN / NOT RUN*",
        "*= ERRORS =*",
        "*= FAILURES =*",
        ">       assert 1 == 2",
        "*short test summary info*",
        "FAILED test_some.py::test_fails - assert 1 == 2",
        "ERROR test_some.py::test_ends_badly - OSError: the disk is full",
        "1 failed, 1 passed, 1 error in *",
    ]
    result.stdout.fnmatch_lines(expected)
    assert "1 failed" in [line for line in result.outlines if line][-1]


def test_report_counts_what_was_left_out_when_tests_are_deselected(run) -> None:
    """Tests that -k or -m leaves out are counted under NOT RUN."""
    result = run(SKIPS, "", "--run-report", "-k", "runs")
    assert pytest.ExitCode.OK == result.ret
    result.stdout.fnmatch_lines(["NOT RUN  4 left out by -m or -k"])


def test_run_stops_when_a_listed_skip_has_no_reason(run) -> None:
    """An entry without a reason is a usage error."""
    result = run(SKIPS, '"test_some.py::test_skipped" = " "')
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*test_some.py::test_skipped has no reason*"])
