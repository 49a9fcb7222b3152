"""Nights of the shipped data in memory: rows in a drawn order, a champion of the first ones, and the gate's verdict.

What `retrain` does, less the files: the networks themselves answer, not the programs that are lifted from them.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training import evidence, fingerprint, gate
from training.answers import Answers
from training.champion import past
from training.config import TrainingConfig, parse_config
from training.data_facts import data_facts
from training.datasets import Table, read_table
from training.objectives import create_objective
from training.pipeline import OWN, Rows, read_rows
from training.trainer import fit

EXAMPLES = Path(__file__).parents[2] / "training" / "examples"
TARGETS = {"tumours": ("malignant", "classification"), "diabetes": ("progression", "regression")}

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""New rows x and y to what arrives instead."""


@dataclasses.dataclass(frozen=True, eq=False)
class Version:
    """A trained network with what its manifest would say."""

    network: keras.Model
    data: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def dim(self) -> int:
        """The number of features."""
        return self.network.dim

    def ask(self, x: np.ndarray) -> Answers:
        """Return the network's answers."""
        rows = tf.constant(x, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(rows)
            score = self.network(rows)
        return Answers(score.numpy(), tape.gradient(score, rows).numpy())


def shuffled(name: str, seed: int) -> Table:
    """Return the rows of a shipped data set in a drawn order."""
    table = read_table(EXAMPLES / f"{name}.csv", target=TARGETS[name][0])
    order = np.random.default_rng(seed).permutation(len(table))
    return dataclasses.replace(table, x=table.x[order], y=table.y[order])


def first_rows(table: Table, count: int) -> Table:
    """Return the first rows of a table."""
    return dataclasses.replace(table, x=table.x[:count], y=table.y[:count], rows_read=count)


def night_of(table: Table, before: int, new: int, change: Change | None = None) -> Table:
    """Return a file that has grown by new rows, changed on their way or not."""
    x, y = table.x[before : before + new].copy(), table.y[before : before + new].copy()
    if change is not None:
        x, y = change(x, y)
    x, y = np.concatenate([table.x[:before], x]), np.concatenate([table.y[:before], y])
    return dataclasses.replace(table, x=x, y=y, rows_read=len(x))


def job(name: str, *, salt: str = "nights", seed: int = 7, steps: int = 300, **limits: Any) -> TrainingConfig:
    """Return a short job on a shipped data set."""
    target, task = TARGETS[name]
    document = {
        "model": {"name": name, "task": task},
        "data": {"file": f"{name}.csv", "target": target, "salt": salt},
        "network": {"hidden": [16]},
        "trainer": {"steps": steps, "seed": seed, "batch": 64, "learning_rate": 0.003, "evaluate_every": 25},
        "gate": {"min_rows": 20, **limits},
    }
    return parse_config(document, folder=EXAMPLES)


def split_of(config: TrainingConfig, table: Table) -> Rows[Table]:
    """Return the sides of a table, as a job splits its file's rows."""
    objective = create_objective(config)
    objective.read = lambda _data: table  # type: ignore[method-assign]
    return read_rows(config, objective)


def train(config: TrainingConfig, rows: Rows[Table], champion: Version | None = None) -> Version:
    """Return the version that a job trains: from the champion's weights, or from new ones."""
    objective = create_objective(config)
    network = objective.create_network(config.network, rows.train, config.trainer.seed)
    if champion is not None:
        network = keras.models.clone_model(champion.network)
        network.set_weights(champion.network.get_weights())
    fit(objective.start(network, rows.train, rows.validation, config.trainer), config.trainer)
    version = Version(network, {}, {})
    answers = version.ask(rows.held_out.x)
    data = {
        **data_facts(rows, config.data.target),
        **fingerprint.facts(rows.data, config.data.target),
        **evidence.facts(objective, rows, version.ask),
    }
    metrics = {OWN: objective.metrics(answers, rows.held_out)}
    return Version(network, data, {"held_out": {"rows": len(rows.held_out), **metrics[OWN]}})


def judged(config: TrainingConfig, rows: Rows[Table], champion: Version, challenger: Version) -> gate.GateReport:
    """Return the gate's verdict on a challenger."""
    objective = create_objective(config)
    found = evidence.gather(config, objective, rows, (champion.data, champion.ask), challenger.ask)
    old, new = champion.ask(rows.held_out.x), challenger.ask(rows.held_out.x)
    comparison = objective.compare(old, new, rows.held_out, config.gate.metric)
    told = past(champion, config.gate.metric, rows.train)  # type: ignore[arg-type]  # has what is asked of a manifest
    return gate.judge(old, new, comparison, config=config.gate, past=told, evidence=found)


def live_through(
    config: TrainingConfig, table: Table, before: int, new: int, change: Change | None = None
) -> gate.GateReport:
    """Return the verdict of the night after the champion's: `before` rows, then `new` ones more."""
    rows = split_of(config, first_rows(table, before))
    champion = train(config, rows)
    tonight = split_of(config, night_of(table, before, new, change))
    return judged(config, tonight, champion, train(config, tonight, champion))
