"""Jobs that publish versions of a model `m`: by the whole way of training, and in ways that are wrong on purpose.

Without TensorFlow, for processes that fork and are killed. A wrong one shows that the tests would see it.
"""

import os
import shutil
import uuid
from pathlib import Path

from service import manifest
from tests.training.small_versions import document
from training import publish
from training.model_files import own_manifest
from training.rollback import rollback

KEEP = 20
_FILES = {"saved_model.pb": 5_000, "variables/variables.index": 300, "variables/variables.data": 20_000}


def fill(staged, token=None):
    """Write files that no other version has."""
    token = (token or uuid.uuid4().hex).encode()
    for name, size in _FILES.items():
        path = Path(staged, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((token * (size // len(token) + 1))[:size])


def publish_and_prune(models_dir):
    """Publish a version as a night does."""
    with publish.lock(models_dir, "m") as folder:
        with folder.staging() as staged:
            fill(staged)
            folder.publish(staged, document)
        folder.prune(KEEP)


def roll_back(models_dir):
    """Go back to the version before the newest."""
    with publish.lock(models_dir, "m") as folder:
        to = folder.versions()[-2].version
    rollback(models_dir, "m", to, prove=lambda *_: None)


def table(folder):
    """Return the manifest's files."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": manifest.sha256_hex(path.read_bytes()),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != manifest.FILE_NAME
    }


def next_number(models_dir):
    """Return a number and the folder that it will have, unlocked."""
    (models_dir / "m").mkdir(parents=True, exist_ok=True)
    number = max([int(name) for name in os.listdir(models_dir / "m") if name.isdigit()], default=0) + 1
    return number, models_dir / "m" / str(number)


def wrong_in_place(models_dir):
    """Write the files where the server looks, the manifest last."""
    number, target = next_number(models_dir)
    target.mkdir()
    fill(target)
    (target / manifest.FILE_NAME).write_bytes(manifest.seal(document(number, table(target))))


def wrong_manifest_first(models_dir):
    """Publish the manifest, then the files that it lists."""
    number, target = next_number(models_dir)
    with publish.lock(models_dir, "m") as folder, folder.staging() as staged:
        fill(staged)
        target.mkdir()
        (target / manifest.FILE_NAME).write_bytes(manifest.seal(document(number, table(staged))))
        for path in staged.iterdir():
            path.rename(target / path.name)


def wrong_unsynced(models_dir):
    """Rename before anything is on the disk."""
    number, target = next_number(models_dir)
    with publish.lock(models_dir, "m") as folder, folder.staging() as staged:
        fill(staged)
        (staged / manifest.FILE_NAME).write_bytes(manifest.seal(document(number, table(staged))))
        staged.rename(target)


def wrong_unswept(models_dir):
    """Stage beside and rename, and never look for what a killed job left."""
    number, target = next_number(models_dir)
    staged = models_dir / "m" / f"{publish.STAGING_PREFIX}{uuid.uuid4()}"
    staged.mkdir()
    fill(staged)
    for path in [*staged.rglob("*"), staged]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    (staged / manifest.FILE_NAME).write_bytes(manifest.seal(document(number, table(staged))))
    for path in (staged / manifest.FILE_NAME, staged):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    staged.rename(target)


def wrong_labels_alone(models_dir):
    """Roll back, and move the labels without having announced it."""
    _, target = next_number(models_dir)
    newest = int(target.name) - 1
    with publish.lock(models_dir, "m") as folder:
        with folder.staging() as staged:
            shutil.copytree(models_dir / "m" / str(newest - 1), staged, dirs_exist_ok=True)
            (staged / manifest.FILE_NAME).unlink()
            said = {"parent": newest, "rolled_back_to": newest - 1}
            folder.publish(staged, lambda *args: {**document(*args), **said})
        labels = {
            label: newest + 1 if version == newest else version
            for label, version in folder.repository.labels("m").items()
        }
        publish.label_moves.write(folder.path, labels)


def end_of_rollbacks(folders, version):
    """Return the version that took a version's place by rollbacks, one after the other."""
    for folder in folders:
        found = own_manifest(folder)
        if found is not None and found.rolled_back_to is not None and found.parent == version:
            version = folder.version
    return version


JOBS = {
    name: job
    for name, job in globals().items()
    if name in {"publish_and_prune", "roll_back"} or name.startswith("wrong_")
}
