"""The layering contracts of pyproject.toml hold for the tree, and each of them breaks for a tree made to break it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OFFENCES = {
    "service-layers": ("service/signature.py", "import service.scorer"),
    "training-layers": ("training/config.py", "import training.pipeline"),
    "service-alone": ("service/scorer.py", "import keras"),
    "training-seam": ("training/gate.py", "import service.registry"),
    "tensorflow-confined": ("service/registry.py", "import tensorflow"),
    "flask-confined": ("service/rpc/health.py", "import flask"),
    "grpc-confined": ("service/rest/app.py", "import grpc"),
}
"""A contract of pyproject.toml and a module that breaks it, and no other."""


def lint(folder: Path) -> tuple[int, dict[str, bool]]:
    """Run import-linter in `folder`; return its exit code and {contract's id: kept}."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    text = " ".join(result.stdout.split())
    contracts = re.findall(r'^id = "(.*)"\nname = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return result.returncode, {key: f"{name} KEPT" in text for key, name in contracts}


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """Return a folder with pyproject.toml and a tree of empty modules that keeps every contract."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("service/errors", "service/registry", "service/signature", "service/scorer", "service/rest/app"):
        write(tmp_path / f"{name}.py")
    for name in ("service/rpc/health", "training/config", "training/gate", "training/pipeline"):
        write(tmp_path / f"{name}.py")
    for package in ("service", "service/rest", "service/rpc", "training"):
        write(tmp_path / package / "__init__.py")
    return tmp_path


def write(path: Path, line: str = "") -> None:
    """Write a module of one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{line}\n")


def test_tree_keeps_every_layering_contract() -> None:
    """The modules of the service and of training import only what lies below them."""
    code, kept = lint(ROOT)
    assert dict.fromkeys(OFFENCES, True) == kept
    assert 0 == code


def test_small_tree_keeps_every_contract_when_nothing_offends(small_tree: Path) -> None:
    """The tree that the offences are put into is itself clean."""
    assert (0, dict.fromkeys(OFFENCES, True)) == lint(small_tree)


@pytest.mark.parametrize("contract", OFFENCES)
def test_contract_breaks_when_a_module_offends(small_tree: Path, contract: str) -> None:
    """Each contract is broken by its offence, and by no other."""
    module, line = OFFENCES[contract]
    write(small_tree / module, line)
    code, kept = lint(small_tree)
    assert 1 == code
    assert {contract} == {name for name, is_kept in kept.items() if not is_kept}


def test_contract_breaks_when_a_module_has_no_layer(small_tree: Path) -> None:
    """A new module must be given its place among the layers."""
    write(small_tree / "service/afterthought.py")
    code, kept = lint(small_tree)
    assert 1 == code
    assert not kept["service-layers"]
