"""Convexity in x for each context: what is proved, what must be refused, and what the program then computes."""

import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.curvature import prove
from service.program.evaluation import evaluate, evaluate_both, node_values
from service.program.facts import Knowledge
from service.program.gradient_ranges import gradient_ranges
from service.program.intervals import ranges
from service.program.kernel.plan import UnknownStepError, plan
from service.program.operators import Dense, Identity
from service.program.program import AffineNode, InputNode, ProductNode, Program, Term
from service.program.selections import Selection
from service.program.tiles import evaluate_in_tiles
from service.program.verification import Probe, rows_for, verify
from tests.oracle.falsifier import falsify
from tests.service.program import contexts
from tests.service.program.contexts import CONTEXT, DIM, PROVABLE, REFUSED, lifted


def rows_of(count, seed=0):
    """Return float32 rows [count, x and context]."""
    return np.random.default_rng(seed).normal(size=(count, DIM + CONTEXT)).astype(np.float32)


def by_tensorflow(function, rows):
    """Return what TensorFlow makes of rows, score and gradient by x, in float32."""
    x, context = tf.constant(rows[:, :DIM]), tf.constant(rows[:, DIM:])
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.reshape(function(x, context), [-1])
    return score.numpy(), tape.gradient(score, x, unconnected_gradients="zero").numpy()


@pytest.mark.parametrize("name", PROVABLE)
def test_function_is_proved_for_each_context_when_it_is_convex_in_x(name):
    """The certificate names x as convex and the context as held fixed, and says no more."""
    certificate = prove(lifted(PROVABLE[name]))
    assert (("x",), ("context",)) == (certificate.convex_in, certificate.for_each)
    document = certificate.to_document("checked", 0.0)
    assert (["x"], ["context"]) == (document["convex_in"], document["for_each"])


@pytest.mark.parametrize("name", PROVABLE)
def test_program_is_the_function_and_its_gradient_by_x_alone(name):
    """Scores and gradients of the program are TensorFlow's, the gradient as wide as x."""
    rows = rows_of(50)
    score, gradient = evaluate_both(lifted(PROVABLE[name]), rows.astype(np.float64))
    expected, expected_gradient = by_tensorflow(PROVABLE[name], rows)
    assert (50, DIM) == gradient.shape
    np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_function_is_refused_by_its_rule_when_nothing_proves_it(name):
    """A factor of unknown sign, a row that meets another, an undefined function: refused, the rule named."""
    rule, function = REFUSED[name]
    with pytest.raises(VersionRefusedError) as caught:
        prove(lifted(function))
    assert rule == caught.value.rule


@pytest.mark.parametrize("name", PROVABLE)
def test_no_proved_function_is_refuted_at_a_fixed_context(name):
    """The falsifier, which knows nothing of the proof, finds no place where f(., c) is not convex."""
    program = lifted(PROVABLE[name])
    for number, context in enumerate(3.0 * rows_of(3, seed=9)[:, DIM:].astype(np.float64)):

        def both(x, context=context):
            return evaluate_both(program, np.hstack([x, np.broadcast_to(context, (len(x), CONTEXT))]))

        anchors = rows_of(40, seed=number)[:, :DIM].astype(np.float64)
        assert None is falsify(lambda x: both(x)[0], lambda x: both(x)[1], anchors, pairs=2000, exact=True)


REFUTABLE = ("a linear gate", "a tanh gate", "a leaky gate", "a quadratic with a coefficient of any sign")


@pytest.mark.parametrize("name", REFUTABLE)
def test_falsifier_refutes_a_refused_gate_at_some_context(name):
    """The falsifier's control: for some context a refused function is really not convex."""
    function = REFUSED[name][1]

    def score(x):
        context = np.broadcast_to(np.float32([-2.0, -1.0]), (len(x), CONTEXT))
        return by_tensorflow(function, np.hstack([x, context]).astype(np.float32))[0].astype(np.float64)

    assert None is not falsify(score, None, rows_of(40)[:, :DIM].astype(np.float64), pairs=2000)


def test_refusal_names_the_least_value_of_the_factor_and_what_to_do():
    """The sentence says how low the factor may be, that it gates something curved, and what to use instead."""
    with pytest.raises(VersionRefusedError) as caught:
        prove(lifted(REFUSED["a tanh gate"][1]))
    assert "a factor that depends on the context alone may be as low as -1, and what it multiplies is not affine" in (
        caught.value.reason
    )
    assert "relu, softplus, sigmoid or exp" in caught.value.reason


def test_facts_call_a_parameter_what_depends_on_the_context_alone():
    """Of the input the last features are parameters; of a sum those that no weight, not even 0, joins with x."""
    kernel = np.float32([[0, 0, 0], [0, 0, 1], [1, 0, 0]])  # x_0, x_1, context -> three sums
    places = np.array([[2], [2], [0]])
    nodes = (
        InputNode(3, context=1),
        AffineNode(3, (Term(0, Dense(kernel)),)),
        AffineNode(3, (Term(0, Selection(places=places, input_width=3)),)),
    )
    knowledge = Knowledge(nodes)
    assert [[False, False, True], [False, False, False], [True, True, False]] == [
        knowledge.of(position).parameter.tolist() for position in range(3)
    ]


def test_canonical_text_names_context_and_products():
    """The hash of a program with a context is that of no program without one."""
    nodes = (InputNode(2, context=1), AffineNode(1, (Term(0, Dense(np.float32([[1], [0]]))),)))
    gated = Program((*nodes, ProductNode(1, (1, 1))))
    assert "%0 = input 2 context 1" == gated.text.splitlines()[0]
    assert "%2 = product 1 %1 %1" == gated.text.splitlines()[2]
    assert (1, 2, 1) == (gated.dim, gated.width, gated.context)


def test_program_without_context_keeps_its_canonical_text():
    """Hashes of programs that were proved before there was a context stay what they were."""
    program = Program((InputNode(1), AffineNode(1, (Term(0, Identity()),))))
    assert "%0 = input 1\n%1 = affine 1 %0 identity\n" == program.text
    assert (1, 1, 0, frozenset()) == (program.dim, program.width, program.context, program.fixed)


def test_nothing_is_pulled_back_through_what_the_context_alone_decides():
    """Nodes of the context's path are `fixed`: those that change with the context, and never with x."""
    program = lifted(contexts.network)
    rows = rows_of(2).astype(np.float64)
    other_x = np.hstack([rows[:, :DIM] + 1.0, rows[:, DIM:]])
    before, after = (node_values(program, values) for values in (rows, other_x))
    still = {number for number, values in enumerate(before) if number and (values == after[number]).all()}
    assert still == program.fixed
    assert 5 < len(still) < len(program.nodes) - 5


def test_values_and_gradients_lie_in_their_ranges_when_the_context_varies():
    """Interval bounds over a box of x and context hold every value; gradient ranges hold for every context."""
    program = lifted(contexts.network)
    lower, upper = np.full(DIM + CONTEXT, -0.5), np.full(DIM + CONTEXT, 0.75)
    found = ranges(program, lower, upper)
    rows = np.random.default_rng(4).uniform(lower, upper, (400, DIM + CONTEXT))
    score, gradient = evaluate_both(program, rows)
    low, high = found[-1]
    assert (low <= score).all()
    assert (score <= high).all()
    assert np.isfinite([low, high]).all()
    below, above = gradient_ranges(program)
    assert (DIM,) == below.shape
    assert ((below <= gradient) & (gradient <= above)).all()


def test_gradient_range_of_a_bounded_gate_is_bounded():
    """sigmoid(c) softplus(x_0) has slopes in [0, 1] for all x and c."""
    program = lifted(lambda x, c: tf.nn.sigmoid(c[:, 0]) * tf.nn.softplus(x[:, 0]))
    below, above = gradient_ranges(program)
    np.testing.assert_allclose([[0, 0, 0], [1, 0, 0]], [below, above], atol=1e-12)


def test_strong_convexity_is_that_of_every_context():
    """Of |x|^2 + exp(c) x_0^2 two is claimed, which exp(c) > 0 never lowers; a gated square adds nothing."""
    program = lifted(lambda x, c: contexts.total(tf.square(x)) + tf.exp(c[:, 0]) * tf.square(x[:, 0]))
    assert 2.0 == prove(program).strong_convexity


def test_strong_convexity_holds_when_the_context_shifts_the_square():
    """(x + C c)^2 is as strongly convex in x as x^2, whatever c is."""
    program = lifted(lambda x, c: contexts.total(tf.square(x + c @ contexts.C)))
    assert 2.0 == prove(program).strong_convexity


def test_compiled_kernel_refuses_a_context():
    """The kernel in C does not know products of two features, nor a gradient narrower than its row."""
    with pytest.raises(UnknownStepError, match="a context"):
        plan(lifted(contexts.network), gradient=True)


def test_bits_of_a_row_do_not_depend_on_its_neighbours():
    """Each row alone, in one batch, and backwards: the same bits of score and gradient; score-only too."""
    program, rows = lifted(contexts.network), rows_of(70)
    both = ("score", "gradient")
    together = evaluate_in_tiles(program, rows, both)
    backwards = evaluate_in_tiles(program, rows[::-1], both)
    alone = [evaluate_in_tiles(program, row[None], both) for row in rows]
    for name in both:
        assert together[name].tobytes() == backwards[name][::-1].tobytes()
        assert together[name].tobytes() == np.concatenate([each[name] for each in alone]).tobytes()
    assert together["score"].tobytes() == evaluate_in_tiles(program, rows, both[:1])["score"].tobytes()


def run_of(function):
    """Return a function as the verification asks a SavedModel."""
    return lambda rows: by_tensorflow(function, rows)


def test_verification_tries_hyperplanes_between_rows_of_one_context_only():
    """A model that is far from jointly convex is verified: of two contexts nothing is claimed."""

    def function(x, c):
        return contexts.total(hidden_minus(x, c))

    def hidden_minus(x, c):
        return tf.nn.softplus(x @ contexts.A) - 50.0 * tf.square(c[:, :1])

    program = lifted(function)
    found = verify(program, run_of(function), None)
    assert ("checked", 256) == (found.gradient, found.rows)


def test_verification_refuses_a_gradient_that_cuts_the_scores():
    """A SavedModel's gradient with the sign of one entry turned is no subgradient at a fixed context."""
    program = lifted(contexts.network)

    def run(rows):
        score, gradient = by_tensorflow(contexts.network, rows)
        return score, gradient * np.float32([1, 1, -1])

    with pytest.raises(VersionRefusedError) as caught:
        verify(program, run, None)
    assert "gradient" == caught.value.rule


def test_verification_refuses_a_model_that_ignores_the_context():
    """The same function with the context left out is another function."""
    with pytest.raises(VersionRefusedError) as caught:
        verify(lifted(contexts.network), run_of(lambda x, c: contexts.network(x, 0.0 * c)), None)
    assert "agreement" == caught.value.rule


def test_verification_rows_share_contexts_within_a_scale():
    """Of the rows that are drawn, at least ten share each context, so that pairs of them exist."""
    drawn = rows_for(lifted(contexts.network), None)[1:, DIM:]
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert (256 - 1, 16) == (counts.sum(), len(counts[counts >= 10]))


def test_probe_with_a_context_comes_back_from_its_file_as_it_was():
    """`probe.npz` holds x, the context beside it, and the gradient by x."""
    rows = rows_of(16)
    score, gradient = evaluate(lifted(contexts.network), rows)
    probe = Probe.from_bytes(Probe.of_rows(rows, score, gradient).to_bytes())
    assert rows.tobytes() == probe.rows.tobytes()
    assert (16, CONTEXT) == probe.context.shape
    assert probe.gradient.tobytes() == np.ascontiguousarray(gradient).tobytes()
