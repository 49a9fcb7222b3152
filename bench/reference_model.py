"""The model that loads are measured with: M, 64 numbers a row, three hidden layers of 256 softplus, not trained.

    python -m bench.reference_model FOLDER

In a process of its own: the others need no TensorFlow. They call `publish_apart`.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.provenance import ROOT

NAME = "m"
DIM = 64
HIDDEN = (256, 256, 256)


def publish_apart(models_dir: Path) -> Path:
    """Publish version 1 of the model, by a process that ends with it, and return its folder."""
    subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-m", "bench.reference_model", str(models_dir)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return models_dir / NAME / "1"


def publish_reference(
    models_dir: Path, name: str = NAME, dim: int = DIM, hidden: tuple[int, ...] = HIDDEN, quadratic: float = 0.0
) -> Path:
    """Publish version 1 of the model, or of one of another name and size, and return its folder."""
    import numpy as np

    from service.program.certification import certify
    from service.program.verification import verify
    from training import export, publish
    from training.config import NetworkConfig
    from training.icnn import create_network
    from training.pipeline import packages, processor, utc_now

    rows = np.random.default_rng(0).standard_normal((256, dim))
    model = create_network(NetworkConfig(hidden=hidden, quadratic=quadratic), rows, seed=1)
    with publish.lock(models_dir, name) as folder, folder.staging() as staged:
        probe = export.stage(model, staged, name=name, rows=rows)
        certified = certify(staged)
        verification = verify(certified.program, export.reload(staged), probe)
        certificate = certified.certificate.to_document(verification.gradient, verification.rounding_margin)

        def document(version: int, files: Mapping[str, Any]) -> dict[str, Any]:
            return {
                "format_version": 1,
                "model": name,
                "version": version,
                "created": utc_now(),
                "task": "regression",
                "parent": None,
                "rolled_back_to": None,
                "input": {"name": "x", "dtype": "float32", "dim": dim, "features": [f"x{i}" for i in range(dim)]},
                "outputs": ["score", "gradient"],
                "threshold": None,
                "certificate": certificate,
                "metrics": {},
                "data": {},
                "config": {},
                "packages": packages(),
                "cpu": processor(),
                "files": files,
            }

        return folder.publish(staged, document).path


if __name__ == "__main__":
    publish_reference(Path(sys.argv[1]))
