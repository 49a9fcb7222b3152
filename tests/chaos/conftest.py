"""Servers as processes of their own, ended whatever happens; closed-form versions; the figures of a run."""

import resource
import shutil

import pytest

from tests.chaos.job_nursery import Nursery
from tests.chaos.planting import MODEL, POLL_SECONDS, SHIPPED, Beside, ServerHere
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


@pytest.fixture
def beside(request, wait_until, tmp_path):
    """Return a `Beside` over a server of version 1, which is a process in a long form, with a client that asks it."""
    models_dir = tmp_path / "models"
    shutil.copytree(SHIPPED, models_dir / MODEL / "1")
    if request.node.get_closest_marker("chaos"):
        server = ServerProcess(models_dir, "--poll-interval-seconds", POLL_SECONDS)
    else:
        server = ServerHere(models_dir)
    try:
        wait_until(server.is_ready, START_SECONDS)
        found = Beside(server, models_dir, wait_until)
        yield found
        found.close()
    finally:
        server.kill()


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
