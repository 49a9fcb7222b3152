"""What the process runs on."""

import platform
import threading

import numpy as np

from service import installed


def test_versions_are_those_that_are_installed():
    """Python's, a package's, and nothing for one that is not there."""
    versions = installed.installed_versions(("python", "numpy", "no-such-package"))
    assert (platform.python_version(), np.__version__, "") == versions


def test_threads_are_counted_by_the_system():
    """One more Python thread is one more, and those of native libraries are counted too."""
    before, stop = installed.count_threads(), threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    more = installed.count_threads()
    stop.set()
    thread.join()
    assert more == before + 1 >= threading.active_count() + 1


def test_threads_are_none_where_the_system_does_not_say(monkeypatch, tmp_path):
    """A system without /proc, or with another one, costs the number and not the page."""
    monkeypatch.setattr(installed, "_STATUS", tmp_path / "nothing")
    assert 0 == installed.count_threads()
    (tmp_path / "nothing").write_text("1 (name) S")
    assert 0 == installed.count_threads()
