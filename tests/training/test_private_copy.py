"""A private copy of a version: the checked bytes and nothing else, gone at the end."""

from service import repository
from training import private_copy


def test_opened_gives_a_copy_of_the_bytes_and_removes_it(trained):
    """What is proved is a private copy of the bytes that were hashed."""
    version = trained / "models" / "small" / "1"
    with private_copy.opened(version) as (folder, manifest):
        assert ("small", 1) == (manifest.model, manifest.version)
        copied = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert repository.read_version(version).contents.keys() == copied
    assert not folder.exists()
