"""Imports that wait until they are needed: when modules run, and what a loading process has imported of TensorFlow."""

import importlib
import json
import subprocess
import sys

import pytest

from service.lazy_imports import lazily

LOADING = """
import json, sys
from pathlib import Path
from service import loader
loader.warm_up()
before = {name for name in sys.modules if name.startswith("tensorflow")}
idle = [name for name in before if type(sys.modules[name]).__name__ == "_LazyModule"]
loader.prepare()
print(loader.load(Path("models/tumours/1"), model="tumours", version=1).convexity)
after = {name for name in sys.modules if name.startswith("tensorflow")}
still_idle = [name for name in after if type(sys.modules[name]).__name__ == "_LazyModule"]
print(json.dumps([len(before), sorted(after - before), len(idle), len(still_idle)]))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a package of two modules that note when they run; return the list of notes."""
    folder = tmp_path / "slow_package"
    folder.mkdir()
    monkeypatch.setattr(sys, "notes", [], raising=False)
    for name in ("__init__", "first", "second"):
        (folder / f"{name}.py").write_text(f"import sys; sys.notes.append({name!r}); answer = {name!r}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield sys.notes
    for name in [name for name in sys.modules if name.startswith("slow_package")]:
        del sys.modules[name]


def test_module_runs_when_something_of_it_is_asked_for(package):
    """An import alone runs the package around it, which is not meant; the first attribute runs the module, once."""
    with lazily("slow_package."):
        first = importlib.import_module("slow_package.first")
        assert ["__init__"] == package
    assert "first" == first.answer
    assert "first" == importlib.import_module("slow_package.first").answer
    assert ["__init__", "first"] == package


def test_module_runs_at_once_when_it_is_imported_afterwards(package):
    """What was not imported inside is imported as always, also where the block ended with an error."""
    with pytest.raises(ValueError, match="inside"), lazily("slow_package."):
        raise ValueError("inside")
    importlib.import_module("slow_package.second")
    assert ["__init__", "second"] == package


def test_loading_process_imports_what_a_load_needs_and_no_more():
    """A load finds every TensorFlow module there already, and hundreds stay that nobody asked for."""
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, check=True)
    convexity, counts = done.stdout.splitlines()[-2:]
    num_before, imported, num_idle, num_still_idle = json.loads(counts)
    assert "proved" == convexity
    assert [] == imported
    assert num_idle == num_still_idle
    assert 50 <= num_idle < num_before
