"""Every class that is registered with Keras: found by itself, and the same after each way of writing it down."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from docs.layer_reference import registered
from tests.training.recipes import LAYERS, NETWORKS, OBJECTS, PARTS, RECIPES, Recipe, cases

BATCH = 5

Exported = tuple[Mapping[str, keras.layers.Layer], Any]


def names_of(classes: dict[str, type]) -> set[str]:
    """Return the plain names of registered classes."""
    return {name.partition(">")[2] for name in classes}


def without_recipe(classes: dict[str, type]) -> set[str]:
    """Return the registered classes of which no recipe makes one."""
    parts = (keras.initializers.Initializer, keras.constraints.Constraint, keras.regularizers.Regularizer)
    bare = {name for name, found in classes.items() if issubclass(found, parts)}
    return (names_of(classes) - set(RECIPES)) | (names_of({name: classes[name] for name in bare}) - set(OBJECTS))


def tensors(model: Any, inputs: list[Any]) -> list[Any]:
    """Return outputs, and the gradient of their weighted sum for each input."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = model(inputs if len(inputs) > 1 else inputs[0])
        weights = np.random.default_rng(7).normal(size=outputs.shape[1:])
        total = tf.reduce_sum(outputs * tf.constant(weights, outputs.dtype))
    return [outputs, *tape.gradient(total, inputs, unconnected_gradients="zero")]


def answers(model: Any, rows: Any) -> list[np.ndarray]:
    """Return what `tensors` does, as arrays."""
    inputs = [tf.constant(array) for array in (rows if isinstance(rows, list) else [rows])]
    return [np.asarray(tensor) for tensor in tensors(model, inputs)]


def functional(layer: keras.layers.Layer, recipe: Recipe) -> keras.Model:
    """Return a functional model that is the layer."""
    inputs = [keras.Input(shape, dtype="float32") for shape in recipe.shapes]
    outputs = layer(inputs if len(inputs) > 1 else inputs[0])
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)


def served(model: keras.Model, recipe: Recipe) -> Any:
    """Return the function of `tensors` for a model, to be written into a SavedModel."""
    specs = [tf.TensorSpec([None, *shape], tf.float32, name=f"x{at}") for at, shape in enumerate(recipe.shapes)]

    @tf.function(input_signature=specs)
    def serve(*inputs: Any) -> Any:
        return tensors(lambda given: model(given, training=False), list(inputs))

    return serve


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a layer of each recipe, and what one SavedModel of all of them is read back as."""
    module, layers = tf.Module(), {}
    for place, (name, recipe) in enumerate(cases(RECIPES).items()):
        layers[name] = recipe.layer(name="mine")
        setattr(module, f"kept_{place}", [variable.value for variable in layers[name].variables])
        setattr(module, f"serve_{place}", served(functional(layers[name], recipe), recipe))
    folder = str(tmp_path_factory.mktemp("exported"))
    tf.saved_model.save(module, folder)
    return layers, tf.saved_model.load(folder)


def in_float64(recipe: Recipe) -> keras.layers.Layer:
    """Return the layer or network in float64, the layers that it makes itself too."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    try:
        return recipe.layer()
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_floatx(floatx)


def test_every_registered_class_has_a_recipe_and_every_recipe_a_class() -> None:
    """A class that is added without a recipe is named here, and so is a recipe of a class that is gone."""
    assert set() == without_recipe(registered())
    assert set() == set(RECIPES) - names_of(registered())
    assert len(registered()) >= 33


def test_class_without_a_recipe_is_found_when_there_is_one() -> None:
    """The check names a layer and an initialiser that nobody wrote a recipe for."""
    new = {"convex_scoring>New": keras.layers.Layer, "convex_scoring>PassthroughNormal": keras.initializers.Ones}
    assert {"New"} == without_recipe(new)
    assert {"Fresh"} == without_recipe({"convex_scoring>Fresh": keras.initializers.Ones})


@pytest.mark.parametrize("name", cases(RECIPES))
def test_registered_class_comes_back_the_same_from_configuration_keras_file_and_saved_model(
    name: str, tmp_path: Path, exported: Exported
) -> None:
    """Outputs and input gradients are equal, bit for bit where the same operations run in the same order."""
    recipe = cases(RECIPES)[name]
    (layers, from_file), rows = exported, recipe.rows(BATCH)
    layer, serve = layers[name], getattr(from_file, f"serve_{list(layers).index(name)}")
    expected = answers(lambda inputs: layer(inputs), rows)
    assert all(np.isfinite(array).all() and np.abs(array).max(initial=0.0) < 1e6 for array in expected)

    again = keras.layers.deserialize(keras.layers.serialize(layer))
    if not again.built:
        again.build(recipe.input_shape(None))
    again.set_weights(layer.get_weights())
    assert (layer.get_config(), type(layer)) == (again.get_config(), type(again))
    assert_same(expected, answers(again, rows))

    model = functional(layer, recipe)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert_same(expected, answers(loaded, rows))

    found = serve(*rows) if isinstance(rows, list) else serve(rows)
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=2e-5, atol=2e-6)


def assert_same(expected: list[np.ndarray], found: list[np.ndarray]) -> None:
    """Compare arrays bit for bit."""
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name in OBJECTS for number in range(len(OBJECTS[name]))]
)
def test_registered_part_answers_the_same_when_it_comes_back_from_its_configuration(name: str, number: int) -> None:
    """A constraint, initialiser or regulariser is its configuration, a seed that was drawn included."""
    part = OBJECTS[name][number]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(part))
    kernel = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    argument = (4, 3) if isinstance(part, keras.initializers.Initializer) else kernel
    np.testing.assert_array_equal(np.asarray(part(argument)), np.asarray(again(argument)))
    assert (type(part), part.get_config()) == (type(again), again.get_config())


@pytest.mark.parametrize("name", cases(LAYERS, NETWORKS))
def test_derivatives_of_a_registered_layer_equal_finite_differences_in_float64(name: str) -> None:
    """Along a line of inputs the first two derivatives, and along one of weights the first, are those of the value."""
    recipe = cases(LAYERS, NETWORKS)[name]
    layer = in_float64(recipe)
    rows, line = (recipe.rows(BATCH, seed=seed, dtype="float64") for seed in (3, 4))
    points, ways = ([array] if not isinstance(array, list) else array for array in (rows, line))
    count = len(points)
    weights = [weight.value for weight in layer.trainable_weights]
    ways = ways + [np.random.default_rng(5).normal(size=weight.shape) for weight in weights]
    starts = [weight.numpy() for weight in weights]

    def slopes(step: float, *, of_inputs: bool) -> tuple[float, float]:
        """Return the value and its derivative along the line, a step further on it."""
        moved = [tf.constant(point + step * way * of_inputs) for point, way in zip(points, ways, strict=False)]
        for variable, start, way in zip(layer.trainable_weights, starts, ways[count:], strict=True):
            variable.assign(start + step * way * (not of_inputs))
        with tf.GradientTape() as tape:
            tape.watch(moved)
            outputs = layer(moved if count > 1 else moved[0])
            value = tf.reduce_sum(outputs * np.random.default_rng(7).normal(size=outputs.shape))
        along = moved if of_inputs else weights
        gradients = tape.gradient(value, along, unconnected_gradients="zero")
        chosen = ways[:count] if of_inputs else ways[count:]
        return float(value), float(sum(np.sum(g * way) for g, way in zip(gradients, chosen, strict=True)))

    step = 1e-6
    for of_inputs in (True, False):
        (low, _), (high, _) = slopes(-step, of_inputs=of_inputs), slopes(step, of_inputs=of_inputs)
        assert (high - low) / (2 * step) == pytest.approx(slopes(0.0, of_inputs=of_inputs)[1], rel=1e-6, abs=1e-7)
    inputs = [tf.constant(point) for point in points]
    slopes(0.0, of_inputs=True)
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            outputs = layer(inputs if count > 1 else inputs[0])
            value = tf.reduce_sum(outputs * np.random.default_rng(7).normal(size=outputs.shape))
        gradients = inner.gradient(value, inputs, unconnected_gradients="zero")
        along = tf.add_n([tf.reduce_sum(g * way) for g, way in zip(gradients, ways, strict=False)])
    seconds = outer.gradient(along, inputs, unconnected_gradients="zero")
    second = float(sum(np.sum(g * way) for g, way in zip(seconds, ways, strict=False)))
    slope = {step: slopes(step, of_inputs=True)[1] for step in (-step, step)}
    assert (slope[step] - slope[-step]) / (2 * step) == pytest.approx(second, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", [name for name, recipe in cases(LAYERS).items() if recipe.ranks])
def test_layer_infers_shapes_and_passes_masks_and_ranks_and_mixed_precision(name: str) -> None:
    """Sequences give the rows' outputs, their mask passes through, and half precision keeps float32 weights."""
    recipe = cases(LAYERS)[name]
    layer, rows = recipe.layer(2), recipe.rows(BATCH, 2)
    arrays = rows if isinstance(rows, list) else [rows]
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    mask = keras.ops.convert_to_tensor(np.arange(2 * BATCH).reshape(BATCH, 2) % 3 > 0)
    for tensor in tensors:
        keras.src.backend.set_keras_mask(tensor, mask)
    outputs = layer(tensors if len(tensors) > 1 else tensors[0])
    assert tuple(outputs.shape) == tuple(layer.compute_output_shape(recipe.input_shape(BATCH, 2)))
    assert (None, *outputs.shape[1:]) == tuple(layer.compute_output_shape(recipe.input_shape(None, 2)))
    np.testing.assert_array_equal(np.asarray(mask), np.asarray(keras.src.backend.get_keras_mask(outputs)))
    flat = [array.reshape(2 * BATCH, -1) for array in arrays]
    found = np.asarray(recipe.layer(weights=layer.get_weights())(flat if len(flat) > 1 else flat[0]))
    np.testing.assert_allclose(found.reshape(outputs.shape), np.asarray(outputs), rtol=1e-5, atol=1e-6)

    half = recipe.layer(2, weights=layer.get_weights(), dtype="mixed_float16")
    assert {"float32"} >= {weight.dtype for weight in half.weights}
    answer = half([keras.ops.cast(tensor, "float16") for tensor in tensors] if len(tensors) > 1 else tensors[0])
    assert "float16" == keras.backend.standardize_dtype(answer.dtype)
    np.testing.assert_allclose(np.asarray(answer, float), np.asarray(outputs, float), rtol=0.02, atol=0.02)


class Subclassed(keras.Model):
    """A subclassed model that is one layer."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__()
        self.layer = layer

    def call(self, inputs: Any) -> Any:
        """Return what the layer does."""
        return self.layer(inputs)


@pytest.mark.parametrize("name", cases(LAYERS))
def test_layer_gives_the_same_in_functional_sequential_and_subclassed_models(name: str) -> None:
    """The kind of model makes no difference, and the batch size may be left open."""
    recipe = cases(LAYERS)[name]
    layer, rows = recipe.layer(), recipe.rows(BATCH)
    expected = np.asarray(layer(rows))
    models = [functional(layer, recipe)]
    if len(recipe.shapes) == 1:
        models.append(keras.Sequential([keras.Input(recipe.shapes[0]), layer]))
    for model in models:
        np.testing.assert_array_equal(np.asarray(model(rows)), expected)
    np.testing.assert_allclose(Subclassed(layer).predict_on_batch(rows), expected, rtol=1e-5, atol=1e-6)


def test_tables_of_recipes_hold_classes_of_their_kind() -> None:
    """A network is no bare layer, and a part is neither."""
    classes = {name.partition(">")[2]: found for name, found in registered().items()}
    assert all(issubclass(classes[name], keras.Model) for name in NETWORKS)
    assert all(issubclass(classes[name], keras.layers.Layer) for name in LAYERS)
    assert not any(issubclass(classes[name], keras.layers.Layer) for name in PARTS)
