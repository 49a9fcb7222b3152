"""Versions of a model `m` that are small and whole, published by the whole way; no TensorFlow."""

from training import publish


def document(version, files):
    """Return a manifest's document for a version of model `m`."""
    return {
        "format_version": 1, "model": "m", "version": version, "created": "2026-11-20T03:00:12Z", "task": "regression",
        "parent": None, "rolled_back_to": None, "input": {"name": "x", "dtype": "float32", "dim": 2, "features": []},
        "outputs": ["score"], "threshold": None, "certificate": {}, "metrics": {}, "data": {}, "config": {},
        "packages": {}, "cpu": "", "files": files,
    }  # fmt: skip


def fill(staged, content=b"graph"):
    """Write the files of a small version."""
    (staged / "variables").mkdir()
    (staged / "assets").mkdir()
    (staged / "saved_model.pb").write_bytes(content)
    (staged / "variables" / "variables.index").write_bytes(b"index")


def publish_one(models_dir, content=b"graph", document_for=document):
    """Publish a small version of `m` by the whole way."""
    with publish.lock(models_dir, "m") as folder, folder.staging() as staged:
        fill(staged, content)
        return folder.publish(staged, document_for)
