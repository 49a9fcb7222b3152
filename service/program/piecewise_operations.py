"""Operations on piecewise functions: maximum, choice, product, and the curves applied to them.

Each returns the exact function, or refuses with what was seen: a jump, a root that is no rational number, a form that
the curves of `curves` do not hold. Above: `expressions`; below: `piecewise`.
"""

import itertools
from collections.abc import Callable
from fractions import Fraction

from service.program.curves import Curve, rational_root
from service.program.piecewise import Ends, NotPiecewiseError, Piece, Piecewise, polynomial, simplified

_ZERO, _ONE = Fraction(0), Fraction(1)
_FLAT = Piece((_ZERO, _ZERO, _ZERO))
_CONSTANT_OF_EXP = "takes the exponential of an argument with a constant that is no multiple of its variable"

Condition = tuple[tuple[Fraction, ...], tuple[bool, ...]]
"""Places where the truth may change, and the truth between them; in the places themselves it is not told.

Where f - g is not 0 it has one sign around, so that the truth of f > g changes in zeros of f - g only.
"""


def maximum(first: Piecewise, second: Piecewise) -> Piecewise:
    """Return max(f, g)."""
    places, signs = _signs(first.plus(second.negated()))
    places, (one, other), truths = _joined((first, second), (places, tuple(sign > 0 for sign in signs)))
    return simplified(places, tuple(a if truth else b for a, b, truth in zip(one, other, truths, strict=True)))


def compared(first: Piecewise, second: Piecewise, *, strict: bool) -> Condition:
    """Return where f > g, or f >= g if not strict. The two differ where f = g on a whole piece."""
    difference = first.plus(second.negated())
    places, signs = _signs(difference)
    truths = [sign > 0 or (sign == 0 and not strict) for sign in signs]
    kept = [number for number, place in enumerate(places) if difference.piece_at(place).value_at(place).is_zero]
    return tuple(places[number] for number in kept), (truths[0], *(truths[number + 1] for number in kept))


def combined(first: Condition, second: Condition, operation: Callable[[bool, bool], bool]) -> Condition:
    """Return the condition that `operation` makes of two."""
    places = tuple(sorted({*first[0], *second[0]}))
    pairs = zip(_spread(first, places), _spread(second, places), strict=True)
    return places, tuple(operation(one, other) for one, other in pairs)


def chosen(condition: Condition, first: Piecewise, second: Piecewise) -> Piecewise:
    """Return f where the condition holds and g elsewhere, which must agree wherever the truth may change.

    There, the condition may hold or not: both give the same number.

    Raises:
        NotPiecewiseError: where they do not, or are not known to: the function jumps.
    """
    for place in condition[0]:
        gap = first.piece_at(place).value_at(place).minus(second.piece_at(place).value_at(place))
        if not gap.is_zero:
            bounds = gap.enclosure()
            size = "an unknown amount" if bounds is None else f"{float(sum(bounds) / 2):.3g}"
            message = f"chooses between branches that differ by {size} at {float(place):g}, where the choice changes"
            raise NotPiecewiseError(message)
    places, (one, other), truths = _joined((first, second), condition)
    return simplified(places, tuple(a if truth else b for a, b, truth in zip(one, other, truths, strict=True)))


def product(first: Piecewise, second: Piecewise) -> Piecewise:
    """Return f g, of degree 2 at most where neither is constant."""
    places, (one, other), _ = _joined((first, second), ((), (True,)))
    return simplified(places, tuple(_product(a, b) for a, b in zip(one, other, strict=True)))


def quotient(first: Piecewise, second: Piecewise) -> Piecewise:
    """Return f/c for a constant c other than 0."""
    (piece,) = second.pieces if not second.breaks else (_FLAT,)
    c0, c1, c2 = piece.polynomial
    if piece.curves or c1 or c2 or not c0:
        message = "divides by something that is not a constant other than 0"
        raise NotPiecewiseError(message)
    return first.scaled(1 / c0)


def composed(outer: Piecewise, inner: Piecewise) -> Piecewise:
    """Return f(g(u)) for a piecewise affine g: f's pieces over the places where g passes f's breaks."""
    places = {place for piece, ends in inner.intervals() for place in _crossings(outer, piece, ends)}
    joint = tuple(sorted({*inner.breaks, *places}))
    edges: list[Fraction | None] = [None, *joint, None]
    pairs = zip(inner.refined(joint), itertools.pairwise(edges), strict=True)
    return simplified(joint, tuple(_substituted(outer, piece, _between(left, right)) for piece, (left, right) in pairs))


def leaky(argument: Piecewise, alpha: Fraction) -> Piecewise:
    """Return v for v > 0, alpha v else."""
    condition = compared(argument, polynomial(_ZERO), strict=True)
    return chosen(condition, argument, argument.scaled(alpha))


def elu(argument: Piecewise) -> Piecewise:
    """Return v for v > 0, exp(v) - 1 else: only what is not positive meets the exponential."""
    below = exponential(maximum(argument.negated(), polynomial(_ZERO)).negated()).plus(polynomial(-_ONE))
    return maximum(argument, polynomial(_ZERO)).plus(below)


def exponential(argument: Piecewise) -> Piecewise:
    """Return exp(v), for v = k u on each piece."""
    return _applied(argument, _exponential)


def softplus(argument: Piecewise) -> Piecewise:
    """Return log(1 + e^v) for v = k u on each piece; for k < 0 it is that of -v, plus v."""
    return _applied(argument, _softplus)


def logarithm_of_one_plus(argument: Piecewise) -> Piecewise:
    """Return log(1 + v), for v = exp(k u) on each piece: softplus(k u)."""
    return _applied(argument, lambda piece: _softplus(_exponent(piece)))


def square_root(argument: Piecewise) -> Piecewise:
    """Return sqrt(a u^2 + b u + c) on each piece where 4 a c > b^2, and |u + b/2a| sqrt(a) where both are equal."""
    squares = []
    for piece in argument.pieces:
        c0, c1, c2 = piece.polynomial
        root = rational_root(c2)
        if piece.curves or root is None or c2 == 0 or 4 * c0 * c2 != c1 * c1:
            return _applied(argument, _square_root)
        squares.append(Piece((root * c1 / (2 * c2), root, _ZERO)))
    if argument.breaks:
        message = "takes the square root of several squares"
        raise NotPiecewiseError(message)
    inner = Piecewise((), tuple(squares))
    return maximum(inner, inner.negated())


def _crossings(outer: Piecewise, piece: Piece, ends: Ends) -> list[Fraction]:
    c0, c1, c2 = piece.polynomial
    if piece.curves or c2:
        message = "applies a function in pieces to one that is not piecewise affine"
        raise NotPiecewiseError(message)
    crossings = [(place - c0) / c1 for place in outer.breaks] if c1 else []
    return [place for place in crossings if _strictly_inside(place, ends)]


def _substituted(outer: Piecewise, inner: Piece, place: Fraction) -> Piece:
    """Return the piece of f that holds g(place), applied to g = a + b u."""
    a, b, _ = inner.polynomial
    c0, c1, c2 = (own_piece := outer.piece_at(a + b * place)).polynomial
    total = Piece((c0 + (c1 + c2 * a) * a, (c1 + 2 * c2 * a) * b, c2 * b * b))
    for curve, coefficient in own_piece.curves:
        if curve.kind == "root":
            p, q, r = curve.parameters
            argument = Piece((r + (q + p * a) * a, (q + 2 * p * a) * b, p * b * b))
            own = _square_root(argument)
        else:
            argument = Piece((curve.parameters[0] * a, curve.parameters[0] * b, _ZERO))
            own = _exponential(argument) if curve.kind == "exp" else _softplus(argument)
        total = total.plus(own.scaled(coefficient))
    return total


def _between(left: Fraction | None, right: Fraction | None) -> Fraction:
    """Return a place between the ends."""
    if left is None:
        return _ZERO if right is None else right - 1
    return left + 1 if right is None else (left + right) / 2


def _exponential(piece: Piece) -> Piece:
    k = _multiple(piece)
    if k == 0:
        return Piece((_ONE, _ZERO, _ZERO))
    return Piece((_ZERO, _ZERO, _ZERO), ((Curve("exp", (k,)), _ONE),))


def _softplus(piece: Piece) -> Piece:
    k = _multiple(piece)
    if k == 0:
        message = "takes the softplus of 0, which is no rational number"
        raise NotPiecewiseError(message)
    return Piece((_ZERO, min(k, _ZERO), _ZERO), ((Curve("softplus", (abs(k),)), _ONE),))


def _square_root(piece: Piece) -> Piece:
    c0, c1, c2 = piece.polynomial
    root = rational_root(c0)
    if piece.curves or c2 < 0 or (c2 == 0 and (c1 != 0 or root is None)) or 4 * c0 * c2 < c1 * c1:
        message = "takes the square root of something that is not a sum of squares"
        raise NotPiecewiseError(message)
    if c2 == 0:
        return Piece((root or _ZERO, _ZERO, _ZERO))
    if 4 * c0 * c2 == c1 * c1:
        message = "takes the square root of a square with a factor that has no rational root"
        raise NotPiecewiseError(message)
    return Piece((_ZERO, _ZERO, _ZERO), ((Curve("root", (c2, c1, c0)), _ONE),))


def _multiple(piece: Piece) -> Fraction:
    """Return k of a piece k u."""
    if piece.curves or piece.polynomial[0] or piece.polynomial[2]:
        raise NotPiecewiseError(_CONSTANT_OF_EXP)
    return piece.polynomial[1]


def _exponent(piece: Piece) -> Piece:
    """Return k u of a piece exp(k u)."""
    match piece:
        case Piece((c0, c1, c2), ((Curve("exp", (k,)), coefficient),)) if coefficient == 1 and c0 == c1 == c2 == 0:
            return Piece((_ZERO, k, _ZERO))
    message = "takes the logarithm of something other than 1 + exp(k u)"
    raise NotPiecewiseError(message)


def _product(first: Piece, second: Piece) -> Piece:
    for one, other in ((first, second), (second, first)):
        if not one.curves and one.polynomial[1] == one.polynomial[2] == 0:
            return other.scaled(one.polynomial[0])
    a0, a1, a2 = first.polynomial
    b0, b1, b2 = second.polynomial
    if first.curves or second.curves or a2 or b2:
        message = "multiplies two functions of its variable that are not both piecewise affine"
        raise NotPiecewiseError(message)
    return Piece((a0 * b0, a0 * b1 + a1 * b0, a1 * b1))


def _applied(argument: Piecewise, curve: Callable[[Piece], Piece]) -> Piecewise:
    """Return a continuous curve of a continuous function: pieces stay where they are and go on meeting."""
    return simplified(argument.breaks, tuple(map(curve, argument.pieces)))


def _joined(
    functions: tuple[Piecewise, Piecewise], condition: Condition
) -> tuple[tuple[Fraction, ...], tuple[tuple[Piece, ...], tuple[Piece, ...]], tuple[bool, ...]]:
    """Return two functions and a condition between the same places."""
    places = tuple(sorted({*functions[0].breaks, *functions[1].breaks, *condition[0]}))
    return places, (functions[0].refined(places), functions[1].refined(places)), _spread(condition, places)


def _spread(condition: Condition, places: tuple[Fraction, ...]) -> tuple[bool, ...]:
    truths, count = [condition[1][0]], 0
    for place in places:
        count += count < len(condition[0]) and condition[0][count] == place
        truths.append(condition[1][count])
    return tuple(truths)


def _signs(difference: Piecewise) -> tuple[tuple[Fraction, ...], tuple[int, ...]]:
    """Return the places where a function may be 0 without being 0 around, or breaks, and its signs between them."""
    places: list[Fraction] = []
    signs: list[int] = []
    for piece, ends in difference.intervals():
        inner = [place for place in _zeros(piece, ends) if _strictly_inside(place, ends)]
        edges = [ends[0], *inner, ends[1]]
        signs.extend(_sign_between(piece, left, right) for left, right in itertools.pairwise(edges))
        places.extend(inner)
        if ends[1] is not None:
            places.append(ends[1])
    return tuple(places), tuple(signs)


def _strictly_inside(place: Fraction, ends: Ends) -> bool:
    return (ends[0] is None or ends[0] < place) and (ends[1] is None or place < ends[1])


def _zeros(piece: Piece, ends: Ends) -> list[Fraction]:
    """Return the zeros of a piece, ascending; irrational ones must lie outside of its interval."""
    c0, c1, c2 = piece.polynomial
    if piece.curves:
        message = "compares functions of which the difference is no polynomial"
        raise NotPiecewiseError(message)
    if c2 == 0:
        return [-c0 / c1] if c1 else []
    discriminant = c1 * c1 - 4 * c2 * c0
    root = rational_root(discriminant)
    if discriminant < 0:
        return []
    if root is not None:
        return sorted({(-c1 - root) / (2 * c2), (-c1 + root) / (2 * c2)})
    if _has_one_sign(piece, ends):
        return []
    message = "compares functions that meet in an irrational number"
    raise NotPiecewiseError(message)


def _has_one_sign(piece: Piece, ends: Ends) -> bool:
    """Whether a quadratic with two irrational zeros has none of them between the ends."""
    _, c1, c2 = piece.polynomial
    places = [end for end in ends if end is not None]
    bottom = -c1 / (2 * c2)
    places += [bottom] if _strictly_inside(bottom, ends) else []
    signs = {piece.value_at(place).rational > 0 for place in places}
    signs |= {c2 > 0} if None in ends else set()
    return len(signs) == 1


def _sign_between(piece: Piece, left: Fraction | None, right: Fraction | None) -> int:
    """Return the sign of a polynomial piece between neighbouring zeros."""
    value = piece.value_at(_between(left, right)).rational
    return (value > 0) - (value < 0)
