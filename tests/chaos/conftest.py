"""Servers as processes of their own, ended whatever happens; closed-form versions; the figures of a run."""

import resource
import shutil

import pytest

from tests.chaos.job_nursery import Nursery
from tests.chaos.planting import MODEL, SHIPPED, Beside
from tests.chaos.ramp_versions import RampVersions
from tests.end_to_end.server_process import ROOT, ServerProcess

START_SECONDS = 60.0


@pytest.fixture(scope="session")
def edge_server(wait_until):
    """Serve the shipped models, `colours` by default, to clients of every kind: bodies up to 1 MiB, little patience.

    As many descriptors as the machine allows, here and there.
    """
    _, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server inherits it
    flags = ("--default-model", "colours", "--max-body-bytes", 1 << 20, "--client-timeout-seconds", 4)
    server = ServerProcess(ROOT / "models", *flags)
    try:
        wait_until(server.is_ready, START_SECONDS)
        yield server
    finally:
        server.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    """Return what forks training jobs that have all imported."""
    nursery = Nursery(tmp_path_factory.mktemp("jobs"))
    yield nursery
    nursery.close()


@pytest.fixture
def ramps(tmp_path):
    """Return closed-form versions, to be published into any folder below the test's."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    return RampVersions(folder)


@pytest.fixture
def serve(wait_until):
    """Return a function that starts a server over a folder and returns it ready; every one is ended after the test."""
    servers = []

    def start(models_dir, *flags, kind=ServerProcess):
        servers.append(kind(models_dir, "--poll-interval-seconds", 0.05, *flags))
        wait_until(servers[-1].is_ready, START_SECONDS)
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def old_server(wait_until, tmp_path_factory):
    """Serve version 1 of the shipped model from a folder in which others are planted; return server and folder."""
    models_dir = tmp_path_factory.mktemp("planted") / "models"
    shutil.copytree(SHIPPED, models_dir / MODEL / "1")
    server = ServerProcess(models_dir, "--default-model", MODEL, "--poll-interval-seconds", 0.05)
    try:
        wait_until(server.is_ready, START_SECONDS)
        yield server, models_dir
    finally:
        server.kill()


@pytest.fixture
def beside(old_server, wait_until):
    """Return a `Beside` over the server of version 1, whose client asks until the test is over."""
    found = Beside(*old_server, wait_until)
    yield found
    found.close()


@pytest.fixture
def report(record_property, request, pytestconfig):
    """Return `report(**figures)`, which keeps a run's figures: in its record, and as a line on the terminal."""
    reporter = pytestconfig.pluginmanager.getplugin("terminalreporter")
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def keep(**figures):
        for name, value in figures.items():
            record_property(name, value)
        line = ", ".join(f"{name} {value}" for name, value in figures.items())
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"\n{request.node.name}: {line}")

    return keep


def errors_of(server):
    """Return the lines of a server's log that tell of an error, and those that are no JSON."""
    return [line for line in server.lines if '"level":"error"' in line.replace(" ", "") or not line.startswith("{")]


def address_of(server):
    """Return host and port of a server's REST."""
    host, _, port = server.address("rest").rpartition(":")
    return host, int(port)
