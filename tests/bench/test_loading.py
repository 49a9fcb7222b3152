"""The measurement of loading: what is published is whole, and memory is that of one process alone."""

import os

from bench.in_process_server import InProcess
from bench.loading import SIDES, Publisher, memory_of
from service.loading.process import LoadingProcess
from service.repository import check_identity, read_version


def test_published_versions_are_whole_and_the_newest_two_stay(tmp_path):
    """Each passes the server's reader under its own number; older ones are deleted."""
    publisher = Publisher(tmp_path, "tumours")
    for version in (1, 2, 3):
        publisher.publish()
        check_identity(read_version(tmp_path / "tumours" / str(version)).manifest, "tumours", version)
    assert {"2", "3"} == {path.name for path in (tmp_path / "tumours").iterdir()}


def test_memory_grows_by_what_is_written_to():
    """Thirty-two mebibytes more are seen as that."""
    before = memory_of(os.getpid())
    kept = bytearray(b"." * (32 << 20))
    assert 31 << 20 <= memory_of(os.getpid()) - before
    assert 32 << 20 == len(kept)


def test_side_without_a_process_has_all_that_the_server_calls():
    """Both sides offer the same, so that the server is the same but for that."""
    assert {"child": "service", "in_process": "bench.in_process_server"} == SIDES
    public = {name for name in vars(LoadingProcess) if not name.startswith("_")}
    assert public == {name for name in vars(InProcess) if not name.startswith("_")}
