"""Says what an HTTP request means, or that it means nothing, and shares no code with the service.

It reads with Python's own json and zlib, with `numpy.load` and, in `arrow_judge`, with pyarrow.
"""

import csv
import io
import json
import math
import re
import zlib
from urllib.parse import parse_qsl

import numpy as np

from tests.chaos.arrow_judge import arrow_rows

OCTETS = "application/octet-stream"
NPY = "application/x-npy"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
_USUAL_HEAD = re.compile(
    rb"[^{]{10,12}\{'descr': '<f[48]', 'fortran_order': (?:True|False), 'shape': \([0-9, ]+\), \} *\n"
)
JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")


def expand(body):
    """Return what one whole gzip member holds.

    Raises:
        ValueError: it is anything else.
    """
    expander = zlib.decompressobj(31)
    try:
        data = expander.decompress(body)
    except zlib.error as error:
        raise ValueError from error
    if not expander.eof or expander.unused_data:
        raise ValueError
    return data


class Judge:
    """Says what a request means, or that it means nothing.

    Args:
        features: names of the model's features; it has one version, 1, and no label.
    """

    def __init__(self, features):
        self.features = features
        self.is_sure = True
        """Whether the last request may not be refused: Python in a `.npy` head that no writer writes may be."""

    def rows(self, request):
        """Return float32 [n, 3] and the names of the outputs.

        Raises:
            ValueError: the request is none that should be answered with scores.
        """
        self.is_sure = True
        said = self._query(request.query)
        timeout = request.headers.get("X-Request-Timeout", "1")
        if timeout not in ("1", "20", "7"):
            raise ValueError(timeout)
        body = self._expanded(request)
        kind, _, parameters = request.headers.get("Content-Type", "").partition(";")
        kind = kind.strip().lower()
        if kind in (OCTETS, NPY, ARROW):
            rows = self._binary(kind, body)
        elif kind == CSV and parameters.strip().lower() in ("", "charset=utf-8"):
            rows = self._csv(body)
        elif kind in JSON_TYPES and parameters.strip().lower() in ("", "charset=utf-8", "charset="):
            rows, said = self._json(body, said)
        else:
            raise ValueError(kind)
        with np.errstate(over="ignore", invalid="ignore"):
            rows = rows.astype(np.float32)
        if not np.isfinite(rows).all():
            raise ValueError
        if said.get("version", 1) != 1 or "label" in said:
            raise ValueError
        return rows, self._wanted(said)

    def _wanted(self, said):
        wanted = said.get("outputs") or ("score", "gradient")
        if len(set(wanted)) != len(wanted) or not {"score", "gradient"}.issuperset(wanted):
            raise ValueError(wanted)
        return [name for name in ("score", "gradient") if name in wanted]

    def _expanded(self, request):
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise ValueError(encoding)
        return request.body if encoding == "identity" else expand(request.body)

    def _query(self, query):
        said = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if said.setdefault(name, value) != value:
                raise ValueError(name)
        if not {"version", "outputs", "label"}.issuperset(said):
            raise ValueError
        if "version" in said:
            said["version"] = {"1": 1}.get(said["version"], 0)
        if "outputs" in said:
            said["outputs"] = tuple(said["outputs"].split(","))
        return said

    def _binary(self, kind, body):
        if kind == OCTETS:
            return np.frombuffer(body, "<f4").reshape(-1, 3)
        if kind == NPY:
            return self._npy(body)
        rows, self.is_sure = arrow_rows(body, self.features)
        return rows

    def _npy(self, body):
        try:
            file = io.BytesIO(body)
            rows = np.load(file, allow_pickle=False)
        except Exception as error:
            raise ValueError from error
        if not isinstance(rows, np.ndarray) or rows.dtype.str not in ("<f4", "<f8") or file.read():
            raise ValueError
        if rows.ndim != 2 or rows.shape[1] != 3:
            raise ValueError
        usual = _USUAL_HEAD.match(body)
        self.is_sure = usual is not None and usual.end() == 10 + int.from_bytes(body[8:10], "little")
        return rows

    def _csv(self, body):
        """Read text by a library that takes almost any; what it reads may be refused, but not read otherwise."""
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline="")))
        lines = [line for line in lines if line]
        order = [0, 1, 2]
        if lines and not all(map(_is_decimal, lines[0])):
            order = [[name.strip() for name in lines[0]].index(feature) for feature in self.features]
            if len(lines.pop(0)) != 3:
                raise ValueError
        if any(len(line) != 3 or "_" in "".join(line) for line in lines):
            raise ValueError
        self.is_sure = b'"' not in body
        return np.array([[float(line[place]) for place in order] for line in lines], np.float64).reshape(-1, 3)

    def _json(self, body, said):
        document = json.loads(
            body.decode("utf-8"),
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_pairs,
        )
        if not isinstance(document, dict) or "instances" not in document:
            raise ValueError
        if (
            not {"instances", "outputs", "version", "label"}.issuperset(document)
            or type(document["instances"]) is not list
        ):
            raise ValueError
        rows = [self._row(instance) for instance in document["instances"]]
        outputs = document.get("outputs", [])
        if type(outputs) is not list or not all(type(name) is str for name in outputs):
            raise ValueError
        if type(document.get("label", "")) is not str:
            raise ValueError
        if "version" in document and type(document["version"]) is not int:
            raise ValueError
        for field in {"outputs", "version", "label"}.intersection(document):
            value = tuple(document[field]) if field == "outputs" else document[field]
            if said.setdefault(field, value) != value:
                raise ValueError
        return np.array(rows, dtype=np.float64).reshape(-1, 3), said

    def _row(self, instance):
        if isinstance(instance, dict):
            if set(instance) != set(self.features):
                raise ValueError
            instance = [instance[name] for name in self.features]
        if (
            not isinstance(instance, list)
            or len(instance) != 3
            or not all(type(value) in (int, float) for value in instance)
        ):
            raise ValueError
        return [float(value) for value in instance]


def _refuse(constant):
    raise ValueError(constant)


def _finite(text):
    if not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _whole(text):
    _finite(text)
    return int(text)


def _pairs(pairs):
    for name, value in pairs:
        name.encode()  # a lone surrogate raises a ValueError
        _check_text(value)
    return dict(pairs)


def _check_text(value):
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, list):
        for item in value:
            _check_text(item)


def _is_decimal(text):
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
