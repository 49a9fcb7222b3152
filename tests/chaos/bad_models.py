"""Versions that must not be served, each with the rules by which it may be refused: files, manifests, probes, graphs.

Each is made of the shipped version, so that nothing but the one fault speaks against it. What needs TensorFlow to be
made imports it when it is made.
"""

# ruff: noqa: D103 - a builder's name says what is wrong

import io
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np

from service import manifest, plain_files
from service.program.verification import Probe
from tests.chaos.planting import SHIPPED, reseal, sealed_copy

BAD = {}
"""Name -> (`make(folder, version)`, rules)."""

ODD = {}
"""The same of those that only the superuser can make."""

GRAPH, PROBE, DATA = "saved_model.pb", "probe.npz", "variables/variables.data-00000-of-00001"


def whole(*rules, register=BAD):
    """Register a builder that makes the folder from nothing."""

    def keep(make):
        register[make.__name__] = (make, frozenset(rules))
        return make

    return keep


def harmed(*rules, register=BAD):
    """Register a change of a version that was whole and sealed."""

    def keep(change):
        def make(folder, version):
            sealed_copy(folder, version)
            change(folder)

        make.__name__ = change.__name__
        whole(*rules, register=register)(make)
        return change

    return keep


def resealed(*rules):
    """Register a change after which the table of files and the manifest's hash are rewritten."""

    def keep(change):
        def make(folder, version):
            sealed_copy(folder, version, change=change)

        make.__name__ = change.__name__
        whole(*rules)(make)
        return change

    return keep


def declared(name, rules, change):
    """Register a change of the manifest's document, which is sealed again."""

    def make(folder, version):
        sealed_copy(folder, version)
        path = folder / manifest.FILE_NAME
        document = json.loads(path.read_bytes())
        changed = change(document)
        path.write_bytes(manifest.seal(document if changed is None else changed))

    BAD[name] = (make, frozenset(rules))


def written(name, rules, change):
    """Register a change of the manifest's bytes."""

    def make(folder, version):
        sealed_copy(folder, version)
        path = folder / manifest.FILE_NAME
        path.write_bytes(change(path.read_bytes()))

    BAD[name] = (make, frozenset(rules))


def replaced(path, make):
    """Put something else in a file's place."""
    path.unlink()
    make(path)


# ------------------------------------------------------------------------------------------------- kinds of files
@harmed("symlink")
def link_to_the_right_graph(folder):
    replaced(folder / GRAPH, lambda path: path.symlink_to(SHIPPED / GRAPH))


@harmed("symlink")
def link_to_a_file_of_the_system(folder):
    replaced(folder / GRAPH, lambda path: path.symlink_to("/etc/passwd"))


@harmed("symlink")
def link_to_nothing(folder):
    replaced(folder / PROBE, lambda path: path.symlink_to("nowhere"))


@harmed("symlink")
def link_to_itself(folder):
    replaced(folder / PROBE, lambda path: path.symlink_to(PROBE))


@harmed("symlink")
def linked_folder_inside(folder):
    shutil.rmtree(folder / "variables")
    (folder / "variables").symlink_to(SHIPPED / "variables")


@harmed("symlink")
def linked_manifest(folder):
    data = (folder / manifest.FILE_NAME).read_bytes()
    (folder.parent / ".manifest").write_bytes(data)
    replaced(folder / manifest.FILE_NAME, lambda path: path.symlink_to("../.manifest"))


@harmed("symlink")
def unlisted_link(folder):
    (folder / "more").symlink_to(GRAPH)


@whole("symlink")
def linked_version(folder, _version):
    folder.symlink_to(SHIPPED)


@whole("symlink", "file-missing")
def version_linked_to_nothing(folder, _version):
    folder.symlink_to("nowhere")


@harmed("special-file")
def pipe_for_a_graph(folder):
    replaced(folder / GRAPH, os.mkfifo)


@harmed("special-file")
def pipe_for_a_manifest(folder):
    replaced(folder / manifest.FILE_NAME, os.mkfifo)


@harmed("special-file")
def unlisted_pipe(folder):
    os.mkfifo(folder / "variables" / "more")


@harmed("special-file")
def socket_for_weights(folder):
    replaced(folder / DATA, lambda path: os.mknod(path, stat.S_IFSOCK | 0o600))


@harmed("special-file", register=ODD)
def device_for_weights(folder):
    replaced(folder / DATA, lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)))


@harmed("special-file", register=ODD)
def device_for_a_manifest(folder):
    replaced(folder / manifest.FILE_NAME, lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)))


@harmed("hard-link")
def second_name_of_the_graph(folder):
    link_elsewhere(folder / GRAPH)


@harmed("hard-link")
def second_name_of_the_manifest(folder):
    link_elsewhere(folder / manifest.FILE_NAME)


def link_elsewhere(path):
    """Give a file a second name, beside the versions."""
    place = path.parent.parent / f".second-name-of-{path.parent.name}-{path.name}"
    os.link(path, place)


@harmed("special-file", "file-missing")
def folder_for_a_graph(folder):
    replaced(folder / GRAPH, Path.mkdir)


@harmed("special-file", "manifest-missing")
def folder_for_a_manifest(folder):
    replaced(folder / manifest.FILE_NAME, Path.mkdir)


@harmed("size-limit")
def terabyte_of_nothing(folder):
    os.truncate(folder / DATA, 2**40)


@harmed("size-limit")
def manifest_of_a_gigabyte_of_nothing(folder):
    os.truncate(folder / manifest.FILE_NAME, 2**30)


@harmed("size-limit")
def more_files_than_anybody_publishes(folder):
    for number in range(plain_files.MAX_FILES + 1):
        (folder / "variables" / str(number)).touch()


@harmed("size-limit")
def folders_without_end(folder):
    (folder / "/".join("d" * 40)).mkdir(parents=True)


@harmed("file-unlisted")
def file_that_is_not_listed(folder):
    (folder / "assets.extra" / "more").write_bytes(b"more")


@harmed("file-missing")
def weights_that_are_gone(folder):
    (folder / DATA).unlink()


@harmed("file-hash")
def graph_that_grew(folder):
    (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes() + b"\0")


@harmed("file-hash")
def weights_of_zeros(folder):
    (folder / DATA).write_bytes(bytes((folder / DATA).stat().st_size))


@harmed("file-name")
def name_with_a_new_line(folder):
    (folder / "line\nbreak").write_bytes(b"")


@harmed("file-name")
def name_with_a_backslash(folder):
    (folder / "..\\..\\etc").write_bytes(b"")


@harmed("file-name")
def name_of_no_letters(folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).write_bytes(b"")


@harmed("file-name")
def name_that_writes_backwards(folder):
    (folder / "model\u202ebp.").write_bytes(b"")


@harmed("file-unlisted")
def name_as_long_as_names_get(folder):
    (folder / ("n" * 255)).write_bytes(b"")


@harmed("file-unlisted")
def name_that_differs_in_case(folder):
    (folder / "Saved_Model.pb").write_bytes(b"")


# -------------------------------------------------------------------------------------------------- half versions
@whole("manifest-missing")
def everything_but_the_manifest(folder, _version):
    shutil.copytree(SHIPPED, folder)
    (folder / manifest.FILE_NAME).unlink()


@whole("manifest-missing")
def network_alone(folder, _version):
    folder.mkdir()
    shutil.copy(SHIPPED / "model.keras", folder)


@whole("file-missing")
def manifest_alone(folder, version):
    sealed_copy(folder, version)
    for path in list(folder.iterdir()):
        if path.name != manifest.FILE_NAME:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@whole("saved-model")
def nothing_at_all(folder, _version):
    folder.mkdir()


@whole("variable")
def foreign_copy_without_weights(folder, _version):
    (folder / "variables").mkdir(parents=True)
    shutil.copy(SHIPPED / GRAPH, folder)
    shutil.copy(SHIPPED / "variables" / "variables.index", folder / "variables")


@whole("variable", "saved-model")
def foreign_copy_in_the_middle_of_a_file(folder, _version):
    (folder / "variables").mkdir(parents=True)
    shutil.copy(SHIPPED / GRAPH, folder)
    shutil.copy(SHIPPED / "variables" / "variables.index", folder / "variables")
    (folder / DATA).write_bytes((SHIPPED / DATA).read_bytes()[:4096])


@whole("manifest-identity")
def copy_of_another_version(folder, _version):
    shutil.copytree(SHIPPED, folder)


@whole("manifest-identity")
def copy_of_another_model(folder, version):
    sealed_copy(folder, version)
    reseal(folder, model="colours")


# ------------------------------------------------------------------------------------------------------ manifests
written("manifest_of_no_bytes", ["manifest-schema"], lambda _: b"")
written("manifest_that_is_null", ["manifest-schema"], lambda _: b"null\n")
written("manifest_with_a_key_twice", ["manifest-schema"], lambda data: data.replace(b"{", b'{"cpu":"",', 1))
written("manifest_with_nan", ["manifest-schema"], lambda data: data.replace(b'"threshold":0.0', b'"threshold":NaN'))
written("manifest_with_spaces", ["manifest-schema"], lambda data: json.dumps(json.loads(data), indent=1).encode())
written("manifest_without_end", ["manifest-schema"], lambda _: b'{"a":' + b"[" * 200_000)
written("manifest_of_17_megabytes", ["size-limit"], lambda data: data + b" " * 17 * 2**20)
written("manifest_with_another_hash", ["manifest-hash"], lambda data: data.replace(b'"parent":null', b'"parent":1'))


def field(name, value):
    """Return a change of one field; `...` takes it away."""

    def change(document):
        if value is ...:
            del document[name]
        else:
            document[name] = value

    return change


def listed(name):
    """Return a change that lists one more file of no bytes."""
    return lambda document: document["files"].update({name: {"bytes": 0, "sha256": manifest.sha256_hex(b"")}})


for _name in ("../evil", "/etc/passwd", "a/../../b", "a\\b", "a\0b", "manifest.json", "Saved_Model.pb", "n" * 256):
    declared(f"listed_{_name[:16]!a}", ["manifest-schema"], listed(_name))
declared("listed_and_not_there", ["file-missing"], listed("more"))
declared("more_bytes_than_declared", ["file-hash"], lambda doc: doc["files"][DATA].update(bytes=10))
declared("terabyte_declared", ["file-hash"], lambda doc: doc["files"][DATA].update(bytes=2**40))
declared("newer_format", ["manifest-version"], field("format_version", 2))
declared("format_without_a_number", ["manifest-version"], field("format_version", "1"))
declared("field_of_no_format", ["manifest-schema"], field("run", "x"))
declared("field_that_is_missing", ["manifest-schema"], field("certificate", ...))
declared("task_that_nobody_knows", ["manifest-schema"], field("task", "clustering"))
declared("outputs_out_of_order", ["manifest-schema"], field("outputs", ["gradient", "score"]))
declared("giant_width", ["manifest-signature"], lambda doc: doc["input"].update(dim=2**62, features=[]))
declared("another_width", ["manifest-signature"], lambda doc: doc["input"].update(dim=31, features=[]))
declared("rows_of_float64", ["manifest-schema"], lambda doc: doc["input"].update(dtype="float64"))
declared("output_that_is_not_answered", ["manifest-signature"], field("outputs", ["score", "gradient", "support"]))
declared("output_that_is_not_told", ["manifest-signature"], field("outputs", ["score"]))
declared("not_proved_by_its_own_word", ["certificate-hash"], lambda doc: doc["certificate"].update(proved=False))
declared("weights_of_another", ["certificate-hash"], lambda doc: doc["certificate"].update(weights_sha256="0" * 64))
declared("program_of_another", ["certificate-hash"], lambda doc: doc["certificate"].update(program_sha256="0" * 64))
declared("columns_in_another_order", ["schema-change"], lambda doc: doc["input"]["features"].reverse())
declared("columns_without_names", ["schema-change"], lambda doc: doc["input"].update(features=[]))
declared("score_of_another_meaning", ["schema-change"], field("task", "regression"))


# --------------------------------------------------------------------------------------------------------- probes
@resealed("probe")
def no_probe(folder):
    (folder / PROBE).unlink()


@resealed("probe")
def probe_of_noise(folder):
    (folder / PROBE).write_bytes(np.random.default_rng(3).bytes(4096))


@resealed("probe")
def probe_that_is_a_bomb(folder):
    with zipfile.ZipFile(folder / PROBE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x", "score", "gradient"):
            archive.writestr(f"{name}.npy", npy_header((1 << 22,)) + bytes(16 << 20))


@resealed("probe")
def probe_of_giant_shapes(folder):
    with zipfile.ZipFile(folder / PROBE, "w") as archive:
        for name in ("x", "score", "gradient"):
            archive.writestr(f"{name}.npy", npy_header((1 << 40, 30)))


def npy_header(shape):
    """Return the head of an array file of float32."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


@resealed("probe")
def probe_that_would_run_code(folder):
    np.savez(folder / PROBE, x=np.array([Canary(folder.parent / "executed.txt")], object), score=0.0, gradient=0.0)


class Canary:
    """Writes a file when it is read back by pickle."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        """Say what reading runs."""
        return (os.system, (f"echo executed > {self.path}",))


def probe_with(change):
    """Return a change of the probe's three arrays."""

    def harm(folder):
        probe = Probe.from_bytes((folder / PROBE).read_bytes())
        x, score, gradient = change(probe.x.copy(), probe.score.copy(), probe.gradient.copy())
        with (folder / PROBE).open("wb") as file:
            np.savez(file, x=x, score=score, gradient=gradient)

    return harm


def changed_probe(name, change):
    """Register a version with another probe."""
    harm = probe_with(change)
    harm.__name__ = name
    resealed("probe")(harm)


changed_probe("probe_of_other_scores", lambda x, score, gradient: (x, score + np.float32(0.1), gradient))
changed_probe("probe_of_other_gradients", lambda x, score, gradient: (x, score, -gradient))
changed_probe("probe_of_other_rows", lambda x, score, gradient: (x * np.float32(1.5), score, gradient))
changed_probe("probe_of_nan", lambda x, score, gradient: (x * np.float32(np.nan), score, gradient))
changed_probe("probe_of_another_width", lambda x, score, gradient: (x[:, :29], score, gradient[:, :29]))
changed_probe("probe_of_no_rows", lambda x, score, gradient: (x[:0], score[:0], gradient[:0]))


# --------------------------------------------------------------------------------------------------------- graphs
@resealed("saved-model", "meta-graph")
def graph_of_no_bytes(folder):
    (folder / GRAPH).write_bytes(b"")


@resealed("saved-model")
def graph_of_noise(folder):
    (folder / GRAPH).write_bytes(np.random.default_rng(4).bytes(50_000))


@resealed("saved-model")
def half_a_graph(folder):
    data = (folder / GRAPH).read_bytes()
    (folder / GRAPH).write_bytes(data[: len(data) // 2])


@resealed("variable")
def no_weights_and_nobody_misses_them(folder):
    shutil.rmtree(folder / "variables")


@resealed("saved-model", "meta-graph")
def graph_in_another_form_beside(folder):
    (folder / "saved_model.pbtxt").write_text("saved_model_schema_version: 1")


def with_weights(change):
    """Return a change of every float weight, by TensorFlow's own writer."""

    def harm(folder):
        from tests.contract.version_surgery import constrained_keys, read_tensors, write_tensors

        tensors = read_tensors(folder)
        for key in constrained_keys(tensors).values():
            tensors[key] = change(tensors[key])
        write_tensors(folder, tensors)

    return harm


NEEDS_TENSORFLOW = []


def changed_weights(name, rules, change):
    """Register a version whose hidden kernels were changed, with the table of files to match."""
    harm = with_weights(change)
    harm.__name__ = name
    resealed(*rules)(harm)
    NEEDS_TENSORFLOW.append(name)


changed_weights("weights_of_the_other_sign", ["nonneg-matmul"], lambda values: -values)
changed_weights("weights_of_nan", ["finite-weights"], lambda values: values * np.float32(np.nan))
changed_weights("infinite_weights", ["finite-weights"], lambda values: values + np.float32(np.inf))
changed_weights("weights_of_another_shape", ["variable"], lambda values: values.T[:, :1].copy())
changed_weights("weights_of_another_type", ["variable"], lambda values: values.astype(np.float64))
changed_weights("other_weights_than_certified", ["certificate-hash"], lambda values: values * np.float32(2.0))
