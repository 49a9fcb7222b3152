"""Names, order and wrapping carry no meaning: the verdict, and the program's hash, are the same without them."""

from pathlib import Path

import pytest

from tests.foreign.graph_surgery import CHANGES, all_three
from tests.foreign.saved_zoo import SavedZoo, summary, verdict
from tests.foreign.zoo import ZOO
from tests.oracle.saved_function import SavedFunction, read_message, read_variables
from tests.service.program.foreign_models import edited


def test_verdict_is_the_same_when_everything_has_another_name_order_and_wrapping(zoo: SavedZoo, tmp_path: Path) -> None:
    """Every eighth specimen, wrapped, renamed and reordered: the same hash is proved, or the same rule refuses."""
    for name in sorted(ZOO)[::8]:
        other = edited(zoo[name].folder, tmp_path / name, all_three)
        assert summary(zoo[name].verdict) == summary(verdict(other)), name


@pytest.mark.parametrize("change", CHANGES)
def test_surgery_changes_the_file_and_not_its_function(zoo: SavedZoo, tmp_path: Path, change: str) -> None:
    """The control: each surgery gives another file, whose function is the same in float64."""
    saved = zoo["keras_input_convex_network"]
    other = edited(saved.folder, tmp_path / "other", CHANGES[change])
    assert (other / "saved_model.pb").read_bytes() != (saved.folder / "saved_model.pb").read_bytes()
    again = SavedFunction(read_message(other), read_variables(other))
    assert (saved.oracle(saved.rows(20)) == again(saved.rows(20))).all()
