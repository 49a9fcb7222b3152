"""Finding the compiled code: by the hash of its source, or not at all."""

import pytest

from service.program.kernel import library as library_module
from service.program.kernel.library import SOURCES, Library, library, path, why_missing


def test_name_of_the_code_changes_with_any_source(tmp_path, monkeypatch):
    """Code that was compiled from other sources is never found: each source is in the name."""
    original = path().name
    for name in SOURCES:
        (tmp_path / name).write_bytes((library_module.FOLDER / name).read_bytes())
    monkeypatch.setattr(library_module, "FOLDER", tmp_path)
    assert original == path().name
    for name in SOURCES:
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before + b"\n")
        assert original != path().name
        (tmp_path / name).write_bytes(before)


def test_missing_code_is_none_with_a_reason(tmp_path, monkeypatch):
    """Without compiled code there is none, and the reason names the file."""
    monkeypatch.setattr(library_module, "path", lambda: tmp_path / "kernel.so")
    library.cache_clear()
    try:
        assert library() is None
    finally:
        library.cache_clear()
    assert "kernel.so" in why_missing()


def test_file_that_is_no_code_is_an_error(tmp_path):
    """What is no shared object is not loaded."""
    (tmp_path / "kernel.so").write_text("nonsense")
    with pytest.raises(OSError, match=r"kernel\.so"):
        Library(tmp_path / "kernel.so")
