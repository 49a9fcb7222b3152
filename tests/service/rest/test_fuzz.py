"""Whatever bytes come in, REST answers: never a 5xx, and never anything but finite numbers of the right shape."""

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from service.rest.app import create_app
from tests.service.quadratic_versions import DIM, FEATURES, make_service


def make_client():
    """Return a client of a service with one live version."""
    service = make_service(max_request_rows=4, max_body_bytes=4096)
    service.publish("m", 1)
    return create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()


CLIENT = make_client()
ARROW = "application/vnd.apache.arrow.stream"
NUMBERS = st.one_of(st.floats(), st.integers(-(1 << 63), (1 << 64) - 1))
SCALARS = st.one_of(NUMBERS, st.none(), st.booleans(), st.text(max_size=5))
INSTANCES = st.lists(
    st.one_of(
        st.lists(NUMBERS, min_size=DIM, max_size=DIM),
        st.lists(SCALARS, max_size=DIM + 1),
        st.dictionaries(st.sampled_from([*FEATURES, "x"]), SCALARS),
        SCALARS,
    ),
    max_size=5,
)
DOCUMENTS = st.fixed_dictionaries(
    {"instances": st.one_of(INSTANCES, SCALARS)},
    optional={
        "version": st.one_of(SCALARS, st.integers(1, 2)),
        "label": SCALARS,
        "outputs": st.one_of(SCALARS, st.lists(st.one_of(st.sampled_from(["score", "gradient"]), SCALARS), max_size=3)),
        "other": SCALARS,
    },
)


def check(body, kind):
    """Post a body and check that the answer is one of the contract's."""
    response = CLIENT.post("/models/m/score", data=body, content_type=kind)
    if response.status_code == 200:
        for values in (response.json.get("score", []), response.json.get("gradient", [])):
            assert np.isfinite(np.asarray(values, dtype=np.float32)).all()
    else:
        assert response.status_code in {400, 404, 413}
        assert {"code", "message", "request_id"} == set(response.json["error"])
        assert response.json["error"]["code"] in {"INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_FOUND"}


@given(st.binary(max_size=200), st.sampled_from(["application/json", "application/octet-stream", "", ARROW]))
def test_any_bytes_are_answered_below_500(body, kind):
    """Arbitrary bytes, as JSON, as octets or as an Arrow stream, are rows or the caller's fault."""
    check(body, kind)


@given(DOCUMENTS)
def test_any_document_is_answered_below_500(document):
    """Arbitrary values in the fields of a request are rows or the caller's fault, and no bool or text is a number."""
    check(orjson.dumps(document), "application/json")
