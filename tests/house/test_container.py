"""The container's entry chooses the right command, and the image's recipe keeps its promises."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRY = ROOT / "deploy" / "entry"

FAKE_PYTHON = """#!/bin/sh
echo "python $*"
echo "models_dir=${CONVEX_MODELS_DIR-unset} default_model=${CONVEX_DEFAULT_MODEL-unset}"
"""


@pytest.fixture
def enter(tmp_path: Path):
    """Run the entry with a `python` that says how it was called; returns (exit code, output lines)."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(FAKE_PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def run(*words: str, **environment: str) -> tuple[int, list[str]]:
        command = ["sh", str(ENTRY), *words]
        result = subprocess.run(
            command, env={"PATH": path, **environment}, capture_output=True, text=True, check=False, timeout=30
        )
        return result.returncode, (result.stdout + result.stderr).splitlines()

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "python -m service serve"),
        (("serve", "--engine", "program"), "python -m service serve --engine program"),
        (("--engine", "program"), "python -m service serve --engine program"),
        (("models", "--models-dir", "/models"), "python -m service models --models-dir /models"),
        (("label", "/models/m", "stable=3"), "python -m service label /models/m stable=3"),
        (("train", "a b.toml"), "python -m training train a b.toml"),
        (("retrain", "/job/config.toml"), "python -m training retrain /job/config.toml"),
        (("rollback", "/models/m", "--to", "3"), "python -m training rollback /models/m --to 3"),
        (("certify", "/models/m/1"), "python -m training certify /models/m/1"),
        (("evaluate", "/models/m/1", "--data", "x.csv"), "python -m training evaluate /models/m/1 --data x.csv"),
    ],
)
def test_entry_chooses_the_command_by_the_first_word(enter, words: tuple[str, ...], expected: str) -> None:
    """No word and words that begin with -- serve; every other command is its own word."""
    code, lines = enter(*words, MODEL_BASE_PATH="/nowhere")
    assert (0, expected) == (code, lines[0])


def test_entry_refuses_an_unknown_word(enter) -> None:
    """A misspelt command is exit 2 and a sentence with the commands there are."""
    code, lines = enter("retrian")
    assert 2 == code
    assert 1 == len(lines)
    assert lines[0].startswith(
        "convex-scoring: unknown command 'retrian'. Expected serve (the default), score, models, label,"
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "models_dir={base} default_model=tumours"),
        ({"MODEL_NAME": "prices"}, "models_dir={base} default_model=prices"),
        ({"CONVEX_DEFAULT_MODEL": "colours"}, "models_dir={base} default_model=colours"),
        ({"CONVEX_MODELS_DIR": "/elsewhere"}, "models_dir=/elsewhere default_model=unset"),
    ],
)
def test_entry_reads_the_variables_of_tensorflow_serving(
    enter, tmp_path: Path, environment: dict[str, str], expected: str
) -> None:
    """MODEL_BASE_PATH and MODEL_NAME set folder and default model, our own variables win, and tumours is last."""
    (tmp_path / "models" / "tumours").mkdir(parents=True)
    base = str(tmp_path / "models")
    _, lines = enter(**{"MODEL_BASE_PATH": base, **environment})
    assert expected.format(base=base) == lines[1]


def test_dockerfile_keeps_the_rules_that_builds_without_a_registry_need() -> None:
    """No syntax line, a base image by argument, hashes for every package, no root, and the entry in exec form."""
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"^#\s*syntax", text, re.MULTILINE | re.IGNORECASE)
    assert {"FROM ${BASE_IMAGE} AS build", "FROM ${BASE_IMAGE}"} == set(re.findall(r"^FROM .*$", text, re.MULTILINE))
    assert "--no-deps --require-hashes --only-binary :all:" in text
    assert "USER 10001:10001" == re.findall(r"^USER .*$", text, re.MULTILINE)[-1]
    assert ['ENTRYPOINT ["convex-scoring"]'] == re.findall(r"^ENTRYPOINT .*$", text, re.MULTILINE)


def test_dockerignore_lets_in_every_source_of_a_copy() -> None:
    """What the Dockerfile copies is not left out of the build, and what it does not copy never enters it."""
    copied = re.findall(r"^COPY (?!--from)(?:--chown=\S+ )?(\S+) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"deploy/entry", "service", "training", "models", "${LOCK}", "requirements/kernel.lock"} == set(copied)
    assert {"deploy/entry", "service", "training", "models", "requirements/*.lock"} == allowed
