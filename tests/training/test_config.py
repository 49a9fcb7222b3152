"""Training configurations: defaults, paths, and an error that names key, expectation and finding for each mistake."""

import tomllib
from pathlib import Path

import pytest

from training.config import NAMED_SOURCES, ConfigError, load_config, parse_config
from training.hooks import Hook

ROOT = Path(__file__).parents[2]
SMALLEST = """
[model]
name = "m"
task = "regression"
[data]
file = "rows.csv"
target = "y"
"""


def load(tmp_path: Path, text: str):
    """Return the configuration in a file of this text."""
    path = tmp_path / "job.toml"
    path.write_text(text)
    return load_config(path)


TRANSPORT = """
[model]
name = "m"
task = "transport"
[data]
source = "p.csv"
target_file = "q.png"
"""


def with_key(section: str, line: str) -> str:
    """Return the smallest configuration with one line more in a section."""
    if f"[{section}]" in SMALLEST:
        return SMALLEST.replace(f"[{section}]", f"[{section}]\n{line}")
    return f"{SMALLEST}[{section}]\n{line}\n"


def test_smallest_configuration_has_the_defaults_of_the_contract(tmp_path):
    """Model, task, file and target are all that a file must say; paths start at its folder."""
    config = load(tmp_path, SMALLEST)
    assert (tmp_path / "rows.csv", (), 20, 1.0) == (
        config.data.file, config.data.features, config.data.held_out_percent, config.data.max_bad_rows_percent,
    )  # fmt: skip
    assert ((64, 64), "softplus", "projection", 1e-3) == (
        config.network.hidden, config.network.activation, config.network.positivity, config.network.quadratic,
    )  # fmt: skip
    assert (4000, 128, 1e-3, 7, 10) == (
        config.trainer.steps, config.trainer.batch, config.trainer.learning_rate, config.trainer.seed,
        config.trainer.patience,
    )  # fmt: skip
    assert (0.005, 0.2, 50) == (config.gate.tolerance, config.gate.max_score_drift, config.gate.min_rows)
    assert (tmp_path / "models", 5, "") == (
        config.publish.models_dir, config.publish.keep, config.publish.wait_available,
    )  # fmt: skip
    assert tomllib.loads(SMALLEST) == config.document


@pytest.mark.parametrize(("task", "metric"), [("classification", "roc_auc"), ("regression", "r2")])
def test_gate_compares_the_first_metric_of_the_task_unless_told(task, metric, tmp_path):
    """An empty metric is filled in, so that nothing above has to know the tasks."""
    assert metric == load(tmp_path, SMALLEST.replace("regression", task)).gate.metric


def test_every_key_is_read(tmp_path):
    """A file that sets a key gets that value, with absolute paths left alone."""
    text = """
    [model]
    name = "tumours"
    task = "classification"
    [data]
    file = "/data/rows.parquet"
    target = "y"
    features = ["a", "b"]
    held_out_percent = 30
    salt = "s"
    max_bad_rows_percent = 0
    [network]
    hidden = [8]
    activation = "leaky_relu(0.1)"
    positivity = "projection"
    quadratic = 0
    [objective]
    [trainer]
    steps = 1
    batch = 2
    learning_rate = 0.5
    seed = 0
    patience = 3
    evaluate_every = 4
    validation_percent = 5
    checkpoint_every = 6
    [gate]
    metric = "brier"
    tolerance = 0.1
    max_score_drift = 0.3
    min_rows = 1
    max_psi = 0.4
    max_target_psi = 0.5
    max_outside_percent = 6
    max_missing_percent = 7
    max_relabelled_percent = 8
    max_copies_percent = 9
    max_surprise = 10
    max_near_copies_percent = 11
    [publish]
    models_dir = "/srv/models"
    keep = 1
    wait_available = "http://127.0.0.1:8501/"
    keep_reports = 2
    on_published = "https://example.org/a"
    on_refused = ["notify", "-q"]
    on_failed = "$HOOK"
    """
    config = load(tmp_path, text)
    assert (Path("/data/rows.parquet"), ("a", "b"), 30, "s", 0.0) == (
        config.data.file, config.data.features, config.data.held_out_percent, config.data.salt,
        config.data.max_bad_rows_percent,
    )  # fmt: skip
    assert ((8,), "leaky_relu(0.1)", 0.0) == (
        config.network.hidden, config.network.activation, config.network.quadratic,
    )  # fmt: skip
    assert (1, 2, 0.5, 0, 3, 4, 5, 6) == tuple(vars(config.trainer).values())
    assert ("brier", 0.1, 0.3, 1, 0.4, 0.5, 6, 7, 8, 9, 10, 11) == tuple(vars(config.gate).values())
    hooks = (Hook(url="https://example.org/a"), Hook(command=("notify", "-q")), Hook(variable="HOOK"))
    assert (Path("/srv/models"), 1, "http://127.0.0.1:8501", 2, *hooks) == tuple(vars(config.publish).values())


@pytest.mark.parametrize(
    ("section", "line", "key", "nearest"),
    [
        ("trainer", "step = 10", "trainer.step", "steps"),
        ("trainer", "learningrate = 0.1", "trainer.learningrate", "learning_rate"),
        ("network", "activations = 1", "network.activations", "activation"),
        ("data", 'tagret = "z"', "data.tagret", "target"),
        ("network", "suport = true", "network.suport", "support"),
        ("objective", "penality = 1.0", "objective.penality", ""),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known_one(section, line, key, nearest, tmp_path):
    """A misspelt key is an error, never ignored."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, with_key(section, line))
    assert (key, "an unknown key") == (refused.value.key, refused.value.received)
    assert (f"nearest: '{nearest}'" if nearest else "key of") in refused.value.expected


def test_unknown_section_is_refused_with_the_nearest_known_one(tmp_path):
    """So is a misspelt section."""
    with pytest.raises(ConfigError, match=r"^trainner: expected a known section .*nearest: 'trainer'.*unknown section"):
        load(tmp_path, SMALLEST + "[trainner]\nsteps = 1\n")


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("data", "held_out_percent = 0"),
        ("data", "held_out_percent = 91"),
        ("data", "held_out_percent = 20.5"),
        ("data", "held_out_percent = true"),
        ("data", "max_bad_rows_percent = 101"),
        ("data", "max_bad_rows_percent = nan"),
        ("data", 'features = "a"'),
        ("data", 'features = ["a", "a"]'),
        ("data", 'features = ["a", 1]'),
        ("data", "salt = 7"),
        ("network", "hidden = []"),
        ("network", "hidden = [0]"),
        ("network", "hidden = [64.0]"),
        ("network", "hidden = 64"),
        ("network", "activation = 1"),
        ("network", 'positivity = "penalty"'),
        ("network", "quadratic = -1.0"),
        ("network", 'quadratic = "1"'),
        ("trainer", "steps = 0"),
        ("trainer", "batch = -1"),
        ("trainer", "learning_rate = 0.0"),
        ("trainer", "learning_rate = inf"),
        ("trainer", "seed = -1"),
        ("trainer", "patience = 0"),
        ("gate", 'metric = "rms"'),
        ("gate", 'metric = "roc_auc"'),
        ("gate", "tolerance = -0.1"),
        ("gate", "min_rows = 0"),
        ("publish", 'models_dir = ""'),
        ("publish", "keep = 0"),
        ("publish", 'wait_available = "127.0.0.1:8501"'),
        ("publish", "wait_available = true"),
    ],
)
def test_wrong_type_or_range_is_refused_by_the_keys_name(section, line, tmp_path):
    """Each error names the key, what belongs there, and what was found."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, with_key(section, line))
    assert f"{section}.{line.split(' = ')[0]}" == refused.value.key
    assert refused.value.expected
    assert line.split(" = ")[1].strip('"[]').lower() in refused.value.received.lower()


@pytest.mark.parametrize(
    "line",
    [
        'wait_available = "http://me:s3cret@127.0.0.1"',
        'on_published = "ftp://127.0.0.1/s3cret"',
        'on_refused = "http://127.0.0.1:s3cret/"',
        'on_refused = "127.0.0.1/s3cret"',
        "on_failed = []",
        "on_failed = ['', 's3cret']",
        "on_failed = ['s3cret', 1]",
        "on_failed = 1",
    ],
)
def test_wrong_address_is_refused_without_its_secret(line, tmp_path):
    """What is no address or command may still hold a token or a password, which no log is told."""
    with pytest.raises(ConfigError, match=rf"^publish\.{line.split(' = ')[0]}: expected ") as refused:
        load(tmp_path, with_key("publish", line))
    assert "s3cret" not in str(refused.value)


def test_document_holds_no_secret_of_a_hook(tmp_path):
    """Manifest and report get the document: the address' host and the command's program are all that is left."""
    lines = """
    [publish]
    keep = 4
    on_published = "https://me:s3cret@hooks.example.org:8443/services/s3cret?token=s3cret"
    on_refused = ["/usr/bin/notify", "--token", "s3cret"]
    on_failed = "${ALERT_URL}"
    """
    config = load(tmp_path, SMALLEST + lines)
    assert {
        "keep": 4,
        "on_published": "https://hooks.example.org:8443/...",
        "on_refused": ["/usr/bin/notify", "..."],
        "on_failed": "$ALERT_URL",
    } == config.document["publish"]
    assert "s3cret" not in repr(config)


def test_wrong_value_error_reads_as_one_sentence(tmp_path):
    """The sentence says key, expected, received."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, with_key("trainer", "steps = 0"))
    assert "trainer.steps: expected a whole number from 1 to 10000000, received 0." == str(refused.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [(SMALLEST, key) for key in ("name", "task", "file", "target")]
    + [(TRANSPORT, key) for key in ("name", "task", "source", "target_file")],
)
def test_missing_required_key_is_refused_by_its_name(text, key, tmp_path):
    """Nothing is guessed for them."""
    lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
    with pytest.raises(ConfigError, match=rf"^(model|data)\.{key}: .* received nothing"):
        load(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("task", ["density"])
def test_task_of_later_is_refused_as_not_offered_yet(task, tmp_path):
    """The contract names them, so the sentence is not that they are unknown."""
    with pytest.raises(ConfigError, match=rf"^model\.task: .*'{task}', which is not offered yet\.$"):
        load(tmp_path, SMALLEST.replace("regression", task))


@pytest.mark.parametrize("name", ["", "a/b", "../up", "ünder", "x" * 65])
def test_model_name_outside_the_contract_is_refused(name, tmp_path):
    """It becomes a folder and part of an address."""
    with pytest.raises(ConfigError, match=r"^model\.name: "):
        load(tmp_path, SMALLEST.replace('"m"', f'"{name}"'))


def test_tolerance_of_a_transport_is_named_with_a_metric_whose_unit_is_the_datas(tmp_path):
    """In squared metres or in squared millimetres: no default fits, while a percentage has one."""
    with pytest.raises(ConfigError, match=r"^gate\.tolerance: expected a number in the unit of w2_squared"):
        load(tmp_path, f'{TRANSPORT}[gate]\nmetric = "w2_squared"\n')
    named = load(tmp_path, f'{TRANSPORT}[gate]\nmetric = "w2_squared"\ntolerance = 0.25\n')
    assert 0.25 == named.gate.tolerance


def test_transport_has_two_files_and_the_keys_of_its_minimax(tmp_path):
    """Its defaults are those of the prototype, its metric is the distance that is left, and a target is no column."""
    config = load(tmp_path, TRANSPORT)
    assert (tmp_path / "p.csv", tmp_path / "q.png", "w2_uvp", 2.0) == (
        config.data.source, config.data.target_file, config.gate.metric, config.gate.tolerance,
    )  # fmt: skip
    assert (5, 1.0, 0.999, 1e4, "refuse") == tuple(vars(config.objective).values())
    keys = 'inner_steps = 3\npenalty = 0\naveraging = 0\nmax_gradient_norm = 0.5\nuntrained = "freeze"\n'
    chosen = load(tmp_path, f'{TRANSPORT}[objective]\n{keys}[network]\nfirst_activation = "squared_leaky"\n')
    assert (3, 0.0, 0.0, 0.5, "freeze") == tuple(vars(chosen.objective).values())
    assert "squared_leaky" == chosen.network.first_activation


@pytest.mark.parametrize(
    "line",
    [
        "inner_steps = 0",
        "penalty = -1",
        "averaging = 1.0",
        "max_gradient_norm = 0",
        "max_gradient_norm = inf",
        'untrained = "never"',
    ],
)
def test_key_of_the_minimax_out_of_range_is_refused(line, tmp_path):
    """An average that forgets nothing would never move, and no step is no training."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, f"{TRANSPORT}[objective]\n{line}\n")
    assert f"objective.{line.split(' = ')[0]}" == refused.value.key


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        (TRANSPORT, 'file = "rows.csv"', "data.file", "a key of classification and regression alone"),
        (TRANSPORT, 'target = "y"', "data.target", "a key of classification and regression alone"),
        (SMALLEST, 'source = "p.csv"', "data.source", "a key of transport alone"),
        (SMALLEST, 'target_file = "q.csv"', "data.target_file", "a key of transport alone"),
        (f"{SMALLEST}[objective]", "penalty = 1.0", "objective.penalty", "a key of transport alone"),
        (f"{TRANSPORT}[trainer]", "patience = 10", "trainer.patience", "a key of classification and regression alone"),
    ],
)
def test_key_of_another_task_is_refused_with_the_keys_of_this_one(text, line, key, said, tmp_path):
    """The sentence says whose key it is, and which ones this task has."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, f"{text.rstrip()}\n{line}\n")
    assert (key, said) == (refused.value.key, refused.value.received)
    own = {
        "data.file": "source, target_file",
        "data.source": "file, target",
        "objective.penalty": "it has none",
        "trainer.patience": "transport (steps, batch, learning_rate, seed, evaluate_every, validation_percent, check",
    }
    assert own.get(key, "held_out_percent" if "data" in key else "") in refused.value.expected


def test_named_source_is_kept_as_it_is_and_an_unknown_one_names_the_nearest(tmp_path):
    """A picture of scikit-learn lies in no folder of the job."""
    config = load(tmp_path, TRANSPORT.replace("p.csv", "sklearn:china.jpg"))
    assert ("sklearn:china.jpg", tmp_path / "q.png") == (config.data.source, config.data.target_file)
    with pytest.raises(ConfigError, match=r"^data\.source: .*nearest: 'sklearn:china\.jpg'.*received 'sklearn:chian"):
        load(tmp_path, TRANSPORT.replace("p.csv", "sklearn:chian.jpg"))
    with pytest.raises(ConfigError, match=r"^data\.target_file: .*nearest: 'sklearn:flower\.jpg'"):
        load(tmp_path, TRANSPORT.replace("q.png", "sklearn:flowers.jpg"))


def test_target_among_the_features_is_refused(tmp_path):
    """A model must not see what it predicts."""
    with pytest.raises(ConfigError, match=r"^data\.features: .*target 'y'"):
        load(tmp_path, with_key("data", 'features = ["x", "y"]'))


def test_section_that_is_no_table_is_refused():
    """`trainer = 3` is an error of its own."""
    with pytest.raises(ConfigError, match=r"^trainer: expected a table \[trainer\], received 3"):
        parse_config({"trainer": 3}, folder=Path())


def test_missing_file_and_broken_toml_are_refused(tmp_path):
    """A file that is not there, is no TOML, or is no text says so."""
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.toml")
    for content in (b"[model", b"\xff\xfe"):
        path = tmp_path / "bad.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.toml: expected TOML in UTF-8"):
            load_config(path)


@pytest.mark.parametrize("example", sorted((ROOT / "training" / "examples").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_example_loads_and_its_data_file_is_there(example):
    """What the README tells a stranger to run is a valid configuration."""
    config = load_config(example)
    assert example.stem == config.model.name
    files = [config.data.source, config.data.target_file] if config.model.task == "transport" else [config.data.file]
    assert [] == [file for file in files if file not in NAMED_SOURCES and not Path(file).is_file()]
    assert (ROOT / "models") == config.publish.models_dir.resolve()
