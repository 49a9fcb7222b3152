"""What a JSON request may be made of, counted in its bytes before anything is built of them.

A list of two characters becomes 56 bytes of Python and 16 of the parser's: a body of 64 MiB of `[],` takes 1.9 GiB,
while of numbers alone, which have to be taken, it takes at most 0.9 GiB. So lists, objects and texts are counted first,
without a Python step for anything else. Bytes also tell that a document has nothing but numbers, for a hundredth of the
time that a look at each number's type takes. Above: `json`. Below: NumPy and `errors`.
"""

import re

import numpy as np

from service.errors import InvalidArgumentError, PayloadTooLargeError

SMALL_BYTES = 1 << 16
"""Documents up to this size are not counted: whatever they hold, they take some 2 MiB at most."""

_MAX_DEPTH = 3  # the request, its instances, one instance
_MAX_EXTRA = 32  # the request itself, its lists of instances and of outputs, the texts in them

_PIECE_BYTES = 1 << 18  # of which a mask is made at a time
_FEW_BYTES = 1 << 12
_MAX_TAIL_BYTES = 1 << 9
_FIRST = re.compile(rb'[ \t\n\r]*\{[ \t\n\r]*"instances"[ \t\n\r]*:[ \t\n\r]*\[')

# All that makes no list, no object and no text of its own: numbers, words, signs, and texts that are keys. Possessive
# throughout, so that nothing is tried twice and nothing is remembered.
_SKIPPED = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"\s*+:)*+', re.DOTALL)
_NESTED = re.compile(rb"(?:[\[{]\s*+){4}")
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def check_structure(body: bytes, max_rows: int) -> None:
    """Refuse a large document that holds more lists, objects and texts than a request of `max_rows` instances may.

    Time is linear in the size, memory constant. What is no JSON at all may pass: the parser says what is wrong.

    Args:
        body: a JSON document as UTF-8.
        max_rows: largest number of instances of one request.

    Raises:
        InvalidArgumentError: lists and objects stand in one another deeper than in any request.
        PayloadTooLargeError: more of them, and of texts, than `max_rows` and some.
    """
    if len(body) <= SMALL_BYTES:
        return
    limit = max_rows + _MAX_EXTRA
    num_containers, num_texts = _count(body, b"[{"), _count(body, b'"') // 2
    if num_containers + num_texts <= limit:
        return
    if num_texts <= _MAX_EXTRA:
        inside = b"".join(_TEXT.findall(body))
        if num_containers - inside.count(b"[") - inside.count(b"{") > limit:
            raise _too_deep() if _NESTED.search(body) else _too_many(max_rows)
        return
    _walk(body, max_rows)


def has_numbers_alone(body: bytes) -> bool:
    """Return whether in the rows of a document, where they are lists, stands nothing but numbers.

    Told of documents as most writers write them: `instances` first, and once. Of others, and of small ones, whose
    numbers are soon looked at, False. It is not said that there are no lists within the rows.

    Args:
        body: a JSON document, as a strict parser has accepted it.
    """
    first, last = _FIRST.match(body), body.rfind(b"]]")
    if len(body) <= _FEW_BYTES or first is None or not 0 <= len(body) - last - 2 <= _MAX_TAIL_BYTES:
        return False
    # Beyond `first` stand no texts, no objects and no words: of the bytes of JSON, those have quotes or go beyond "e".
    # Nothing of the rows stands behind `last`, unless lists stand within them; and the rows are not told anew there.
    start, tail = first.end(), body[last:]
    if body.find(b'"', start, last) >= 0 or b"instances" in tail or b"\\" in tail:
        return False
    return last <= start or int(np.frombuffer(body, np.uint8, last - start, start).max()) <= ord("e")


def _count(body: bytes, signs: bytes) -> int:
    """Return how often one of some bytes occurs; `bytes.count` takes ten times as long."""
    data = np.frombuffer(body, np.uint8)
    pieces = [data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES)]
    return sum(int(np.count_nonzero(piece == sign)) for piece in pieces for sign in signs)


def _walk(body: bytes, max_rows: int) -> None:
    """Count step by step, so that keys are not taken for texts, nor what stands in either for lists."""
    position = count = depth = 0
    while (position := _end(_SKIPPED, body, position)) < len(body):
        sign = body[position : position + 1]
        if sign in b"]}":
            depth -= 1
            position += 1
            continue
        count += 1
        if sign == b'"':
            position = max(position + 1, _end(_TEXT, body, position))
        else:
            depth += 1
            position += 1
        if depth > _MAX_DEPTH:
            raise _too_deep()
        if count > max_rows + _MAX_EXTRA:
            raise _too_many(max_rows)


def _too_deep() -> InvalidArgumentError:
    return InvalidArgumentError(
        f"body: lists or objects stand deeper than the depth limit, {_MAX_DEPTH}. Send a list of lists."
    )


def _too_many(max_rows: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"body: more lists, objects and texts than {max_rows} instances may have. Split the request."
    )


def _end(pattern: re.Pattern[bytes], body: bytes, position: int) -> int:
    found = pattern.match(body, position)
    return position if found is None else found.end()
