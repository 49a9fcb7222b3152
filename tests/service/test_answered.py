"""The name of the signature that a set of outputs belongs to."""

import pytest

from service.answered import signature_name


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        (None, "serving_default"),
        (("score", "gradient"), "serving_default"),
        (("gradient",), "serving_default"),
        (("score",), "score"),
        (["score"], "score"),
        ((), "serving_default"),
    ],
)
def test_outputs_have_the_name_of_their_signature(outputs, name):
    """The score alone is the signature without gradient work; anything else is a part of the default one."""
    assert name == signature_name(outputs)
