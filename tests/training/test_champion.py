"""The champion: which version is the one to beat, and the held-out rule that it binds the night to."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from service import manifest
from service.manifest import VersionRefusedError
from training import publish
from training.champion import Champion, check_held_out, data_drift, find_champion, recorded_floor, recorded_metric
from training.config import ConfigError, load_config
from training.datasets import read_table, row_bytes, split


def champion_of(folder: Path) -> Champion:
    """Return the champion of a job's models folder."""
    with publish.lock(folder / "models", "small") as model_folder:
        champion, _ = find_champion(model_folder)
    assert champion is not None
    return champion


def test_find_champion_passes_over_a_version_that_is_not_whole(trained):
    """A flipped bit, a foreign folder and an unfinished one are no champions; the reasons are told."""
    shutil.copytree(trained / "models" / "small" / "1", trained / "models" / "small" / "2")
    path = trained / "models" / "small" / "2" / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    (trained / "models" / "small" / "3").mkdir()
    (trained / "models" / "small" / "4").mkdir()
    (trained / "models" / "small" / "4" / "model.keras").write_bytes(b"")
    with publish.lock(trained / "models", "small") as folder:
        champion, told = find_champion(folder)
    assert 1 == champion.version
    assert ["manifest-missing" in told[0], "version 3 is not ours" in told[1], "file-hash" in told[2]] == [True] * 3


def test_find_champion_refuses_when_no_version_of_ours_is_whole(trained):
    """Where the only version is damaged anything would pass the gate, so the night ends with what to do."""
    version = trained / "models" / "small" / "1"
    path = version / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with (
        publish.lock(trained / "models", "small") as folder,
        pytest.raises(VersionRefusedError, match=r"version 1 alone is .* file-hash") as caught,
    ):
        find_champion(folder)
    assert "no-champion" == caught.value.rule


def test_find_champion_finds_none_where_nothing_of_ours_was_published(trained):
    """Folders made elsewhere and unfinished ones are nothing that a first night could fall behind."""
    shutil.rmtree(trained / "models" / "small" / "1")
    for version, name in ((1, "saved_model.pb"), (2, "model.keras")):
        (trained / "models" / "small" / str(version)).mkdir()
        (trained / "models" / "small" / str(version) / name).write_bytes(b"")
    with publish.lock(trained / "models", "small") as folder:
        champion, told = find_champion(folder)
    assert (None, 2) == (champion, len(told))


def test_check_held_out_takes_a_smaller_share(trained):
    """What is still held out was held out from the champion too, so the comparison is fair."""
    path = trained / "job.toml"
    path.write_text(path.read_text().replace("percent = 25", "percent = 20"))
    table = read_table(trained / "rows.csv", target="label")
    before, after = (set(row_bytes(split(table, percent=percent, salt="small").held_out.x)) for percent in (25, 20))
    assert after < before
    check_held_out(champion_of(trained), load_config(path).data)


def test_check_held_out_compares_with_the_defaults_where_the_file_names_none(trained):
    """A configuration that leaves the keys out means the defaults, then and now."""
    champion = champion_of(trained)
    silent = dataclasses.replace(champion.manifest, config={**champion.manifest.config, "data": {}})
    champion = dataclasses.replace(champion, manifest=silent)
    data = load_config(trained / "job.toml").data
    check_held_out(champion, dataclasses.replace(data, salt="convex-scoring", held_out_percent=20))
    with pytest.raises(ConfigError, match=r"data\.salt: expected 'convex-scoring' as in version 1, received 'small'"):
        check_held_out(champion, data)


def test_drift_and_recorded_metric_are_those_of_the_manifest(trained):
    """The rows that it was trained on have no drift; a metric that it does not have is None."""
    champion, table = champion_of(trained), read_table(trained / "rows.csv", target="label")
    document = champion.manifest
    assert document.metrics["held_out"]["brier"] == recorded_metric(document, "brier")
    assert recorded_metric(document, "rmse") is None
    assert recorded_floor(document, "brier") is None
    moved = dataclasses.replace(table, x=np.add(table.x, [0.0, 5.0 * 20.0, 0.0]))  # the second column's deviation is 20
    assert data_drift(document, table) < 0.2
    assert data_drift(document, moved) == pytest.approx(5.0, abs=0.5)


def test_recorded_floor_is_what_the_manifest_has_of_two_draws_of_the_target(moved_once):
    """The floor of the night when a map was published stands among its baselines."""
    document = manifest.parse((moved_once / "models" / "moved" / "1" / "manifest.json").read_bytes())
    expected = document.metrics["baselines"]["two draws of the target"]["w2"]
    assert expected == recorded_floor(document, "w2") > 0.0
