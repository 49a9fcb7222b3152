"""Transport: what is read and refused, the distances against closed forms, draws, errors, baselines, the gate."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import gate
from training.answers import Answers
from training.config import DataConfig, GateConfig, NetworkConfig, ObjectiveConfig, TrainerConfig, parse_config
from training.datasets import DataError, Samples, Table
from training.objectives import create_objective, transport
from training.objectives.minimax import Minimax
from training.objectives.transport import FLOOR, IDENTITY, LINEAR, Transport

OBJECTIVE = Transport(ObjectiveConfig(), batch=4)
SHIFT = np.array([3.0, -4.0])


def table_of(x: np.ndarray, file: str = "rows.csv", features: tuple[str, ...] | None = None) -> Table:
    """Return a table without a target."""
    return Table(features or tuple(f"x{i}" for i in range(x.shape[1])), x, np.empty((len(x), 0)), file)


def samples_of(source: np.ndarray, target: np.ndarray) -> Samples:
    """Return two tables."""
    return Samples(table_of(source, "p.csv"), table_of(target, "q.csv"))


def normal(rows: int, dim: int = 2, seed: int = 0) -> np.ndarray:
    """Return standard normal rows."""
    return np.random.default_rng(seed).normal(size=(rows, dim))


def answers_of(mapped: np.ndarray) -> Answers:
    """Return answers with this map."""
    return Answers(np.zeros(len(mapped)), mapped)


def config_of(source: Path | str, target: Path | str, *features: str) -> DataConfig:
    """Return the `[data]` section of a job on these files."""
    data = {"source": str(source), "target_file": str(target), "features": list(features)}
    return parse_config({"model": {"name": "m", "task": "transport"}, "data": data}, folder=Path()).data


def write(path: Path, text: str) -> Path:
    """Write a file and return its path."""
    path.write_text(text)
    return path


# ----------------------------------------------------------------------------------------------------- read and check
def test_read_takes_a_table_and_a_picture_of_the_same_columns(tmp_path):
    """A palette in a CSV is a target for a photograph; rows that are not finite are dropped as everywhere."""
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "p.png")
    palette = "blue,green,red\n9,8,7\nnan,1,1\n6,5,4\n"
    data = config_of(tmp_path / "p.png", write(tmp_path / "q.csv", palette), "red", "green", "blue")
    samples = OBJECTIVE.read(parse_limit(data))
    assert ([[1.0, 2.0, 3.0]] * 4, [[7.0, 8.0, 9.0], [4.0, 5.0, 6.0]]) == (
        samples.source.x.tolist(), samples.target.x.tolist(),
    )  # fmt: skip
    assert (("red", "green", "blue"), 3, {"a missing number": 1}) == (
        samples.features, samples.target.rows_read, dict(samples.target.dropped),
    )  # fmt: skip


def parse_limit(data: DataConfig) -> DataConfig:
    """Return the section with half of the rows allowed to be bad."""
    return DataConfig(**{**vars(data), "max_bad_rows_percent": 50.0})


@pytest.mark.parametrize(
    ("target", "said"),
    [("a,b,c\n1,2,3\n", r"2 \(a, b\) and 3 \(a, b, c\)"), ("b,a\n1,2\n", r"2 \(a, b\) and 2 \(b, a\)"),
     ("a\n1\n", r"2 \(a, b\) and 1 \(a\)")],
)  # fmt: skip
def test_files_of_other_columns_are_refused_with_both_names(tmp_path, target, said):
    """A map needs the same features on both sides, in the same order; the sentence says how to name them."""
    data = config_of(write(tmp_path / "p.csv", "a,b\n1,2\n"), write(tmp_path / "q.csv", target))
    with pytest.raises(DataError, match=rf"^p\.csv and q\.csv: expected the same columns .*{said}.*data\.features"):
        OBJECTIVE.read(data)


def test_named_features_make_files_of_other_columns_fit(tmp_path):
    """Order and number are those of the configuration."""
    p, q = write(tmp_path / "p.csv", "a,b\n1,2\n"), write(tmp_path / "q.csv", "b,c,a\n5,6,7\n")
    samples = OBJECTIVE.read(config_of(p, q, "a", "b"))
    assert ([[1.0, 2.0]], [[7.0, 5.0]]) == (samples.source.x.tolist(), samples.target.x.tolist())


@pytest.mark.parametrize(
    ("sizes", "side", "said"),
    [
        ((3, 9), "", r"p\.csv: expected at least trainer\.batch = 4 source rows, received 3\. .* lower trainer\.batch"),
        ((9, 3), "training", r"q\.csv: .* trainer\.batch = 4 training target rows, received 3"),
        ((9, 1), "held-out", r"q\.csv: expected at least 2 held-out target rows, received 1\. Give more rows\.$"),
        ((1, 9), "validation", r"p\.csv: expected at least 2 validation source rows, received 1"),
    ],
)
def test_too_few_rows_are_refused_with_side_number_and_advice(sizes, side, said):
    """A training side has a batch, a measured one two rows; which file lacks rows is named."""
    with pytest.raises(DataError, match=said):
        OBJECTIVE.check(samples_of(normal(sizes[0]), normal(sizes[1])), side)


def test_enough_rows_pass_on_every_side():
    """A batch on training sides, two rows elsewhere."""
    for side in ("", "training"):
        OBJECTIVE.check(samples_of(normal(4), normal(4)), side)
    for side in ("validation", "held-out"):
        OBJECTIVE.check(samples_of(normal(2), normal(2)), side)


# ------------------------------------------------------------------------------------------------------------ metrics
def test_distance_of_points_is_the_square_of_their_distance():
    """All source rows are mapped to (3, -4), all target rows are 0: W2 squared is 25, without a factor one half."""
    held_out = samples_of(np.ones((10, 2)), np.zeros((8, 2)))
    metrics = OBJECTIVE.metrics(answers_of(np.tile(SHIFT, (10, 1))), held_out)
    expected = {"w2_uvp": 2500.0, "w2_squared": 25.0, "w2": 5.0, "transport_cost": 4.0 + 25.0}
    assert pytest.approx(expected) == metrics


def test_map_of_all_rows_to_the_targets_mean_leaves_a_hundred_percent():
    """Of a target at (7 +- 3, 7 +- 4), each as often, it leaves the variance: 25 by any draw, 100 percent."""
    corners = np.array([[10.0, 11.0], [10.0, 3.0], [4.0, 11.0], [4.0, 3.0]])
    metrics = OBJECTIVE.metrics(answers_of(np.full((40, 2), 7.0)), samples_of(normal(40), np.tile(corners, (10, 1))))
    assert (25.0, 100.0) == (pytest.approx(metrics["w2_squared"]), pytest.approx(metrics["w2_uvp"]))


def test_distance_after_a_wrong_shift_is_its_square():
    """Mapped rows are target rows moved by 100 times (3, -4): beside that, what draws differ by is nothing."""
    source = normal(600)
    held_out = samples_of(source, normal(500, seed=1))
    metrics = OBJECTIVE.metrics(answers_of(source + 100.0 * SHIFT), held_out)
    assert metrics["w2_squared"] == pytest.approx(250_000.0, rel=0.01)
    assert 250_000.0 == pytest.approx(metrics["transport_cost"])


def test_distance_between_normal_samples_is_that_of_their_closed_form():
    """From N(0, 1) to N(3, 2^2) it is 3^2 + (2 - 1)^2 = 10 (Dowson, Landau 1982), to sampling of 2,000 rows."""
    held_out = samples_of(normal(4000, 1), 3.0 + 2.0 * normal(4000, 1, seed=1))
    found = OBJECTIVE.baselines(held_out, held_out, seed=7)
    assert found[IDENTITY]["w2_squared"] == pytest.approx(10.0, rel=0.05)
    assert 0.0 == found[IDENTITY]["transport_cost"]
    assert found[LINEAR]["transport_cost"] == pytest.approx(10.0, rel=0.05)
    assert {IDENTITY, LINEAR, FLOOR} == set(found)
    assert found[FLOOR]["w2_squared"] < 0.05
    assert found[LINEAR]["w2_squared"] < 0.05


def test_linear_map_leaves_no_more_than_two_draws_where_both_are_normal():
    """It is the optimal map there, so only the sampling of both sides is left."""
    turn = np.array([[2.0, 1.0], [0.0, 0.5]])
    train = samples_of(normal(4000), SHIFT + normal(4000, seed=1) @ turn)
    held_out = samples_of(normal(800, seed=2), SHIFT + normal(800, seed=3) @ turn)
    found = OBJECTIVE.baselines(train, held_out, seed=7)
    assert found[LINEAR]["w2_squared"] < 3.0 * found[FLOOR]["w2_squared"]
    assert found[IDENTITY]["w2_squared"] > 20.0


def test_metrics_of_a_map_that_is_not_finite_are_refused():
    """No distance is made up for it, and a single row cannot be drawn by halves."""
    held_out = samples_of(normal(4), normal(4))
    broken = normal(4)
    broken[2, 1] = np.inf
    with pytest.raises(DataError, match="finite gradients"):
        OBJECTIVE.metrics(answers_of(broken), held_out)
    with pytest.raises(DataError, match=r"two or more rows a side, received 1\."):
        OBJECTIVE.metrics(answers_of(normal(1)), samples_of(normal(1), normal(4)))


# -------------------------------------------------------------------------------------------------- draws and errors
@pytest.mark.parametrize(("sizes", "rows"), [((10, 8), 4), ((3, 100), 1), ((9000, 5000), 2000), ((2, 2), 1)])
def test_draws_are_half_of_the_smaller_side_and_share_no_target_row(sizes, rows):
    """Each of five draws has distinct rows of both sides, and as many other target rows; the next draw is another."""
    held_out = samples_of(np.zeros((sizes[0], 1)), np.zeros((sizes[1], 1)))
    found = list(transport.draws(held_out))
    assert (5, rows) == (len(found), transport.draw_rows(held_out))
    for source, target, rest in found:
        assert [rows] * 3 == [len(set(numbers)) for numbers in (source, target, rest)]
        assert set() == set(target) & set(rest)
    if rows > 1:
        assert 5 == len({source.tobytes() for source, _, _ in found})
    again = list(transport.draws(held_out))
    assert [draw[1].tolist() for draw in found] == [draw[1].tolist() for draw in again]


def test_error_of_the_mean_is_its_formula():
    """Values 1 and 3 have deviation sqrt(2); with half of the rows each: sqrt(2) * sqrt(1/2 + 1)."""
    assert np.sqrt(3.0) == pytest.approx(transport.error_of_mean(np.array([1.0, 3.0]), 0.5))


@pytest.mark.parametrize("drawn", [50, 200])
def test_error_of_the_mean_of_overlapping_draws_is_that_of_the_rows(drawn):
    """For a statistic that is a mean of 400 rows, it is their deviation over 20, whatever share a draw has."""
    generator = np.random.default_rng(5)
    rows = generator.normal(size=400)
    values = np.array([generator.permutation(rows)[:drawn].mean() for _ in range(3000)])
    assert np.std(rows) / 20.0 == pytest.approx(transport.error_of_mean(values, drawn / 400), rel=0.05)


# ------------------------------------------------------------------------------------------------- champion and gate
HELD_OUT = samples_of(normal(400), SHIFT + normal(400, seed=1))


def judged(champion: np.ndarray, challenger: np.ndarray, metric: str = "w2_squared", **seen: float) -> gate.GateReport:
    """Return the gate's report on two maps of the held-out rows; scores are left equal."""
    score = HELD_OUT.x[:, 0]
    old, new = (Answers(score, mapped) for mapped in (champion, challenger))
    limits = GateConfig(metric=metric, tolerance=0.05)
    return gate.judge(old, new, OBJECTIVE.compare(old, new, HELD_OUT, metric), config=limits, past=gate.Past(**seen))


@pytest.mark.parametrize("metric", ["w2_uvp", "w2_squared", "w2"])
def test_gate_refuses_a_worse_map_and_passes_a_better_one(metric):
    """The exact shift beats one that misses by (0.6, 0.8), by about 1 in W2 squared; the other way it is refused."""
    exact, missed = HELD_OUT.x + SHIFT, HELD_OUT.x + SHIFT + [0.6, 0.8]
    refused, passed = judged(exact, missed, metric), judged(missed, exact, metric)
    assert (False, True) == (refused.passed, passed.passed)
    assert "gate.tolerance" in refused.reasons[0]
    assert refused.difference == pytest.approx(-passed.difference)
    if metric == "w2_squared":
        assert passed.difference == pytest.approx(1.0, abs=0.2)
    assert "5 paired draws of 200 rows a side" == passed.method
    assert passed.difference > 5.0 * passed.standard_error > 0.0


def test_comparison_has_the_metrics_of_both_and_no_error_between_equal_maps():
    """The paired difference of a map with itself is exactly 0, while its own distance does vary with the draw."""
    mapped = HELD_OUT.x + SHIFT
    found = OBJECTIVE.compare(answers_of(mapped), answers_of(mapped), HELD_OUT, "w2_squared")
    own = OBJECTIVE.metrics(answers_of(mapped), HELD_OUT)["w2_squared"]
    assert (own, own, 0.0) == (found.champion, found.challenger, found.standard_error)
    assert found.champion_error > 0.0
    alone = OBJECTIVE.compare(None, answers_of(mapped), HELD_OUT, "w2_squared")
    assert (None, own) == (alone.champion, alone.challenger)


def test_comparison_of_a_map_that_is_not_finite_has_no_number():
    """The gate then says so, and refuses."""
    broken = HELD_OUT.x.copy()
    broken[0, 0] = np.nan
    found = OBJECTIVE.compare(answers_of(HELD_OUT.x), answers_of(broken), HELD_OUT, "w2_squared")
    assert np.isnan(found.challenger)
    assert not judged(HELD_OUT.x, broken).passed


def test_gate_refuses_when_the_champion_fell_on_other_target_rows():
    """Target rows that moved make the champion's own distance another one than when it was published."""
    mapped = HELD_OUT.x + SHIFT
    recorded = OBJECTIVE.metrics(answers_of(mapped), HELD_OUT)["w2_squared"]
    assert judged(mapped, mapped, recorded=recorded).passed
    refused = judged(mapped + 1.0, mapped + 1.0, recorded=recorded)
    assert not refused.passed
    assert "the target rows or the meaning of a column changed" in refused.reasons[0]


def test_gate_does_not_take_a_night_of_fewer_rows_for_another_story():
    """Distances between fewer rows are larger under any map; rows that moved are told apart from that, however few."""
    held_out = samples_of(normal(1200, 6), normal(1200, 6, seed=1))
    exact = Answers(held_out.x[:, 0], held_out.x)
    recorded, floor = (found["w2_squared"] for found in (
        OBJECTIVE.metrics(exact, held_out), OBJECTIVE.baselines(held_out, held_out, 7)[FLOOR]
    ))  # fmt: skip
    for shift, passes in ((0.0, True), (1.5, False)):
        few = samples_of(normal(120, 6, seed=2), shift + normal(120, 6, seed=3))
        same = Answers(few.x[:, 0], few.x)
        comparison = OBJECTIVE.compare(same, same, few, "w2_squared")
        assert comparison.floor == OBJECTIVE.baselines(few, few, 7)[FLOOR]["w2_squared"] > 1.5 * floor
        limits = GateConfig(metric="w2_squared")
        verdict = gate.judge(same, same, comparison, config=limits, past=gate.Past(recorded, floor))
        assert (passes, 60) == (verdict.passed, few_rows_of(verdict.method))
        assert passes or "of it by chance) when it was published" in verdict.reasons[0]


def few_rows_of(method: str) -> int:
    """Return the rows of a draw, as the comparison's method tells them."""
    return int(method.split(" draws of ")[1].split()[0])


@pytest.mark.parametrize("sizes", [(400, 40), (40, 400)])
def test_gate_counts_the_rows_of_the_smaller_side(sizes):
    """Many source rows beside few target rows are few draws, and the other way round."""
    held_out = samples_of(normal(sizes[0]), normal(sizes[1], seed=1))
    same = Answers(held_out.x[:, 0], held_out.x)
    limits = GateConfig(metric="w2_squared", min_rows=41)
    verdict = gate.judge(same, same, OBJECTIVE.compare(same, same, held_out, "w2_squared"), config=limits)
    assert ("40 held-out rows, expected at least gate.min_rows = 41.",) == verdict.reasons


# ------------------------------------------------------------------------------------------------------------- the run
def test_objective_of_a_job_has_its_keys_and_starts_a_minimax():
    """The configuration's sections reach the run; the new network is a potential that starts as the means' shift."""
    document = {"model": {"name": "m", "task": "transport"}, "data": {"source": "p.csv", "target_file": "q.csv"}}
    trainer = {"trainer": {"batch": 16}, "objective": {"penalty": 2.0}}
    objective = create_objective(parse_config({**document, **trainer}, folder=Path()))
    assert (16, 2.0, None, "transport") == (
        objective.batch, objective.objective.penalty, objective.threshold, objective.task,
    )  # fmt: skip
    train = samples_of(normal(50), SHIFT + normal(50, seed=1))
    network = objective.create_network(NetworkConfig(hidden=(4,)), train, 1)
    assert isinstance(objective.start(network, train, train, TrainerConfig(batch=16)), Minimax)
    assert 2 == network.dim
