"""What a request costs: processor time of a process that is known, and servers whose outcomes are known."""

import os
import time
import urllib.error
import urllib.request

import pytest

from bench import edge
from bench.load import Job, Phase

CLOSED = Phase("closed", 0.1, None, 2)
OPEN = Phase("open", 0.1, 100.0)


@pytest.fixture(scope="module")
def served():
    """Return process and address of the edge alone."""
    with edge.edge_serving() as served:
        yield served


def test_processor_time_of_a_process_is_what_it_says_of_itself():
    """The clock of this very process, read by its number, stands between two readings from within."""
    before = time.process_time()
    seen = edge.processor_seconds(os.getpid())
    assert before <= seen <= time.process_time()


@pytest.mark.parametrize(("model", "phase"), [("echo", CLOSED), ("refused", OPEN)])
def test_each_kind_of_request_costs_something(served, model, phase):
    """Echoes and refusals are all counted, and take processor time of the server."""
    pid, address = served
    assert 0.0 < edge.cost(pid, Job(address, model, 4, 8, 5.0, ()), phase)


def test_cost_is_of_those_that_were_answered_or_refused():
    """Two seconds for three answers and a refusal: half a second each, in microseconds."""
    assert 5e5 == edge.per_request({"num_sent": 4, "counts": {"ok": 3, "429": 1}}, 2.0)


@pytest.mark.parametrize("counts", [{"ok": 3}, {"ok": 3, "504": 1}, {"ok": 3, "hung": 1}, {}])
def test_requests_of_another_outcome_have_no_cost(counts):
    """A request that is lost, late or hung spoils the figure, and is told."""
    with pytest.raises(RuntimeError, match="of 4 requests"):
        edge.per_request({"num_sent": 4, "counts": counts}, 2.0)


def test_refused_request_is_refused_as_the_server_does(served):
    """With 429 and Retry-After, in the form of all errors."""
    request = urllib.request.Request(f"http://{served[1]}/models/refused/score", b"1234", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    with refused.value as error:
        assert (429, "1") == (error.code, error.headers["Retry-After"])
        assert b"RESOURCE_EXHAUSTED" in error.read()
