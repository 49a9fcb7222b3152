"""The rules of the house that no linter knows: names, lengths, docstrings of tests, what stands at the top level."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BANNED = frozenset({"utils", "helpers", "common", "misc", "base", "core", "internal", "manager", "handler", "types"})
MAX_LINES = 400
ROOMS = {"service", "training", "tests", "models", "requirements", "bench", "deploy", "docs"}
FILES = {"Dockerfile", "README.md", "LICENSE", "Makefile", "pyproject.toml"}
DOT_FILES = {".ci", ".dockerignore", ".gitignore", ".pre-commit-config.yaml"}

MODULES = sorted(path.relative_to(ROOT) for tree in ("service", "training") for path in (ROOT / tree).rglob("*.py"))
TEST_MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))


def has_banned_name(path: Path) -> bool:
    """Return whether a folder or file of this path is called like a room for everything."""
    return any(part.removesuffix(".py").strip("_") in BANNED for part in path.parts)


def faults_of_tests(source: str) -> list[str]:
    """Return the tests whose docstring is not one sentence, and those whose name says too little."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.FunctionDef) and node.name.startswith("test_")):
            continue
        claim = " ".join((ast.get_docstring(node) or "").split())
        if not claim.endswith(".") or re.search(r"[.!?] [A-Z]", claim):
            faults.append(f"{node.name}: its docstring must be one sentence that states the claim")
        if len(node.name.split("_")) < 4:
            faults.append(f"{node.name}: expected a name of the form test_<subject>_<does>_<when>")
    return faults


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_has_a_name_of_the_field_and_a_readable_length(module: Path) -> None:
    """No module is a room for everything, and none is longer than a reader can hold."""
    assert not has_banned_name(module)
    assert MAX_LINES >= len((ROOT / module).read_text().splitlines())


@pytest.mark.parametrize("module", TEST_MODULES, ids=str)
def test_test_module_states_its_claims_in_every_docstring(module: Path) -> None:
    """Each test says in one sentence what it claims, and test folders are no packages."""
    assert "__init__.py" != module.name
    assert [] == faults_of_tests((ROOT / module).read_text())


def test_top_level_holds_only_what_the_house_names() -> None:
    """Nothing is tracked at the top level beside the rooms of the house and what tools need there."""
    if not ((ROOT / ".git").exists() and shutil.which("git")):  # an unpacked archive: nothing is tracked
        return
    tracked = subprocess.check_output(["git", "-C", str(ROOT), "ls-files"], text=True).splitlines()
    assert set() == {path.split("/")[0] for path in tracked} - ROOMS - FILES - DOT_FILES


@pytest.mark.parametrize("path", ["service/utils.py", "training/common/layers.py", "service/_helpers.py"])
def test_banned_name_is_found_when_there_is_one(path: str) -> None:
    """The check of names refuses a banned file, folder and private module."""
    assert has_banned_name(Path(path))


@pytest.mark.parametrize(
    "source",
    [
        "def test_score_is_finite_always():\n    pass",
        "def test_score_is_finite_always():\n    '''It is finite. It is also convex.'''",
        "def test_score_is_finite_always():\n    '''no sentence'''",
        "def test_score():\n    '''A score is finite.'''",
    ],
)
def test_fault_is_found_when_a_test_says_too_little(source: str) -> None:
    """The check of tests refuses a missing docstring, two sentences, a fragment and a bare name."""
    assert 1 == len(faults_of_tests(source))
