"""The formats of manifests: golden ones are read for ever, older ones by steps, newer ones are refused by number."""

import copy
import hashlib
import json
from pathlib import Path

import pytest

from service import manifest, manifest_formats, version_files
from service.errors import VersionRefusedError
from service.manifest_formats import FORMAT_VERSION, STEPS, migrate

GOLDEN = Path(__file__).parent / "manifests"
ROOT = Path(__file__).parents[2]

PUBLISHED = {
    "format_1_colours.json": ("ee7187e6", ("colours", 1, 1, 3, 0, "transport", None)),
    "format_1_context.json": ("7ce607b1", ("demand-by_season", 12, 1, 2, 1, "regression", None)),
    "format_1_run_id.json": ("1c3cd5b7", ("demand-by_season", 12, 1, 2, 1, "regression", "2026-11-22T03:00:12Z-7f3a")),
    "format_1_tumours.json": ("33dbbd9b", ("tumours", 1, 1, 30, 0, "classification", None)),
}
"""File: how the hash of its bytes begins, and model, version, format, dim, dim of the context, task, run."""


def facts(found):
    """Return what is compared of a manifest."""
    return (
        found.model, found.version, found.format_version, found.dim, found.context_dim, found.task, found.run_id
    )  # fmt: skip


def refusal(call, *arguments, **options):
    """Return the refusal that a call ends in."""
    with pytest.raises(VersionRefusedError) as caught:
        call(*arguments, **options)
    return caught.value


# -------------------------------------------------------------------------------------------------------------- golden
@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_manifest_is_read_as_it_was_published(name):
    """The bytes are those of the day they were published, and so is what is read of them."""
    digest, expected = PUBLISHED[name]
    data = (GOLDEN / name).read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()[:8]
    assert expected == facts(manifest.parse(data))


def test_golden_manifests_are_of_every_format_that_is_read():
    """There is one at least of each format, and no file that no test reads."""
    formats = {json.loads(path.read_bytes())["format_version"] for path in GOLDEN.iterdir()}
    assert set(range(FORMAT_VERSION - len(STEPS), FORMAT_VERSION + 1)) == formats
    assert PUBLISHED.keys() == {path.name for path in GOLDEN.iterdir()}


def test_manifests_of_the_shipped_models_are_readable():
    """What lies in models/ is read by this code."""
    found = [manifest.parse(path.read_bytes()) for path in sorted(ROOT.glob("models/*/*/manifest.json"))]
    assert {"colours", "tumours"} <= {each.model for each in found}


# --------------------------------------------------------------------------------------------------------------- steps
def named_width(document):
    """Step from the first of two synthetic formats: `width` became `dim` of `input`."""
    rest = {key: value for key, value in document.items() if key != "width"}
    return {**rest, "input": {**document["input"], "dim": document["width"]}}


def added_cpu(document):
    """Step from the second: `cpu` was not there."""
    return {**document, "cpu": "unknown"}


STEPS_FROM_MINUS_1 = (named_width, added_cpu)


def older(format_version):
    """Return a golden document as the synthetic formats 0 and -1 would have had it."""
    document = json.loads((GOLDEN / "format_1_context.json").read_bytes())
    del document["cpu"], document["manifest_sha256"]
    if format_version < 0:
        document["width"] = document["input"].pop("dim")
    return {**document, "format_version": format_version}


@pytest.mark.parametrize("number", [0, -1])
def test_older_manifest_is_read_by_the_chain_of_steps(number, monkeypatch):
    """Each older format comes out in the newest, with its own number remembered and its hash checked as it lies."""
    monkeypatch.setattr(manifest_formats, "STEPS", STEPS_FROM_MINUS_1)
    data = manifest.seal(older(number))
    found = manifest.parse(data)
    assert (number, 2, "unknown", 1) == (found.format_version, found.dim, found.cpu, found.document["format_version"])
    assert json.loads(data)["manifest_sha256"] == found.document["manifest_sha256"]
    assert 1 == manifest.parse(manifest.seal(found.document)).format_version
    assert "manifest-hash" == refusal(manifest.parse, data.replace(b"0.5", b"0.4")).rule


def test_older_version_is_read_from_its_folder_and_nothing_in_it_changes(monkeypatch, tmp_path):
    """A folder of an older format is read whole, in memory: not a byte of it is written anew."""
    monkeypatch.setattr(manifest_formats, "STEPS", STEPS_FROM_MINUS_1)
    contents = {"saved_model.pb": b"graph"}
    files = {"saved_model.pb": {"bytes": 5, "sha256": manifest.sha256_hex(b"graph")}}
    data = manifest.seal({**older(-1), "files": files})
    version_files.materialize({**contents, "manifest.json": data}, tmp_path)
    found = version_files.read_version(tmp_path)
    assert contents == dict(found.contents)
    assert -1 == found.manifest.format_version
    assert data == (tmp_path / "manifest.json").read_bytes()


def test_manifest_of_the_newest_format_goes_through_no_step():
    """A step that would fail is not asked by a document that is new already."""
    document = json.loads((GOLDEN / "format_1_context.json").read_bytes())
    assert (1, document) == migrate(document, newest=1, steps=(lambda _: {}["nothing"],))


def test_migrate_changes_nothing_of_what_it_is_given():
    """Even a step that writes into its document leaves the caller's as it was."""
    document = older(0)
    before = copy.deepcopy(document)

    def careless(inside):
        inside["cpu"] = "unknown"
        inside["input"]["dim"] = 7
        return inside

    assert 7 == migrate(document, newest=1, steps=(careless,))[1]["input"]["dim"]
    assert before == document


def test_unknown_field_of_an_older_format_is_refused_by_the_schema_at_the_end(monkeypatch):
    """A step carries on what it does not know, so that nothing unknown is served in silence."""
    monkeypatch.setattr(manifest_formats, "STEPS", STEPS_FROM_MINUS_1)
    assert "manifest-schema" == refusal(manifest.parse, manifest.seal({**older(-1), "surprise": 1})).rule


@pytest.mark.parametrize("document", [{}, {"input": None}, {"input": []}, {"width": 3, "input": {}}])
def test_older_manifest_that_is_not_of_its_format_is_refused(document, monkeypatch):
    """A step that cannot work on what it finds is a refusal, not a crash."""
    monkeypatch.setattr(manifest_formats, "STEPS", STEPS_FROM_MINUS_1)
    assert "manifest-schema" == refusal(manifest.parse, manifest.seal({**document, "format_version": -1})).rule


# ------------------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("found", "newest", "steps", "words"),
    [
        (2, 1, (), "manifest.json is of format 2, this release reads format 1. Upgrade the server, or publish with"),
        (9, 3, (added_cpu, added_cpu), "manifest.json is of format 9, this release reads the formats 1 to 3. Upgrade"),
        (1, 3, (added_cpu,), "manifest.json is of format 1, this release reads the formats 2 to 3. Train it again."),
        (None, 1, (), "manifest.json: format_version: expected a whole number, received nothing. Publish it again."),
        ("1", 1, (), "manifest.json: format_version: expected a whole number, received 1. Publish it again."),
    ],
)  # fmt: skip
def test_migrate_refuses_a_format_by_number_saying_what_to_do(found, newest, steps, words):
    """Newer, older and no number: one rule, both numbers, and what to do."""
    error = refusal(migrate, {"format_version": found}, newest=newest, steps=steps)
    assert "manifest-version" == error.rule
    assert error.reason.startswith(words)
