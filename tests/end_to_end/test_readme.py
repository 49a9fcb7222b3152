"""The README's examples, run as they stand against a server of the shipped models, give the README's answers."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import WaitUntil
from tests.end_to_end.server_process import ROOT, ServerProcess

README = (ROOT / "README.md").read_text()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
TOLERANCE = 1e-5
"""Of the largest entry: the answers in the README were computed on another machine."""

CURL = f"""curl() {{ {sys.executable} -c '
import sys, urllib.request
print(urllib.request.urlopen("http://" + sys.argv[3], sys.argv[2].encode()).read().decode())' "$@"; }}"""
"""What `curl -d BODY ADDRESS` sends, for a machine that has no curl: it is not among what `make test` needs."""


def block(language: str, *, holding: str = "") -> str:
    """Return the first code block of a language that holds a text."""
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in text)


def numbers(text: str) -> np.ndarray:
    """Return the numbers that stand in a text, in order."""
    return np.array(re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text), np.float64)


@pytest.fixture(scope="module")
def addresses(shipped_server: ServerProcess) -> dict[str, str]:
    """Return the README's addresses and those at which the shipped models are served."""
    return {"127.0.0.1:8501": shipped_server.address("rest"), "127.0.0.1:8500": shipped_server.address("grpc")}


def run(command: list[str], folder: Path = ROOT) -> str:
    """Run a command that must succeed; return its standard output."""
    result = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=100
    )
    assert 0 == result.returncode, result.stderr
    return result.stdout


def replaced(text: str, addresses: dict[str, str]) -> str:
    """Return a text with the README's addresses replaced by the real ones."""
    for written, real in addresses.items():
        assert not re.search(rf"{written}\d", text)
        text = text.replace(written, real)
    return text


def test_curl_of_the_readme_gets_the_score_and_gradient_of_the_readme(addresses: dict[str, str]) -> None:
    """A plain `curl -d` of a raw CSV row gets the answer that the README shows."""
    expected = json.loads(block("json"))
    words = replaced(block("bash", holding="curl"), addresses)
    actual = json.loads(run(["sh", "-c", words if shutil.which("curl") else f"{CURL}\n{words}"]))
    assert {"model": "tumours", "version": 1} == {key: actual[key] for key in ("model", "version")}
    np.testing.assert_allclose(actual["score"], expected["score"], rtol=TOLERANCE)
    largest = np.abs(expected["gradient"]).max()
    np.testing.assert_allclose(actual["gradient"], expected["gradient"], rtol=0, atol=TOLERANCE * largest)


def test_stock_client_of_the_readme_gets_the_scores_of_the_readme(addresses: dict[str, str]) -> None:
    """The Python example with TensorFlow Serving's own stubs prints what the README shows."""
    actual = run([sys.executable, "-c", replaced(block("python", holding="import grpc"), addresses)])
    np.testing.assert_allclose(numbers(actual), numbers(block("text", holding="1 [")), rtol=TOLERANCE)


def test_compressed_npy_of_the_readme_gets_the_table_of_the_readme(addresses: dict[str, str]) -> None:
    """The Python example that sends a `.npy` file under gzip prints what the README shows."""
    actual = run([sys.executable, "-c", replaced(block("python", holding="x-npy"), addresses)])
    shown = block("text", holding="(569, 31) float32")
    assert actual.startswith("(569, 31) float32 [")
    np.testing.assert_allclose(numbers(actual), numbers(shown), rtol=TOLERANCE)


def test_arrow_stream_of_the_readme_gets_the_scores_of_the_readme(addresses: dict[str, str]) -> None:
    """The Python example that sends a table of pyarrow and reads one prints what the README shows."""
    actual = run([sys.executable, "-c", replaced(block("python", holding="pa.ipc"), addresses)])
    assert actual.startswith("569 ['score'] [")
    np.testing.assert_allclose(numbers(actual), numbers(block("text", holding="569 ['score']")), rtol=TOLERANCE)


def test_own_csv_of_the_readme_becomes_a_published_version(tmp_path: Path) -> None:
    """The README's configuration for a CSV of one's own trains, proves and publishes version 1."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3))
    prices = np.column_stack([rows, (rows**2).sum(axis=1)])
    np.savetxt(tmp_path / "prices.csv", prices, delimiter=",", header="area,rooms,age,price", comments="", fmt="%.4f")
    (tmp_path / "prices.toml").write_text(block("toml", holding='"prices"') + "\n[trainer]\nsteps = 100\n")
    words = block("bash", holding="training train").split("#")[0].split()
    assert [".venv/bin/python", "-m", "training", "train", "prices.toml"] == words
    published = run([sys.executable, *words[1:]], tmp_path).splitlines()[-1]
    assert "models/prices/1" == published
    assert (tmp_path / "models" / "prices" / "1" / "report.html").is_file()


def bowl(weights: list[NDArray[np.float64]], row: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return score and gradient of the README's network by its formula, in float64."""
    kernel, bias = weights[:2]
    u = row @ kernel + bias
    z, slope = np.logaddexp(0, u), (1 / (1 + np.exp(-u))) * kernel  # slope: [3, width]
    for kept, free, shift in (weights[2:5], weights[5:8]):
        u = z @ kept + row @ free + shift
        z, slope = np.logaddexp(0, u), (1 / (1 + np.exp(-u))) * (slope @ kept + free)
    return float((z @ weights[8] + weights[9])[0]), (slope @ weights[8])[:, 0]


def test_model_of_plain_keras_is_certified_dropped_into_the_folder_and_served(
    tmp_path: Path, serve: Callable[..., ServerProcess], wait_until: WaitUntil
) -> None:
    """The README's Keras code and commands, as they stand: proved, copied, and answered with score and gradient."""
    told = "\nimport json; print(json.dumps([weight.tolist() for weight in model.get_weights()]))"
    code = block("python", holding="keras.constraints.NonNeg")
    assert not re.search("convex_scoring|training|service", code)
    printed = run([sys.executable, "-c", code + told], tmp_path).splitlines()[-1]
    weights = [np.array(array, np.float64) for array in json.loads(printed)]
    (tmp_path / "models").mkdir()
    server = serve(tmp_path / "models")
    certify, copy, curl = block("bash", holding="bowl").replace(".venv/bin/python", sys.executable).splitlines()
    assert "proved: the score is convex in x" == run(["sh", "-c", certify], tmp_path).splitlines()[-1]
    address = wait_until(lambda: server.address("rest"), deadline_seconds=60)
    run(["sh", "-c", copy], tmp_path)
    assert wait_until(lambda: server.versions("bowl").get(1, ("", ""))[0] == "AVAILABLE", deadline_seconds=60)
    curl = replaced(curl, {"127.0.0.1:8501": address})
    answer = json.loads(run(["sh", "-c", curl if shutil.which("curl") else f"{CURL}\n{curl}"]))
    score, gradient = bowl(weights, np.array([0.5, -1.0, 2.0]))
    assert ("bowl", 1) == (answer["model"], answer["version"])
    np.testing.assert_allclose(answer["score"], [score], rtol=TOLERANCE)
    np.testing.assert_allclose(answer["gradient"], [gradient], rtol=0, atol=TOLERANCE * np.abs(gradient).max())
