"""The command line, as a process: words, exit codes, and what it prints where."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from service import manifest
from service.settings import rows

ROOT = Path(__file__).parents[2]


def run(*words, **environment):
    """Run `python -m service` and return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def models_dir(tmp_path):
    """Return a models folder with a sealed version 1 and an unsealed version 2 of `m`."""
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    document = {
        "format_version": 1,
        "model": "m",
        "version": 1,
        "created": "2026-11-20T03:00:12Z",
        "task": "classification",
        "parent": None,
        "rolled_back_to": None,
        "input": {"name": "x", "dtype": "float32", "dim": 2, "features": ["a", "b"]},
        "outputs": ["score", "gradient"],
        "threshold": 0.0,
        "certificate": {"proved": True},
        "metrics": {"held_out": {"rows": 112, "roc_auc": 0.99}},
        "data": {},
        "config": {},
        "packages": {},
        "cpu": "x",
        "files": {"saved_model.pb": {"bytes": 5, "sha256": manifest.sha256_hex(b"graph")}},
    }
    (folder / "manifest.json").write_bytes(manifest.seal(document))
    other = tmp_path / "m" / "2"
    other.mkdir()
    (other / "probe.npz").write_bytes(b"half")
    return tmp_path


def test_help_lists_every_setting_without_tensorflow_or_numpy():
    """`serve --help` names every flag with its default, and imports neither TensorFlow nor NumPy nor gRPC."""
    answer = run("serve", "--help")
    assert 0 == answer.returncode
    text = " ".join(answer.stdout.split())
    for row in rows():
        assert row.flag in text
    assert "default: 8501" in text
    code = "import sys, service.__main__; print({'numpy', 'tensorflow', 'grpc', 'flask'} & set(sys.modules))"
    imported = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "set()" == imported.stdout.strip()


def test_one_blas_thread_is_set_before_numpy_is_imported():
    """OPENBLAS_NUM_THREADS is 1 unless the operator said otherwise."""
    code = "import os, service.__main__; print(os.environ['OPENBLAS_NUM_THREADS'])"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    for extra, expected in (({}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")):
        answer = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**environment, **extra},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert expected == answer.stdout.strip()


@pytest.mark.parametrize("words", [["serve", "--engine", "gpu"], ["--engine", "gpu"], ["--engine=gpu"]])
def test_serve_may_be_left_out_and_a_bad_setting_exits_2(words):
    """Flags alone go to `serve`; a bad value names the setting, what was received and what was expected."""
    answer = run(*words)
    assert 2 == answer.returncode
    assert "--engine / CONVEX_ENGINE: received 'gpu', expected one of auto, program, tensorflow" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_bad_environment_variable_exits_2():
    """Variables are read and checked like flags."""
    answer = run("serve", CONVEX_REST_PORT="eighty")
    assert 2 == answer.returncode
    assert "--rest-port / CONVEX_REST_PORT: received 'eighty'" in answer.stderr


def test_an_unknown_flag_or_command_exits_2():
    """What is not offered is bad usage."""
    assert 2 == run("--rest-prot", "1").returncode
    assert 2 == run("scores").returncode
    assert 2 == run("score").returncode


def test_serve_exits_1_when_the_port_is_in_use(tmp_path):
    """One line that names the address and the flag, and exit 1, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag, other in (("--rest-port", "--grpc-port"), ("--grpc-port", "--rest-port")):
            answer = run("serve", "--models-dir", tmp_path, flag, port, other, 0)
            assert 1 == answer.returncode
            (line,) = answer.stderr.splitlines()
            assert f"127.0.0.1:{port}" in line
            assert flag in line


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_serve_works_when_nothing_can_be_printed(tmp_path, wait_until, ephemeral_port, streams):
    """Closed or full standard streams neither keep the server from answering nor from a clean end."""
    words = ["-m", "service", "--models-dir", tmp_path, "--rest-port", ephemeral_port, "--grpc-port", 0]
    server = subprocess.Popen(
        ["sh", "-c", f'exec "$0" "$@" {streams}', sys.executable, *map(str, words)], cwd=ROOT, env={**os.environ}
    )
    try:
        wait_until(lambda: _answers(ephemeral_port))
        server.terminate()
        assert 0 == server.wait(20)
    finally:
        server.kill()
        server.wait(20)


def _answers(port):
    """Return whether a server is alive on the port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return answer.status == 200
    except urllib.error.URLError:
        return False


def test_models_lists_versions_with_proof_and_metrics(models_dir):
    """A whole version shows label, date, proof and metrics; a broken one the rule that would refuse it."""
    (models_dir / "m" / "labels.json").write_text('{"stable": 1}')
    answer = run("models", "--models-dir", models_dir)
    assert 0 == answer.returncode
    header, first, second = answer.stdout.splitlines()
    assert ["MODEL", "VERSION", "LABELS", "FORMAT", "CREATED", "CONVEXITY", "METRICS"] == header.split()
    assert ["m", "1", "stable", "1", "2026-11-20T03:00:12Z", "proved", "roc_auc=0.99", "rows=112"] == first.split()
    assert "refused: manifest-missing" in second


def test_models_lists_a_version_made_elsewhere(models_dir):
    """A SavedModel without a manifest is named as what it is."""
    folder = models_dir / "strange" / "7"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"")
    answer = run("models", "--models-dir", models_dir)
    assert ["strange", "7", "made", "elsewhere"] == answer.stdout.splitlines()[-1].split()[:4]


def test_models_lists_a_version_whose_metrics_are_not_ours(models_dir):
    """What is under `held_out` is the publisher's matter: numbers of ours are shown where they are."""
    path = models_dir / "m" / "1" / "manifest.json"
    path.write_bytes(manifest.seal({**json.loads(path.read_text()), "metrics": {"held_out": [0.5]}}))
    answer = run("models", "--models-dir", models_dir)
    assert (0, "") == (answer.returncode, answer.stderr)
    assert ["m", "1", "1", "2026-11-20T03:00:12Z", "proved"] == answer.stdout.splitlines()[1].split()


def test_models_lists_as_json_what_a_program_can_read(models_dir):
    """One document: format, certificate and metrics of what is whole, rule and reason of what is not."""
    answer = run("models", "--models-dir", models_dir, "--json")
    assert 0 == answer.returncode
    ((name, (first, second)),) = [tuple(model.values()) for model in json.loads(answer.stdout)["models"]]
    assert ("m", 1, 1, {"proved": True}) == (name, first["version"], first["format_version"], first["certificate"])
    assert {"held_out": {"rows": 112, "roc_auc": 0.99}} == first["metrics"]
    assert (2, "manifest-missing") == (second["version"], second["rule"])


def test_models_needs_neither_tensorflow_nor_numpy(models_dir):
    """The folder is read with the standard library: the command answers at once, also where TensorFlow is missing."""
    words = f"['service', 'models', '--models-dir', {str(models_dir)!r}]"
    code = (
        f"import sys, runpy; sys.argv = {words}\ntry: runpy.run_module('service', run_name='__main__')\n"
        "finally: print(sorted({'numpy', 'tensorflow', 'grpc', 'flask'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (0, "[]") == (answer.returncode, answer.stdout.splitlines()[-1]), answer.stderr


def test_models_exits_1_without_models(tmp_path):
    """A missing and an empty folder are told apart from a folder with models."""
    assert 1 == run("models", "--models-dir", tmp_path).returncode
    answer = run("models", "--models-dir", tmp_path / "nowhere")
    assert 1 == answer.returncode
    assert "expected a folder of models" in answer.stderr


def test_label_writes_keeps_and_removes(models_dir):
    """Named labels are set, others stay, an empty version removes; the file is read back."""
    path = models_dir / "m" / "labels.json"
    assert "canary=2 stable=1" == run("label", models_dir / "m", "stable=1", "canary=2").stdout.strip()
    assert {"stable": 1, "canary": 2} == json.loads(path.read_text())
    assert 0 == run("label", models_dir / "m", "canary=").returncode
    assert {"stable": 1} == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["stable=1", "canary=9"], "canary=9: there is no version 9. Versions: 1, 2."),
        (["stable"], "expected LABEL=VERSION"),
        (["stable=x"], "expected LABEL=VERSION"),
        (["a b=1"], "expected LABEL=VERSION"),
        (["stable=1", "stable=2"], "each label once"),
    ],
)
def test_label_refuses_what_it_cannot_mean(models_dir, assignments, said):
    """A version that is not there, no LABEL=VERSION at all or a label given twice exits 2 and writes nothing."""
    answer = run("label", models_dir / "m", *assignments)
    assert 2 == answer.returncode
    assert said in answer.stderr
    assert not (models_dir / "m" / "labels.json").exists()


def test_label_warns_of_a_version_that_a_server_would_refuse(models_dir):
    """A label may mean a broken version, and it is said at once that no server will follow."""
    answer = run("label", models_dir / "m", "stable=1", "canary=2")
    assert 0 == answer.returncode
    (warning,) = answer.stderr.splitlines()
    assert "warning: a server will refuse version 2 (manifest-missing: " in warning


def test_label_exits_2_for_a_folder_without_versions(tmp_path):
    """The argument must be a model's folder."""
    assert 2 == run("label", tmp_path / "nobody", "stable=1").returncode
