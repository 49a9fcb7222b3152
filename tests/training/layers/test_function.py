"""The layer of a user's function: gradients through it, what it saves, when it is called, and where gradients end."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from training.functions import registry
from training.functions.declarations import Properties
from training.functions.registry import FunctionRefusedError
from training.gradients import MissingGradientError, input_gradient, loss_gradients
from training.layers.function import Function, NoGradientError

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.random.default_rng(1).normal(size=(12, 1))
HIDDEN = Properties(convex=True, non_decreasing=True)


def twice(x):
    """Return 2x."""
    return 2.0 * x


def softmax(x):
    """Return exp over its sum over the features."""
    exponentials = ops.exp(x)
    return exponentials / ops.sum(exponentials, axis=-1, keepdims=True)


def squared_error(y, predicted):
    """Return the squared error of each entry."""
    return ops.square(y - predicted)


def between(*names, dtype="float64", **arguments):
    """Return a model dense, function, ..., dense of three features, with fixed weights."""
    x = keras.Input((3,), dtype=dtype)
    z = keras.layers.Dense(4, name="before", dtype=dtype)(x)
    for name in names:
        z = Function(name, dtype=dtype, **arguments)(z)
    model = keras.Model(x, keras.layers.Dense(1, name="after", dtype=dtype)(z))
    generator = np.random.default_rng(2)
    model.set_weights([generator.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def differences(loss, weights, step=1e-5):
    """Return central differences of loss(weights) with respect to every number of a list of arrays."""
    found = [np.zeros_like(weight) for weight in weights]
    for weight, slope in zip(weights, found, strict=True):
        for place in np.ndindex(weight.shape):
            start = weight[place]
            ends = []
            for sign in (1.0, -1.0):
                weight[place] = start + sign * step
                ends.append(loss(*weights))
            weight[place] = start
            slope[place] = (ends[0] - ends[1]) / (2.0 * step)
    return found


def doubled(z):
    """Return 2z in NumPy."""
    return 2.0 * z


def shares(z):
    """Return softmax in NumPy."""
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("function", "closed_form"), [(twice, doubled), (softmax, shares)])
def test_s15_a_gradients_before_and_after_match_finite_differences(function, closed_form, register_function):
    """The layers on both sides of 2x, and of exp over sum, get the gradients that NumPy's differences say."""
    register_function("between", function, row_shape=(4,))
    model = between("between")
    found = loss_gradients(model, squared_error, tf.constant(X), tf.constant(Y))

    def loss(kernel, bias, after, offset):
        return np.mean((Y - (closed_form(X @ kernel + bias) @ after + offset)) ** 2)

    expected = differences(loss, model.get_weights())
    for gradient, truth in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(gradient, truth, rtol=1e-7, atol=1e-9)


def test_s15_a_model_with_user_functions_trains(register_function):
    """Twenty epochs of fit halve the loss of a model with both, and move the weights before the functions."""
    register_function("twice", twice)
    register_function("shares", softmax, row_shape=(4,))
    model = between("twice", "shares", dtype="float32")
    before = model.get_layer("before").kernel.numpy().copy()
    model.compile(keras.optimizers.Adam(0.1), "mse")
    losses = model.fit(X, X[:, :1], epochs=20, batch_size=12, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert (model.get_layer("before").kernel.numpy() != before).all()


def test_s15_b_layer_has_no_weights_at_all(register_function):
    """The model's trainable weights are those of its other layers."""
    register_function("between", twice)
    model = between("between")
    assert [] == model.layers[2].weights
    assert ["before/kernel", "before/bias", "after/kernel", "after/bias"] == [
        weight.path for weight in model.trainable_variables
    ]


def test_s15_c_users_loss_function_is_differentiated_without_more_code(register_function):
    """A loss of log, cosh and a comparison of the targets gets its gradients, and trains, as it is."""

    def own_loss(y, predicted):
        error = predicted - y
        return (1.0 + ops.cast(y > 0.0, error.dtype)) * ops.log(ops.cosh(error))

    register_function("between", twice)
    model = between("between")
    found = loss_gradients(model, own_loss, tf.constant(X), tf.constant(Y))

    def loss(kernel, bias, after, offset):
        error = 2.0 * (X @ kernel + bias) @ after + offset - Y
        return np.mean(np.where(Y > 0.0, 2.0, 1.0) * np.log(np.cosh(error)))

    for gradient, truth in zip(found.values(), differences(loss, model.get_weights()), strict=True):
        np.testing.assert_allclose(gradient, truth, rtol=1e-6, atol=1e-9)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), own_loss)
    model.train_on_batch(X, Y)
    for start, gradient, after in zip(before, found.values(), model.get_weights(), strict=True):
        np.testing.assert_allclose(after, start - 0.1 * gradient.numpy(), atol=1e-6)


@pytest.mark.parametrize("analytic", [False, True])
def test_s15_d_input_gradient_is_differentiable_with_respect_to_the_parameters(analytic, register_function):
    """A loss on the input gradient, as the minimax loss is, has the gradients of its closed form's differences."""
    register_function(
        "softplus_of", ops.softplus, gradient=(lambda x, u: u * ops.sigmoid(x)) if analytic else None
    )  # fmt: skip
    register_function("twice_of", twice)
    model = between("twice_of", "softplus_of")

    def loss(kernel, bias, after, _offset):
        slopes = 2.0 / (1.0 + np.exp(-2.0 * (X @ kernel + bias)))
        return np.sum(np.square((slopes * after[:, 0]) @ kernel.T))

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.square(input_gradient(lambda x: model(x)[:, 0], x)))
        return tape.gradient(total, [variable.value for variable in model.trainable_variables])

    *found, offset = gradients(tf.constant(X))
    *expected, zero = differences(loss, model.get_weights())
    assert offset is None
    assert 0.0 == zero[0]
    for gradient, truth in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, truth, rtol=1e-6, atol=1e-8)


def test_s15_e_model_is_saved_with_the_name_and_reads_back(register_function, tmp_path):
    """The archive has the registered name and no code, and gives the same answers and input gradients again."""
    register_function("kept", ops.softplus, properties=HIDDEN)
    model = between("kept", role="hidden", dtype="float32")
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    (saved,) = [layer for layer in config["config"]["layers"] if "Function" == layer["class_name"]]
    assert ("kept", "hidden") == (saved["config"]["function"], saved["config"]["role"])
    assert "lambda" not in json.dumps(config).lower()
    again = keras.models.load_model(tmp_path / "model.keras")
    x = tf.constant(X, tf.float32)
    assert model(x).numpy().tolist() == again(x).numpy().tolist()
    slopes = [input_gradient(lambda x, model=each: model(x)[:, 0], x).numpy().tolist() for each in (model, again)]
    assert slopes[0] == slopes[1]


@pytest.mark.parametrize("function", [twice, "never_registered", lambda x: x])
def test_s15_e_unregistered_function_is_refused_when_the_layer_is_made(function):
    """Names are stored and never code; the sentence says how to register."""
    with pytest.raises(FunctionRefusedError, match=r"is not registered.*never.*code.*[Rr]egister"):
        Function(function)


def test_s15_e_function_that_lost_its_name_is_refused_at_save(register_function, tmp_path):
    """A model whose function was unregistered, or its name given away, could not be loaded, so it is not saved."""
    register_function("lost", twice)
    model = between("lost")
    registry.unregister("lost")
    with pytest.raises(FunctionRefusedError, match=r"'lost' is not registered.*import the module"):
        model.save(tmp_path / "model.keras")
    register_function("lost", ops.exp)
    with pytest.raises(FunctionRefusedError, match="'lost' is the name of another function by now"):
        model.save(tmp_path / "model.keras")


def test_s15_e_load_without_the_function_says_what_to_import(register_function, tmp_path):
    """Whoever loads the model in a process that does not know the function is told so."""
    register_function("absent", twice)
    between("absent").save(tmp_path / "model.keras")
    registry.unregister("absent")
    with pytest.raises((FunctionRefusedError, TypeError), match=r"'absent' is not registered.*import the module"):
        keras.models.load_model(tmp_path / "model.keras")


CUTS = {
    "round": ops.round,
    "sign": ops.sign,
    "comparison": lambda x: ops.cast(x > 0.0, x.dtype),
    "argmax": lambda x: ops.cast(ops.argmax(x, axis=-1, keepdims=True), x.dtype) + 0.0 * ops.ones_like(x),
}


@pytest.mark.parametrize("cut", CUTS)
def test_s15_g_operation_without_a_gradient_is_an_error_in_fit_that_names_the_variables_cut_off(cut, register_function):
    """Training stops at its first step and names the kernel and the bias that would never have moved."""
    register_function(cut, CUTS[cut], row_shape=(4,))
    model = between(cut, dtype="float32")
    model.compile("sgd", "mse")
    with pytest.raises(NoGradientError, match=rf"'{cut}' lets no gradient through .* before/bias, before/kernel would"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("cut", CUTS)
def test_s15_g_operation_without_a_gradient_is_an_error_of_the_gradients_that_names_the_variables(
    cut, register_function
):
    """The public function names exactly the variables without a path, in a subclassed model too."""
    register_function(cut, CUTS[cut], row_shape=(4,))
    model = Beside(cut)
    with pytest.raises(MissingGradientError, match="no gradient reaches") as missing:
        loss_gradients(model, squared_error, X, Y)
    assert tuple(variable.path for variable in model.cut.trainable_variables) == missing.value.paths
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(X))
    with pytest.raises(NoGradientError, match="the variables of the layers before it would not train"):
        tape.gradient(loss, model.trainable_variables[0].value)


class Beside(keras.Model):
    """One dense layer before the function, one beside it."""

    def __init__(self, function):
        """Make the layers."""
        super().__init__(name="beside")
        self.cut, self.open = keras.layers.Dense(4, name="cut"), keras.layers.Dense(4, name="open")
        self.function = Function(function)

    def call(self, x):
        """Return the sum of both ways."""
        return self.function(self.cut(x)) + self.open(x)


def test_s15_g_stop_gradient_in_front_says_that_it_is_meant(register_function):
    """What is frozen by hand does not arrive at the function, and trains the rest."""
    register_function("round", ops.round)
    x = keras.Input((3,))
    z = ops.stop_gradient(keras.layers.Dense(4, name="before", trainable=False)(x))
    model = keras.Model(x, keras.layers.Dense(1, name="after")(Function("round")(z)))
    found = loss_gradients(model, squared_error, X.astype(np.float32), Y.astype(np.float32))
    assert ["after/kernel", "after/bias"] == [variable.path for variable in found]


def counting(calls):
    """Return a function that notes what it is called with: whether symbolic, dtype and shape."""

    def function(x):
        calls.append((tf.is_symbolic_tensor(x), x.dtype.name, tuple(x.shape)))
        return 2.0 * x

    return function


@pytest.fixture(scope="module")
def calls():
    """Return what a function was called with by each of these: building a model, fit, a longer fit, other sizes."""
    noted, stages = [], {}
    registry.register("counted")(counting(noted))

    def stage(name):
        stages[name] = noted.copy()
        noted.clear()

    noted.clear()
    model = between("counted", dtype="float32")
    model.compile("sgd", "mse")
    stage("build")
    model.fit(X[:10], Y[:10], batch_size=4, epochs=1, verbose=0)  # 4, 4 and 2 rows
    stage("fit")
    model.fit(X[:10], Y[:10], batch_size=4, epochs=8, verbose=0)
    stage("longer fit")
    model.fit(X, Y, batch_size=5, verbose=0)  # 5, 5 and 2
    model.fit(X, Y, batch_size=6, verbose=0)  # 6 and 6
    stage("other sizes")
    registry.unregister("counted")
    return stages


def test_s17_a_number_of_calls_does_not_grow_with_batches_or_epochs(calls):
    """One call while the model is built, one more in fit, and none for eight times the batches and epochs."""
    assert (1, 1, 0) == tuple(len(calls[stage]) for stage in ("build", "fit", "longer fit"))


def test_s17_b_every_argument_in_fit_is_symbolic_with_dtype_and_partial_shape(calls):
    """Tensors without values, float32, four features, an unknown number of rows."""
    assert [(True, "float32", (None, 4))] == calls["fit"]


def test_s17_c_python_side_effects_happen_at_trace_time_only(register_function):
    """A counter counts traces, and a random number of Python is drawn once and then stays: as the class says."""
    counted, generator = [], np.random.default_rng(0)

    def impure(x):
        counted.append(1)
        return x + generator.normal()

    register_function("impure", impure)
    layer = Function("impure")
    compiled = tf.function(layer)
    start = len(counted)
    answers = {float(compiled(tf.zeros([2, 1]))[0, 0]) for _ in range(5)}
    assert (1, 1) == (len(counted) - start, len(answers))
    assert 5 == len({float(layer(tf.zeros([2, 1]))[0, 0]) for _ in range(5)})  # eagerly each call draws
    assert "happens then and only then" in " ".join(Function.__doc__.split())


def test_s17_d_debugging_mode_runs_eagerly_and_shows_real_values(register_function):
    """With run_eagerly each batch calls the function with numbers, which Python can print."""
    seen = []

    def show(x):
        if not tf.is_symbolic_tensor(x):
            seen.append(x.numpy())
        return 2.0 * x

    register_function("shown", show)
    model = between("shown", dtype="float32")
    seen.clear()
    model.compile("sgd", "mse", run_eagerly=True)
    kernel, bias = model.get_layer("before").get_weights()
    model.fit(X, Y, batch_size=4, verbose=0, shuffle=False)
    assert 3 == len(seen)
    np.testing.assert_allclose(seen[0], X[:4] @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_s17_e_changed_dtype_or_rank_causes_one_more_trace(register_function):
    """A compiled layer calls the function once for each dtype and rank, and again for none that it has seen."""
    noted = []
    register_function("counted", counting(noted))
    compiled = tf.function(Function("counted", autocast=False))
    noted.clear()
    for _ in range(2):
        compiled(tf.zeros([4, 2]))
        compiled(tf.zeros([4, 2], tf.float64))
        compiled(tf.zeros([4, 2, 2]))
    assert [("float32", 2), ("float64", 2), ("float32", 3)] == [(dtype, len(shape)) for _, dtype, shape in noted]


def test_s17_e_changed_batch_size_causes_no_trace(calls):
    """Batches of 4 and of 2 rows share one call, and batches of 5 and 6 need no other."""
    assert 1 == len(calls["fit"])
    assert [] == calls["other sizes"]


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [(twice, (None, 4), (None, 4)), (lambda x: ops.sum(x, axis=-1), (None, 4), (None,)),
     (lambda x: ops.concatenate([x, x], axis=-1), (7, 2, 3), (7, 2, 6))],
)  # fmt: skip
def test_output_shape_is_that_of_the_function(function, shape, expected, register_function):
    """Shapes are inferred from the function itself, whatever it does to the features."""
    register_function("shaped", function, row_shape=(4,))
    assert expected == Function("shaped").compute_output_shape(shape)


def test_layer_computes_in_its_dtype_policy(register_function):
    """With mixed precision the function gets and returns half precision; there are no variables to keep."""
    register_function("half", ops.softplus)
    found = Function("half", dtype="mixed_bfloat16")(tf.ones([2, 3]))
    assert "bfloat16" == found.dtype.name


def test_mask_goes_through_functions_of_each_number_and_no_others(register_function):
    """A declared function of numbers keeps rows apart; one of rows may have moved them."""
    register_function("numbers", ops.softplus, properties=HIDDEN)
    register_function("rows", softmax, row_shape=(3,))
    masked = keras.layers.Masking()(tf.constant([[[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]]))
    assert [[True, False]] == keras.src.backend.get_keras_mask(Function("numbers")(masked)).numpy().tolist()
    assert keras.src.backend.get_keras_mask(Function("rows")(masked)) is None


def test_layer_works_in_a_sequential_model(register_function):
    """As any other layer, by its function as well as by its name."""
    register_function("between", twice)
    model = keras.Sequential([keras.Input((2,)), Function(twice), Function("between")])
    assert [[4.0, 8.0]] == model.predict(np.array([[1.0, 2.0]]), verbose=0).tolist()
