"""The manifest: canonical bytes, its own hash, and every refusal of the schema."""

import copy
import hashlib
import json

import pytest

from service import manifest
from service.errors import VersionRefusedError

DIGEST = hashlib.sha256(b"graph").hexdigest()
DOCUMENT = {
    "format_version": 1,
    "model": "tumours",
    "version": 3,
    "created": "2026-11-20T03:00:12Z",
    "task": "classification",
    "parent": 2,
    "rolled_back_to": None,
    "input": {"name": "x", "dtype": "float32", "dim": 2, "features": ["größe", "mean area"]},
    "outputs": ["score", "gradient"],
    "threshold": 0.0,
    "certificate": {"proved": True, "strong_convexity": 1e-3},
    "metrics": {"held_out": {"roc_auc": 0.99}},
    "data": {"file": "tumours.csv", "rows": 569},
    "config": {"model": {"name": "tumours"}},
    "packages": {"keras": "3.15.1"},
    "cpu": "a processor",
    "files": {"saved_model.pb": {"bytes": 5, "sha256": DIGEST}},
}


def refused(data: bytes) -> str:
    """Return the rule by which `parse` refuses `data`."""
    with pytest.raises(VersionRefusedError) as caught:
        manifest.parse(data)
    return caught.value.rule


def nested(depth: int) -> object:
    """Return a list in a list, `depth` of them."""
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def changed(path: str, value: object) -> bytes:
    """Return the sealed document with the value at a dotted path replaced, or removed where it is `...`."""
    document = copy.deepcopy(DOCUMENT)
    *parents, last = path.split("/")
    place: dict = document
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return manifest.seal(document)


def test_canonical_json_is_sorted_dense_utf8_with_a_newline():
    """The canonical text is the one a reader can make again from the document alone."""
    assert b'{"a":[1,2.5,null],"b":"\xc3\xa4"}\n' == manifest.canonical_json({"b": "ä", "a": [1, 2.5, None]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_canonical_json_refuses_what_json_cannot_hold(value):
    """NaN, infinity and lone surrogates have no canonical text."""
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        manifest.canonical_json({"a": value})


def test_seal_hashes_the_rest_when_the_document_has_an_old_hash():
    """`manifest_sha256` is the SHA-256 of the canonical text of everything else."""
    rest = json.dumps(DOCUMENT, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    expected = hashlib.sha256(rest.encode()).hexdigest()
    sealed = json.loads(manifest.seal({**DOCUMENT, "manifest_sha256": "0" * 64}))
    assert expected == sealed["manifest_sha256"]


def test_parse_returns_every_field_when_the_manifest_is_whole():
    """A sealed manifest comes back field by field."""
    found = manifest.parse(manifest.seal(DOCUMENT))
    assert ("tumours", 3, 2, None) == (found.model, found.version, found.parent, found.rolled_back_to)
    assert (2, ("größe", "mean area"), ("score", "gradient")) == (found.dim, found.features, found.outputs)
    assert {"saved_model.pb": manifest.FileEntry(5, DIGEST)} == found.files
    assert {**DOCUMENT, "manifest_sha256": found.document["manifest_sha256"]} == found.document


def test_parse_returns_the_context_when_the_input_names_one():
    """A second input beside x comes back with its columns; without one there is none, and no field for it."""
    context = {"name": "context", "dtype": "float32", "dim": 3, "features": ["season", "place", "hour"]}
    found = manifest.parse(changed("input/context", context))
    assert (3, ("season", "place", "hour"), 2) == (found.context_dim, found.context_features, found.dim)
    plain = manifest.parse(manifest.seal(DOCUMENT))
    assert (0, ()) == (plain.context_dim, plain.context_features)


@pytest.mark.parametrize(
    "context",
    [
        None,
        {"name": "c", "dtype": "float32", "dim": 1, "features": []},
        {"name": "context", "dtype": "float64", "dim": 1, "features": []},
        {"name": "context", "dtype": "float32", "dim": 0, "features": []},
        {"name": "context", "dtype": "float32", "dim": 2, "features": ["one"]},
        {"name": "context", "dtype": "float32", "dim": 1},
        {"name": "context", "dtype": "float32", "dim": 1, "features": [], "context": {}},
    ],
)
def test_parse_refuses_a_context_that_is_none(context):
    """Another name, type or width, names that do not fit, a field too many: the schema says no."""
    assert "manifest-schema" == refused(changed("input/context", context))


def test_parse_refuses_every_single_flipped_bit():
    """No bit of a manifest can change unseen, not even in white space or in the case of a hash."""
    sealed = manifest.seal(DOCUMENT)
    rules = set()
    for place in range(len(sealed)):
        for bit in range(8):
            broken = bytearray(sealed)
            broken[place] ^= 1 << bit
            rules.add(refused(bytes(broken)))
    assert {"manifest-schema", "manifest-hash"} == rules


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null\n",
        b"[]\n",
        b"{",
        b'{"format_version":1,"format_version":1}\n',
        b'{"format_version":NaN}\n',
        b'{"format_version":1e999}\n',
        b'{"a":"\xff"}\n',
        b'{"a":"\\ud800"}\n',
        b'{"a":' + b"9" * 5000 + b"}\n",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"a":"' + b"a" * manifest.MAX_MANIFEST_BYTES + b'"}\n',
        json.dumps(json.loads(manifest.seal(DOCUMENT)), indent=1).encode(),
    ],
    ids=["empty", "null", "list", "cut", "twice", "nan", "inf", "utf8", "surrogate", "int", "deep", "large", "pretty"],
)
def test_parse_refuses_what_is_not_one_canonical_object(data):
    """Anything that a second reader could understand differently is refused as `manifest-schema`."""
    assert "manifest-schema" == refused(data)


@pytest.mark.parametrize("value", [2, 0, -1, 10**30, True, "1", 1.0, None, ...])
def test_parse_refuses_a_format_that_is_not_read(value):
    """A newer format, an older one without a step from it, and what is no number have a rule of their own."""
    assert "manifest-version" == refused(changed("format_version", value))


def test_parse_refuses_a_changed_format_under_its_hash():
    """A damaged digit is not taken for the file of a newer release."""
    assert "manifest-hash" == refused(manifest.seal(DOCUMENT).replace(b'"format_version":1', b'"format_version":3'))


def test_parse_refuses_a_field_that_was_changed_under_its_hash():
    """A changed metric with the old hash is `manifest-hash`."""
    sealed = manifest.seal(DOCUMENT)
    assert "manifest-hash" == refused(sealed.replace(b"0.99", b"0.98"))


@pytest.mark.parametrize("field", sorted(DOCUMENT.keys() - {"format_version"}))
def test_parse_refuses_a_missing_field(field):
    """Every field of the schema is required."""
    assert "manifest-schema" == refused(changed(field, ...))


def test_parse_refuses_an_unknown_field():
    """A field that format 1 does not know is refused, even under a right hash."""
    assert "manifest-schema" == refused(changed("extra", 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model", ""),
        ("version", 0),
        ("version", True),
        ("version", 2**63),
        ("version", 3.0),
        ("parent", "2"),
        ("rolled_back_to", -1),
        ("created", "2026-11-20 03:00:12"),
        ("created", "2026-13-20T03:00:12Z"),
        ("task", "clustering"),
        ("input", {"name": "x", "dtype": "float32", "dim": 2}),
        ("input/dtype", "float16"),
        ("input/dim", 0),
        ("input/features", ["only one"]),
        ("input/features", ["same", "same"]),
        ("input/name", ""),
        ("outputs", []),
        ("outputs", ["gradient"]),
        ("outputs", ["gradient", "score"]),
        ("outputs", ["score", "score"]),
        ("outputs", ["score", "weights"]),
        ("threshold", True),
        ("threshold", 10**400),
        ("certificate", []),
        ("metrics", None),
        ("metrics/held_out", 2**63),
        ("metrics/held_out", [{"rows": -(2**63) - 1}]),
        ("metrics/held_out", nested(32)),
        ("data", "tumours.csv"),
        ("config", []),
        ("packages", []),
        ("cpu", 3),
        ("files", {}),
        ("files/saved_model.pb", {"bytes": 5}),
        ("files/saved_model.pb/bytes", -1),
        ("files/saved_model.pb/bytes", True),
        ("files/saved_model.pb/sha256", DIGEST.upper()),
        ("files/saved_model.pb/sha256", DIGEST[1:]),
        ("files/saved_model.pb/mode", 1),
        ("run_id", ""),
        ("run_id", None),
        ("run_id", 7),
        ("run_id", "a" * 129),
        ("run_id", "a b"),
        ("run_id", "a\n"),
    ],
)
def test_parse_refuses_a_value_that_is_not_of_its_type(path, value):
    """A right hash does not help a wrong value."""
    assert "manifest-schema" == refused(changed(path, value))


@pytest.mark.parametrize(
    "name",
    ["../a", "/a", "a/../b", "a//b", "./a", "a/", "..", ".", "a\\b", "a\0b", "a\nb", "manifest.json", "a" * 256,
     "a/" * 600 + "a", ""],
)  # fmt: skip
def test_parse_refuses_a_file_name_that_leaves_the_folder(name):
    """Names in `files` stay below the folder and are plain."""
    entry = {"bytes": 5, "sha256": DIGEST}
    assert "manifest-schema" == refused(changed("files", {name: entry}))


@pytest.mark.parametrize(
    "names",
    [("saved_model.pb", "Saved_Model.pb"), ("a/b", "A/b"), ("stra\u00dfe", "STRASSE"), ("\u00e9", "e\u0301"),
     ("file", "\ufb01le")],
)  # fmt: skip
def test_parse_refuses_two_names_that_another_file_system_takes_for_one(names):
    """Case and the ways to write a letter do not tell two files apart."""
    entry = {"bytes": 5, "sha256": DIGEST}
    assert "manifest-schema" == refused(changed("files", dict.fromkeys(names, entry)))
    for name in names:
        assert {name} == manifest.parse(changed("files", {name: entry})).files.keys()


def test_parse_returns_the_run_id_when_there_is_one():
    """A manifest may say which run published it, and need not."""
    assert "2026-11-22T03:00:12Z-7f3a" == manifest.parse(changed("run_id", "2026-11-22T03:00:12Z-7f3a")).run_id
    assert manifest.parse(manifest.seal(DOCUMENT)).run_id is None


@pytest.mark.parametrize("value", [2**63 - 1, [True, None, 0.5, "many"], nested(31)])
def test_parse_takes_metrics_that_every_json_reader_takes(value):
    """The inside of the metrics is free as far as it can be shown."""
    assert {"held_out": value} == manifest.parse(changed("metrics/held_out", value)).metrics


def test_parse_takes_the_largest_version_of_int64():
    """2^63 - 1 is a version; one more is refused above."""
    assert 2**63 - 1 == manifest.parse(changed("version", 2**63 - 1)).version
