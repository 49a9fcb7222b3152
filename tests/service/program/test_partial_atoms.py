"""Logarithms, roots and powers: values, where they are curved which way, and images, at the ends of their domains."""

import numpy as np
import pytest

from service.program.atoms import Atom
from service.program.partial_atoms import Expm1, Log, Log1p, Power, Sqrt

TINY = float(np.finfo(np.float64).smallest_subnormal)
CLOSED_FORMS = {
    "log": (Log(), np.log, lambda u: 1 / u, (0.1, 9.0)),
    "log1p": (Log1p(), np.log1p, lambda u: 1 / (1 + u), (-0.9, 9.0)),
    "sqrt": (Sqrt(), np.sqrt, lambda u: 0.5 / np.sqrt(u), (0.1, 9.0)),
    "expm1": (Expm1(), np.expm1, np.exp, (-9.0, 9.0)),
    "cube": (Power(3), lambda u: u**3, lambda u: 3 * u**2, (-2.0, 2.0)),
    "fourth power": (Power(4), lambda u: u**4, lambda u: 4 * u**3, (-2.0, 2.0)),
    "reciprocal": (Power(-1), lambda u: 1 / u, lambda u: -1 / u**2, (0.1, 9.0)),
    "reciprocal square below 0": (Power(-2), lambda u: u**-2.0, lambda u: -2 * u**-3.0, (-9.0, -0.1)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_partial_atom_agrees_with_its_closed_form(name: str) -> None:
    """Value and slope are the closed form's to a few units in the last place, in the dtype of the rows."""
    atom, value, slope, ends = CLOSED_FORMS[name]
    u = np.linspace(*ends, 2000)
    received = atom.value_and_slope(u, np)
    np.testing.assert_allclose(received[0], value(u), rtol=4e-15)
    np.testing.assert_allclose(received[1], slope(u), rtol=4e-15)
    assert (np.float32, np.float32) == tuple(array.dtype for array in atom.value_and_slope(u.astype(np.float32), np))


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_image_of_a_partial_atom_encloses_dense_samples(name: str) -> None:
    """No value on the interval lies outside of its image."""
    atom, value, _, ends = CLOSED_FORMS[name]
    low, high = atom.image(np.array(ends[:1]), np.array(ends[1:]))
    values = value(np.linspace(*ends, 5001))
    assert low[0] <= values.min()
    assert values.max() <= high[0]
    assert np.isfinite([low[0], high[0]]).all()


def shape(atom: Atom, lower: float, upper: float) -> str:
    """Return the letters of what is known on an interval: convex, v concave, rises, falls."""
    ends = np.array([lower]), np.array([upper])
    questions = {"c": atom.convex_on, "v": atom.concave_on, "r": atom.rises_on, "f": atom.falls_on}
    return "".join(letter for letter, question in questions.items() if question(*ends)[0])


@pytest.mark.parametrize(
    ("atom", "lower", "upper", "known"),
    [
        (Log(), TINY, np.inf, "vr"), (Log(), 0.0, np.inf, ""), (Log(), -1.0, 1.0, ""),
        (Log1p(), -0.5, np.inf, "vr"), (Log1p(), -1.0, np.inf, ""),
        (Sqrt(), 0.0, np.inf, "vr"), (Sqrt(), -TINY, np.inf, ""), (Expm1(), -np.inf, np.inf, "cr"),
        (Power(4), -np.inf, np.inf, "c"), (Power(4), 0.0, np.inf, "cr"), (Power(4), -np.inf, 0.0, "cf"),
        (Power(4), -TINY, np.inf, "c"), (Power(3), -np.inf, np.inf, "r"), (Power(3), 0.0, np.inf, "cr"),
        (Power(3), -TINY, np.inf, "r"), (Power(3), -np.inf, 0.0, "vr"),
        (Power(-1), TINY, np.inf, "cf"), (Power(-1), 0.0, np.inf, ""), (Power(-1), -np.inf, -TINY, "vf"),
        (Power(-1), -np.inf, np.inf, ""), (Power(-2), TINY, np.inf, "cf"), (Power(-2), -np.inf, -TINY, "cr"),
        (Power(-2), -1.0, 1.0, ""),
    ],
)  # fmt: skip
def test_shape_is_known_inside_of_the_domain_only(atom: Atom, lower: float, upper: float, known: str) -> None:
    """One denormal beyond the domain and nothing is known."""
    assert known == shape(atom, lower, upper)


def test_image_beyond_the_domain_is_everything() -> None:
    """Where the argument may leave the domain, or pass a pole, no bound is given."""
    for atom in (Log(), Log1p(), Sqrt(), Power(-1), Power(-2)):
        low, high = atom.image(np.array([-2.0]), np.array([3.0]))
        assert ([-np.inf], [np.inf]) == (low.tolist(), high.tolist())


def test_root_has_slope_zero_where_its_own_is_infinite() -> None:
    """At 0 the gradient of a norm is then 0, a subgradient, instead of infinity times 0."""
    value, slope = Sqrt().value_and_slope(np.array([0.0, 4.0], np.float32), np)
    assert ([0.0, 2.0], [0.0, 0.25]) == (value.tolist(), slope.tolist())


def test_atom_that_is_not_convex_says_why() -> None:
    """The words of a refusal say where the argument would have to be."""
    assert "concave" in Log().objection()
    assert "positive" in Power(3).objection()
    assert ("power(3)", "power(-2)") == (Power(3).text, Power(-2).text)
