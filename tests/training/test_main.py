"""The commands: exit codes, what they print, signals, and silence at the start."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.conftest import write_job, write_rows
from training import journal, publish
from training.__main__ import main
from training.job_log import JobLog

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Give the signals their handlers back: `main` installs its own."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def shorten(folder: Path, steps: int = 30) -> str:
    """Make the job short and return its configuration's path."""
    path = folder / "job.toml"
    path.write_text(path.read_text().replace("steps = 200", f"steps = {steps}"))
    return str(path)


def environment() -> dict[str, str]:
    """Return the environment of a user's shell: no setting of TensorFlow's log."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("TF_", "KERAS_"))},
        "PYTHONPATH": str(ROOT),
    }


def test_train_prints_the_published_path_last(trained, capsys):
    """Exit 0, the path on standard output, progress on standard error."""
    assert 0 == main(["train", shorten(trained)])
    out, err = capsys.readouterr()
    assert str(trained / "models" / "small" / "2") == out.strip()
    assert "step 0 of at most 30" in err
    assert " held-out rows (logistic regression 0." in err.splitlines()[-1]


def test_train_takes_another_folder_and_seed(trained, capsys):
    """--models-dir is relative to the current folder; --seed is recorded as if it had stood in the file."""
    assert 0 == main(["train", shorten(trained), "--models-dir", str(trained / "other"), "--seed", "11"])
    published = Path(capsys.readouterr().out.strip())
    assert trained / "other" / "small" / "1" == published
    assert 11 == json.loads((published / "manifest.json").read_text())["config"]["trainer"]["seed"]


def test_retrain_exits_0_with_the_path_and_the_gate(trained, capsys):
    """A night that passes says what the gate compared."""
    write_rows(trained / "rows.csv", 400)
    assert 0 == main(["retrain", shorten(trained)])
    out, err = capsys.readouterr()
    assert str(trained / "models" / "small" / "2") == out.strip()
    assert "gate: passed; roc_auc" in err


def test_retrain_exits_3_with_the_reasons_when_the_gate_refuses(trained, capsys):
    """A refusal names its reasons and its report, prints no path, and publishes nothing."""
    write_rows(trained / "rows.csv", 400, shuffled=True)
    assert 3 == main(["retrain", shorten(trained, 400)])
    out, err = capsys.readouterr()
    assert ("", ["1"]) == (out, os.listdir(trained / "models" / "small"))
    assert "refused: " in err
    assert "report.html" in err


def test_retrain_that_published_says_so_though_a_signal_came(trained, capsys, monkeypatch):
    """Between the publication and its path on standard output no signal turns the night into an interrupted one."""
    tell = JobLog.tell

    def interrupted(log, sentence):
        if sentence.startswith("gate: passed"):
            signal.raise_signal(signal.SIGTERM)
        tell(log, sentence)

    monkeypatch.setattr(JobLog, "tell", interrupted)
    assert 0 == main(["retrain", shorten(trained)])
    out, err = capsys.readouterr()
    assert (str(trained / "models" / "small" / "2"), False) == (out.strip(), "interrupted" in err)


@pytest.mark.parametrize(("shuffled", "code"), [(False, 0), (True, 3)])
def test_retrain_dry_run_exits_as_the_gate_says_and_prints_no_path(trained, capsys, shuffled, code):
    """Nothing on standard output that a script could take for a version; the report is named."""
    write_rows(trained / "rows.csv", 400, shuffled=shuffled)
    assert code == main(["retrain", "--dry-run", shorten(trained, 400 if shuffled else 30)])
    out, err = capsys.readouterr()
    assert ("", ["1"]) == (out, os.listdir(trained / "models" / "small"))
    page = Path(err.splitlines()[-1].removeprefix("report: "))
    assert (journal.FOLDER, "report.html", True) == (page.parts[-4], page.name, page.exists())


@pytest.mark.parametrize("broken", [False, True])
def test_retrain_log_of_json_is_nothing_but_json(trained, capsys, monkeypatch, broken):
    """Each line on standard error is one object with the run's id, the sentences and an error included."""
    flags = ["--log-format", "json"]
    if broken:
        (trained / "rows.csv").write_text("left\nthree\n")
        flags = []
        monkeypatch.setenv("CONVEX_LOG_FORMAT", "json")  # the server's own variable
    code = main(["retrain", *flags, shorten(trained)])
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in err.splitlines()]
    assert 1 == len({line["run_id"] for line in lines})
    events = [line["event"] for line in lines]
    if broken:
        assert (1, "", ["lock", "failed", "end"]) == (code, out, events)
        assert lines[-1]["why"].startswith("rows.csv: ")
    else:
        assert (0, str(trained / "models" / "small" / "2")) == (code, out.strip())
        assert {"lock", "progress", "gate", "publish", "published", "told"} < set(events)


def test_history_prints_a_line_a_run(trained, capsys):
    """What came of the nights, the newest last, for people and as JSON; the number of lines is bounded."""
    job = shorten(trained)
    assert 0 == main(["retrain", job])
    (trained / "rows.csv").write_text("")
    assert 1 == main(["retrain", job])
    capsys.readouterr()
    place = str(trained / "models" / "small")
    assert 0 == main(["history", place])
    head, first, second = capsys.readouterr().out.splitlines()
    assert ("run", "published", "failed") == (head.split()[0], first.split()[3], second.split()[3])
    assert " rows.csv: the file is empty." in second
    assert 0 == main(["history", place, "--json", "-n", "1"])
    (document,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (2, "failed", "read", None) == tuple(document[key] for key in ("number", "outcome", "step", "report"))


def test_history_exits_1_where_nothing_ran(tmp_path, capsys):
    """A wrong name is told, and how a right one looks."""
    assert 1 == main(["history", str(tmp_path / "models" / "small")])
    assert "no run of this model left a record. Name MODELS_DIR/MODEL" in capsys.readouterr().err


def test_certify_prints_the_steps_and_exits_0(trained_once, capsys):
    """Each step of the proof is a line with its node and rule."""
    assert 0 == main(["certify", str(trained_once / "models" / "small" / "1")])
    out = capsys.readouterr().out
    assert "model: made here, small version 1 (manifest of format 1)" == out.splitlines()[0]
    assert "proved: the score is convex in x" == out.splitlines()[-1]
    assert all(words in out for words in ("nonneg-matmul", "hidden_1", "(left, right, height)", "least weight"))


def test_certify_exits_3_with_the_rule_when_a_file_is_broken(trained, capsys):
    """What is not whole is not proved."""
    path = trained / "models" / "small" / "1"
    (path / "saved_model.pb").write_bytes(b"")
    assert 3 == main(["certify", str(path)])
    assert capsys.readouterr().err.startswith("refused: file-hash: saved_model.pb")


def test_certify_prints_one_json_object(trained_once, capsys):
    """--json: the certificate, the bounds of each gradient entry with null for none; a refusal likewise, and exit 3."""
    assert 0 == main(["certify", "--json", str(trained_once / "models" / "small" / "1")])
    document = json.loads(capsys.readouterr().out)
    recorded = json.loads((trained_once / "models" / "small" / "1" / "manifest.json").read_text())["certificate"]
    assert {**recorded, "gradient": "unchecked"} == document["certificate"]
    assert (True, False, 3) == (document["proved"], document["made_elsewhere"], len(document["gradient_ranges"]))
    assert 1 == document["manifest_format"]
    (trained_once / "empty").mkdir()
    assert 3 == main(["certify", "--json", str(trained_once / "empty")])
    assert {"proved": False, "rule": "saved-model"}.items() <= json.loads(capsys.readouterr().out).items()


def test_evaluate_prints_metrics_and_writes_rows(trained, capsys):
    """Metrics on standard output; the CSV has one row a row, and its numbers read back to the same float32."""
    version, scores = str(trained / "models" / "small" / "1"), trained / "scores.csv"
    page = trained / "page.html"
    arguments = ["evaluate", version, "--data", str(trained / "rows.csv"), "--scores", str(scores)]
    assert 0 == main([*arguments, "--report", str(page)])
    out = capsys.readouterr().out
    assert "roc_auc: 0." in out
    assert "rows: 300" in out
    rows = list(csv.reader(scores.read_text().splitlines()))
    assert ["score", "gradient_left", "gradient_right", "gradient_height"] == rows[0]
    assert 300 == len(rows) - 1
    assert page.read_text().startswith("<!doctype html>")
    assert not list(trained.glob(".*partial"))


def test_evaluate_exits_1_when_its_output_cannot_be_written(trained_once, tmp_path, capsys):
    """A folder that is not there is one sentence with the path that was asked for, and what to do."""
    version, scores = trained_once / "models" / "small" / "1", tmp_path / "nowhere" / "scores.csv"
    assert 1 == main(["evaluate", str(version), "--data", str(trained_once / "rows.csv"), "--scores", str(scores)])
    assert f"{scores}: cannot be written: No such file or directory. Name a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("steps = 200", "stepz = 200"), "trainer.stepz"),
        (("steps = 200", "steps = 0"), "trainer.steps"),
        (('task = "classification"', 'task = "magic"'), "model.task"),
        (("hidden = [6, 5]", 'hidden = [6, 5]\nactivation = "tanh"'), "network.activation"),
    ],
)
def test_train_exits_2_naming_the_key(trained, capsys, change, named):
    """A wrong configuration is one sentence that names the key."""
    path = trained / "job.toml"
    path.write_text(path.read_text().replace(*change))
    assert 2 == main(["train", str(path)])
    assert named in capsys.readouterr().err


def test_retrain_exits_2_for_what_is_no_server(trained, capsys):
    """An address without http is refused before anything is read."""
    assert 2 == main(["retrain", shorten(trained), "--wait-available", "127.0.0.1:8501"])
    assert "--wait-available" in capsys.readouterr().err


def test_retrain_waits_for_the_server_that_the_command_names(trained, monkeypatch):
    """The flag's address goes in the place of the configuration's, without its last slash."""
    from training import retrain

    asked = []
    monkeypatch.setattr(retrain, "wait_available", lambda address, *_args, **_kwargs: asked.append(address))
    write_rows(trained / "rows.csv", 400)
    assert 0 == main(["retrain", shorten(trained), "--wait-available", "http://127.0.0.1:9/"])
    assert ["http://127.0.0.1:9"] == asked


@pytest.mark.parametrize("arguments", [["train"], ["train", "missing.toml"], ["fly"], ["certify", "missing"]])
def test_usage_errors_exit_2(arguments, capsys):
    """A missing argument, file or command is bad usage."""
    assert 2 == main(arguments)
    assert "Usage" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "", "left,right,height,label\n1,2,three,0\n"])
def test_train_exits_1_when_the_data_cannot_be_used(tmp_path, capsys, content):
    """A missing, empty or non-numeric file is one sentence, and no model folder is left."""
    path = write_job(tmp_path)
    (tmp_path / "rows.csv").unlink()
    if content is not None:
        (tmp_path / "rows.csv").write_text(content)
    assert 1 == main(["train", str(path)])
    assert "rows.csv" in capsys.readouterr().err
    assert not list((tmp_path / "models").iterdir())


def test_train_exits_1_when_the_models_folder_cannot_be_written(tmp_path, capsys):
    """A models folder that is no folder is a clear sentence."""
    path = write_job(tmp_path)
    (tmp_path / "models").write_text("")
    assert 1 == main(["train", str(path)])
    assert "cannot be written" in capsys.readouterr().err


def test_train_exits_4_when_another_job_holds_the_lock(trained, capsys):
    """The second of two jobs ends at once."""
    with publish.lock(trained / "models", "small"):
        assert 4 == main(["train", shorten(trained)])
    assert "another job holds the lock" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_train_ends_without_traceback_or_version_when_interrupted(tmp_path, number, code):
    """In the middle of training: the exit code of the signal, one line, no staging folder, nothing published."""
    path = write_job(tmp_path)
    path.write_text(path.read_text().replace("steps = 200", "steps = 1000000").replace("= 4", "= 1000000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "train", str(path)],
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        first, second = (process.stderr.readline() for _ in range(2))
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert "gradient audit: 8 of 8 variables get a gradient\n" == first  # and no word of TensorFlow before it
    assert "step 0" in second
    assert (code, "") == (process.returncode, out)
    assert "interrupted; nothing was published" == err.splitlines()[-1]
    assert "Traceback" not in err
    assert [] == os.listdir(tmp_path / "models")


def test_train_says_nothing_but_its_progress(tmp_path):
    """From a plain shell no library says a line, and paths are relative: in the file to it, printed to where one is."""
    path = write_job(tmp_path / "job")
    shorten(path.parent, 2)
    ended = subprocess.run(
        [sys.executable, "-m", "training", "train", "job/job.toml"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert 0 == ended.returncode, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("train small: step")]
    assert "gradient audit: 8 of 8 variables get a gradient" == lines.pop(0)
    assert [True] == [line.startswith("ROC-AUC ") for line in lines if not line.startswith("The validation loss")]
    assert "job/models/small/1" == ended.stdout.strip()


def test_help_imports_no_tensorflow():
    """--help of every command is fast: it needs the standard library and click."""
    script = (
        "import sys; from training.__main__ import main\n"
        "for words in ([], ['train'], ['retrain'], ['audit'], ['certify'], ['evaluate']):\n"
        "    assert main([*words, '--help']) == 0\n"
        "assert not {'tensorflow', 'keras', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert 0 == ended.returncode, ended.stderr
    assert "130/143" in ended.stdout


def test_evaluate_prints_the_distance_of_a_map_and_writes_the_map(moved_once, tmp_path, capsys):
    """--target is the file of target rows; the gradient columns of the CSV are the mapped rows."""
    version, scores = str(moved_once / "models" / "moved" / "1"), tmp_path / "mapped.csv"
    files = ["--data", str(moved_once / "p.csv"), "--target", str(moved_once / "q.csv")]
    assert 0 == main(["evaluate", version, *files, "--scores", str(scores)])
    out = capsys.readouterr().out
    assert ["w2_uvp", "w2_squared", "w2", "transport_cost", "rows"] == [line.split(":")[0] for line in out.splitlines()]
    rows = list(csv.reader(scores.read_text().splitlines()))
    assert (["score", "gradient_left", "gradient_right"], 301) == (rows[0], len(rows))


def test_evaluate_tells_dropped_target_rows(moved_once, tmp_path, capsys):
    """A distance to fewer target rows than the file has is told; source rows of which none was dropped are not."""
    (tmp_path / "q.csv").write_text((moved_once / "q.csv").read_text() + "nan,1\n")
    version = str(moved_once / "models" / "moved" / "1")
    assert 0 == main(["evaluate", version, "--data", str(moved_once / "p.csv"), "--target", str(tmp_path / "q.csv")])
    assert ["rows: 300", "dropped target rows: 1"] == capsys.readouterr().out.splitlines()[-2:]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (('target_file = "q.csv"', ""), 2, "data.target_file: expected a path"),
        (('source = "p.csv"', 'source = "p.csv"\nfile = "p.csv"'), 2, "a key of classification and regression alone"),
        (('source = "p.csv"', 'source = "sklearn:chima.jpg"'), 2, "nearest: 'sklearn:china.jpg'"),
        (("hidden = [4]", 'hidden = [4]\nactivation = "relu"'), 2, "network.activation"),
        (('source = "p.csv"', 'source = "none.png"'), 1, "none.png: expected a readable data file"),
        (('source = "p.csv"', 'source = "job.png"'), 1, "job.png: expected a whole picture"),
        (('source = "p.csv"', 'source = "sklearn:china.jpg"'), 1, "expected the same columns in both"),
        (("batch = 32", "batch = 290"), 1, "q.csv: expected at least trainer.batch = 290 target rows, received 280"),
        (("inner_steps = 1", "max_gradient_norm = 1e-9"), 1, "training diverged at step 0: the norm of the gradient"),
        (("inner_steps = 1", "max_gradient_norm = 1e-9"), 1, ", objective.max_gradient_norm is 1e-09. Lower trainer."),
        (('source = "p.csv"', 'source = "far.csv"'), 1, "source and target: expected rows whose common standard dev"),
        (('source = "p.csv"', 'source = "job.webp"'), 1, "a table or a picture, a file that ends in .csv, .parquet, "),
    ],
)
def test_transport_ends_with_one_sentence_and_nothing_published(moved, capsys, change, code, said):
    """A wrong configuration is exit 2; data that cannot be used, and a run that diverges, are exit 1."""
    path = moved / "job.toml"
    (moved / "job.png").write_bytes(path.read_bytes())
    (moved / "far.csv").write_text((moved / "p.csv").read_text() + "".join(f"{k}e30,0\n" for k in range(1, 9)))
    path.write_text(path.read_text().replace(*change))
    assert code == main(["train", str(path)])
    error = capsys.readouterr().err.splitlines()[-1]
    assert (True, True) == (error.startswith("error: "), said in error)
    assert ["1"] == os.listdir(moved / "models" / "moved")
