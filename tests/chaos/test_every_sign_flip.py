"""Every hidden weight of the shipped model that is not zero, flipped in turn: the long form of test_sign_flips."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from service import loader
from service.errors import VersionRefusedError
from service.program.certification import certify
from tests.contract.version_surgery import constrained_keys, flipped, read_tensors, reseal, write_tensors

SHIPPED = Path(__file__).parents[2] / "models" / "tumours" / "1"


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_certify_and_load_refuse_every_flip_when_the_hashes_were_rewritten(tmp_path: Path) -> None:
    """All flips are refused by the sign rule, naming the layer, by `certify` and by the loader, hashes rewritten."""
    version = Path(shutil.copytree(SHIPPED, tmp_path / "tumours" / "1"))
    tensors = read_tensors(SHIPPED)
    refused = 0
    for name, key in constrained_keys(tensors).items():
        for index in np.argwhere(tensors[key] != 0):
            write_tensors(version, flipped(tensors, key, tuple(index)))
            reseal(version)
            for prove in (certify, lambda folder: loader.load(folder, model="tumours", version=1)):
                with pytest.raises(VersionRefusedError) as refusal:
                    prove(version)
                assert "nonneg-matmul" == refusal.value.rule
                assert name in refusal.value.reason
            refused += 1
    assert sum(int(np.count_nonzero(tensors[key])) for key in constrained_keys(tensors).values()) == refused
    assert refused > 1000
