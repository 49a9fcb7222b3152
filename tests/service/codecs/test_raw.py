"""Bare float32: rows in, a table out, every bit kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.codecs import raw
from service.errors import InvalidArgumentError
from service.signature import Signature

SIGNATURE = Signature("m", 3, dim=3)


@given(st.binary(max_size=120))
def test_decode_rows_keeps_every_bit_or_refuses_the_length(body):
    """Whole rows come back bit for bit, whatever the bits; any other length is refused with both numbers."""
    if len(body) % 12 == 0:
        rows = raw.decode_rows(body, SIGNATURE)
        assert (len(body) // 12, 3) == rows.shape
        assert body == rows.tobytes()
    else:
        with pytest.raises(InvalidArgumentError, match=rf"expected a multiple of 12 bytes .* received {len(body)}\."):
            raw.decode_rows(body, SIGNATURE)


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.just(4)), elements=st.floats(width=32)))
def test_encode_answer_puts_score_before_gradient(table):
    """The answer is a row-major table: score first, then the gradient's columns, whatever the order they came in."""
    outputs = {"gradient": table[:, 1:], "score": table[:, 0]}
    assert table.tobytes() == raw.encode_answer(outputs)
    assert table[:, 0].tobytes() == raw.encode_answer({"score": table[:, 0]})
    assert table[:, 1:].tobytes() == raw.encode_answer({"gradient": table[:, 1:]})
