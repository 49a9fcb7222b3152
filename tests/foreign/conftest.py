"""The zoo, saved once a session."""

import pytest

from tests.foreign.saved_zoo import SavedZoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> SavedZoo:
    """Return the zoo; a specimen is saved when a test first asks for it."""
    return SavedZoo(tmp_path_factory.mktemp("zoo"))
