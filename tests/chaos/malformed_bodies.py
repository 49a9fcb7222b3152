"""Spoilt HTTP requests by the hundred thousand: bodies, queries and header values; the framing is whole."""

import contextlib
import dataclasses
import gzip
import io
import json
import random
import re
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from tests.chaos.body_judge import expand

OCTETS = "application/octet-stream"
NPY = "application/x-npy"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
LONG = "".join(map(str, range(200)))  # no part of it of 40 characters is found twice
ODD_NUMBERS = [
    "NaN",
    "-Infinity",
    "Infinity",
    "1e400",
    "-1e400",
    "1e39",
    "1e38",
    "3.4028236e38",
    "1e-400",
    "-0",
    "-0.0",
    "0.1",
    "1e5",
    "9007199254740993",
    "1.",
    ".5",
    "18446744073709551616",
    "-9223372036854775809",
    "+1",
    "01",
    "0x10",
    "1_000",
    "1e",
    "1e+",
    "-",
    "5e-324",
    "123456789012345678901234567890",
]
ODD_VALUES = [
    b"null",
    b"true",
    b"false",
    b'"1"',
    b'""',
    b"[]",
    b"{}",
    b"[[]]",
    b"[1]",
    b"[1,2,3]",
    b'{"a":1}',
    b"1" * 400,
]
TOKENS = [
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"\\",
    b"\\ud800",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"-",
    b"e",
    b".",
]
TOKENS += [
    b" ",
    b"\n",
    b"NaN",
    b"1e400",
    b"\xc3",
    b"\xe2\x82\xac",
    b"//",
    b"/*",
    b"'",
    b"\x1f\x8b",
    b"\x93NUMPY",
    b"ARROW1",
]
TOKENS += [b"\xff" * 4, b"\xff" * 8, bytes(4), bytes(8), b"\xff\xff\xff\x7f"]
TYPES = ["", "application/json", "application/x-www-form-urlencoded", "application/json; charset=utf-8", OCTETS, NPY]
ODD_TYPES = [
    "text/plain",
    "application/json; charset=utf-16",
    "application/",
    "/",
    ";",
    "application/json;charset=",
    NPY,
]
ODD_TYPES += [
    "multipart/form-data; boundary=x",
    "application/x-npy; v=1",
    LONG,
    "application/json, text/plain",
    "\xe9",
]
ENCODINGS = [
    "identity",
    "gzip",
    "x-gzip",
    "deflate",
    "br",
    "gzip, gzip",
    "identity, gzip",
    "GZIP ",
    "chunked",
    "",
    "\xff",
]
ACCEPTS = [
    "*/*",
    OCTETS,
    NPY,
    ARROW,
    "application/json;q=0",
    "application/*;q=0.1",
    ",,,",
    ";q=",
    "a/b;q=nan",
    LONG,
    "\xe9/\xe9",
]
TIMEOUTS = ["1", "20", "0.5x", "-1", "nan", "inf", "1e3", "", "7", "9" * 60, "0", "\xb2", "86401"]
QUERIES = [
    "version=1",
    "outputs=score",
    "outputs=gradient,score",
    "outputs=",
    "version=",
    "label=",
    "label=x",
    "label=%00",
]
QUERIES += [
    "version=1&version=1",
    "version=1&version=2",
    "version=01",
    "version=-1",
    "version=%31",
    "version=1&label=x",
    "&",
]
QUERIES += [
    "outputs=score,score",
    "outputs=score,,",
    "x=1",
    "%",
    "%ff=%fe",
    "version=" + "9" * 300,
    "=",
    "outputs=%F0%9F",
    LONG,
]

_MARKED = re.compile(r'"@([0-9]+)"')


@dataclasses.dataclass(frozen=True)
class Request:
    """One request for scores.

    Args:
        query: of the target, without its question mark.
        headers: name -> value, printable Latin-1.
        body: bytes.
    """

    query: str
    headers: dict[str, str]
    body: bytes

    def data(self):
        """Return all that the client sent, as text."""
        parts = [self.query, *self.headers.values(), self.body.decode("latin-1"), self.body.decode("utf-8", "replace")]
        with contextlib.suppress(ValueError):
            parts.append(expand(self.body).decode("latin-1"))
        return "\n".join(parts)


class Corpus:
    """Makes spoilt requests for a model of three features.

    Args:
        features: names of the features.
        seed: numbers of a seed; the same give the same requests.
    """

    def __init__(self, features, *seed):
        self.features = features
        self.rng = random.Random(repr(seed))  # noqa: S311  (the same requests for the same seed, and no secrets)

    def request(self):
        """Return one more."""
        kind = self.pick(
            [
                self.json_bytes,
                self.json_values,
                self.octets,
                self.npy,
                self.csv,
                self.arrow,
                self.compressed,
                self.outside,
            ]
        )
        return kind()

    def pick(self, choices):
        """Return one of them."""
        return choices[self.rng.randrange(len(choices))]

    def rows(self):
        """Return a few rows, most of them of numbers that a model has seen the like of."""
        numbers = [float(self.rng.randrange(256)) for _ in range(3 * self.rng.randrange(4))]
        if numbers and self.rng.random() < 0.3:
            numbers[self.rng.randrange(len(numbers))] = self.pick([np.nan, np.inf, -np.inf, 3e38, 1e-45, -0.0, 1e20])
        return np.array(numbers, np.float32).reshape(-1, 3)

    def document(self):
        """Return a valid JSON request, its numbers marked for `_numbers`."""
        rows = [[f"@{self.rng.randrange(256)}" for _ in range(3)] for _ in range(self.rng.randrange(1, 4))]
        document = {"instances": rows}
        if self.rng.random() < 0.3:
            rows[0] = dict(zip(self.features, rows[0], strict=True))
        optional = (("outputs", ["score"]), ("version", "@1"), ("outputs", ["gradient", "score"]))
        return json.dumps(document | dict(item for item in optional if self.rng.random() < 0.3))

    def plain_json(self):
        """Return a valid JSON body."""
        return _numbers(self.document(), lambda number: number)

    def json_bytes(self):
        """Return JSON with a few bytes changed, lost, doubled or put in."""
        return Request("", {"Content-Type": self.pick(TYPES[:4])}, self.spoil(self.plain_json().encode()))

    def json_values(self):
        """Return JSON that is JSON, with values in it that are none of the request's."""

        def replace(number):
            if self.rng.random() > 0.25:
                return number
            return self.pick(ODD_NUMBERS) if self.rng.random() < 0.6 else self.pick(ODD_VALUES).decode()

        body = _numbers(self.document(), replace)
        if self.rng.random() < 0.3:
            odd = self.pick(ODD_VALUES).decode()
            field = self.pick(["instances", "outputs", "version", "label", "x", "", "\\u0069nstances"])
            body = body[:-1] + f', "{field}": {odd}}}'
        return Request("", {"Content-Type": self.pick(TYPES[:4])}, body.encode())

    def octets(self):
        """Return float32, whole or not, of any bits."""
        body = self.rows().tobytes() if self.rng.random() < 0.6 else self.rng.randbytes(self.rng.randrange(60))
        if self.rng.random() < 0.3:
            body = body[: self.rng.randrange(len(body) + 1)]
        return Request("", {"Content-Type": OCTETS}, body)

    def plain_npy(self):
        """Return a `.npy` file of some array."""
        rows = self.rows()
        shaped = [rows, np.asfortranarray(rows), rows.astype("<f8"), rows.ravel(), rows.astype(">f4"), rows[:, None]]
        with np.errstate(over="ignore", invalid="ignore"):
            shaped += [rows.astype(np.float16), rows.astype(np.int64)]
        file = io.BytesIO()
        np.save(file, self.pick(shaped))
        return file.getvalue()

    def npy(self):
        """Return a `.npy` file, spoilt in its head, in its numbers, or not at all."""
        body = self.plain_npy()
        if self.rng.random() < 0.5:
            body = self.spoil(body[:128]) + body[128:]
        if self.rng.random() < 0.3:
            sizes = ["(1099511627776, 3)", "(-1, 3)", "(3, 1)", "(1,)", "()", "(1, 3", "(1, 3L)", "(2.0, 3)", "(1, 03)"]
            head, _, data = body.partition(b"\n")
            body = head.replace(b"(1, 3)", self.pick(sizes).encode()) + b"\n" + data
        return Request("", {"Content-Type": NPY}, body)

    def plain_csv(self):
        """Return a CSV text, with or without a header."""
        columns = self.rng.sample(range(3), 3)
        head = ",".join(self.features[column] for column in columns) + "\n" if self.rng.random() < 0.5 else ""
        end = self.pick(["\n", "\r\n"])
        return (head + "".join(",".join(map(str, row)) + end for row in self.rows().tolist())).encode()

    def csv(self):
        """Return a CSV text, spoilt or not, or with cells that are none of a row's."""
        body = self.plain_csv()
        if self.rng.random() < 0.5:
            odd = self.pick(
                [b"", b" ", b"x", b"1_0", b'"1"', b'"', b"0x1", b"1e400", b"nan", b"\xff", b"\xd9\xa3", b"1,1"]
            )
            cells = body.split(b",")
            cells[self.rng.randrange(len(cells))] = odd
            body = b",".join(cells)
        return Request("", {"Content-Type": CSV}, self.spoil(body) if self.rng.random() < 0.5 else body)

    def plain_arrow(self):
        """Return an Arrow stream of one batch or two: lists, or columns in any order, of numbers or of others."""
        rows = self.rows()
        kind = self.pick([None, None, None, "float64", "float16", "int32", "uint8", "string", "bool"])
        numbers = np.nan_to_num(rows, posinf=0, neginf=0).clip(0, 255).astype(int) if kind else rows
        if self.rng.random() < 0.5:
            array = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), self.pick([3, 3, 3, 1]))
            batch = pa.record_batch([array], names=[self.pick(["x", "x", "x", "y"])])
        else:
            order = self.rng.sample(range(3), 3)
            arrays = [pa.array(numbers[:, column].copy()) for column in order]
            arrays = [array if kind is None else array.cast(kind) for array in arrays]
            batch = pa.record_batch(arrays, names=[self.features[column] for column in order])
        sink = pa.BufferOutputStream()
        compression = self.pick([None] * 8 + ["lz4", "zstd"])
        with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            for _ in range(self.rng.randrange(1, 3)):
                writer.write_batch(batch)
        return sink.getvalue().to_pybytes()

    def arrow(self):
        """Return an Arrow stream, spoilt in a message's words, anywhere, or not at all."""
        body = self.plain_arrow()
        if self.rng.random() < 0.4:
            place = 4 * self.rng.randrange(len(body) // 4)
            word = self.pick([0, 1, 2, 3, 8, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, self.rng.getrandbits(32)])
            body = body[:place] + word.to_bytes(4, "little") + body[place + 4 :]
        return Request("", {"Content-Type": ARROW}, self.spoil(body) if self.rng.random() < 0.3 else body)

    def compressed(self):
        """Return any of the others under gzip, spoilt or not, or as gzip without being it."""
        inner = self.pick([self.json_bytes, self.octets, self.npy, self.csv, self.arrow, self.json_values])()
        body = gzip.compress(inner.body, self.pick([0, 1, 9]), mtime=0) if self.rng.random() < 0.8 else inner.body
        spoilt = [body, body, self.spoil(body), body + body, body[:-4] + self.rng.randbytes(4), body[: len(body) // 2]]
        encoding = self.pick(["gzip", "gzip", "x-gzip", self.pick(ENCODINGS)])
        return Request("", inner.headers | {"Content-Encoding": encoding}, self.pick(spoilt))

    def outside(self):
        """Return a good body under an odd query and odd headers."""
        query = quote(self.pick(QUERIES), safe="%=&,") if self.rng.random() < 0.6 else ""
        kind, body = self.pick(
            [
                ("", self.plain_json().encode()),
                (OCTETS, self.rows().tobytes()),
                (NPY, self.plain_npy()),
                (ARROW, self.plain_arrow()),
            ]
        )
        headers = {"Content-Type": kind if self.rng.random() < 0.7 else self.pick(ODD_TYPES)}
        for name, values in (("Accept", ACCEPTS), ("X-Request-Timeout", TIMEOUTS), ("Content-Encoding", ENCODINGS)):
            if self.rng.random() < 0.3:
                headers[name] = self.pick(values)
        if self.rng.random() < 0.2:
            headers["X-Request-ID"] = self.pick(["id-1", LONG, "\xe9", '"', "a b", "<script>"])
        return Request(query, headers, body)

    def spoil(self, body):
        """Return bytes with one to three things done to them."""
        for _ in range(self.rng.randrange(1, 4)):
            place = self.rng.randrange(len(body) + 1)
            end = min(len(body), place + self.rng.randrange(1, 12))
            byte = self.rng.randbytes(1)
            before, cut, after = body[:place], body[place:end], body[end:]
            body = (
                before
                + self.pick([byte + cut[1:], cut[1:], cut + cut, self.pick(TOKENS) + cut, b"", cut[::-1]])
                + after
            )
        return body


def _numbers(document, replace):
    """Return a document with each marked number, a text that begins with @, replaced."""
    return _MARKED.sub(lambda found: replace(found[1]), document)
