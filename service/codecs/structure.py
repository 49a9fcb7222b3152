"""What a JSON request may be made of, counted in its bytes before anything is built of them.

A list of two characters becomes 56 bytes of Python and 16 of the parser's: a body of 64 MiB of `[],` takes 1.9 GiB,
while of numbers alone, which have to be taken, it takes at most 0.9 GiB. So lists, objects and texts are counted first,
without a Python step for anything else. Above: `json`. Below: `errors`.
"""

import re

import numpy as np

from service.errors import InvalidArgumentError, PayloadTooLargeError

SMALL_BYTES = 1 << 16
"""Documents up to this size are not counted: whatever they hold, they take some 2 MiB at most."""

_PIECE_BYTES = 1 << 15  # what is made of one stays in the processor's cache
_MAX_DEPTH = 3  # the request, its instances, one instance
_MAX_EXTRA = 32  # the request itself, its lists of instances and of outputs, the texts in them

# All that makes no list, no object and no text of its own: numbers, words, signs, and texts that are keys. Possessive
# throughout, so that nothing is tried twice and nothing is remembered.
_SKIPPED = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"\s*+:)*+', re.DOTALL)
_NESTED = re.compile(rb"(?:[\[{]\s*+){4}")
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def check_structure(body: bytes, max_rows: int) -> None:
    """Refuse a large document that holds more lists, objects and texts than a request of `max_rows` instances may.

    Time is linear in the size; memory constant. What is no JSON at all may pass: the parser says what is wrong.

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
    num_containers = count_byte(body, b"[") + count_byte(body, b"{")
    num_texts = count_byte(body, b'"') // 2
    if num_containers + num_texts <= limit:
        return
    if num_texts <= _MAX_EXTRA:
        inside = b"".join(_TEXT.findall(body))
        if num_containers - inside.count(b"[") - inside.count(b"{") > limit:
            raise _too_deep() if _NESTED.search(body) else _too_many(max_rows)
        return
    _walk(body, max_rows)


def count_byte(body: bytes, byte: bytes) -> int:
    """Return how often a byte stands in a body; by NumPy, for `bytes.count` looks at one byte after the other."""
    if len(body) <= _PIECE_BYTES:
        return body.count(byte)
    codes, code = np.frombuffer(body, np.uint8), ord(byte)
    starts = range(0, len(body), _PIECE_BYTES)
    return sum([int(np.count_nonzero(codes[start : start + _PIECE_BYTES] == code)) for start in starts])


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
