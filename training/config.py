"""The configuration of one training job: frozen dataclasses read from TOML, with errors that name the key.

At the bottom of training: every module above may read its section; `pipeline` loads the file.
"""

import dataclasses
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from training import hooks
from training.config_reading import ConfigError as ConfigError
from training.config_reading import nearest, read_section, shown
from training.hooks import Hook

METRICS: Mapping[str, tuple[str, ...]] = {
    "classification": ("roc_auc", "log_loss", "brier", "calibration_error", "accuracy"),
    "regression": ("r2", "rmse", "mae"),
    "transport": ("w2_uvp", "w2_squared", "w2"),
}
"""The metrics of each task; the first is the one that the gate compares where the file names none."""

HIGHER_IS_BETTER = frozenset({"roc_auc", "accuracy", "r2"})
"""The metrics of which more is better; of all others less is better."""

TOLERANCES: Mapping[str, float] = {"classification": 0.005, "regression": 0.005, "transport": 2.0}
"""How much worse the first metric of each task may be where the file names no tolerance."""

CONTEXT_ACTIVATIONS = ("softplus", "relu", "elu", "tanh", "sigmoid", "silu")
"""Activations of the context's own layers: convex or not, the score is not convex in the context anyway."""

NAMED_SOURCES = ("sklearn:china.jpg", "sklearn:flower.jpg")
"""Pictures that come with scikit-learn, as a configuration names them."""

_LATER_TASKS = ("density",)
_SUPERVISED, _TRANSPORT = ("classification", "regression"), ("transport",)


def _option(
    expected: str,
    read: Callable[[Any], Any],
    default: Any = dataclasses.MISSING,
    *,
    tasks: tuple[str, ...] = (),
    required: bool = False,
) -> Any:
    """Return a dataclass field whose TOML value is checked by `read` (None = refused) and described by `expected`.

    Args:
        expected: what belongs there, for the error.
        read: returns the value as it is kept.
        default: without one the key is required.
        tasks: the tasks that have this key; empty: all.
        required: whether those tasks must have it, though there is a default for the others.
    """
    metadata = {"expected": expected, "read": read, "tasks": tasks, "required": required}
    return dataclasses.field(default=default, metadata=metadata)


def _integer(low: int, high: int) -> Callable[[Any], int | None]:
    return lambda value: value if type(value) is int and low <= value <= high else None


def _number(
    low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            return None
        return None if (open_low and value == low) or (open_high and value == high) else float(value)

    return read


def _truth(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _text(pattern: str) -> Callable[[Any], str | None]:
    return lambda value: value if isinstance(value, str) and re.fullmatch(pattern, value) else None


def _path(value: Any) -> Path | None:
    return Path(value) if isinstance(value, str) and value else None


def _source(value: Any) -> Path | str | None:
    """Return a named source as the text that it is, anything else as a path."""
    return value if isinstance(value, str) and value.startswith("sklearn:") else _path(value)


def _sizes(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not 1 <= len(value) <= 64:
        return None
    return tuple(value) if all(type(size) is int and 1 <= size <= 65_536 for size in value) else None


def _names(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        return None
    return tuple(value) if len(set(value)) == len(value) else None


def server_address(value: Any) -> str | None:
    """Return the http(s) address of a server without a slash at its end, "" for none, None for anything else.

    One with a user's name is refused: the address stands in logs and manifests, and a password would too.
    """
    if value == "":
        return ""
    hook = hooks.read(value) if isinstance(value, str) else None
    return value.rstrip("/") if hook is not None and hook.url and not urlsplit(value).username else None


_SOURCE = f"a path of a table or picture, relative to this file, or one of: {', '.join(NAMED_SOURCES)}"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """`[model]`: what is trained."""

    name: str = _option("1 to 64 of A-Z a-z 0-9 _ -", _text(r"[A-Za-z0-9_-]{1,64}"))
    task: str = _option("one of: " + ", ".join(METRICS), _text("|".join(METRICS)))


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """`[data]`: the file or files, their columns, and the held-out rule.

    The score is convex in the columns `features`, for each value of the columns `context`.
    """

    file: Path = _option("a path, relative to this file", _path, Path(), tasks=_SUPERVISED, required=True)  # noqa: RUF009  # a field
    target: str = _option("the target column's name", _text(r"(?s).+"), "", tasks=_SUPERVISED, required=True)
    source: Path | str = _option(_SOURCE, _source, "", tasks=_TRANSPORT, required=True)  # noqa: RUF009  # a field
    target_file: Path | str = _option(_SOURCE, _source, "", tasks=_TRANSPORT, required=True)  # noqa: RUF009  # a field
    features: tuple[str, ...] = _option("a list of distinct column names (empty: all others)", _names, ())
    context: tuple[str, ...] = _option(
        "a list of distinct column names (empty: no context)", _names, (), tasks=_SUPERVISED
    )
    held_out_percent: int = _option("a whole number from 1 to 90", _integer(1, 90), 20)
    salt: str = _option("a text", _text(r"(?s).*"), "convex-scoring")
    max_bad_rows_percent: float = _option("a number from 0 to 100", _number(0, 100), 1.0)


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """`[network]`: the shape of the input-convex network; the last three keys are of the context's part of it."""

    hidden: tuple[int, ...] = _option("a list of 1 to 64 layer widths, each from 1 to 65536", _sizes, (64, 64))
    activation: str = _option("an activation's name", _text(r".+"), "softplus")
    first_activation: str = _option("an activation's name, or '' for that of the hidden layers", _text(r".*"), "")
    positivity: str = _option("'projection'", _text("projection"), "projection")
    quadratic: float = _option("a number from 0 to 1e6", _number(0, 1e6), 1e-3)
    support: bool = _option("true or false", _truth, False)
    unit: str = _option("'dense', 'maxout' or 'log_sum_exp'", _text(r"dense|maxout|log_sum_exp"), "dense")
    pieces: int = _option("a whole number from 1 to 64, for maxout and log_sum_exp", _integer(1, 64), 2)
    context_units: int = _option("a whole number from 1 to 65536", _integer(1, 65_536), 32, tasks=_SUPERVISED)
    context_activation: str = _option(
        "one of: " + ", ".join(CONTEXT_ACTIVATIONS), _text("|".join(CONTEXT_ACTIVATIONS)), "softplus", tasks=_SUPERVISED
    )
    gate: str = _option("a gate's name", _text(r".+"), "softplus", tasks=_SUPERVISED)


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """`[objective]`: the task's own keys; classification and regression have none.

    Those of transport: steps of the inverse map's network for each step of the map's; the factor of the penalty on
    negative weights of the former; how much of the averaged weights stays at each step; the norm of a gradient above
    which the run counts as diverged; and what becomes of variables that no gradient can reach: the job is refused, or
    they stay as they start.
    """

    inner_steps: int = _option("a whole number from 1 to 1000", _integer(1, 1000), 5, tasks=_TRANSPORT)
    penalty: float = _option("a number from 0 to 1e6", _number(0, 1e6), 1.0, tasks=_TRANSPORT)
    averaging: float = _option("a number from 0, below 1", _number(0, 1, open_high=True), 0.999, tasks=_TRANSPORT)
    max_gradient_norm: float = _option("a number above 0", _number(0, 1e300, open_low=True), 1e4, tasks=_TRANSPORT)
    untrained: str = _option("'refuse' or 'freeze'", _text("refuse|freeze"), "refuse", tasks=_TRANSPORT)


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """`[trainer]`: the budget, in steps and evaluations, never seconds. A transport takes all its steps.

    A training that is killed goes on from its last checkpoint, to the same weights; how often there is one changes
    nothing of them.
    """

    steps: int = _option("a whole number from 1 to 10000000", _integer(1, 10_000_000), 4000)
    batch: int = _option("a whole number from 1 to 1048576", _integer(1, 1_048_576), 128)
    learning_rate: float = _option("a number above 0, at most 1", _number(0, 1, open_low=True), 1e-3)
    seed: int = _option("a whole number from 0 to 4294967295", _integer(0, 2**32 - 1), 7)
    patience: int = _option(
        "a whole number from 1 to 1000000, in evaluations", _integer(1, 1_000_000), 10, tasks=_SUPERVISED
    )
    evaluate_every: int = _option("a whole number from 1 to 1000000, in steps", _integer(1, 1_000_000), 50)
    validation_percent: int = _option("a whole number from 1 to 50", _integer(1, 50), 20)
    checkpoint_every: int = _option(
        "a whole number from 0 to 10000000, in steps (0: as often as costs 1 % of the time)", _integer(0, 10_000_000), 0
    )


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """`[gate]`: what a retrained version must reach; an empty `metric` is the task's first one.

    From `max_psi` on, limits of the data: the population stability index of a column, and of the target; rows outside
    of a column's range; how many more cells of a column are missing; rows with another label than they had; how often
    one row may be copied; how much worse the champion may do on new rows than on held-out ones, in standard errors; and
    held-out rows of which training has a near copy.
    """

    metric: str = _option("a metric of the task", _text(r"[a-z0-9_]+"), "")
    tolerance: float = _option("a number from 0 to 1e6", _number(0, 1e6), 0.005)
    max_score_drift: float = _option("a number above 0, at most 1e6", _number(0, 1e6, open_low=True), 0.2)
    min_rows: int = _option("a whole number from 1 to 1000000000", _integer(1, 1_000_000_000), 50)
    max_psi: float = _option("a number from 0 to 1e6", _number(0, 1e6), 0.25)
    max_target_psi: float = _option("a number from 0 to 1e6", _number(0, 1e6), 0.25)
    max_outside_percent: float = _option("a number from 0 to 100", _number(0, 100), 5.0)
    max_missing_percent: float = _option("a number from 0 to 100", _number(0, 100), 2.0)
    max_relabelled_percent: float = _option("a number from 0 to 100", _number(0, 100), 5.0, tasks=_SUPERVISED)
    max_copies_percent: float = _option("a number from 0 to 100", _number(0, 100), 5.0)
    max_surprise: float = _option("a number from 0 to 1e6", _number(0, 1e6), 3.5, tasks=_SUPERVISED)
    max_near_copies_percent: float = _option("a number from 0 to 100", _number(0, 100), 5.0)


@dataclasses.dataclass(frozen=True)
class PublishConfig:
    """`[publish]`: where a version goes, how many stay, whose readiness to wait for, and whom to tell."""

    models_dir: Path = _option("a folder, relative to this file", _path, Path("models"))  # noqa: RUF009  # a field
    keep: int = _option("a whole number from 1 to 1000000", _integer(1, 1_000_000), 5)
    wait_available: str = _option("'' or the http(s) address of a server", server_address, "")
    keep_reports: int = _option("a whole number from 1 to 1000000", _integer(1, 1_000_000), 100)
    on_published: Hook = _option(hooks.EXPECTED, hooks.read, Hook())  # noqa: RUF009  # a field
    on_refused: Hook = _option(hooks.EXPECTED, hooks.read, Hook())  # noqa: RUF009  # a field
    on_failed: Hook = _option(hooks.EXPECTED, hooks.read, Hook())  # noqa: RUF009  # a field


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """One training job, checked. `document` is the TOML, verbatim but for secrets of hooks: the manifest has it."""

    model: ModelConfig
    data: DataConfig
    network: NetworkConfig
    objective: ObjectiveConfig
    trainer: TrainerConfig
    gate: GateConfig
    publish: PublishConfig
    document: Mapping[str, Any]


_SECTIONS: Mapping[str, type] = {
    "data": DataConfig,
    "network": NetworkConfig,
    "objective": ObjectiveConfig,
    "trainer": TrainerConfig,
    "gate": GateConfig,
    "publish": PublishConfig,
}


def load_config(path: Path) -> TrainingConfig:
    """Return the checked configuration in the TOML file `path`; relative paths in it start at its folder.

    Raises:
        ConfigError: the file is missing or no TOML; a section or key is unknown (the nearest known one is named),
            missing, of the wrong type or out of range.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(str(path), "a readable TOML file", err.strerror or type(err).__name__) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(path.name, "TOML in UTF-8", str(err)) from err
    return parse_config(document, folder=path.absolute().parent)


def parse_config(document: Mapping[str, Any], *, folder: Path) -> TrainingConfig:
    """Return the checked configuration of a parsed TOML `document`; relative paths in it start at `folder`.

    Raises:
        ConfigError: as `load_config`, for everything but the file itself.
    """
    for section, keys in document.items():
        if section not in ("model", *_SECTIONS):
            raise ConfigError(section, nearest(section, ("model", *_SECTIONS), "section"), "an unknown section")
        if not isinstance(keys, dict):
            raise ConfigError(section, f"a table [{section}]", shown(keys))
    task = document.get("model", {}).get("task")
    if task in _LATER_TASKS:
        raise ConfigError("model.task", "one of: " + ", ".join(METRICS), f"'{task}', which is not offered yet")
    model = read_section("model", ModelConfig, document.get("model", {}), "")
    sections: dict[str, Any] = {
        name: read_section(name, kind, document.get(name, {}), model.task) for name, kind in _SECTIONS.items()
    }
    config = TrainingConfig(model=model, **sections, document=hooks.without_secrets(document))
    _check_columns(config)
    task = config.model.task
    metrics = METRICS[task]
    metric = config.gate.metric or metrics[0]
    if metric not in metrics:
        expected = f"a metric of {config.model.task} ({', '.join(metrics)})"
        raise ConfigError("gate.metric", expected, f"'{metric}'")
    return dataclasses.replace(
        config,
        data=_located(config.data, folder),
        gate=dataclasses.replace(config.gate, metric=metric, tolerance=_tolerance(config, metric)),
        publish=_placed(config.publish, folder),
    )


def _check_columns(config: TrainingConfig) -> None:
    """Refuse a column that stands for two things, and a named source that nobody has."""
    data = config.data
    for key, names in (("features", data.features), ("context", data.context)):
        if data.target in names:
            raise ConfigError(f"data.{key}", "columns other than the target", f"the target '{data.target}'")
    for name in data.context:
        if name in data.features:
            raise ConfigError("data.context", "columns that are not among data.features", f"'{name}'")
    if data.context and config.network.support:
        raise ConfigError("network.support", "false beside data.context", "true")
    for key, source in (("source", data.source), ("target_file", data.target_file)):
        if source and isinstance(source, str) and source not in NAMED_SOURCES:
            raise ConfigError(f"data.{key}", nearest(source, NAMED_SOURCES, "named source"), f"'{source}'")


def _located(data: DataConfig, folder: Path) -> DataConfig:
    """Return the section with its relative paths below `folder`; a named source has no folder."""
    paths = {
        key: folder / path
        for key, path in (("file", data.file), ("source", data.source), ("target_file", data.target_file))
        if isinstance(path, Path)
    }
    return dataclasses.replace(data, **paths)  # type: ignore[arg-type]  # three fields that hold paths


def _placed(publish: PublishConfig, folder: Path) -> PublishConfig:
    """Return the section with its folder and the programs of its hooks below `folder`, where they are relative."""
    told = {key: getattr(publish, key).located(folder) for key in (f"on_{event}" for event in hooks.EVENTS)}
    return dataclasses.replace(publish, models_dir=folder / publish.models_dir, **told)


def _tolerance(config: TrainingConfig, metric: str) -> float:
    """Return the gate's tolerance; where none is given, that of the task's first metric.

    Raises:
        ConfigError: none is given for a transport's metric whose unit is that of the data.
    """
    task = config.model.task
    if "tolerance" in config.document.get("gate", {}):
        return config.gate.tolerance
    if task == "transport" and metric != METRICS[task][0]:
        raise ConfigError("gate.tolerance", f"a number in the unit of {metric}, which is that of the data", "nothing")
    return TOLERANCES[task]
