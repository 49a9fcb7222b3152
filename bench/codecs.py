"""What the forms of a body cost beside the model: processor time to read rows, to score them and to write the answer.

    python -m bench codecs

Prints one JSON document. All in one process, each form in turns with the engine alone; medians. Beside JSON stands what
orjson itself takes for the same two documents.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from bench import forms, reference_model
from bench.provenance import provenance
from service.bulk import versions
from service.codecs import arrow, csv, json, npy, raw
from service.model_version import ModelVersion
from service.signature import Signature

Rows = NDArray[np.float32]
Outputs = Mapping[str, NDArray[np.floating]]
_MAX_ROWS = 1 << 16
_OUTPUTS = ("score", "gradient")
_MICROSECONDS = 1e6


@dataclasses.dataclass(frozen=True)
class Form:
    """One form of a body.

    Args:
        write: makes a client's body of rows.
        read: makes rows of a body.
        answer: makes the answer's body.
    """

    write: Callable[[Rows], bytes]
    read: Callable[[bytes, Signature], NDArray[np.floating]]
    answer: Callable[[Signature, Outputs], bytes]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        num_rows: rows of a request, one measurement each.
        num_repeats: how often each is measured, in turns.
        seconds: how long a form is repeated at a time, about.
    """

    num_rows: tuple[int, ...] = (1, 64, 1000)
    num_repeats: int = 7
    seconds: float = 0.05


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return microseconds of each part, and of the whole as a multiple of the engine alone."""
    before = provenance()
    with tempfile.TemporaryDirectory() as name:
        reference_model.publish_apart(Path(name))
        wanted = versions.Wanted(Path(name), reference_model.NAME)
        with versions.opened(wanted, "program", lambda _line: None) as live:
            runs = [_compare(live, num_rows, plan) for num_rows in plan.num_rows]
    return {
        "measurement": "codecs",
        "unit": "microseconds of processor time a request",
        "plan": dataclasses.asdict(plan),
        "runs": runs,
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


def _compare(live: ModelVersion, num_rows: int, plan: Plan) -> dict[str, Any]:
    rows = np.random.default_rng(num_rows).standard_normal((num_rows, reference_model.DIM), np.float32)
    bodies = {name: form.write(rows) for name, form in FORMS.items()}
    outputs = live.engine.run(rows, _OUTPUTS)
    signature = live.signature
    documents = (bodies["json"], {"model": "m", "version": 1, **outputs})
    parts: dict[str, Callable[[], object]] = {
        "engine": lambda: live.engine.run(rows, _OUTPUTS),
        "orjson": lambda: (
            orjson.loads(documents[0]),
            orjson.dumps(documents[1], option=orjson.OPT_SERIALIZE_NUMPY),
        ),
    }
    for name, form in FORMS.items():
        parts[f"{name} read"] = lambda form=form, name=name: _read(form, bodies[name], signature)
        parts[f"{name} answer"] = lambda form=form: form.answer(signature, outputs)
        parts[f"{name} whole"] = lambda form=form, name=name: form.answer(
            signature, live.engine.run(_read(form, bodies[name], signature), _OUTPUTS)
        )
    turns = [{name: _cost(part, plan.seconds) for name, part in parts.items()} for _ in range(plan.num_repeats)]
    return {
        "num_rows": num_rows,
        "microseconds": {name: statistics.median(turn[name] for turn in turns) for name in parts},
        "whole_to_engine": {
            name: statistics.median(turn[f"{name} whole"] / turn["engine"] for turn in turns) for name in FORMS
        },
        "body_bytes": {name: len(body) for name, body in bodies.items()},
    }


def _read(form: Form, body: bytes, signature: Signature) -> Rows:
    return signature.validate(form.read(body, signature), max_rows=_MAX_ROWS)


def _cost(part: Callable[[], object], seconds: float) -> float:
    """Return the microseconds of processor time that a call takes, of all threads: the engine may use several."""
    began = ended = time.process_time()
    num_calls = 0
    while num_calls < 3 or ended - began < seconds:
        part()
        ended = time.process_time()
        num_calls += 1
    return _MICROSECONDS * (ended - began) / num_calls


def _written_lists(rows: Rows) -> bytes:
    return _stream(pa.record_batch([pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])], ["x"]))


def _written_columns(rows: Rows) -> bytes:
    columns = [pa.array(column) for column in np.ascontiguousarray(rows.T)]
    return _stream(pa.record_batch(columns, [f"x{position}" for position in range(rows.shape[1])]))


def _stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _read_json(body: bytes, signature: Signature) -> NDArray[np.floating]:
    return json.decode_both(json.decode_request(body, _MAX_ROWS), signature)


def _read_arrow(body: bytes, signature: Signature) -> Rows:
    return arrow.decode_rows(body, signature, _MAX_ROWS)


def _arrow_answer(_signature: Signature, outputs: Outputs) -> bytes:
    return arrow.encode_answer(outputs)


FORMS = {
    "json": Form(
        functools.partial(forms.body, forms.JSON),
        _read_json,
        json.encode_answer,
    ),
    "json of doubles": Form(lambda rows: orjson.dumps({"instances": rows.tolist()}), _read_json, json.encode_answer),
    "octet-stream": Form(
        functools.partial(forms.body, forms.OCTETS),
        raw.decode_rows,
        lambda _signature, outputs: raw.encode_answer(outputs),
    ),
    "npy": Form(
        functools.partial(forms.body, forms.NPY),
        lambda body, _signature: npy.decode_rows(body),
        lambda _signature, outputs: npy.encode_answer(outputs),
    ),
    "arrow lists": Form(_written_lists, _read_arrow, _arrow_answer),
    "arrow columns": Form(_written_columns, _read_arrow, _arrow_answer),
    "csv": Form(
        functools.partial(forms.body, forms.CSV),
        lambda body, signature: csv.decode_rows(body, signature, _MAX_ROWS),
        csv.encode_answer,
    ),
}
"""Forms as clients write them: JSON with the shortest decimals of float32, or of the doubles that they are."""
