"""How a bank of filters is summarised and saved: exact counts, no noise, and everything back bit for bit."""

import logging
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.layers.filter_bank import FilterBank
from training.layers.filter_bank_model import FilterBankModel
from training.regularizers import PairwiseOrthogonality

BOTH = pytest.mark.parametrize("create", [FilterBank, FilterBankModel])


def rows(*shape: int) -> np.ndarray:
    """Return normal float32 numbers, the same ones for a shape."""
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no summary be cut to the width of whoever runs the tests."""
    monkeypatch.setenv("COLUMNS", "160")


def summary(model: keras.Model, **arguments) -> list[str]:
    """Return the lines of a model's summary."""
    lines: list[str] = []
    model.summary(print_fn=lambda text, **_: lines.extend(text.splitlines()), line_length=120, **arguments)
    return lines


def cells(lines: list[str]) -> list[list[str]]:
    """Return the rows of the table of a summary."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]


def totals(lines: list[str]) -> dict[str, str]:
    """Return the numbers below the table of a summary by the word before `params`."""
    counted = [line.partition(" params:") for line in lines if " params:" in line]
    return {name.strip(): rest.split()[0] for name, _, rest in counted}


@pytest.mark.parametrize("use_bias", [True, False])
@BOTH
def test_s14_a_summary_is_two_rows_with_the_numbers_of_the_thread(create, use_bias):
    """Input and composite, (None, 7, 7, 10), and 10,250 parameters with biases or 10,240 without."""
    x = keras.Input((7, 7, 1024))
    model = keras.Model(x, create(10, 1, use_bias=use_bias, name="bank")(x))
    lines = summary(model)
    count = "10,250" if use_bias else "10,240"
    first, second = cells(lines)
    assert ["(None, 7, 7, 1024)", "0"] == first[1:]
    assert [f"bank ({create.__name__})", "(None, 7, 7, 10)", count] == second
    assert {"Total": count, "Trainable": count, "Non-trainable": "0"} == totals(lines)


@BOTH
def test_s14_b_counts_follow_the_frozen_filters(create):
    """With k of 10 filters frozen, trainable are (10 - k) 1,025 and k 1,025 are not, for k from 0 to 10."""
    x = keras.Input((7, 7, 1024))
    model = keras.Model(x, create(10, 1)(x))
    for k in range(11):
        model.layers[-1].set_trainable_parts([False] * k + [True] * (10 - k))
        expected = {"Total": 10_250, "Trainable": (10 - k) * 1025, "Non-trainable": k * 1025}
        assert {key: f"{value:,}" for key, value in expected.items()} == totals(summary(model))


@BOTH
def test_s14_b_counts_of_thirty_two_channels_are_those_measured(create):
    """With 32 channels and 3 of 10 filters frozen there are 231 trainable and 99 other parameters."""
    bank = create(10, 1, trainable_parts=[False] * 3 + [True] * 7)
    bank.build((None, 7, 7, 32))
    counts = [sum(int(np.prod(v.shape)) for v in kind) for kind in (bank.trainable_weights, bank.non_trainable_weights)]
    assert [231, 99, 330] == [*counts, bank.count_params()]


def small() -> keras.Model:
    """Return a model of three dense filters, the last of them frozen."""
    x = keras.Input((4,))
    return keras.Model(x, FilterBank(3, name="bank", trainable_parts=[True, True, False])(x))


def test_s14_c_variables_of_the_optimiser_are_listed_apart():
    """Adam's two slots for each trained weight, its step and its rate stand on a line of their own."""
    model = small()
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    assert {"Total": "37", "Trainable": "10", "Non-trainable": "5", "Optimizer": "22"} == totals(summary(model))


def test_s14_d_composite_is_one_row_and_its_filters_come_on_request():
    """The table has a row for each filter, with its own output, count and flag, where nested layers are asked for."""
    model = small()
    assert 2 == len(cells(summary(model)))
    expanded = cells(summary(model, expand_nested=True, show_trainable=True))
    expected = [[f"└ filter_{index} (Filter)", "(None, 1)", "5", flag] for index, flag in enumerate("YYN")]
    assert expected == expanded[2:]


def noise(run, caplog) -> set[tuple[str, str]]:
    """Return kinds and first words of the warnings and of the log records that a run gives."""
    caplog.clear()
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
            warnings.simplefilter("always")
            run()
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    records = {
        (record.name, record.getMessage()[:40]) for record in caplog.records if record.levelno >= logging.WARNING
    }
    return records | {(warning.category.__name__, str(warning.message)[:40]) for warning in caught}


def compiled(layer: keras.layers.Layer) -> keras.Model:
    """Return a functional model of a layer, with an optimiser that has a state to be saved."""
    x = keras.Input((5, 5, 3))
    model = keras.Model(x, layer(x))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_s12_a_saving_and_export_make_no_noise_beyond_that_of_a_dense_layer(tmp_path, caplog):
    """Warnings and log records of saving and exporting a bank, as layer and as model, are those of a plain Dense."""

    def save(model):
        model.save(tmp_path / "model.keras")
        model.save_weights(tmp_path / "model.weights.h5")
        model.export(tmp_path / "exported", verbose=False)

    plain, arguments = compiled(keras.layers.Dense(4)), {"regularizer": "pairwise_orthogonality"}
    expected = noise(lambda: save(plain), caplog)
    for create in (FilterBank, FilterBankModel):
        model = compiled(create(4, 2, trainable_parts=[True, False, True, True], **arguments))
        assert set() == noise(lambda model=model: save(model), caplog) - expected
    assert {("UserWarning", "control")} == noise(lambda: warnings.warn("control", stacklevel=1), caplog)
    assert {("tensorflow", "control")} == noise(lambda: logging.getLogger("tensorflow").warning("control"), caplog)


def test_s12_b_saved_layer_reads_back_bit_for_bit(tmp_path):
    """A `.keras` file of the layer needs no custom objects, and nothing of it is lost."""
    reads_back(FilterBank, tmp_path)


def test_s12_c_saved_model_of_the_bank_reads_back_bit_for_bit(tmp_path):
    """The same holds where the bank derives from Keras' model class."""
    reads_back(FilterBankModel, tmp_path)


def reads_back(create: type[FilterBank], tmp_path: Path) -> None:
    """Assert that outputs, losses, frozen set and arguments are as they were, and that an export computes the same."""
    bank = create(
        4, (2, 3), (1, 2), "same",
        trainable_parts=[True, False, False, True], regularizer=PairwiseOrthogonality(0.3, cosine=True, power=4),
        kernel_initializer="he_normal", bias_initializer="normal", kernel_constraint=keras.constraints.MaxNorm(0.5),
        bias_constraint="non_neg", name="bank",
    )  # fmt: skip
    x = keras.Input((5, 5, 3))
    model = keras.Model(x, bank(x))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    data = rows(3, 5, 5, 3)
    np.testing.assert_array_equal(model.predict_on_batch(data), again.predict_on_batch(data))
    assert [float(loss) for loss in model.losses] == [float(loss) for loss in again.losses]
    assert bank.get_config() == again.get_layer("bank").get_config()
    assert (True, False, False, True) == again.get_layer("bank").trainable_parts
    assert [variable.path for variable in model.trainable_variables] == [v.path for v in again.trainable_variables]
    served = tf.saved_model.load(exported(model, tmp_path / "exported"))
    np.testing.assert_allclose(np.asarray(served.serve(data)), model.predict_on_batch(data), rtol=1e-6)


def exported(model: keras.Model, path) -> str:
    """Export a model without a word, and return the folder."""
    model.export(path, verbose=False)
    return str(path)


def test_s12_b_filter_that_was_frozen_when_saved_can_be_trained_after_loading(tmp_path):
    """A frozen variable is not made untrainable for ever: thawed, it gets a gradient again."""
    x = keras.Input((3,))
    model = keras.Model(x, FilterBank(2, trainable_parts=[False, True], name="bank")(x))
    model.save(tmp_path / "model.keras")
    bank = keras.saving.load_model(tmp_path / "model.keras").get_layer("bank")
    bank.set_trainable_parts([True, True])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.square(bank(rows(4, 3))))
    assert all(slope is not None for slope in tape.gradient(total, bank.trainable_variables))
