"""TensorFlow Serving's model config file: what is followed, and what is refused with a reason."""

import os

import pytest

from service.model_config import MAX_FILE_BYTES, ModelConfigError, ModelEntry, parse_model_config, read_file
from service.policies import PolicyKind, VersionPolicy


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a file of the given text beside a models folder `models`."""

    def read(text):
        (tmp_path / "models.config").write_text(text)
        return parse_model_config(read_file(tmp_path / "models.config"), tmp_path / "models")

    return read


def config(body):
    """Return a file of one model `m` with these fields."""
    return f'model_config_list {{ config {{ name: "m" {body} }} }}'


def test_parse_follows_the_file_of_tensorflow_servings_documentation(read, tmp_path):
    """Names, base paths, platform, the three policies and labels are read; comments are allowed."""
    text = f"""
        # as in https://www.tensorflow.org/tfx/serving/serving_config
        model_config_list {{
          config {{
            name: 'first'
            base_path: '{tmp_path}/models/first/'
            model_platform: 'tensorflow'
            model_version_policy {{ specific {{ versions: 42 versions: 43 }} }}
            version_labels {{ key: 'stable' value: 42 }}
            version_labels {{ key: 'canary' value: 43 }}
          }}
          config {{ name: 'second' base_path: 'second' model_version_policy {{ latest {{ num_versions: 2 }} }} }}
          config {{ name: 'third' model_version_policy: {{ all: {{}} }} }}
          config {{ name: 'fourth' model_type: TENSORFLOW }}
          config {{ name: 'fifth' model_version_policy {{ latest {{}} }} }}
        }}"""
    expected = {
        "first": ModelEntry(
            VersionPolicy(PolicyKind.SPECIFIC, versions=frozenset({42, 43})), {"stable": 42, "canary": 43}
        ),
        "second": ModelEntry(VersionPolicy(PolicyKind.LATEST, num_versions=2), {}),
        "third": ModelEntry(VersionPolicy(PolicyKind.ALL), {}),
        "fourth": ModelEntry(None, {}),
        "fifth": ModelEntry(VersionPolicy(PolicyKind.LATEST, num_versions=1), {}),
    }
    assert expected == read(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one model"),
        ("model_config_list {}", "at least one model"),
        ("custom_model_config {}", "at least one model"),
        ("model_config_list { config { nam: 'm' } }", 'no field named "nam"'),
        ("model_config_list { config { name: 'm' }", "not a ModelServerConfig"),
        ("{" * 5000, "not a ModelServerConfig"),
        ("model_config_list { config { name: '../m' } }", "expected a model's name"),
        ("model_config_list { config { base_path: '/m' } }", "expected a model's name"),
        ("model_config_list { config { name: 'm' } config { name: 'm' } }", "each once"),
        (config("model_platform: 'onnx'"), "model_platform: expected tensorflow"),
        (config("model_type: OTHER"), "model_platform: expected tensorflow"),
        (config("logging_config {}"), "logging_config: not offered"),
        (config("model_version_policy { specific {} }"), "specific: expected `versions: N`"),
        (config("model_version_policy { specific { versions: 0 } }"), "specific: expected `versions: N`"),
        (config("model_version_policy { latest { num_versions: 101 } }"), "latest: expected num_versions up to 100"),
        (config("version_labels { key: 'a b' value: 1 }"), "version_labels: 'a b': expected a label"),
        (config("version_labels { key: 'stable' value: 0 }"), "version_labels: 'stable': expected a label"),
    ],
)
def test_parse_refuses_what_is_not_followed(read, text, said):
    """What does not parse, names nothing, or asks for what is not offered is an error that says where."""
    with pytest.raises(ModelConfigError) as caught:
        read(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "place", ["{root}/other", "{root}", "/etc", "{root}/m/../other", "../m", "{root}/m/1", "gs://m"]
)
def test_parse_refuses_a_base_path_that_is_not_the_models_own_folder(read, tmp_path, place):
    """Only the folder of that name in the models folder is served; the refusal tells no path of this machine."""
    with pytest.raises(ModelConfigError) as caught:
        read(config(f"base_path: '{place.format(root=tmp_path / 'models')}'"))
    assert "model m: base_path: expected the folder m in the models folder, or none" == str(caught.value)


def test_parse_takes_the_models_folder_by_either_name_when_it_is_a_link(tmp_path):
    """The models folder may be a link: the base path may name the link or what it leads to."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "volume")
    for root in ("models", "volume"):
        data = config(f"base_path: '{tmp_path}/{root}/m'").encode()
        assert {"m"} == set(parse_model_config(data, tmp_path / "models"))


def test_read_refuses_what_is_no_file_or_too_large(tmp_path):
    """A missing file, a folder, a FIFO (which is not waited for) and a file above a mebibyte are errors."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    for name, said in {
        "missing": "cannot be read (No such file or directory)",
        "folder": "no regular file",
        "fifo": "no regular file",
        "large": "larger than 1048576 bytes",
    }.items():
        with pytest.raises(ModelConfigError) as caught:
            read_file(tmp_path / name)
        assert said in str(caught.value)
