"""The measurement of loading: what is published is whole, and memory is that of one process alone."""

import subprocess
import sys

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
    """A process of its own that writes to thirty-two mebibytes is seen to grow by them."""
    wait = "print(); sys.stdin.readline()"
    words = f"import sys; {wait}; kept = bytearray(b'.' * (32 << 20)); {wait}"
    with subprocess.Popen(
        [sys.executable, "-S", "-u", "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        process.stdout.readline()
        before = memory_of(process.pid)
        process.stdin.write(b"\n")
        process.stdout.readline()
        grown = memory_of(process.pid) - before
        process.kill()
    assert 31 << 20 <= grown
    assert grown <= 34 << 20


def test_side_without_a_process_has_all_that_the_server_calls():
    """Both sides offer the same, so that the server is the same but for that."""
    assert {"child": "service", "in_process": "bench.in_process_server"} == SIDES
    public = {name for name in vars(LoadingProcess) if not name.startswith("_")}
    assert public == {name for name in vars(InProcess) if not name.startswith("_")}
