"""Rolling back: an older version's files become the newest version, and the labels of the one before follow.

Below `__main__`; above `publish`, by whose all-or-nothing way the copy becomes a version. Nothing is trained: what is
certified again, today, are the bytes that were checked against the old version's manifest. Servers go on to the highest
number as they always do; the night after starts from it.
"""

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.manifest import Manifest, VersionRefusedError
from service.repository import (
    MODEL_NAME,
    Repository,
    VersionFiles,
    VersionFolder,
    check_identity,
    materialize,
    read_version,
)
from training import label_moves, publish
from training.config import ConfigError
from training.model_files import own_manifest

if TYPE_CHECKING:
    from service.program.certification import Certified

Prove = Callable[[Path, Manifest], None]
"""Takes a staged folder and the manifest of the version it was copied from; raises VersionRefusedError."""


@dataclasses.dataclass(frozen=True)
class RolledBack:
    """What a rollback came to.

    Args:
        version: the new version.
        to: the version whose files it repeats.
        replaced: the version that was the newest.
        labels: the labels that moved.
        other_schema: whether it takes other features, or is of another task, than the one that it replaces.
    """

    version: VersionFolder
    to: int
    replaced: int
    labels: tuple[str, ...]
    other_schema: bool = False

    def lines(self) -> list[str]:
        """Return what happened in a sentence, and in another what stands in the way of its being served."""
        moved = f"moved with it: {', '.join(self.labels)}" if self.labels else "no label named that one"
        new = f"version {self.version.version}"
        done = f"{new} has the files of version {self.to} and replaces {self.replaced}; {moved}."
        refused = f"{new} has not the features or the task of {self.replaced}: serve it with --allow-schema-change."
        return [done, refused] if self.other_schema else [done]


def utc_now() -> str:
    """Return the time as the manifest writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def prove_again(staged: Path, manifest: Manifest) -> None:
    """Certify staged files as a server does at load: the proof, the manifest's hashes of it, the probe, the agreement.

    Raises:
        VersionRefusedError: it fails today; a server would refuse the version.
    """
    from service.program.certification import certify  # these import TensorFlow, which takes seconds: not before
    from service.program.graph import bind  # the lock is held and the version is known to be whole
    from service.program.support_verification import verify_support
    from service.program.verification import Probe, verify

    certified = certify(staged)
    _compare(manifest, certified)
    if "probe.npz" not in manifest.files:
        raise VersionRefusedError("probe", "probe.npz is missing. Roll back to another version.")
    probe = Probe.from_bytes((staged / "probe.npz").read_bytes())
    names = [name for name in manifest.files if "/" not in name or name.startswith("variables/")]
    run = bind({name: (staged / name).read_bytes() for name in names}, certified.file_signatures[0])
    verify(certified.program, run, probe)
    if certified.support is not None:
        verify_support(certified.support, run.support, probe, certified.program.weights_sha256)


def rollback(
    models_dir: Path, model: str, to: int, *, prove: Prove = prove_again, now: Callable[[], str] = utc_now
) -> RolledBack:
    """Publish an older version's files as the next version and move every label that names the newest one to it.

    All files travel, `model.keras`, probe and report among them. The manifest is the old one but for its number, time,
    `parent` (the version that was the newest), `rolled_back_to`, and the `run_id` of a night, which it has not. A
    process that is killed after the version was published has its labels moved by the next job.

    Args:
        models_dir: the models folder.
        model: the model's name.
        to: the version to go back to.
        prove: certifies the staged copy.
        now: the time for the manifest, as text.

    Raises:
        ConfigError: no such model or version, or the version is the newest one already.
        LockHeldError: another job works on this model.
        PublishError: the models folder cannot be written, or its labels cannot be read.
        VersionRefusedError: the version is not ours, not whole, or not proved today.
    """
    if MODEL_NAME.fullmatch(model) is None or not Repository(models_dir).versions(model):
        raise ConfigError("MODELS_DIR/MODEL", "the folder of a model with versions in it", str(models_dir / model))
    with contextlib.ExitStack() as until_the_end, publish.lock(models_dir, model) as folder:
        chosen, newest = _choose(folder.versions(), to)
        _check_labels(folder)
        with folder.staging() as staged:
            files = read_version(chosen.path)
            own = _own(files, chosen)
            materialize(files.contents, staged)
            prove(staged, own)
            until_the_end.enter_context(publish.uninterrupted())
            version = _publish(folder, staged, own, newest.version, now)
        differs = _has_other_schema(own, own_manifest(newest))
        return RolledBack(version, to, newest.version, _move_labels(folder, version), differs)


def _choose(versions: list[VersionFolder], to: int) -> tuple[VersionFolder, VersionFolder]:
    """Return the version to go back to and the newest one."""
    older = {folder.version: folder for folder in versions[:-1]}
    if to not in older:
        have = ", ".join(map(str, sorted(older))) or "none, for there is but one version"
        newest = versions[-1].version if versions else None
        raise ConfigError("--to", f"a version older than the newest ({have})", f"{to}{_newest(to, newest)}")
    return older[to], versions[-1]


def _newest(to: int, newest: int | None) -> str:
    return ", which is the newest" if to == newest else ""


def _has_other_schema(own: Manifest, newest: Manifest | None) -> bool:
    """Whether clients of the newest version would stumble over the older one, as far as the manifests say."""
    if newest is None:
        return False
    found, expected = ((each.features, each.dim, each.context_dim, each.task) for each in (own, newest))
    return found != expected


def _check_labels(folder: publish.ModelFolder) -> None:
    """Refuse to begin what could not be ended: labels that do not parse cannot be moved."""
    try:
        folder.repository.labels(folder.model)
    except VersionRefusedError as err:
        message = f"{err.reason} Repair or remove the file first. Nothing was published."
        raise publish.PublishError(message) from err


def _own(files: VersionFiles, folder: VersionFolder) -> Manifest:
    if files.manifest is None:
        reason = f"version {folder.version} was made elsewhere: it has no manifest. Publish its folder again by hand."
        raise VersionRefusedError("manifest-missing", reason)
    check_identity(files.manifest, folder.model, folder.version)
    return files.manifest


def _publish(
    folder: publish.ModelFolder, staged: Path, own: Manifest, replaced: int, now: Callable[[], str]
) -> VersionFolder:
    """Announce the move of the labels, then publish."""

    def document(version: int, files: publish.FileTable) -> Mapping[str, Any]:
        if files != own.document["files"]:
            raise VersionRefusedError("file-hash", "the copy is not what was read. Look at the disk.")
        changed = {"version": version, "created": now(), "parent": replaced, "rolled_back_to": own.version}
        kept = {name: value for name, value in own.document.items() if name != "run_id"}  # of the night that trained it
        return {**kept, **changed, "files": files}

    label_moves.announce(folder.path, replaced)
    try:
        return folder.publish(staged, document)
    except BaseException:
        with contextlib.suppress(OSError):
            label_moves.withdraw(folder.path)
        raise


def _move_labels(folder: publish.ModelFolder, version: VersionFolder) -> tuple[str, ...]:
    try:
        return tuple(sorted(label_moves.finish(folder.repository, folder.model)))
    except (OSError, VersionRefusedError) as err:
        words = f"{os.strerror(err.errno or 0)}." if isinstance(err, OSError) else err.reason
        message = (
            f"{version.path}: published, but the move of its labels could not be ended: {words} The next job on this "
            f"model ends it, or do it with `python -m service label`."
        )
        raise publish.PublishError(message) from err


def _compare(manifest: Manifest, certified: "Certified") -> None:
    """Require that the manifest speaks of the very program that was proved."""
    default = certified.file_signatures[0]
    found = (certified.dim, certified.interface.context_dim, default.outputs)
    promised = (manifest.dim, manifest.context_dim, manifest.outputs)
    if found != promised:
        raise VersionRefusedError("manifest-signature", f"the model has {found}, the manifest says {promised}")
    hashes = {name: getattr(certified.certificate, name) for name in ("weights_sha256", "program_sha256")}
    if certified.support is not None:
        hashes["support_sha256"] = certified.support.program_sha256
    for name, digest in hashes.items():
        if manifest.certificate.get(name) != digest:
            reason = f"{name} of the manifest is not that of the model. Roll back to another version."
            raise VersionRefusedError("certificate-hash", reason)
