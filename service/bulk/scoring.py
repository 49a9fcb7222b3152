"""The rows of a file scored on every core, in order and in bounded memory.

Above: `__main__`. Below: the other modules of `bulk`, and `model_version`.
"""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.bulk.columns import Columns, find_columns
from service.bulk.failure import BulkError
from service.bulk.progress import Count
from service.bulk.sinks import Write, open_sink
from service.bulk.sources import Source, open_source
from service.engines import Engine
from service.model_version import ModelVersion

Floats = NDArray[np.float32]

_BATCH_BYTES = 1 << 22
_MAX_BATCH_ROWS = 1 << 14
_WAITING_BATCHES = 2
"""Batches that wait for their turn, for each thread: so that none is idle while the file is read or written."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be scored.

    Args:
        source: the file to read.
        sink: the file to write; may be the same.
        has_gradient: whether gradients are wanted.
        skips_bad_rows: whether a row without an answer gets empty cells; else it ends the job.
        num_threads: how many batches are computed at once; 0: one for each core.
    """

    source: Path
    sink: Path
    has_gradient: bool = False
    skips_bad_rows: bool = False
    num_threads: int = 0


@dataclasses.dataclass(frozen=True)
class Scored:
    """What came of it: rows in all, and those of them without an answer."""

    num_rows: int
    num_bad_rows: int


def score_file(job: Job, live: ModelVersion, counting: Callable[[int | None], AbstractContextManager[Count]]) -> Scored:
    """Write the rows of a file with their answers, in order: its columns, `score`, `gradient_<feature>`, `support`.

    Args:
        job: what is to be scored.
        live: what scores.
        counting: opens what is told of the rows that are done; called with their number where it is known.

    Raises:
        BulkError: a file that cannot be read or written, columns that are not the model's, or a row that has no answer
            (its number, its column and why). Nothing is written then.
    """
    signature = live.signature
    names = (*signature.features, *signature.context_features)
    names = names if len(names) == signature.width else tuple(f"x{position}" for position in range(signature.width))
    outputs = tuple(name for name in signature.outputs if job.has_gradient or name != "gradient")
    with open_source(job.source, names, _batch_rows(signature.width)) as source:
        columns = find_columns(source.schema, signature, is_text=source.is_text)
        ending = job.sink.suffix.lower()
        keeps_text = source.is_text and ending == ".csv"
        typed = columns.typed_schema(source.schema, whole=ending == ".npy") if source.is_text else source.schema
        kept = source.schema if keeps_text else typed
        schema = pa.schema([*kept, *_added_fields(kept, columns, outputs)]).with_metadata(kept.metadata)
        scorer = _Scorer(live.engine, columns, outputs, schema, typed if source.is_text else None, keeps_text)
        with open_sink(job.sink, schema) as write, counting(source.num_rows) as count:
            return _run(job, scorer, source, write, count)


def _batch_rows(width: int) -> int:
    return max(64, min(_MAX_BATCH_ROWS, _BATCH_BYTES // (4 * width)))


def _added_fields(kept: pa.Schema, columns: Columns, outputs: tuple[str, ...]) -> "list[pa.Field[Any]]":
    """Return the columns of the outputs.

    Raises:
        BulkError: the file has one of that name.
    """
    names = []
    for output in outputs:
        names += [f"gradient_{name}" for name in columns.names[: columns.dim]] if output == "gradient" else [output]
    for name in names:
        if name in kept.names:
            raise BulkError(f"column {name}: the file has one already. Rename it: the answers would be lost in it.")
    return [pa.field(name, pa.float32()) for name in names]


@dataclasses.dataclass(frozen=True)
class _Answered:
    """A batch with its answers.

    Args:
        batch: what is written.
        bad: the rows that have no answer, ascending; theirs are empty.
        received: the batch as it was read.
    """

    batch: pa.RecordBatch
    bad: NDArray[np.intp]
    received: pa.RecordBatch


@dataclasses.dataclass(frozen=True)
class _Scorer:
    """Makes answered batches of batches.

    Args:
        engine: computes.
        columns: where the rows are.
        outputs: what is wanted.
        schema: of an answered batch.
        typed: the schema of a batch of text with numbers where they are wanted; None where batches have types.
        keeps_text: whether text is written as it was read.
    """

    engine: Engine
    columns: Columns
    outputs: tuple[str, ...]
    schema: pa.Schema
    typed: pa.Schema | None
    keeps_text: bool

    def score(self, batch: pa.RecordBatch) -> _Answered:
        """Return a batch with its answers."""
        typed = batch if self.typed is None else self.columns.typed(batch, self.typed)
        rows = self.columns.rows_of(typed)
        is_bad = np.logical_not(np.isfinite(rows).all(axis=1))
        rows[is_bad] = 0.0
        answers = self.engine.run(rows, self.outputs)
        for values in answers.values():
            is_bad |= ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        mask = np.asarray(is_bad) if is_bad.any() else None
        added = [pa.array(column, mask=mask) for output in self.outputs for column in _columns_of(answers[output])]
        kept = batch.columns if self.keeps_text else typed.columns
        answered = pa.RecordBatch.from_arrays([*kept, *added], schema=self.schema)
        return _Answered(answered, np.flatnonzero(is_bad), batch)

    def refusal(self, answered: _Answered, rows_before: int) -> BulkError:
        """Return what is told of the first row that has no answer."""
        position = int(answered.bad[0])
        why = self.columns.why_bad(answered.received, position)
        return BulkError(
            f"row {rows_before + position + 1}: {why}. Repair it, or let it have no score: --bad-rows empty."
        )


def _columns_of(values: Floats) -> list[Floats]:
    return [values] if values.ndim == 1 else list(np.ascontiguousarray(values.T))


def _run(job: Job, scorer: _Scorer, source: Source, write: Write, count: Count) -> Scored:
    num_rows = num_bad = 0
    num_threads = (job.num_threads or len(os.sched_getaffinity(0))) if scorer.engine.thread_safe else 1
    with contextlib.closing(_in_order(source.batches, scorer.score, num_threads)) as all_answered:
        for answered in all_answered:
            if len(answered.bad) and not job.skips_bad_rows:
                raise scorer.refusal(answered, num_rows)
            write(answered.batch)
            count(answered.batch.num_rows)
            num_rows += answered.batch.num_rows
            num_bad += len(answered.bad)
    return Scored(num_rows, num_bad)


def _in_order(
    batches: Iterator[pa.RecordBatch], work: Callable[[pa.RecordBatch], _Answered], num_threads: int
) -> Generator[_Answered]:
    """Yield what `work` makes of each batch, in order, while some batches more are worked on by threads."""
    waiting: collections.deque[Future[_Answered]] = collections.deque()
    pool = ThreadPoolExecutor(num_threads, "bulk")
    try:
        for batch in batches:
            waiting.append(pool.submit(work, batch))
            if len(waiting) > num_threads * (1 + _WAITING_BATCHES):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
