"""Damaged and evil SavedModels: each is refused by the rule that fits, and nothing of theirs runs."""

from pathlib import Path

import pytest

from service.errors import VersionRefusedError
from service.program.certification import certify
from tests.foreign.hostile import HOSTILE, WRITTEN, build_all, total
from tests.service.program import foreign_models as foreign


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save them all once."""
    return build_all(tmp_path_factory.mktemp("hostile"))


def test_hostile_models_are_more_than_thirty_beside_a_good_one(folders: dict[str, Path]) -> None:
    """The control: there are enough of them, and the good model out of which they are made is proved."""
    assert len(folders) >= 30
    assert 0 < certify(next(iter(folders.values())).parent / "good").dim


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_model_is_refused_by_its_rule_and_writes_nothing(folders: dict[str, Path], name: str) -> None:
    """The refusal names the rule and says a sentence, and the file that some of them would write does not exist."""
    with pytest.raises(VersionRefusedError) as refusal:
        certify(folders[name])
    assert refusal.value.rule in HOSTILE[name][1], str(refusal.value)
    assert len(refusal.value.reason) > 10
    assert not (folders[name].parent / WRITTEN).exists()


def test_planted_write_does_write_when_tensorflow_runs_it(tmp_path: Path) -> None:
    """The control of the control: called by TensorFlow, such a model does leave its file."""
    path = tmp_path / WRITTEN

    def score(x):
        foreign.tf.io.write_file(str(path), "executed")
        return total(x)

    folder = foreign.save(tmp_path / "model", score)
    assert not path.exists()
    foreign.tf.saved_model.load(str(folder)).signatures["serving_default"](x=foreign.tf.zeros([1, foreign.DIM]))
    assert "executed" == path.read_text()
