"""The access log: a line for each request, which nobody can break or fill."""

import datetime
import json

import pytest

from service.access_log import PROBES, AccessLog
from service.answered import AnsweredRequest

NOW = datetime.datetime(2026, 11, 20, 3, 0, 12, 5, datetime.UTC)
REQUEST = AnsweredRequest(
    protocol="rest",
    code="OK",
    seconds=0.0123456,
    request_id="night-7",
    method="POST",
    path="/models/m/score",
    status=200,
    model="m",
    version=3,
    signature="score",
    num_rows=2,
    bytes_in=120,
    bytes_out=40,
    queue_seconds=0.0005,
    compute_seconds=0.002,
    peer="127.0.0.1",
)


def lines(*requests, log_format="json", log_level="info"):
    """Return what is written of some requests."""
    written = []

    def write(form, num_bytes):
        line = form()
        assert len(line) <= 4 * num_bytes  # a path is percent-encoded, each of its bytes as three
        written.append(line.decode())

    access_log = AccessLog(write, log_format, log_level, now=lambda: NOW)
    for request in requests:
        access_log.log(request)
    return written


def test_json_line_holds_what_is_known_of_a_request():
    """One object, with the keys of all other lines of the log and those of the request."""
    (line,) = lines(REQUEST)
    assert line.endswith("}\n")
    assert {
        "event": "request",
        "level": "info",
        "timestamp": "2026-11-20T03:00:12.000005Z",
        "request_id": "night-7",
        "protocol": "rest",
        "method": "POST",
        "path": "/models/m/score",
        "model": "m",
        "version": 3,
        "signature": "score",
        "code": "OK",
        "status": 200,
        "rows": 2,
        "bytes_in": 120,
        "bytes_out": 40,
        "milliseconds": 12.346,
        "queue_milliseconds": 0.5,
        "compute_milliseconds": 2.0,
        "peer": "127.0.0.1",
    } == json.loads(line)


def test_console_line_is_for_people_and_leaves_out_what_is_not_known():
    """Time, level and the fields that have a value; over gRPC there is no HTTP status."""
    request = AnsweredRequest("grpc", "NOT_FOUND", 0.001, "id-1", "Predict", "/x.Y/Predict", peer="::1")
    (line,) = lines(request, log_format="console")
    assert (
        "2026-11-20T03:00:12.000005Z [info     ] request request_id=id-1 protocol=grpc method=Predict "
        "path=/x.Y/Predict code=NOT_FOUND rows=0 bytes_in=0 bytes_out=0 milliseconds=1.0 peer=::1\n"
    ) == line


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ("/a\nb", "/a%0Ab"),
        ("/a b", "/a%20b"),
        ("/\x1b[31m", "/%1B%5B31m"),
        ('/"=', "/%22%3D"),
        ("/é", "/%C3%A9"),
        ("/\udcff", "/%3F"),
        ("/" + "x" * 5000, "/" + "x" * 199 + "..."),
    ],
)
def test_what_a_caller_names_breaks_no_line_and_fills_no_disk(log_format, named, shown):
    """Paths, verbs and models are cut and percent-encoded, in both formats."""
    (line,) = lines(AnsweredRequest("rest", "NOT_FOUND", 0.0, path=named, method=named), log_format=log_format)
    assert (1, True) == (line.count("\n"), line.isascii() and line[:-1].isprintable())
    assert (f'"path":"{shown}"' if log_format == "json" else f" path={shown} ") in line
    assert 800 > len(line)


def test_probes_are_logged_at_the_level_debug_alone():
    """Machines that ask all day do not fill the log, unless somebody debugs."""
    probes = [AnsweredRequest("rest", "OK", 0.0, path=path) for path in sorted(PROBES)]
    assert [[], [], []] == [lines(*probes, log_level=level) for level in ("info", "warning", "error")]
    debug = lines(*probes, REQUEST, log_level="debug")
    assert ["debug"] * len(PROBES) + ["info"] == [json.loads(line)["level"] for line in debug]


@pytest.mark.parametrize("level", ["warning", "error"])
def test_levels_above_info_write_no_requests(level):
    """Who wants problems alone gets no line for each request."""
    assert [] == lines(REQUEST, log_level=level)
