"""Atoms: value, slope, curvature, monotonicity and range against closed forms and TensorFlow's own gradients."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from service.program.atoms import Abs, Atom, Elu, Exp, LeakyRelu, Softplus, Square, leaky_relu, relu, squared_leaky

CLOSED_FORMS = {
    "softplus": (Softplus(), lambda u: np.logaddexp(0.0, u), lambda u: np.exp(-np.logaddexp(0.0, -u))),
    "relu": (relu(), lambda u: np.maximum(u, 0.0), lambda u: np.heaviside(u, 0.0)),
    "leaky": (leaky_relu(0.25), lambda u: np.where(u > 0, u, u / 4), lambda u: np.where(u > 0, 1.0, 0.25)),
    "falling leaky": (leaky_relu(-0.5), lambda u: np.where(u > 0, u, -u / 2), lambda u: np.where(u > 0, 1.0, -0.5)),
    "elu": (Elu(), lambda u: np.where(u > 0, u, np.expm1(np.minimum(u, 0))), lambda u: np.exp(np.minimum(u, 0))),
    "exp": (Exp(), np.exp, np.exp),
    "square": (Square(), lambda u: u**2, lambda u: 2 * u),
    "abs": (Abs(), np.abs, np.sign),
    "squared leaky": (
        squared_leaky(0.25),
        lambda u: np.where(u > 0, u**2, u**2 / 16),
        lambda u: np.where(u > 0, 2 * u, u / 8),
    ),
    "squared steep leaky": (
        squared_leaky(1.5),
        lambda u: np.where(u > 0, u**2, 2.25 * u**2),
        lambda u: np.where(u > 0, 2 * u, 4.5 * u),
    ),
    "squared falling leaky": (
        squared_leaky(-0.5),
        lambda u: np.where(u > 0, u**2, u**2 / 4),
        lambda u: np.where(u > 0, 2 * u, u / 2),
    ),
    "squared relu": (
        squared_leaky(0.0),
        lambda u: np.maximum(u, 0) ** 2,
        lambda u: 2 * np.maximum(u, 0),
    ),
}
TENSORFLOW = {
    "softplus": tf.nn.softplus,
    "relu": tf.nn.relu,
    "leaky": lambda u: tf.nn.leaky_relu(u, alpha=0.25),
    "falling leaky": lambda u: tf.nn.leaky_relu(u, alpha=-0.5),
    "elu": tf.nn.elu,
    "exp": tf.exp,
    "square": tf.square,
    "abs": tf.abs,
    "squared leaky": lambda u: tf.square(tf.nn.leaky_relu(u, alpha=0.25)),
    "squared steep leaky": lambda u: tf.square(tf.nn.leaky_relu(u, alpha=1.5)),
    "squared falling leaky": lambda u: tf.square(tf.nn.leaky_relu(u, alpha=-0.5)),
    "squared relu": lambda u: tf.square(tf.nn.relu(u)),
}
CONVEX_ATOMS = [pytest.param(atom, id=name) for name, (atom, _, _) in CLOSED_FORMS.items()]


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_atom_agrees_with_its_closed_form_in_float64(name: str) -> None:
    """Value and slope are the closed form's to a few units in the last place."""
    atom, value, slope = CLOSED_FORMS[name]
    u = np.concatenate([np.linspace(-30, 30, 2001), [-1e-300, 0.0, 1e-300, -700.0, 700.0]])
    received_value, received_slope = atom.value_and_slope(u, np)
    np.testing.assert_allclose(received_value, value(u), rtol=4e-15, atol=1e-300)
    np.testing.assert_allclose(received_slope, slope(u), rtol=4e-15, atol=1e-300)


@pytest.mark.parametrize("atom", CONVEX_ATOMS)
def test_slope_is_the_central_difference_away_from_kinks(atom: Atom) -> None:
    """The slope is the derivative wherever there is one."""
    u = np.linspace(-4, 4, 160)  # does not hold 0
    h = np.cbrt(np.finfo(np.float64).eps)
    difference = (atom.value_and_slope(u + h, np)[0] - atom.value_and_slope(u - h, np)[0]) / (2 * h)
    np.testing.assert_allclose(atom.value_and_slope(u, np)[1], difference, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_slope_at_the_kink_is_tensorflows(name: str) -> None:
    """At 0 the slope is the very number that TensorFlow's gradient gives."""
    atom, _, _ = CLOSED_FORMS[name]
    u = tf.constant([0.0, -1.0, 1.0])
    with tf.GradientTape() as tape:
        tape.watch(u)
        value = TENSORFLOW[name](u)
    received_value, received_slope = atom.value_and_slope(u.numpy(), np)
    np.testing.assert_allclose(received_value, value.numpy(), rtol=2e-7)
    np.testing.assert_allclose(received_slope, tape.gradient(value, u).numpy(), rtol=2e-7)


@pytest.mark.parametrize("atom", CONVEX_ATOMS)
def test_atom_that_says_convex_satisfies_the_tangent_inequality(atom: Atom) -> None:
    """A convex atom lies above each of its tangents, kinks included."""
    assert atom.is_convex
    u = np.concatenate([np.linspace(-8, 8, 201), [0.0, -1e-9, 1e-9]])
    value, slope = atom.value_and_slope(u, np)
    gap = value[None, :] - value[:, None] - slope[:, None] * (u[None, :] - u[:, None])
    assert (gap >= -1e-12 * np.maximum(1.0, np.abs(value).max())).all()


@pytest.mark.parametrize("alpha", [np.nextafter(1.0, 2.0), 1.5, 3.0])
def test_leaky_relu_is_not_convex_above_one(alpha: float) -> None:
    """A slope above 1 on the left falls at 0: not convex, refused at the next float already."""
    assert not leaky_relu(alpha).is_convex
    left, middle, right = (leaky_relu(alpha).value_and_slope(np.array([u]), np)[0][0] for u in (-1.0, 0.0, 1.0))
    assert middle > (left + right) / 2


@pytest.mark.parametrize(
    ("atom", "rises_everywhere"),
    [
        (Softplus(), True), (relu(), True), (leaky_relu(1.0), True), (Elu(), True), (Exp(), True),
        (leaky_relu(-1e-3), False), (Square(), False), (Abs(), False), (squared_leaky(0.0), True),
        (squared_leaky(5e-324), False), (squared_leaky(0.2), False), (squared_leaky(1.0), False),
        (squared_leaky(-0.2), False),
    ],
)  # fmt: skip
def test_atom_knows_where_it_rises(atom: Atom, rises_everywhere: bool) -> None:
    """Squares, absolute values, falling and squared leaky ReLUs rise on [0, inf) only, and from no number below."""
    assert atom.is_nondecreasing_from(-np.inf) is rises_everywhere
    assert atom.is_nondecreasing_from(-5e-324) is rises_everywhere
    assert atom.is_nondecreasing_from(0.0)
    if not rises_everywhere:
        assert not atom.is_nondecreasing_from(float("nan"))


@pytest.mark.parametrize("atom", CONVEX_ATOMS)
@pytest.mark.parametrize("ends", [(-3.0, -1.0), (-2.0, 0.0), (-2.0, 5.0), (0.0, 4.0), (1.5, 1.5), (-1e-3, 1e-9)])
def test_image_encloses_a_dense_grid_and_is_tight(atom: Atom, ends: tuple[float, float]) -> None:
    """No value on the interval lies outside of its image, and the image is no wider than the values by 1e-12."""
    lower, upper = (np.array([end]) for end in ends)
    low, high = atom.image(lower, upper)
    values = atom.value_and_slope(np.concatenate([np.linspace(*ends, 4001), ends]), np)[0]
    if ends[0] <= 0 <= ends[1]:
        values = np.append(values, atom.value_and_slope(np.zeros(1), np)[0])
    assert low[0] <= values.min()
    assert values.max() <= high[0]
    assert low[0] == pytest.approx(values.min(), rel=1e-12, abs=1e-12)
    assert high[0] == pytest.approx(values.max(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("atom", CONVEX_ATOMS)
def test_image_of_the_whole_line_is_no_narrower_than_the_values(atom: Atom) -> None:
    """On (-inf, inf) the image is the atom's range, without NaN."""
    low, high = atom.image(np.array([-np.inf]), np.array([np.inf]))
    values = atom.value_and_slope(np.linspace(-700, 700, 5001), np)[0]
    assert low[0] <= values.min()
    assert high[0] == np.inf


def test_image_never_loses_the_sign_of_what_cannot_be_negative() -> None:
    """Outward rounding does not push softplus, squares, exponentials or absolute values below 0."""
    for atom in (Softplus(), Square(), Exp(), Abs(), relu(), squared_leaky(0.2), squared_leaky(0.0)):
        assert atom.image(np.array([-np.inf]), np.array([np.inf]))[0][0] == 0.0


@pytest.mark.parametrize("name", ["softplus", "relu", "leaky", "elu", "abs", "falling leaky"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_atom_of_linear_growth_is_finite_on_huge_and_denormal_arguments(name: str, dtype: type) -> None:
    """No intermediate overflows: 1e38 and denormals of both signs give finite values and slopes in [-1, 1]."""
    tiny = np.finfo(dtype).smallest_subnormal
    huge = np.finfo(dtype).max
    value, slope = CLOSED_FORMS[name][0].value_and_slope(np.array([-huge, -tiny, tiny, huge], dtype), np)
    assert value.dtype == slope.dtype == dtype
    assert np.isfinite(value).all()
    assert (np.abs(slope) <= 1).all()


@pytest.mark.parametrize("make", [leaky_relu, squared_leaky])
@pytest.mark.parametrize("alpha", [np.nan, np.inf, -np.inf])
def test_leaky_relu_refuses_an_alpha_that_is_no_number(alpha: float, make: Callable[[float], Atom]) -> None:
    """NaN compares false with everything and must not pass for a parameter, of the square neither."""
    with pytest.raises(ValueError, match="alpha"):
        make(alpha)


def test_text_tells_parameters_apart_that_differ_in_the_last_bit() -> None:
    """Two leaky ReLUs of different alpha are two programs, and so are their squares."""
    assert LeakyRelu(0.1).text != LeakyRelu(np.nextafter(0.1, 1)).text
    assert squared_leaky(0.1).text != squared_leaky(np.nextafter(0.1, 1)).text
    assert "squared_leaky(0x1.0000000000000p-2)" == squared_leaky(0.25).text
    assert relu().text == LeakyRelu(0.0).text


@pytest.mark.parametrize("alpha", [0.2, 0.0, 1.0, -0.5])
def test_squared_leaky_relu_has_no_kink_and_a_slope_that_never_falls(alpha: float) -> None:
    """Its slope is 0 at 0 from both sides, and grows over the line, so that no row lies next to a jump."""
    atom = squared_leaky(alpha)
    slope = atom.value_and_slope(np.array([-1.0, -1e-9, -0.0, 0.0, 1e-9, 1.0]), np)[1]
    assert atom.kink() is None
    np.testing.assert_allclose(slope, [-2 * alpha**2, -2e-9 * alpha**2, 0, 0, 2e-9, 2], rtol=1e-15, atol=0)
    assert (np.diff(slope) >= 0).all()


def test_image_of_the_squared_leaky_relu_keeps_alpha_exactly() -> None:
    """On [-4, 1] it reaches (4 alpha)^2 or 1, whichever is more, and 0; on [-4, -2] it ends at (2 alpha)^2."""
    for alpha, high in ((0.125, 1.0), (0.5, 4.0), (-0.5, 4.0), (0.0, 1.0)):
        received = squared_leaky(alpha).image(np.array([-4.0, -4.0]), np.array([1.0, -2.0]))
        np.testing.assert_allclose(received, [[0, 4 * alpha**2], [high, 16 * alpha**2]], rtol=1e-14, atol=1e-300)


def test_lower_end_beyond_float64_is_its_largest_number() -> None:
    """exp(1000) is a number, and infinity no lower bound of it; nor is minus infinity an upper bound."""
    largest = float(np.finfo(np.float64).max)
    low, high = Exp().image(np.array([1000.0]), np.array([2000.0]))
    assert ([True], [np.inf]) == ((low <= largest).tolist(), high.tolist())
    low, high = leaky_relu(1e10).image(np.array([-1e306]), np.array([-1e305]))
    assert ([-np.inf], [True]) == (low.tolist(), (high >= -largest).tolist())
