"""Folder to loaded version: hashes, safety, lift, proof, verification; refuses whatever fails one of them.

Above: `loading`, `engines`, `model_version`; below: `program`, `repository`. What comes back is plain data that
pickles: the server loads in a child process.
"""

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from service.errors import VersionRefusedError
from service.lazy_imports import lazily
from service.manifest import Manifest, sha256_hex
from service.program.curvature import Certificate
from service.program.kernel.compiled import is_trusted
from service.program.program import Program
from service.program.support_verification import verify_support
from service.program.verification import (
    Probe,
    Verification,
    check_probe,
    derived_probe,
    unproved_probe,
    verify,
)
from service.repository import VersionFiles, check_identity, materialize, read_version
from service.signature import OUTPUTS, SUPPORT, FileSignature, Signature, own_signatures

if TYPE_CHECKING:
    from service.program.certification import Certified, Interface
    from service.program.graph import Bound

_NEEDED = ("saved_model.pb", "fingerprint.pb", "saved_model.cpb", "saved_model.pbtxt")
"""The last two are other forms of the first, beside which none may lie."""


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A version that was read, proved and verified; plain data, no TensorFlow object.

    Args:
        signature: what it takes and gives.
        manifest: its manifest, or None for a SavedModel made elsewhere.
        saved_model: relative path -> bytes of the SavedModel, as they were hashed.
        program: the lifted program, or None where the version is served unproved.
        certificate: the proof made now, or None.
        probe: rows with the answers that an engine must give again before it serves them; of a SavedModel made
            elsewhere some of the verification rows, with its own scores.
        verification: the comparison made now, or None.
        unproved_reason: why there is no proof; empty where there is one.
        kernel_agrees: whether the compiled kernel computes the program on this machine, as far as was tried now.
        support: the lifted program of the domain weight; None for a version without one, or served unproved.
    """

    signature: Signature
    manifest: Manifest | None
    saved_model: Mapping[str, bytes]
    probe: Probe
    program: Program | None
    certificate: Certificate | None
    verification: Verification | None
    unproved_reason: str = ""
    kernel_agrees: bool = False
    support: Program | None = None

    @property
    def convexity(self) -> str:
        """`proved` or `unproved`."""
        return "unproved" if self.certificate is None else "proved"


def warm_up() -> None:
    """Import all that a load needs, which takes seconds; start no thread, so that this process can be forked.

    Of TensorFlow's public modules only those that a load asks for: from a cold disk the others take half a second.
    """
    with lazily("tensorflow._api."):
        import tensorflow as tf  # see _certified

        from service.program import certification, graph  # noqa: F401

        for needed in (tf.train, tf.saved_model, tf.saved_model.experimental, tf.config.threading):
            dir(needed)  # runs it now, once, and not in every fork


def prepare() -> bool:
    """Set TensorFlow up for a process that only loads, on one thread and no GPU; return whether there is a GPU.

    To be called before the first load, or not at all.
    """
    import tensorflow as tf  # see _certified

    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return has_gpu


def load(folder: Path, *, model: str, version: int, allow_uncertified: bool = False) -> LoadedVersion:
    """Read, prove and verify the version in `folder`: one of training's, or, without a manifest, one made elsewhere.

    Args:
        folder: `models/<model>/<version>`.
        model: the model's name, which a manifest must repeat.
        version: the version's number, which a manifest must repeat.
        allow_uncertified: whether a model that the prover cannot prove is loaded all the same. Hashes, the op rules
            and the probe are demanded in any case.

    Raises:
        VersionRefusedError: with the rule and the reason.
    """
    files = read_version(folder, in_models_folder=True)
    if files.manifest is None:
        return _load_foreign(files, model, version, allow_uncertified=allow_uncertified)
    check_identity(files.manifest, model, version)
    manifest = files.manifest
    own = own_signatures(support=SUPPORT in manifest.outputs, context=manifest.context_dim > 0)
    signature = Signature(
        model,
        version,
        manifest.dim,
        manifest.features,
        outputs=manifest.outputs,
        file_signatures=own,
        context_dim=manifest.context_dim,
        context_features=manifest.context_features,
    )
    saved_model = _saved_model(files)
    certified, refusal = _certified(saved_model, allow_uncertified=allow_uncertified)
    probe = _probe(files)
    run = _runner(saved_model, own[0])
    if certified is None:
        _require_outputs(manifest, own[0])
        check_probe(run, probe, manifest.dim, manifest.context_dim)
        return LoadedVersion(signature, manifest, saved_model, probe, None, None, None, refusal)
    _compare(manifest, certified)
    verification = verify(certified.program, run, probe)
    if certified.support is not None:
        verify_support(certified.support, run.support, probe, certified.program.weights_sha256)
    return LoadedVersion(
        signature,
        manifest,
        saved_model,
        probe,
        certified.program,
        certified.certificate,
        verification,
        kernel_agrees=is_trusted(certified.program, probe),
        support=certified.support,
    )


def _load_foreign(files: VersionFiles, model: str, version: int, *, allow_uncertified: bool) -> LoadedVersion:
    """Prove and verify a SavedModel that came without a manifest, and make its probe."""
    saved_model = _saved_model(files)
    certified, refusal = _certified(saved_model, allow_uncertified=allow_uncertified)
    interface = _description(saved_model) if certified is None else certified.interface
    found = interface.file_signatures
    signature = Signature(
        model,
        version,
        interface.dim,
        outputs=(*OUTPUTS, SUPPORT) if found[0].support_dtype else OUTPUTS,
        made_elsewhere=True,
        context_dim=interface.context_dim,
        file_signatures=tuple(
            each
            if each.input_dtype == "string" or each.gradient_dtype
            else dataclasses.replace(each, gradient_dtype=each.input_dtype)
            for each in found
        ),
    )
    if certified is None:
        run = _runner(saved_model, found[0], derive=not interface.has_gradient)
        probe = unproved_probe(run, signature.width, _digest(saved_model))
        return LoadedVersion(signature, None, saved_model, probe, None, None, None, refusal)
    run = _runner(saved_model, found[0])
    verification = verify(certified.program, run, None)
    if certified.support is not None:
        verify_support(certified.support, run.support, None, certified.program.weights_sha256)
    probe = derived_probe(certified.program, run)
    return LoadedVersion(
        signature,
        None,
        saved_model,
        probe,
        certified.program,
        certified.certificate,
        verification,
        kernel_agrees=is_trusted(certified.program, probe),
        support=certified.support,
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


def _certified(saved_model: Mapping[str, bytes], *, allow_uncertified: bool) -> "tuple[Certified | None, str]":
    """Return the certified model, or None and the reason where the proof fails and that is allowed."""
    from service.program.certification import UNPROVED_RULES, certify  # TensorFlow comes with the first version

    with _folder(saved_model) as folder:
        try:
            return certify(folder), ""
        except VersionRefusedError as err:
            if allow_uncertified and err.rule in UNPROVED_RULES:
                return None, str(err)
            raise


def _description(saved_model: Mapping[str, bytes]) -> "Interface":
    """Return what the signatures of a model take and answer that is not proved."""
    from service.program.certification import describe  # see _certified

    with _folder(saved_model) as folder:
        return describe(folder)


@contextlib.contextmanager
def _folder(saved_model: Mapping[str, bytes]) -> Iterator[Path]:
    """Give a folder that holds exactly these bytes, for as long as they are read."""
    with tempfile.TemporaryDirectory(prefix="convex-scoring-") as name:
        materialize(saved_model, Path(name))
        yield Path(name)


def _digest(saved_model: Mapping[str, bytes]) -> str:
    """Return one hash of all files."""
    digest = hashlib.sha256()
    for name in sorted(saved_model):
        digest.update(f"{name} {sha256_hex(saved_model[name])}\n".encode())
    return digest.hexdigest()


def _runner(saved_model: Mapping[str, bytes], signature: FileSignature, *, derive: bool = False) -> "Bound":
    """Return a signature of the SavedModel as a plain function of rows, on the CPU."""
    from service.program.graph import bind  # see _certified

    return bind(saved_model, signature, derive=derive)


def _compare(manifest: Manifest, certified: "Certified") -> None:
    """Require that the manifest speaks of the very program that was proved."""
    _compare_context(manifest, certified)
    if certified.dim != manifest.dim or certified.input_name != "x" or certified.score_name != "score":
        reason = f"the model takes {certified.input_name} [n, {certified.dim}] and answers {certified.score_name}"
        raise VersionRefusedError("manifest-signature", f"{reason}; the manifest says x [n, {manifest.dim}] and score")
    if certified.file_signatures[0].input_dtype != "float32":
        raise VersionRefusedError("manifest-signature", "serving_default takes float64; the manifest says float32")
    if not certified.has_gradient:
        raise VersionRefusedError("manifest-signature", "serving_default answers no gradient")
    _require_outputs(manifest, certified.file_signatures[0])
    if manifest.certificate.get("proved") is not True:
        raise VersionRefusedError("certificate-hash", "the manifest itself does not say that the model is proved")
    expected = {name: getattr(certified.certificate, name) for name in ("weights_sha256", "program_sha256")}
    if certified.support is not None:
        expected["support_sha256"] = certified.support.program_sha256
    for name, digest in expected.items():
        if manifest.certificate.get(name) != digest:
            raise VersionRefusedError(
                "certificate-hash", f"{name} of the manifest is not that of the model. Publish it again."
            )


def _require_outputs(manifest: Manifest, default: FileSignature) -> None:
    """Require that the manifest promises what `serving_default` answers."""
    if manifest.outputs != default.outputs:
        answered = ", ".join(default.outputs)
        reason = f"the manifest promises {', '.join(manifest.outputs)[:80]}; the model answers {answered[:80]}"
        raise VersionRefusedError("manifest-signature", reason)


def _compare_context(manifest: Manifest, certified: "Certified") -> None:
    """Require that the manifest speaks of the context that the model takes."""
    found, dtype = certified.interface.context_dim, certified.file_signatures[0].context_dtype
    if found != manifest.context_dim or dtype == "float64":
        reason = f"the model takes a context of {found} features{f' in {dtype}' if dtype else ''}; the manifest says "
        raise VersionRefusedError("manifest-signature", f"{reason}{manifest.context_dim} in float32")
