"""Folders that many tests of this room read: each is saved once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.program import foreign_models as foreign


@pytest.fixture(scope="session")
def network_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SavedModel of the network with score and gradient, and the score alone beside it."""
    module, score = foreign.network()
    folder = tmp_path_factory.mktemp("network") / "model"
    return foreign.save(folder, foreign.with_gradient(score), module, others={"score": score})


@pytest.fixture
def edit(network_folder: Path, tmp_path: Path) -> Callable[[foreign.Change], Path]:
    """Return a function that gives a copy of the network's folder with its saved_model.pb changed."""
    return lambda change: foreign.edited(network_folder, tmp_path / "edited", change)
