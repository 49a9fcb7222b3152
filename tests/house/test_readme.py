"""The README tells the truth: settings, commands, folders, links and the tests that its guarantees name."""

import html
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service import metric_families, settings
from training.config import parse_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def table_after(heading: str, text: str = README) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its two header lines and without backticks."""
    _, _, section = text.partition(f"\n## {heading}\n")
    rows = re.findall(r"^\|(.*)\|$", section.partition("\n## ")[0], re.MULTILINE)[2:]
    return [[html.unescape(cell.strip()) for cell in re.split(r"(?<!\\)\|", row)] for row in rows]


def missing_tests(text: str) -> list[str]:
    """Return the tests that a text names as `tests/file.py::test_name` and that do not exist."""
    named = set(re.findall(r"tests/[\w/]+\.py(?:::\w+)?", text))
    return sorted(name for name in named if not is_test(name))


def is_test(name: str) -> bool:
    """Return whether this file, or this test in it, exists."""
    file, _, function = name.partition("::")
    path = ROOT / file
    return path.is_file() and (not function or f"def {function}(" in path.read_text())


def commands(package: str) -> set[str]:
    """Return the commands that `python -m <package> --help` lists."""
    command = [sys.executable, "-m", package, "--help"]
    text = subprocess.check_output(command, cwd=ROOT, text=True, timeout=60)
    return set(re.findall(r"^  (\w+)  ", text.partition("Commands:")[2], re.MULTILINE))


def test_settings_table_equals_the_settings_of_the_code() -> None:
    """Every flag, variable, default, unit and meaning in the README is the code's, in the code's order."""
    written = [(*(cell.strip("`") for cell in row[:4]), row[4]) for row in table_after("Settings")]
    assert settings.table() == written


def test_metrics_table_equals_the_metrics_of_the_code() -> None:
    """Every metric's name, kind, labels and meaning in the README is the code's, in the code's order."""
    written = [(row[0].strip("`"), *row[1:]) for row in table_after("Watching it")]
    assert metric_families.table() == written


def test_every_metric_that_a_query_of_the_readme_names_exists() -> None:
    """A query that is copied from the README finds its metrics."""
    queries = "".join(re.findall(r"```promql\n(.*?)```", README, re.DOTALL))
    named = {re.sub("_bucket$", "", name) for name in re.findall(r"\bconvex_\w+", queries)}
    assert named
    assert set() == named - {name for name, *_ in metric_families.table()}


def test_every_make_target_of_the_readme_exists() -> None:
    """A command line that begins with make names a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set() == set(re.findall(r"(?:^ *|`)make ([a-z]+)", README, re.MULTILINE)) - targets


@pytest.mark.parametrize("package", ["service", "training"])
def test_every_command_of_the_readme_exists(package: str) -> None:
    """What the README runs with `python -m` is a command of that package."""
    named = set(re.findall(rf"python -m {package} (\w+)", README))
    assert named
    assert set() == named - commands(package)


@pytest.mark.parametrize("package", ["service", "training"])
def test_every_command_of_the_container_exists(package: str) -> None:
    """The words that the container's entry takes are commands of the service and of training."""
    entry = (ROOT / "deploy" / "entry").read_text()
    words = re.findall(rf"^    ([a-z |]+)\) exec python -m {package}", entry, re.MULTILINE)
    named = {word.strip() for line in words for word in line.split("|")}
    assert named
    assert set() == named - commands(package)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    """Relative links point at files and folders of this repository."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [] == [link for link in links if "://" not in link and not (ROOT / link).exists()]


def test_every_room_of_the_layout_exists() -> None:
    """The layout names folders that are there."""
    rooms = [row[0].strip("`") for row in table_after("Layout")]
    assert rooms
    assert [] == [room for room in rooms if not (ROOT / room).is_dir()]


def test_every_guarantee_names_a_test_that_exists() -> None:
    """Each promise has a place in the code where it is kept and a test that fails without it."""
    rows = table_after("What is promised, where it is kept, which test says so")
    assert rows
    assert [] == [row[0] for row in rows if "tests/" not in row[2]]
    assert [] == missing_tests(README)
    places = [place for row in rows for place in re.findall(r"`((?:service|training)/[\w/]+(?:\.py)?)`", row[1])]
    assert [] == [place for place in places if not (ROOT / place).exists()]


def test_every_dependency_has_a_reason_and_every_reason_a_dependency() -> None:
    """The table of dependencies names exactly the packages that the inputs of the locks ask for."""
    asked = set()
    for name in ("cpu", "dev"):
        lines = (ROOT / "requirements" / f"{name}.in").read_text().splitlines()
        asked |= {re.split(r"[=<>; ]", line)[0] for line in lines if line and not line.startswith("#")}
    stubs = {name for name in asked if "stubs" in name or name.startswith("types-")}
    reasons = {name for row in table_after("Dependencies") for name in re.split(r",\s*", row[0])}
    assert asked - stubs - {"tensorflow-cpu"} == reasons


def test_every_configuration_of_the_readme_is_accepted() -> None:
    """The TOML blocks parse, with the keys that training knows."""
    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    names = [parse_config(tomllib.loads(block), folder=ROOT).model.name for block in blocks]
    assert ["churn", "prices", "people"] == names


def test_missing_test_is_found_when_a_guarantee_names_one() -> None:
    """The check of guarantees refuses a file and a function that are not there."""
    text = "tests/house/test_readme.py::test_that_nobody_wrote and tests/nowhere.py"
    assert ["tests/house/test_readme.py::test_that_nobody_wrote", "tests/nowhere.py"] == missing_tests(text)
