"""Two small models trained once a session, copies of them as any version, servers that are ended whatever happens.

For the tests of the page: a browser, its tabs, and servers of versions in closed form.
"""

import json
import shutil
import signal
import uuid

import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright

from service import manifest, model_version
from service.rest.app import create_app
from service.rest.server import HttpServer
from tests.end_to_end.page_tab import ARGUMENTS, CHROMIUM, Tab
from tests.end_to_end.server_process import ROOT, ServerProcess
from tests.service.quadratic_versions import make_service

_CONFIG = """
[model]
name = "small"
task = "classification"
[data]
file = "{data}"
target = "malignant"
[network]
hidden = [8]
[trainer]
steps = 30
seed = {seed}
[publish]
models_dir = "{models_dir}"
"""


class Models:
    """Two trained versions to copy from. Odd versions are copies of the first, even ones of the second.

    Args:
        folder: where they are, with the expected answers to `rows`.
    """

    def __init__(self, folder):
        self.folder = folder
        self.rows = np.load(folder / "rows.npy")
        self._expected = [np.load(folder / f"{number}.npz") for number in (1, 2)]

    def expected(self, version):
        """Return score and gradient of the rows by a version, as `model_version.load` gives them in a notebook."""
        answers = self._expected[(version - 1) % 2]
        return answers["score"], answers["gradient"]

    def put(self, models_dir, version, *, model="small", spoil=None):
        """Publish a version the way training does: staged beside, manifest last, renamed whole.

        Args:
            models_dir: where to.
            version: its number.
            model: its model's name.
            spoil: called with the staged folder, to do harm to it.
        """
        staged = models_dir / model / f".staging-{uuid.uuid4().hex}"
        shutil.copytree(self.folder / "models" / "small" / str((version - 1) % 2 + 1), staged)
        document = json.loads((staged / "manifest.json").read_text())
        del document["manifest_sha256"]
        document |= {"model": model, "version": version}
        (staged / "manifest.json").write_bytes(manifest.seal(document))
        if spoil is not None:
            spoil(staged)
        staged.rename(models_dir / model / str(version))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Train two small versions; they differ in their seed and so in every answer."""
    from training import pipeline
    from training.config import load_config

    folder = tmp_path_factory.mktemp("trained")
    data = ROOT / "training" / "examples" / "tumours.csv"
    columns = data.read_text().splitlines()[0].split(",")
    table = np.loadtxt(data, delimiter=",", skiprows=1, max_rows=5)
    rows = np.delete(table, columns.index("malignant"), axis=1).astype(np.float32)
    np.save(folder / "rows.npy", rows)
    for number in (1, 2):
        config = _CONFIG.format(data=data, seed=number, models_dir=folder / "models")
        (folder / f"{number}.toml").write_text(config)
        trained = model_version.load(pipeline.train(load_config(folder / f"{number}.toml")))
        score, gradient = trained.score_and_gradient(rows)
        np.savez(folder / f"{number}.npz", score=score, gradient=gradient)
    return Models(folder)


@pytest.fixture
def serve():
    """Return a function that starts a server over a folder; every one is ended after the test."""
    servers = []

    def start(models_dir, *flags):
        servers.append(ServerProcess(models_dir, "--poll-interval-seconds", 0.1, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def browser():
    """Start Chromium once for a module."""
    expect.set_options(timeout=30_000)  # milliseconds; five seconds are little where other work runs beside it
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def run_training():
    """Return the command line of `python -m training`: words in, exit code out; signals get their handlers back."""
    from training.__main__ import main

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda *words: main([str(word) for word in words])
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shipped_server(wait_until):
    """Serve the shipped models in a process, by the program engine, to all tests that only ask."""
    server = ServerProcess(ROOT / "models", "--default-model", "tumours", "--engine", "program")
    try:
        wait_until(server.is_ready, 60)
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def shipped(shipped_server):
    """Return the address of the server of the shipped models."""
    return shipped_server.address("rest")


@pytest.fixture
def open_tab(browser):
    """Return a function that opens a tab; at the end none complained of what is not excused, or asked another host."""
    tabs = []

    def make(*arguments):
        tabs.append(Tab(browser, *arguments))
        return tabs[-1]

    yield make
    for tab in tabs:
        assert [] == [fault for fault in tab.faults if tab.excused is None or tab.excused not in fault]
        assert {tab.address} == {host for request in tab.requests if (host := host_of(request.url)) is not None}
        tab.context.close()


def host_of(url):
    """Return host and port of an address, or None for a picture that the page itself holds."""
    return None if url.startswith("blob:") else url.split("/")[2]


@pytest.fixture
def quadratic():
    """Return a function that serves a service of closed-form versions on a port, and returns its server."""
    servers, registries = [], []

    def start(service, port=0):
        registries.append(service.registry)
        app = create_app(service.scorer, service.registry, service.metrics, make_service(rest_port=port).settings)
        servers.append(HttpServer(app, make_service(rest_port=port).settings))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop(5.0)
    for registry in registries:
        registry.close()
