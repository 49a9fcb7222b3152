"""Freezing filters of a bank: bit for bit, in both directions, with their biases, by booleans only."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.layers.filter_bank import FilterBank
from training.layers.filter_bank_model import FilterBankModel

ROWS = np.random.default_rng(3).normal(size=(8, 6)).astype(np.float32)
TARGETS = np.random.default_rng(4).normal(size=(8, 4)).astype(np.float32)
ALL = [True] * 4
SOME = [True, False, True, False]


class Bench:
    """A bank of four dense filters with norm constraints and a joint penalty, and a compiled loop that trains it."""

    def __init__(self, optimizer: Any, **arguments: Any) -> None:
        self.bank = FilterBank(
            4,
            regularizer="pairwise_orthogonality",
            kernel_constraint=keras.constraints.UnitNorm(axis=0),
            bias_constraint=keras.constraints.MaxNorm(0.5, axis=0),
            **arguments,
        )
        self.bank.build(ROWS.shape)
        self.optimizer = optimizer
        optimizer.build(self.bank.trainable_variables)

    def train(self, steps: int, *, compiled: bool = False, jit_compile: bool = False) -> None:
        """Take so many steps, eagerly or in a function that is compiled for the flags as they are."""
        variables = self.bank.trainable_variables

        def step() -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self.bank(ROWS) - TARGETS)) + tf.add_n(self.bank.losses)
            self.optimizer.apply(tape.gradient(loss, variables), variables)

        @tf.function(jit_compile=jit_compile)
        def loop() -> None:
            for _ in tf.range(steps):
                step()

        if compiled:
            loop()
            return
        for _ in range(steps):
            step()

    def state(self) -> list[bytes]:
        """Return the bits of each filter, bias included."""
        return [b"".join(np.asarray(variable).tobytes() for variable in part.variables) for part in self.bank.parts]

    def slots(self, index: int) -> list[np.ndarray]:
        """Return the optimiser's state of one filter."""
        return [np.asarray(v) for v in self.optimizer.variables if f"filter_{index}_" in v.name]


def unchanged(before: list[bytes], after: list[bytes]) -> list[bool]:
    """Return for each filter whether all its bits are what they were."""
    return [old == new for old, new in zip(before, after, strict=True)]


OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, weight_decay=0.1, clipnorm=1.0),
}


LONG = (pytest.mark.chaos, pytest.mark.timeout(300))


@pytest.mark.parametrize(
    ("name", "steps", "jit_compile"),
    [("adamw", 1000, False), ("sgd", 100, False), pytest.param("adamw", 1000, True, marks=LONG)],
)
def test_s10_a_and_d8_t2_frozen_filters_keep_every_bit(name, steps, jit_compile):
    """With momentum from before the freezing, decoupled decay and norm constraints, no bit moves."""
    bench = Bench(OPTIMIZERS[name]())
    bench.train(10)
    assert all(np.abs(slot).max() > 0.0 for slot in bench.slots(1))
    before, slots = bench.state(), bench.slots(1)
    bench.bank.set_trainable_parts(SOME)
    bench.train(steps, compiled=True, jit_compile=jit_compile)
    assert [False, True, False, True] == unchanged(before, bench.state())
    for old, new in zip(slots, bench.slots(1), strict=True):
        np.testing.assert_array_equal(old, new)
    assert 10 + steps == int(bench.optimizer.iterations)


def test_s10_b_freeze_train_thaw_train_moves_thawed_filters_and_resets_no_state():
    """Thawed filters move again, and neither a freezing nor a thawing touches the state of any filter."""
    bench = Bench(keras.optimizers.AdamW(0.01))
    bench.train(10)
    bench.bank.set_trainable_parts(SOME)
    bench.train(10)
    frozen, others = bench.slots(1), bench.slots(0)
    bench.bank.set_trainable_parts(ALL)
    for held, now in ((frozen, bench.slots(1)), (others, bench.slots(0))):
        for old, new in zip(held, now, strict=True):
            np.testing.assert_array_equal(old, new)
    before = bench.state()
    bench.train(1)
    assert [False] * 4 == unchanged(before, bench.state())
    assert 21 == int(bench.optimizer.iterations)


def test_s10_c_all_frozen_trains_nothing_and_says_so():
    """Keras warns that there is nothing to train, and no bit changes."""
    bank = FilterBankModel(4, trainable_parts=[False] * 4, regularizer="pairwise_orthogonality")
    bank.build(ROWS.shape)
    bank.compile("adam", "mse", run_eagerly=True)
    before = bank.kernel.numpy()
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        bank.fit(ROWS, TARGETS, verbose=0)
    np.testing.assert_array_equal(before, bank.kernel.numpy())


def test_s10_c_all_frozen_beside_another_layer_lets_that_one_train():
    """The bank changes in no bit, the layer above it does."""
    bank = FilterBank(4, trainable_parts=[False] * 4)
    model = keras.Sequential([keras.Input((6,)), bank, keras.layers.Dense(4)])
    model.compile("adam", "mse", run_eagerly=True)
    before, above = bank.kernel.numpy(), model.layers[-1].kernel.numpy()
    model.fit(ROWS, TARGETS, verbose=0)
    np.testing.assert_array_equal(before, bank.kernel.numpy())
    assert (above != model.layers[-1].kernel.numpy()).all()


@pytest.mark.parametrize("create", [FilterBank, FilterBankModel])
def test_s10_d_frozen_set_is_saved_with_the_weights_and_restored(create, tmp_path):
    """A `.weights.h5` file brings the flags along, for the layer and the model; configuration does too."""

    def model() -> keras.Model:
        x = keras.Input((6,))
        return keras.Model(x, create(4, name="bank")(x))

    saved, again = model(), model()
    saved.get_layer("bank").set_trainable_parts(SOME)
    saved.save_weights(tmp_path / "model.weights.h5")
    again.load_weights(tmp_path / "model.weights.h5")
    bank = again.get_layer("bank")
    assert tuple(SOME) == bank.trainable_parts
    np.testing.assert_array_equal(saved.get_layer("bank").kernel.numpy(), bank.kernel.numpy())
    assert tuple(SOME) == create.from_config(saved.get_layer("bank").get_config()).trainable_parts


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")  # Keras, on its way to the error
def test_s10_d_weights_of_another_number_of_filters_are_refused(tmp_path):
    """A file of three filters does not load into four."""
    for filters in (3, 4):
        x = keras.Input((6,))
        model = keras.Model(x, FilterBank(filters, name="bank")(x))
        if filters == 3:
            model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"bank.*(expected 4 booleans|shape)"):
        model.load_weights(tmp_path / "model.weights.h5")


def test_s10_e_biases_of_frozen_filters_are_frozen_with_them():
    """Kernel and bias share one flag, whichever of them, the filter or the list is switched."""
    bank = FilterBank(2)
    bank.build((None, 3))
    part = bank.parts[0]
    for freeze, thaw in (
        (lambda: bank.set_trainable_parts([False, True]), lambda: bank.set_trainable_parts([True, True])),
        (lambda: setattr(part, "trainable", False), lambda: setattr(part, "trainable", True)),
        (lambda: setattr(part.bias, "trainable", False), lambda: setattr(part.kernel, "trainable", True)),
    ):
        freeze()
        assert (False, False, False) == (part.trainable, part.kernel.trainable, part.bias.trainable)
        assert ["kernel", "bias"] == [variable.name for variable in bank.trainable_variables]
        assert (False, True) == bank.trainable_parts
        thaw()
        assert 4 == len(bank.trainable_variables)


@pytest.mark.parametrize("flags", [[True], [True] * 5, [], [True] * 3])
def test_s10_list_of_the_wrong_length_is_refused_and_changes_nothing(flags):
    """Surplus and missing flags are a ValueError that names both numbers."""
    bank = FilterBank(4, trainable_parts=SOME, name="mine")
    with pytest.raises(ValueError, match=f"mine: trainables: expected 4 booleans.* received {len(flags)}"):
        bank.set_trainable_parts(flags)
    with pytest.raises(ValueError, match="expected 4 booleans"):
        FilterBank(4, trainable_parts=flags)
    assert tuple(SOME) == bank.trainable_parts


@pytest.mark.parametrize("flag", [0, 1, 1.0, "True", None, [True], np.int64(1)])
def test_s10_f_flag_that_is_no_boolean_is_refused_and_changes_nothing(flag):
    """Numbers and words are no booleans, and a list with one of them is not obeyed in part."""
    bank = FilterBank(4, trainable_parts=SOME)
    with pytest.raises(TypeError, match=r"trainables\[3\]: expected True or False"):
        bank.set_trainable_parts([False, False, False, flag])
    assert tuple(SOME) == bank.trainable_parts


@pytest.mark.parametrize("flags", ["TTFF", None, True, {True, False}, 4])
def test_s10_f_what_is_no_list_is_refused(flags):
    """A string, a set, a number or nothing is no list of booleans."""
    with pytest.raises(TypeError, match="expected a list of booleans"):
        FilterBank(4).set_trainable_parts(flags)


def test_s10_f_booleans_of_numpy_are_booleans():
    """A mask that NumPy computed is taken as it is."""
    bank = FilterBank(4)
    bank.set_trainable_parts(np.arange(4) > 1)
    assert (False, False, True, True) == bank.trainable_parts


@pytest.mark.parametrize("create", [FilterBank, FilterBankModel])
def test_bank_that_is_frozen_whole_thaws_as_its_list_says(create):
    """`trainable` of the bank, or of a model around it, freezes all filters and then gives the list back."""
    bank = create(4, trainable_parts=SOME)
    x = keras.Input((6,))
    model = keras.Model(x, bank(x))
    for owner in (bank, model):
        owner.trainable = False
        assert ([], False) == (model.trainable_variables, bank.trainable)
        assert tuple(SOME) == bank.trainable_parts
        owner.trainable = True
        assert (4, 4) == (len(model.trainable_variables), len(model.non_trainable_variables))
    again = create.from_config({**bank.get_config(), "trainable": False})
    again.build((None, 6))
    assert [] == again.trainable_variables
    again.trainable = True
    assert 4 == len(again.trainable_variables)


def test_s11_c_compiled_function_raises_after_a_toggle_and_made_anew_gives_the_new_answer():
    """A function of the penalty's gradient has built the frozen set in, and does not give the old answer."""
    bank = FilterBank(4, regularizer="pairwise_orthogonality")
    bank.build((None, 6))

    def gradients():
        with tf.GradientTape() as tape:
            total = tf.add_n(bank.losses)
        kernels = [part.kernel.value for part in bank.parts]
        return tape.gradient(total, kernels, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    function = tf.function(gradients)
    first = function()
    assert all(np.abs(slope).max() > 0.0 for slope in first)
    bank.set_trainable_parts(SOME)
    with pytest.raises(RuntimeError, match=r"retrace\(model\).*tf\.function of your own anew"):
        function()
    second = tf.function(gradients)()
    assert SOME == [bool(np.abs(slope).max() > 0.0) for slope in second]
    np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_s11_d_fit_takes_the_step_of_the_formula(jit_compile):
    """One step of gradient descent in `fit`, with and without XLA, is the analytic one of loss and penalty."""
    bank = FilterBank(3, use_bias=False, regularizer="pairwise_orthogonality", trainable_parts=[True, False, True])
    x = keras.Input((6,))
    model = keras.Model(x, bank(x))
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
    kernel = bank.kernel.numpy().astype(float)
    gram = kernel.T @ kernel
    slope = 2.0 * kernel @ (gram - np.diag(np.diag(gram)))
    slope += 2.0 * ROWS.T.astype(float) @ (ROWS @ kernel - TARGETS[:, :3]) / TARGETS[:, :3].size
    loss = np.mean((ROWS @ kernel - TARGETS[:, :3]) ** 2) + np.sum(np.triu(gram, 1) ** 2)
    history = model.fit(ROWS, TARGETS[:, :3], batch_size=8, verbose=0).history
    assert loss == pytest.approx(history["loss"][0], rel=1e-5)
    np.testing.assert_allclose(bank.kernel.numpy(), kernel - 0.01 * slope * [1.0, 0.0, 1.0], rtol=1e-4, atol=1e-6)
