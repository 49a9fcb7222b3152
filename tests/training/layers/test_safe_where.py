"""The safe masked expression, and that the whole project uses it."""

import ast
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.training.layers.bump_grid import derivatives
from training.layers.safe_where import safe_where

TRAINING = Path(__file__).parents[3] / "training"
DIFFERENTIABLE = {"ops", "tf", "keras.ops"}
EXPLODING = {"exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "power", "pow", "divide", "tan", "arcsin"}
CLAMPS = {"minimum", "maximum", "clip", "relu", "where", "safe_where", "full_like", "zeros_like", "ones_like", "isnan"}


def called(node: ast.AST) -> str:
    """Return the last name of what a call calls; nothing for anything else."""
    return ast.unparse(node.func).rsplit(".", 1)[-1] if isinstance(node, ast.Call) else ""


def names(node: ast.AST) -> set[str]:
    """Return the names in an expression outside of what clamps them."""
    if called(node) in CLAMPS:
        return set()
    own = {node.id} if isinstance(node, ast.Name) else set()
    return own.union(
        *(names(child) for child in ast.iter_child_nodes(node) if child is not getattr(node, "func", None))
    )


def explodes(node: ast.AST, looked_at: set[str], assigned: dict[str, ast.AST]) -> bool:
    """Whether a branch computes something that may be infinite of a number that the condition looks at, as it comes."""
    if called(node) in CLAMPS:
        return False
    if isinstance(node, ast.Name) and node.id in assigned:
        return explodes(assigned[node.id], looked_at, {key: value for key, value in assigned.items() if key != node.id})
    dangerous = list(node.args) if called(node) in EXPLODING else []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        dangerous.append(node.right)
    used = set().union(*(names(part) for part in dangerous)) if dangerous else set()
    reached = used.union(*(names(assigned[name]) for name in used if name in assigned))
    return bool(reached & looked_at) or any(
        explodes(child, looked_at, assigned) for child in ast.iter_child_nodes(node)
    )


def unsafe_choices(source: str) -> list[int]:
    """Return the lines of choices between tensors one branch of which may be infinite where the other is chosen."""
    found = []
    for scope in ast.walk(ast.parse(source)):
        if not isinstance(scope, ast.FunctionDef | ast.Lambda | ast.Module):
            continue
        assignments = [node for node in ast.walk(scope) if isinstance(node, ast.Assign)]
        assigned = {
            target.id: node.value for node in assignments for target in node.targets if isinstance(target, ast.Name)
        }
        for node in ast.walk(scope):
            if called(node) == "where" and ast.unparse(node.func).rsplit(".", 1)[0] in DIFFERENTIABLE:
                looked_at = {name.id for name in ast.walk(node.args[0]) if isinstance(name, ast.Name)}
                looked_at |= {other for name in looked_at & assigned.keys() for other in names(assigned[name])}
                looked_at -= DIFFERENTIABLE
                if any(explodes(branch, looked_at, assigned) for branch in node.args[1:]):
                    found.append(node.lineno)
    return sorted(set(found))


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
def test_s25_c_gradient_is_finite_where_that_of_the_plain_choice_is_nan(compiled):
    """sqrt(x)/x for x > 0, else 0: the plain choice has a NaN gradient at 0, the safe one has 0, with equal values."""
    x = np.array([-1.0, 0.0, 4.0], np.float32)

    def naive(x):
        return tf.where(x > 0, tf.sqrt(x) / x, tf.zeros_like(x))

    def safe(x):
        return safe_where(x > 0, x, lambda v: ops.sqrt(v) / v, stand_in=1.0)

    value, slope = derivatives(safe, x, compiled=compiled)
    naive_value, naive_slope = derivatives(naive, x, compiled=compiled)
    assert np.isnan(naive_slope).any()
    np.testing.assert_array_equal(naive_value[2], value[2])
    np.testing.assert_allclose([0.0, 0.0, -1 / 16], slope, rtol=1e-6)


def test_s25_c_every_masked_expression_of_the_project_is_safe():
    """No module of training computes, in a branch that is not chosen, what is infinite there."""
    unsafe = {
        str(path.relative_to(TRAINING)): lines
        for path in sorted(TRAINING.rglob("*.py"))
        if path.name != "safe_where.py" and (lines := unsafe_choices(path.read_text(encoding="utf-8")))
    }
    assert {} == unsafe


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("ops.where(x > 0, ops.sqrt(x) / x, 0.0)", [1]),
        ("tf.where(x > 0, tf.math.log(x), tf.zeros_like(x))", [1]),
        ("r = 1 / x\ny = ops.exp(r)\nz = ops.where(x > 0, y, 0.0)", [3]),
        ("inside = x < s\nt = s - x\ny = ops.where(inside, ops.exp(-1 / t), 0.0)", [3]),
        ("lambda x: ops.where(x > 0, x, alpha * ops.expm1(x))", [1]),
        ("lambda x: ops.where(x > 0, x, alpha * ops.expm1(ops.minimum(x, 0.0) / alpha))", []),
        ("y = ops.where(ops.isnan(x), x, safe_where(x > 0, x, ops.sqrt))", []),
        ("ops.where(x > 0, x, 0.1 * x)", []),
        ("np.where(x > 0, np.sqrt(x), 0)", []),
    ],
)
def test_search_for_unsafe_choices_finds_them(source, lines):
    """The search itself finds the plain form, through names too, and lets a clamped argument and NumPy pass."""
    assert lines == unsafe_choices(source)


def test_outside_the_function_is_not_computed_at_the_argument():
    """What is not chosen sees the stand-in, so that a function with holes raises no infinity."""
    seen = []
    x = ops.convert_to_tensor([1.0, 0.0, -2.0])
    found = safe_where(x > 0, x, lambda v: seen.append(v.numpy()) or ops.log(v), otherwise=-7.0, stand_in=1.0)
    assert [[1.0, 1.0, 1.0]] == [list(v) for v in seen]
    assert [0.0, -7.0, -7.0] == list(found.numpy())
