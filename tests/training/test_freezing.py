"""Freezing: no optimiser moves a frozen part by a bit, and no change of the frozen set goes unseen."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.freezing import FrozenPartError, FrozenSetChangedError, Parts, extended, retrace
from training.layers.filter_bank import FilterBank

ROWS = np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32)
TARGETS = np.random.default_rng(4).normal(size=(8, 3)).astype(np.float32)
SOME = [False, True, True]


def compiled(optimizer: Any = "sgd", parts: list[bool] | None = None, **arguments: Any) -> tuple[FilterBank, Any]:
    """Return a dense bank of three filters and a compiled model of it with one more layer."""
    bank = FilterBank(3, trainable_parts=parts, name="bank")
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(3, name="dense")(bank(x)))
    model.compile(optimizer, "mse", **arguments)
    return bank, model


def weights(bank: FilterBank) -> np.ndarray:
    """Return the bank's weights, a column for each filter."""
    return np.concatenate([keras.ops.convert_to_numpy(bank.kernel), keras.ops.convert_to_numpy(bank.bias)[None]])


def moved(bank: FilterBank, run: Callable[[], Any]) -> list[bool]:
    """Return for each filter whether a run changed any bit of it, which it does to the whole filter or not at all."""
    before = weights(bank)
    run()
    changed = before.view(np.uint32) != weights(bank).view(np.uint32)
    assert (changed.all(axis=0) == changed.any(axis=0)).all()
    return changed.any(axis=0).tolist()


def fit(model: Any) -> Callable[[], Any]:
    """Return two steps of `fit`."""
    return lambda: model.fit(ROWS, TARGETS, batch_size=4, verbose=0)


def batch(model: Any) -> Callable[[], Any]:
    """Return one step of `train_on_batch`."""
    return lambda: model.train_on_batch(ROWS, TARGETS)


LONG = (pytest.mark.chaos, pytest.mark.timeout(300))
SEVERAL = {"steps_per_execution": 2}


@pytest.mark.parametrize(
    ("first", "arguments"),
    [
        (fit, {"jit_compile": False}),
        pytest.param(batch, {"jit_compile": True}, marks=LONG),
        pytest.param(batch, {"jit_compile": False}, marks=LONG),
        pytest.param(fit, {"jit_compile": True}, marks=LONG),
        pytest.param(fit, {"jit_compile": False, **SEVERAL}, marks=LONG),
        pytest.param(batch, {"jit_compile": False, **SEVERAL}, marks=LONG),
        pytest.param(fit, {"jit_compile": True, **SEVERAL}, marks=LONG),
        pytest.param(batch, {"jit_compile": True, **SEVERAL}, marks=LONG),
    ],
)
def test_s10_toggle_after_compile_is_never_silent_in_fit_and_train_on_batch(first, arguments):
    """Whichever was traced first, both raise in both directions, and either remedy lets the next step obey."""
    bank, model = compiled(**arguments)
    runs = [first(model), (batch if first is fit else fit)(model)]
    for parts, traced in ((SOME, runs), ([True] * 3, runs[:1])):
        if traced is runs:
            runs[0]()
            runs[1]()
        bank.set_trainable_parts(parts)
        for run in traced:
            before = weights(bank)
            with pytest.raises(FrozenSetChangedError, match=r"bank: .*retrace\(model\)"):
                run()
            np.testing.assert_array_equal(before, weights(bank))
        if parts == SOME:
            retrace(model)
        else:
            model.compile(model.optimizer, "mse", **arguments)
        assert parts == moved(bank, runs[0])


def test_toggle_after_compile_holds_at_once_when_the_model_runs_eagerly():
    """Nothing is traced then, so the next step obeys in both directions without a word."""
    bank, model = compiled(run_eagerly=True)
    for parts in ([True] * 3, SOME, [True] * 3):
        bank.set_trainable_parts(parts)
        assert parts == moved(bank, batch(model))


def test_prediction_goes_on_after_a_toggle():
    """A prediction depends on no flag: no function of it has to be traced again, before the first step or after."""
    bank, model = compiled()
    expected = model.predict(ROWS, verbose=0)
    batch(model)
    bank.set_trainable_parts(SOME)
    np.testing.assert_array_equal(expected, model.predict(ROWS, verbose=0))


def step_of(model: Any, optimizer: Any, variables: list[Any] | None = None) -> Callable[[], None]:
    """Return one step of a loop of one's own; it asks for the variables when it runs, or has a list of them."""

    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(ROWS, training=True) - TARGETS))
        chosen = variables or model.trainable_variables
        optimizer.apply(tape.gradient(loss, chosen), chosen)

    return step


@pytest.mark.parametrize(
    ("jit_compile", "listed"),
    [(False, True), pytest.param(True, False, marks=LONG), pytest.param(True, True, marks=LONG)],
)
def test_compiled_loop_of_ones_own_raises_after_a_toggle(jit_compile, listed):
    """A tf.function raises, also where its list of variables was made outside, and made anew it obeys."""
    bank, model = compiled()
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    step = step_of(model, optimizer, model.trainable_variables if listed else None)
    function = tf.function(step, jit_compile=jit_compile)
    function()
    bank.set_trainable_parts(SOME)
    before = weights(bank)
    with pytest.raises(FrozenSetChangedError):
        function()
    np.testing.assert_array_equal(before, weights(bank))
    again = tf.function(step_of(model, optimizer), jit_compile=jit_compile)
    assert SOME == moved(bank, again)


def test_loop_over_many_steps_inside_a_compiled_function_raises_after_a_toggle():
    """The trace stands in the body of a loop of the graph, and is guarded all the same."""
    bank, model = compiled()
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    step = step_of(model, optimizer)

    @tf.function
    def steps() -> None:
        for _ in tf.range(3):
            step()

    steps()
    bank.set_trainable_parts(SOME)
    with pytest.raises(FrozenSetChangedError):
        steps()


def test_compiled_step_that_assigns_by_hand_raises_after_a_toggle():
    """Plain gradient descent without an optimiser, over variables that were listed outside, is seen too."""
    bank, _ = compiled()
    kernel = bank.parts[0].kernel

    @tf.function
    def descend() -> None:
        kernel.assign_sub(0.1 * tf.ones_like(kernel.value))

    descend()
    bank.set_trainable_parts(SOME)
    with pytest.raises(FrozenSetChangedError):
        descend()


def test_eager_loop_obeys_at_once_and_refuses_a_list_from_before_the_freezing():
    """With the model's variables as they are it obeys; a stale list is refused before any variable has moved."""
    bank, model = compiled()
    optimizer = keras.optimizers.Adam(0.1)
    stale = model.trainable_variables
    step_of(model, optimizer)()
    bank.set_trainable_parts(SOME)
    dense = model.get_layer("dense").kernel.numpy()
    before = weights(bank)
    with pytest.raises(FrozenPartError, match=r"bank/filter_0/kernel: .*trainable_variables as they are now"):
        step_of(model, optimizer, stale)()
    np.testing.assert_array_equal(before, weights(bank))
    np.testing.assert_array_equal(dense, model.get_layer("dense").kernel.numpy())
    assert SOME == moved(bank, step_of(model, optimizer))


def by_name(optimizer: Any) -> dict[str, list[np.ndarray]]:
    """Return an optimiser's variables by their names."""
    found: dict[str, list[np.ndarray]] = {}
    for variable in optimizer.variables:
        found.setdefault(variable.name, []).append(np.asarray(variable))
    return found


OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.05, momentum=0.9, centered=True),
    "adafactor": lambda: keras.optimizers.Adafactor(0.05),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "muon": lambda: keras.optimizers.Muon(0.01),
    "ftrl": lambda: keras.optimizers.Ftrl(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.05, amsgrad=True),
    "accumulating": lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2),
    "scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.05)),
}


SHORT = ("adamw", "adafactor", "scaling")


@pytest.mark.parametrize("name", [name if name in SHORT else pytest.param(name, marks=LONG) for name in OPTIMIZERS])
def test_thawed_filter_is_new_to_an_optimiser_whose_state_of_the_others_stays(name):
    """After `retrace` an optimiser that was built without a filter knows it, and steps of the others are as ever."""
    optimizer = OPTIMIZERS[name]()
    _, model = compiled(optimizer, SOME, run_eagerly=True)
    batch(model)()
    batch(model)()
    before = by_name(optimizer)
    model.get_layer("bank").set_trainable_parts([True] * 3)
    retrace(model)
    assert model.optimizer is not optimizer
    after = by_name(model.optimizer)
    for name, values in before.items():  # names may repeat: the variables that were known come first
        for old, new in zip(values, after[name], strict=False):
            np.testing.assert_array_equal(old, new)
    assert len(optimizer.variables) < len(model.optimizer.variables)
    assert [True] * 3 == moved(model.get_layer("bank"), lambda: [batch(model)() for _ in range(2)])


def test_extended_optimiser_steps_bit_for_bit_as_the_one_that_it_replaces():
    """The other filters go where they would have gone: nothing of their state is lost."""
    kernels = []
    for thawed in (False, True):
        keras.utils.set_random_seed(7)
        bank, model = compiled(keras.optimizers.AdamW(0.05), SOME, run_eagerly=True)
        batch(model)()
        if thawed:
            model.optimizer = extended(model.optimizer, bank.parts[0].variables)
        batch(model)()
        kernels.append(weights(bank))
    np.testing.assert_array_equal(*kernels)


def test_extended_returns_the_optimiser_itself_where_nothing_is_missing():
    """One that is not built yet will learn all at its first step, and one that knows them needs nothing."""
    _, model = compiled()
    fresh = keras.optimizers.Adam()
    assert fresh is extended(fresh, model.trainable_variables)
    fresh.build(model.trainable_variables)
    assert fresh is extended(fresh, model.trainable_variables[:2])


def test_optimiser_with_moving_averages_is_refused_by_retrace():
    """It would write averages into frozen filters, so the remedy names a new optimiser."""
    bank, model = compiled(keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=1), run_eagerly=True)
    batch(model)()
    retrace(model)
    bank.set_trainable_parts(SOME)
    with pytest.raises(ValueError, match="use_ema"):
        retrace(model)


def test_optimiser_that_keeps_its_state_elsewhere_is_refused():
    """What is not found cannot be carried over, and to lose it without a word is no way out."""

    class Hidden(keras.optimizers.SGD):
        """Keeps a variable in a dictionary."""

        def build(self, variables):
            """Make one more variable."""
            super().build(variables)
            self.hidden = {"count": self.add_variable((), name="count")}

    optimizer = Hidden()
    bank, model = compiled(optimizer, SOME, run_eagerly=True)
    batch(model)()
    with pytest.raises(ValueError, match=r"expected an optimiser of Keras, .* received Hidden"):
        extended(optimizer, [*model.trainable_variables, *bank.parts[0].variables])


def test_retrace_leaves_a_model_alone_that_is_not_compiled():
    """There is nothing that it could have traced."""
    bank = FilterBank(2)
    x = keras.Input((4,))
    model = keras.Model(x, bank(x))
    retrace(model)
    assert model.train_function is None


def test_masked_gradient_would_have_moved_what_is_frozen():
    """The control: Adam with rate .1 moves an entry by .067 after a step whose gradient for it is masked to zero."""
    variable = keras.Variable([0.0])
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.apply([tf.constant([1.0])], [variable])
    before = float(variable[0])
    optimizer.apply([tf.constant([0.0])], [variable])
    assert -0.067 == pytest.approx(float(variable[0]) - before, abs=5e-4)


def test_parts_name_what_changed():
    """The message lists the parts that were frozen and those that were thawed since."""
    parts = Parts("mine", [True, False, True])

    @tf.function
    def function() -> None:
        parts.read(0)

    function()
    parts.flags[:] = [False, True, True]
    with pytest.raises(FrozenSetChangedError, match=r"mine: .*parts \[0\] were frozen and parts \[1\] thawed"):
        function()
    parts.flags[:], parts.whole = [True, False, True], False
    with pytest.raises(FrozenSetChangedError, match=r"parts \[0, 2\] were frozen and parts \[\] thawed"):
        function()
    parts.whole = True  # taken back: what counts is the set that was traced, not that somebody touched it
    function()
