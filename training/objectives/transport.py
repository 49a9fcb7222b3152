"""Optimal transport: a convex score whose gradient maps source rows to target rows.

Over `minimax`, which trains the map, and `gaussian`, the baseline; `objectives` picks it by the task's name.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training import pictures
from training.answers import Answers
from training.assignment import w2_squared
from training.config import METRICS, DataConfig, NetworkConfig, ObjectiveConfig, TrainerConfig
from training.datasets import SUFFIXES, DataError, Samples, Table, read_table
from training.icnn import InputConvexNetwork, create_potential
from training.objectives.comparison import Comparison
from training.objectives.gaussian import fit_map
from training.objectives.minimax import Minimax
from training.pictures import is_picture, read_picture

LINEAR, IDENTITY, FLOOR = "linear (Gaussian) map", "identity", "two draws of the target"
"""The baselines; the last is no map: it is what is left between target rows and others of theirs."""

DRAWS = 5
DRAW_ROWS = 2000
_SEED = 20_260_101

Floats = NDArray[np.floating]


class Transport:
    r"""The Wasserstein-2 map between two samples, as the gradient of a convex score.

    .. math:: T = \nabla f, \qquad W_2^2(P, Q) = \min_{T_\# P = Q} E|X - T(X)|^2

    By Brenier's theorem (Y. Brenier, Polar factorization and monotone rearrangement of vector-valued functions, Comm.
    Pure Appl. Math. 44, 1991) the optimal map is the gradient of a convex function, and every gradient of a convex
    function is the optimal map to where it leads. So a score that is proved convex is an optimal map for certain; what
    training has to reach, and the metrics measure, is that it leads to the target.

    Args:
        objective: the `[objective]` section, of the minimax.
        batch: rows of a batch, which each training side must have.
    """

    task = "transport"
    threshold: float | None = None

    def __init__(self, objective: ObjectiveConfig, batch: int) -> None:
        self.objective = objective
        self.batch = batch
        self._found: dict[bytes, NDArray[np.float64]] = {}  # a job asks for the same distances more than once

    def read(self, data: DataConfig) -> Samples:
        """Return the rows of `data.source` and `data.target_file`: tables, pictures, or one of each.

        Raises:
            DataError: a file cannot be used, or the features are not the same, in the same order.
        """
        source, target = (_read(place, data) for place in (data.source, data.target_file))
        if source.features != target.features:
            message = (
                f"{source.file} and {target.file}: expected the same columns in both, received {_listed(source)} and "
                f"{_listed(target)}. Name the common ones in data.features."
            )
            raise DataError(message)
        return Samples(source, target)

    def check(self, data: Samples, side: str = "") -> None:
        """Refuse sides of too few rows: training ones need a batch, the others two each, to be measured by halves.

        Args:
            data: the rows.
            side: which of the files' rows they are, e.g. `held-out`; empty: all.

        Raises:
            DataError: names the file, what it has and what it needs.
        """
        fits = side in {"", "training"}
        for name, table in (("source", data.source), ("target", data.target)):
            needed = self.batch if fits else 2
            if len(table) < needed:
                what = f"{needed} {side} {name} rows".replace("  ", " ")
                why = f"at least trainer.batch = {what}" if fits else f"at least {what}"
                advice = "Give more rows, or lower trainer.batch." if fits else "Give more rows."
                message = f"{table.file}: expected {why}, received {len(table)}. {advice}"
                raise DataError(message)

    def create_network(self, network: NetworkConfig, train: Samples, seed: int) -> InputConvexNetwork:
        """Return a new network, whose gradient starts as the shift from the source's mean to the target's."""
        return create_potential(network, train.source.x, train.target.x, seed=seed)

    def start(
        self, network: InputConvexNetwork, train: Samples, validation: Samples, settings: TrainerConfig
    ) -> Minimax:
        """Return a run of the minimax that fits `network` in place."""
        return Minimax(network, train, validation, settings, self.objective)

    def metrics(self, answers: Answers, held_out: Samples) -> dict[str, float]:
        r"""Return how near the mapped source rows are to the target rows, and how far the map moves them.

        `w2_squared`: the squared Wasserstein-2 distance (no factor one half), in the square of the features' unit, mean
        over `DRAWS` draws (`draws`); `w2`, its root, in their unit; `w2_uvp`, the same in percent of the target's
        variance, of which 100 is what a map of all rows to the target's mean would leave:

        .. math:: 100\,W_2^2(T_\# P, Q) \,/\, \sum_j \mathrm{Var}\, Y_j

        and `transport_cost`, the mean of |T(x) - x|^2 over all rows, which is W2^2 of source and target where the map
        is exact.

        Args:
            answers: to the held-out source rows; the gradient is T.
            held_out: the rows.

        Raises:
            DataError: fewer than two rows on a side, so that nothing can be drawn, or a gradient that is not finite.
        """
        for table in (held_out.source, held_out.target):
            if len(table) < 2:
                message = f"{table.file}: a transport is measured on two or more rows a side, received {len(table)}."
                raise DataError(message + " Give more rows.")
        if not np.isfinite(answers.gradient).all():
            message = f"{held_out.file}: expected finite gradients at all rows, received NaN or infinity."
            raise DataError(message + " Look for extreme values.")
        cost = np.mean(np.sum((answers.gradient.astype(np.float64) - held_out.x) ** 2, axis=1))
        return {**_named(self._distances(answers, held_out), held_out), "transport_cost": float(cost)}

    def row_losses(self, answers: Answers, rows: Samples) -> None:
        """Return None: a source row has no target of its own, and so no loss."""

    def baselines(
        self,
        train: Samples,
        held_out: Samples,
        seed: int,  # noqa: ARG002  # of models that draw; none here does
    ) -> dict[str, dict[str, float]]:
        """Return the same metrics of the best affine map and of no map, and what two draws of the target differ by."""
        x = held_out.x
        maps = {LINEAR: fit_map(train.source.x, train.target.x)(x), IDENTITY: x}
        found = {name: self.metrics(Answers(np.zeros(len(x)), mapped), held_out) for name, mapped in maps.items()}
        return {**found, FLOOR: _named(floor_distances(held_out), held_out)}

    def compare(self, champion: Answers | None, challenger: Answers, held_out: Samples, metric: str) -> Comparison:
        """Return one metric of both versions over the same draws, with its standard errors (`error_of_mean`).

        Its floor is that of two draws of the target: distances between fewer rows are larger, under any map.
        """
        after = self._distances(challenger, held_out)
        value = _named(after, held_out)[metric]
        smaller = min(len(held_out.source), len(held_out.target))
        if champion is None:
            return Comparison(None, value, smaller)
        before, floor = self._distances(champion, held_out), floor_distances(held_out)
        old, least = (_named(found, held_out)[metric] for found in (before, floor))
        rows = draw_rows(held_out)
        share = rows / smaller
        after, before, floor = (_in_unit(found, metric, held_out) for found in (after, before, floor))
        return Comparison(
            old,
            value,
            smaller,
            error_of_mean(after - before, share),
            error_of_mean(before - floor, share),
            f"{DRAWS} paired draws of {rows} rows a side",
            least,
        )

    def _distances(self, answers: Answers, held_out: Samples) -> NDArray[np.float64]:
        """Return the distances of the draws, NaN where a gradient is not finite."""
        if not np.isfinite(answers.gradient).all():
            return np.full(DRAWS, np.nan)
        key = b"".join(hashlib.sha256(x.tobytes()).digest() for x in (answers.gradient, held_out.target.x))
        if key not in self._found:
            self._found[key] = distances(answers.gradient, held_out)
        return self._found[key]


def draw_rows(held_out: Samples) -> int:
    """Return how many rows of each side are drawn: half of the smaller side, at most `DRAW_ROWS`.

    Half, so that draws differ, and a second draw of the target has as many rows that the first has not.
    """
    return min(DRAW_ROWS, len(held_out.source) // 2, len(held_out.target) // 2)


def draws(held_out: Samples) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield `DRAWS` times the numbers of drawn source rows, of target rows, and of as many other target rows.

    Rows are drawn without replacement, by a fixed seed: versions and baselines are measured on the same ones.
    """
    generator = np.random.default_rng(_SEED)
    rows = draw_rows(held_out)
    for _ in range(DRAWS):
        source = generator.permutation(len(held_out.source))[:rows]
        target = generator.permutation(len(held_out.target))[: 2 * rows]
        yield source, target[:rows], target[rows:]


def distances(mapped: Floats, held_out: Samples) -> NDArray[np.float64]:
    """Return the squared Wasserstein-2 distance of each draw, [DRAWS].

    Args:
        mapped: [n, d], where the map leads each held-out source row.
        held_out: the rows.
    """
    return np.array([w2_squared(mapped[source], held_out.target.x[target]) for source, target, _ in draws(held_out)])


def floor_distances(held_out: Samples) -> NDArray[np.float64]:
    """Return the squared Wasserstein-2 distance between each draw's target rows and as many others, [DRAWS]."""
    target = held_out.target.x
    return np.array([w2_squared(target[drawn], target[rest]) for _, drawn, rest in draws(held_out)])


def error_of_mean(values: NDArray[np.float64], share: float) -> float:
    r"""Return the standard error of the mean of values from overlapping draws of the same rows.

    .. math:: s \sqrt{\frac1D + \frac{q}{1 - q}}

    with s the standard deviation over the D draws, each of a share q of the rows: the first term is for the draws, the
    second for the rows that all of them come from (the delete-d jackknife: J. Shao, C. Wu, A general theory for
    jackknife variance estimation, Annals of Statistics 17, 1989).

    Args:
        values: [D], a number of each draw.
        share: q, of the smaller side, above 0 and below 1.
    """
    return float(values.std(ddof=1) * np.sqrt(1.0 / len(values) + share / (1.0 - share)))


def _named(values: NDArray[np.float64], held_out: Samples) -> dict[str, float]:
    """Return the metrics that the draws' distances are."""
    mean = values.mean(keepdims=True)
    return {name: float(_in_unit(mean, name, held_out)[0]) for name in METRICS["transport"]}


def _in_unit(values: NDArray[np.float64], metric: str, held_out: Samples) -> NDArray[np.float64]:
    """Return squared distances as a metric has them; a target of one point is taken to have the variance 1."""
    if metric == "w2":
        return np.sqrt(values)
    variance = float(held_out.target.x.var(axis=0).sum()) or 1.0
    return 100.0 * values / variance if metric == "w2_uvp" else values


def _read(place: Path | str, data: DataConfig) -> Table:
    """Return the rows of one side."""
    if isinstance(place, str) or is_picture(place):
        return read_picture(place, features=data.features)
    if place.suffix.lower() not in SUFFIXES:
        endings = ", ".join((*SUFFIXES, *pictures.SUFFIXES))
        message = f"{place.name}: expected a table or a picture, a file that ends in {endings}. Convert it."
        raise DataError(message)
    return read_table(place, target=None, features=data.features, max_bad_rows_percent=data.max_bad_rows_percent)


def _listed(table: Table) -> str:
    """Return how many columns a table has, and the first of their names."""
    names = ", ".join(table.features[:6]) + (", ..." if len(table.features) > 6 else "")
    return f"{len(table.features)} ({names})"
