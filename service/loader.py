"""Folder to loaded version: hashes, safety, lift, proof, verification; refuses whatever fails one of them.

Above: `loading_process`, `engines`, `model_version`; below: `program`, `repository`. What comes back is plain data that
pickles: the server loads in a child process.
"""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.manifest import Manifest
from service.program.curvature import Certificate
from service.program.kernel.compiled import is_trusted
from service.program.program import Program
from service.program.verification import Probe, Verification, check_probe, verify
from service.repository import VersionFiles, check_identity, read_version
from service.signature import OUTPUTS, Signature

_NEEDED = ("saved_model.pb", "fingerprint.pb")


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A version that was read, proved and verified; plain data, no TensorFlow object.

    Args:
        signature: what it takes and gives.
        manifest: its manifest.
        saved_model: relative path -> bytes of the SavedModel, as they were hashed.
        program: the lifted program, or None where the version is served unproved.
        certificate: the proof made now, or None.
        probe: rows with the answers that an engine must give again before it serves them.
        verification: the comparison made now, or None.
        unproved_reason: why there is no proof; empty where there is one.
        kernel_agrees: whether the compiled kernel computes the program on this machine, as far as was tried now.
    """

    signature: Signature
    manifest: Manifest
    saved_model: Mapping[str, bytes]
    probe: Probe
    program: Program | None
    certificate: Certificate | None
    verification: Verification | None
    unproved_reason: str = ""
    kernel_agrees: bool = False

    @property
    def convexity(self) -> str:
        """`proved` or `unproved`."""
        return "unproved" if self.certificate is None else "proved"


def prepare() -> bool:
    """Set TensorFlow up for a process that only loads, on one thread and no GPU; return whether there is a GPU.

    Takes seconds: imports TensorFlow. To be called before the first load, or not at all.
    """
    import tensorflow as tf  # see _certified

    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return has_gpu


def load(folder: Path, *, model: str, version: int, allow_uncertified: bool = False) -> LoadedVersion:
    """Read, prove and verify the version in `folder`.

    Args:
        folder: `models/<model>/<version>`.
        model: the model's name, which the manifest must repeat.
        version: the version's number, which the manifest must repeat.
        allow_uncertified: whether a model that the prover cannot prove is loaded all the same. Hashes, the op rules
            and the probe are demanded in any case.

    Raises:
        VersionRefusedError: with the rule and the reason.
    """
    files = read_version(folder)
    if files.manifest is None:
        raise VersionRefusedError("manifest-missing", "the folder has no manifest.json. Publish it with training.")
    check_identity(files.manifest, model, version)
    manifest = files.manifest
    signature = Signature(model, version, manifest.dim, manifest.features)
    saved_model = _saved_model(files)
    certified, refusal = _certified(saved_model, allow_uncertified=allow_uncertified)
    probe = _probe(files)
    run = _runner(saved_model)
    if certified is None:
        check_probe(run, probe, manifest.dim)
        return LoadedVersion(signature, manifest, saved_model, probe, None, None, None, refusal)
    _compare(manifest, certified)
    verification = verify(certified.program, run, probe)
    return LoadedVersion(
        signature,
        manifest,
        saved_model,
        probe,
        certified.program,
        certified.certificate,
        verification,
        kernel_agrees=is_trusted(certified.program, probe),
    )


def _saved_model(files: VersionFiles) -> Mapping[str, bytes]:
    if "saved_model.pb" not in files.contents:
        raise VersionRefusedError("saved-model", "saved_model.pb is missing")
    return {
        name: data
        for name, data in files.contents.items()
        if name in _NEEDED or PurePosixPath(name).parts[0] == "variables"
    }


def _probe(files: VersionFiles) -> Probe:
    if "probe.npz" not in files.contents:
        raise VersionRefusedError("probe", "probe.npz is missing. Publish the version with training.")
    return Probe.from_bytes(files.contents["probe.npz"])


def _certified(saved_model: Mapping[str, bytes], *, allow_uncertified: bool) -> tuple[Any, str]:
    """Return the certified model, or None and the reason where the proof fails and that is allowed."""
    from service.program.certification import UNPROVED_RULES, certify  # TensorFlow comes with the first version
    from service.program.graph import materialize

    with tempfile.TemporaryDirectory(prefix="convex-scoring-") as name:
        materialize(saved_model, Path(name))
        try:
            return certify(Path(name)), ""
        except VersionRefusedError as err:
            if allow_uncertified and err.rule in UNPROVED_RULES:
                return None, str(err)
            raise


def _runner(saved_model: Mapping[str, bytes]) -> Any:
    """Return the SavedModel's `serving_default` as a plain function of rows, on the CPU."""
    from service.program.graph import restore  # see _certified

    try:
        model = restore(saved_model, "/CPU:0")
        function = model.signatures["serving_default"]
    except Exception as err:  # TensorFlow raises eight kinds of exceptions on damaged files
        raise VersionRefusedError("saved-model", "TensorFlow cannot load the model") from err

    def run(rows: NDArray[np.float32]) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
        try:
            answer = {name: value.numpy() for name, value in function(x=_tensor(rows)).items()}
        except Exception as err:  # as above; a graph that loads need not run
            raise VersionRefusedError("saved-model", f"TensorFlow cannot run the model on {len(rows)} rows") from err
        missing = [name for name in OUTPUTS if name not in answer]
        if missing:
            raise VersionRefusedError("signature-outputs", f"serving_default does not answer {', '.join(missing)}")
        return answer["score"].reshape(-1), answer["gradient"]

    run.model = model  # type: ignore[attr-defined]  # keeps the loaded variables alive as long as the function
    return run


def _tensor(rows: NDArray[np.float32]) -> Any:
    import tensorflow as tf  # see _certified

    return tf.constant(rows)


def _compare(manifest: Manifest, certified: Any) -> None:
    """Require that the manifest speaks of the very program that was proved."""
    if certified.dim != manifest.dim or certified.input_name != "x" or certified.score_name != "score":
        reason = f"the model takes {certified.input_name} [n, {certified.dim}] and answers {certified.score_name}"
        raise VersionRefusedError("manifest-signature", f"{reason}; the manifest says x [n, {manifest.dim}] and score")
    if not certified.has_gradient:
        raise VersionRefusedError("manifest-signature", "serving_default answers no gradient")
    if manifest.outputs != OUTPUTS:
        reason = f"the manifest promises {', '.join(manifest.outputs)[:80]}; the model answers {', '.join(OUTPUTS)}"
        raise VersionRefusedError("manifest-signature", reason)
    if manifest.certificate.get("proved") is not True:
        raise VersionRefusedError("certificate-hash", "the manifest itself does not say that the model is proved")
    for name in ("weights_sha256", "program_sha256"):
        if manifest.certificate.get(name) != getattr(certified.certificate, name):
            raise VersionRefusedError(
                "certificate-hash", f"{name} of the manifest is not that of the model. Publish it again."
            )
