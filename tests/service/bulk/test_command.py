"""`python -m service score` as a process: its exit codes, what it prints where, and what an interruption leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CSV = ROOT / "training" / "examples" / "tumours.csv"


def start(*words):
    """Start the command on the shipped models."""
    command = [sys.executable, "-m", "service", "score", "--models-dir", ROOT / "models", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env={**os.environ})


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (
            ["--model", "tumour"],
            1,
            "--model: received 'tumour', expected a model of the folder: it has colours, tumours",
        ),
        ([], 1, "--model: received ''"),
        (["--model", "tumours", "--version", "1", "--label", "stable"], 2, "--version and --label: expected one"),
        (["--model", "tumours", "--version", "0"], 2, "--version"),
        (["--bad-rows", "drop"], 2, "--bad-rows"),
    ],
)
def test_score_ends_with_one_line_and_its_exit_code_when_it_is_asked_wrongly(tmp_path, words, code, why):
    """What cannot be meant is told on standard error, and nothing is written."""
    out = tmp_path / "out.csv"
    process = start(*words, "--input", CSV, "--output", out)
    printed, said = process.communicate(timeout=60)
    assert (code, "") == (process.returncode, printed)
    assert why in said
    assert "Traceback" not in said
    assert not out.exists()


def test_score_leaves_nothing_when_it_is_interrupted(tmp_path, wait_until):
    """SIGTERM in the middle of the work ends it with 143, without a traceback, a half-written file or a process."""
    source, sink = tmp_path / "rows.csv", tmp_path / "out.csv"
    header, line, *_ = CSV.read_text().splitlines(keepends=True)
    with source.open("w") as file:
        file.write(header)
        for _ in range(200):
            file.write(line * 2000)
    process = start("--model", "tumours", "--input", source, "--output", sink, "--threads", 1)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, 60)
    process.send_signal(signal.SIGTERM)
    printed, said = process.communicate(timeout=60)
    assert (143, "", "") == (process.returncode, printed, said)
    assert [source] == list(tmp_path.iterdir())
