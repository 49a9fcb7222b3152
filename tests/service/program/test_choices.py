"""If and Case: the branch that a constant chooses is the function; any other choice is refused."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.certification import certify
from service.program.evaluation import evaluate
from tests.service.program import foreign_models as foreign
from tests.service.program.foreign_graphs import lifted, refusal

DIM = 3
ROWS = np.random.default_rng(3).standard_normal((7, DIM)).astype(np.float32)


def convex(x):
    """Return sum_i x_i^2."""
    return tf.reduce_sum(tf.square(x), -1)


def concave(x):
    """Return -sum_i x_i^2."""
    return -convex(x)


def absolute(x):
    """Return sum_i |x_i|."""
    return tf.reduce_sum(tf.abs(x), -1)


def condition(value, dtype=tf.bool):
    """Return a function that takes the convex branch where `value` holds, and the concave one else."""
    return lambda x: tf.raw_ops.If(
        cond=tf.constant(value, dtype),
        input=[x],
        Tout=[tf.float32],
        then_branch=tf.function(convex).get_concrete_function(tf.TensorSpec([None, DIM], tf.float32)),
        else_branch=tf.function(concave).get_concrete_function(tf.TensorSpec([None, DIM], tf.float32)),
    )[0]


@pytest.mark.parametrize(("value", "dtype"), [(True, tf.bool), (1, tf.int32), (-2, tf.int64), (0.5, tf.float32)])
def test_branch_that_a_constant_chooses_is_the_function(value, dtype):
    """A constant that is true, or a number other than 0, takes the first branch: it is lifted, the other is not."""
    program = lifted(condition(value, dtype), DIM)
    np.testing.assert_allclose((ROWS.astype(float) ** 2).sum(-1), evaluate(program, ROWS)[0], rtol=1e-6)


@pytest.mark.parametrize(("value", "dtype"), [(False, tf.bool), (0, tf.int32), (0.0, tf.float32)])
def test_other_branch_is_refused_when_it_is_chosen_and_not_convex(value, dtype):
    """A constant that is false takes the second branch, which is what is proved, and refused."""
    assert "nonneg-scale" == refusal(condition(value, dtype), DIM).rule


@pytest.mark.parametrize(("index", "power"), [(0, 2), (1, 1), (2, 1), (-1, 1), (77, 1)])
def test_case_takes_the_last_branch_where_there_is_none_of_that_number(index, power):
    """Branch number 0 or 1, and for any other number the last one, as in TensorFlow."""
    program = lifted(lambda x: tf.switch_case(tf.constant(index), [lambda: convex(x), lambda: absolute(x)]), DIM)
    np.testing.assert_allclose((np.abs(ROWS.astype(float)) ** power).sum(-1), evaluate(program, ROWS)[0], rtol=1e-6)


class Choosing(tf.Module):
    """A score whose branches read a variable, which makes TensorFlow's If a stateful one."""

    def __init__(self, *, flag=None):
        """Keep the flag, a variable, or None for a constant that is true."""
        super().__init__()
        self.weights = tf.Variable(np.array([1.0, 2.0, 3.0], np.float32), name="weights")
        self.flag = None if flag is None else tf.Variable(flag, name="flag")

    def score(self, x):
        """Return the sum of w_i x_i^2, or its negative."""
        chosen = tf.constant(True) if self.flag is None else self.flag
        return tf.cond(chosen, lambda: convex(x * self.weights), lambda: concave(x * self.weights))


def test_saved_model_with_a_constant_choice_is_certified(tmp_path: Path):
    """The file is accepted whole, with variables in both branches, and its program is the branch."""
    module = Choosing()
    certified = certify(foreign.save(tmp_path / "model", module.score, module))
    expected = ((ROWS.astype(float) * [1, 2, 3]) ** 2).sum(-1)
    np.testing.assert_allclose(expected, evaluate(certified.program, ROWS)[0], rtol=1e-6)


def by_the_rows(x):
    """Return another function for other rows."""
    return tf.cond(tf.reduce_sum(x) > 0, lambda: convex(x), lambda: absolute(x))


@pytest.mark.parametrize("module", [None, Choosing(flag=True)], ids=["by the rows", "by a variable"])
def test_choice_by_something_else_than_a_constant_is_refused(module, tmp_path: Path):
    """The rows together, or a variable, must not choose: a batch would mix rows, and a variable is no promise."""
    function = by_the_rows if module is None else module.score
    with pytest.raises(VersionRefusedError) as refused:
        certify(foreign.save(tmp_path / "model", function, module))
    assert "control-flow" == refused.value.rule


def test_branch_with_an_effect_is_refused_though_it_is_never_taken(tmp_path: Path):
    """What may not stand in a model may not stand in a branch either, whichever is chosen."""

    def score(x):
        def printed():
            tf.print("taken", output_stream=f"file://{tmp_path}/printed")
            return convex(x)

        return tf.cond(tf.constant(True), lambda: convex(x), printed)

    with pytest.raises(VersionRefusedError) as refused:
        certify(foreign.save(tmp_path / "model", score))
    assert "op-not-allowed" == refused.value.rule
    assert not (tmp_path / "printed").exists()
