"""The kernel's build: any C compiler, the same bits; without one a sentence and exit code 1."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.program.kernel import build as build_module
from service.program.kernel.build import BuildError, build
from service.program.kernel.compiled import CompiledProgram
from service.program.kernel.library import FOLDER, SOURCES, Library, path
from tests.service.program.programs import build as build_program
from tests.service.program.programs import draw_weights

ROOT = Path(__file__).parents[4]
BOTH = ("score", "gradient")


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_bits_do_not_depend_on_how_the_source_was_compiled(level, compiled_code, tmp_path):
    """Without optimisation and with another one: every bit of score and gradient."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler could be had: the kernel is not compiled")
    target = tmp_path / "other.so"
    flags = [level if flag == "-O3" else flag for flag in build_module.FLAGS]
    subprocess.run([compiler, *flags, FOLDER / SOURCES[0], "-o", target], check=True, timeout=200)
    program = build_program(draw_weights(3, 70, (130, 33)))
    rows = np.random.default_rng(5).standard_normal((97, 70)).astype(np.float32)
    one, other = (CompiledProgram(program, code).run(rows, BOTH) for code in (compiled_code, Library(target)))
    assert all(one[name].tobytes() == other[name].tobytes() for name in BOTH)


def test_build_is_done_once(compiled_code, monkeypatch):
    """Code that is there is not compiled again, and no compiler is looked for."""
    assert compiled_code is not None
    monkeypatch.setattr(build_module, "compiler", lambda: pytest.fail("a compiler was looked for"))
    assert path() == build()


@pytest.mark.parametrize(
    ("command", "words"),
    [("/no/such/compiler", "No such file"), (f"{sys.executable} -c raise(SystemExit(3))", "failed")],
)
def test_compiler_that_fails_is_told_and_leaves_nothing(command, words, tmp_path, monkeypatch):
    """The command and what it said are in the error; no half-written file stays."""
    monkeypatch.setenv("CC", command)
    with pytest.raises(BuildError, match=words):
        build(tmp_path / "compiled" / "kernel.so")
    assert [] == list((tmp_path / "compiled").iterdir())


def test_what_cannot_be_loaded_is_refused(tmp_path, monkeypatch):
    """A compiler that writes something else than a shared object leaves nothing either."""
    script = tmp_path / "cc"
    script.write_text('#!/bin/sh\nfor last; do :; done\necho nonsense > "$last"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    with pytest.raises(BuildError, match="cannot be used"):
        build(tmp_path / "kernel.so")
    assert not (tmp_path / "kernel.so").exists()


def test_machine_without_a_compiler_gets_a_sentence_and_exit_code_1(tmp_path, monkeypatch, capsys):
    """The sentence says what could be installed."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build_module, "path", lambda: tmp_path / "kernel.so")
    assert 1 == build_module.main()
    assert "no C compiler" in capsys.readouterr().err
