"""Checks that run before each call of a compiled function: at every call, through every nesting, under XLA."""

import pytest
import tensorflow as tf

from training.call_time import before_each_call, is_tracing


class Refused(Exception):
    """What a check of these tests raises."""


class Door:
    """A check that counts its calls and refuses once it is shut."""

    def __init__(self) -> None:
        self.calls = 0
        self.shut = False

    def __call__(self) -> None:
        """Count, and refuse once shut."""
        self.calls += 1
        if self.shut:
            raise Refused


def guarded(door: Door, x: tf.Tensor) -> tf.Tensor:
    """Return x + 1, with the door registered while it is traced."""
    before_each_call(("door", id(door)), door)
    return x + 1.0


def in_loop(door: Door, x: tf.Tensor) -> tf.Tensor:
    """Return x + 3, by the body of a loop of the graph."""
    return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, guarded(door, y)), (0, x))[1]


def in_branch(door: Door, x: tf.Tensor) -> tf.Tensor:
    """Return x + 1, by a branch of the graph that is taken, or not."""
    return tf.cond(x > 0.0, lambda: guarded(door, x), lambda: x + 1.0)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("body", "expected"), [(guarded, 2.0), (in_loop, 4.0), (in_branch, 2.0)])
def test_check_runs_before_each_call_and_what_it_raises_the_call_raises(body, expected, jit_compile):
    """The check runs as Python at every call, wherever it stands in the graph, with and without XLA."""
    door = Door()
    function = tf.function(lambda x: body(door, x), jit_compile=jit_compile)
    one = tf.constant(1.0)
    assert [expected, expected] == [float(function(one)), float(function(one))]
    assert door.calls >= 2
    door.shut = True
    with pytest.raises(Refused):
        function(one)
    door.shut = False
    assert expected == float(function(one))


@pytest.mark.parametrize("inner_first", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_check_runs_whatever_function_was_traced_first(inner_first, jit_compile):
    """A function that calls a guarded one is guarded, and so is the inner one when it is called by itself."""
    door, one = Door(), tf.constant(1.0)
    inner = tf.function(lambda x: guarded(door, x), jit_compile=jit_compile)
    outer = tf.function(lambda x: tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, inner(y)), (0, x))[1])
    for function in (inner, outer) if inner_first else (outer, inner):
        function(one)
    door.shut = True
    for function in (inner, outer):
        with pytest.raises(Refused):
            function(one)


def test_check_raises_before_anything_is_executed():
    """A call that is refused has assigned nothing."""
    door, variable = Door(), tf.Variable(0.0)

    @tf.function
    def step() -> None:
        before_each_call("step", door)
        variable.assign_add(1.0)

    step()
    door.shut = True
    with pytest.raises(Refused):
        step()
    assert 1.0 == float(variable)


def test_first_check_of_a_key_is_kept():
    """A key is checked once a call, by the check that came first."""
    first, second = Door(), Door()

    @tf.function
    def function() -> tf.Tensor:
        before_each_call("key", first)
        before_each_call("key", second)
        return tf.zeros(())

    function()
    function()
    assert (2, 0) == (first.calls, second.calls)


def test_nothing_is_registered_outside_a_trace():
    """Eager code is not traced, and a check that is offered there never runs."""
    door = Door()
    before_each_call("key", door)
    seen = []
    tf.function(lambda: seen.append(is_tracing()))()
    assert ([True], False, 0) == (seen, is_tracing(), door.calls)
