"""Arrow streams as pyarrow writes them, whole or with a few numbers of their metadata put in another's place."""

import struct

import numpy as np
import pyarrow as pa


def stream(*batches, schema=None, **options):
    """Return record batches as one stream; `options` are those of pyarrow's writer."""
    sink = pa.BufferOutputStream()
    schema = batches[0].schema if schema is None else schema
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def lists(rows, name="x", kind=None):
    """Return rows as a record batch of one column of lists."""
    rows = np.asarray(rows)
    array = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel(), kind), rows.shape[1])
    return pa.record_batch([array], names=[name])


def columns(rows, names, kind=None):
    """Return rows as a record batch of a column for each of their numbers."""
    return pa.record_batch([pa.array(column, kind) for column in np.asarray(rows).T.copy()], names=list(names))


def places(body, *numbers):
    """Return where 64-bit numbers stand in a row in a stream, at multiples of four bytes."""
    wanted = struct.pack(f"<{len(numbers)}q", *numbers)
    return [place for place in range(0, len(body) - len(wanted) + 1, 4) if body[place : place + len(wanted)] == wanted]


def patched(body, old, new):
    """Return a stream with 64-bit numbers that stand there in a row, once, replaced by others."""
    (place,) = places(body, *old)
    return body[:place] + struct.pack(f"<{len(new)}q", *new) + body[place + 8 * len(old) :]


def read(body):
    """Return what pyarrow reads of a stream, checked by it in full."""
    with pa.ipc.open_stream(body) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table
