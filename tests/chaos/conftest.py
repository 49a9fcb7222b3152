"""Servers over closed-form versions, ended whatever happens, and the figures of a run for whoever reads its log."""

import pytest

from tests.chaos.ramp_versions import RampVersions
from tests.end_to_end.server_process import ServerProcess

START_SECONDS = 60.0


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
