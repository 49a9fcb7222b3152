"""The file of a probe: what was written comes back, and nothing that a file claims is believed."""

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from service.errors import VersionRefusedError
from service.program.probe import Probe

X = np.arange(6, dtype=np.float32).reshape(3, 2)
SCORE = np.array([1.0, -2.5, 3.0], np.float32)
ARRAYS = {"x": X, "score": SCORE, "gradient": -X}


def npy(array: np.ndarray) -> bytes:
    """Return an array as `.npy`."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def head(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """Return the head of an `.npy` file and nothing behind it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip file of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return file.getvalue()


def members(**others: bytes) -> dict[str, bytes]:
    """Return the members of a good probe, some of them exchanged."""
    return {f"{name}.npy": npy(array) for name, array in ARRAYS.items()} | {f"{n}.npy": d for n, d in others.items()}


@pytest.mark.parametrize("other", ["none", "support", "context"])
def test_probe_comes_back_as_it_was_written(other: str) -> None:
    """Rows, scores, gradients, domain weights and context are the same bits, and may be written to."""
    values = {"none": {}, "support": {"support": SCORE * 0.0 + 0.5}, "context": {"context": X[:, :1].copy()}}[other]
    found = Probe.from_bytes(Probe(X, SCORE, -X, **values).to_bytes())
    for name, array in {**ARRAYS, **values}.items():
        assert array.tobytes() == getattr(found, name).tobytes()
        assert getattr(found, name).flags.writeable


def test_probe_of_numpys_own_writer_is_read() -> None:
    """`numpy.savez` writes the same kind of file."""
    file = io.BytesIO()
    np.savez(file, **ARRAYS)
    assert SCORE.tobytes() == Probe.from_bytes(file.getvalue()).score.tobytes()


BAD: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "noise": lambda: np.random.default_rng(1).bytes(4096),
    "cut": lambda: archive(members())[:-30],
    "shape of a terabyte": lambda: archive(members(x=head((1 << 38, 2)))),
    "shape that overflows": lambda: archive(members(x=head((1 << 62, 1 << 62)))),
    "bomb": lambda: archive(members(x=head((1 << 26,)) + bytes(256 << 20)), zipfile.ZIP_DEFLATED),
    "compressed": lambda: archive(members(), zipfile.ZIP_DEFLATED),
    "objects": lambda: archive(members(x=npy(np.array([{}], object)))),
    "head that is code": lambda: archive(members(x=npy(X).replace(b"'fortran_order'", b"__import__('os')"))),
    "float64": lambda: archive(members(x=npy(X.astype(np.float64)))),
    "text": lambda: archive(members(x=npy(np.array(["a"])))),
    "nan": lambda: archive(members(score=npy(SCORE * np.float32(np.nan)))),
    "no score": lambda: archive({"x.npy": npy(X), "gradient.npy": npy(X)}),
    "no rows": lambda: archive(members(x=npy(X[:0]), score=npy(SCORE[:0]), gradient=npy(X[:0]))),
    "other rows": lambda: archive(members(score=npy(SCORE[:2]))),
    "other width": lambda: archive(members(gradient=npy(X[:, :1]))),
    "scalar": lambda: archive(members(score=npy(np.float32(1.0)))),
    "domain weight of 2": lambda: archive(members(support=npy(SCORE))),
    "one more": lambda: archive(members(more=b"")),
    "path": lambda: archive({**members(), "../x.npy": b""}),
    "twice": lambda: archive({**members(), "x": npy(X)}),
    "encrypted": lambda: archive(members()).replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_probe_is_refused_when_it_is_not_three_plain_arrays(name: str) -> None:
    """Damaged, compressed, of giant shapes, of objects or of other shapes: refused by its rule, without the memory."""
    with pytest.raises(VersionRefusedError) as caught:
        Probe.from_bytes(BAD[name]())
    assert "probe" == caught.value.rule
