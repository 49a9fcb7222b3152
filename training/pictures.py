"""Pictures as rows of red, green and blue, and rows as pictures.

Over `datasets`, whose tables it makes; the transport objective reads with it, `pipeline` paints reports with it.
"""

import base64
import dataclasses
import hashlib
import importlib.resources
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from training.datasets import DataError, Samples, Table, read_bytes

SUFFIXES = (".jpg", ".jpeg", ".png")
CHANNELS = ("red", "green", "blue")
LARGEST = 255.0
"""A channel goes from 0 to this."""

MAX_PIXELS = 40_000_000
PREVIEW = (480, 960)
"""Width and height, in pixels, that no picture of a report exceeds."""

_SKLEARN = "sklearn:"
_QUALITY = 85
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError)
"""What Pillow raises on bytes that are no whole picture."""

Pixels = NDArray[np.uint8]
"""A picture, [height, width, 3]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Recoloured:
    """A photograph in the colours of another, in the size of a preview.

    Args:
        source: the preview of the photograph.
        mapped: the same, each pixel of the preview mapped.
        target: the preview of where the colours come from, or None where that is no picture.
    """

    source: Pixels
    mapped: Pixels
    target: Pixels | None


def is_picture(source: Path | str) -> bool:
    """Tell whether a source is read as a picture: by its ending, or because its name stands for one."""
    return isinstance(source, str) or source.suffix.lower() in SUFFIXES


def read_picture(source: Path | str, *, features: Sequence[str] = ()) -> Table:
    """Return the pixels of a picture as rows without a target, from the top left, line by line.

    The columns are `red`, `green` and `blue`, whole numbers from 0 to 255. A greyscale picture has three equal ones and
    transparency is left out; both are notes of the table. The orientation that a camera recorded is applied.

    Args:
        source: a JPEG or PNG file, or a name of `config.NAMED_SOURCES`.
        features: names of the columns, in the order wanted; empty: all three.

    Raises:
        DataError: there is no such file, it is no whole picture or has too many pixels, or a column is no channel.
    """
    name, data = _bytes_of(source)
    unknown = [feature for feature in features if feature not in CHANNELS]
    if unknown:
        message = f"{name}: a picture has the columns {', '.join(CHANNELS)}, received '{unknown[0]}' in data.features."
        raise DataError(message)
    pixels, notes = _decode(data, name)
    x = pixels.reshape(-1, len(CHANNELS)).astype(np.float64)
    if features:
        x = x[:, [CHANNELS.index(feature) for feature in features]]
    return Table(
        tuple(features) or CHANNELS,
        x,
        np.empty((len(x), 0)),
        name,
        hashlib.sha256(data).hexdigest(),
        len(x),
        notes=notes,
        picture=pixels.shape[:2],
    )


def recolour(samples: Samples, map_rows: Callable[[NDArray[np.float64]], NDArray[np.floating]]) -> Recoloured | None:
    """Return the source picture's preview with every pixel mapped, or None where the source is no picture in colour.

    The picture is made smaller first: a photograph of many million pixels costs no more than its preview.

    Args:
        samples: all rows of both files.
        map_rows: takes rows of red, green and blue [n, 3] to such rows.
    """
    source, target = samples.source, samples.target
    if source.picture is None or source.features != CHANNELS:
        return None
    shown = preview(pixels_of(source.x, source.picture))
    height, width, channels = shown.shape
    return Recoloured(
        shown,
        pixels_of(map_rows(shown.reshape(-1, channels).astype(np.float64)), (height, width)),
        None if target.picture is None else preview(pixels_of(target.x, target.picture)),
    )


def preview(pixels: Pixels) -> Pixels:
    """Return a picture in proportion, at most as large as `PREVIEW`; one that is no larger comes back as it is."""
    height, width, _ = pixels.shape
    factor = min(PREVIEW[0] / width, PREVIEW[1] / height)
    if factor >= 1.0:
        return pixels
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(pixels, "RGB").resize(size, Image.Resampling.LANCZOS))


def pixels_of(x: NDArray[np.floating], size: tuple[int, int]) -> Pixels:
    """Return rows of red, green and blue as a picture, rounded and cut to 0 ... 255.

    Args:
        x: [height * width, 3].
        size: height and width.
    """
    whole = np.rint(x)
    np.clip(whole, 0.0, LARGEST, out=whole)  # in place: a photograph has millions of rows
    pixels: Pixels = whole.astype(np.uint8).reshape(*size, len(CHANNELS))
    return pixels


def to_address(pixels: Pixels) -> str:
    """Return a picture as a `data:` address that holds it whole, as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _bytes_of(source: Path | str) -> tuple[str, bytes]:
    """Return the name and bytes of a file, or of a picture of scikit-learn."""
    if isinstance(source, Path):
        return source.name, read_bytes(source, SUFFIXES)
    file = source.removeprefix(_SKLEARN)
    return source, (importlib.resources.files("sklearn.datasets.images") / file).read_bytes()


def _decode(data: bytes, name: str) -> tuple[Pixels, tuple[str, ...]]:
    """Return the picture in RGB, and what was done to make it so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and of a size that is refused just below
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                _check_size(image.size, name)
                return _in_colour(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as err:
        raise DataError(_too_large(name, "far more")) from err
    except UnidentifiedImageError as err:  # its own words name an object in memory
        message = f"{name}: expected a whole picture, JPEG or PNG, received other bytes. Save the picture again."
        raise DataError(message) from err
    except _BROKEN as err:
        message = f"{name}: expected a whole picture, JPEG or PNG, received other bytes: {str(err)[:100]}"
        raise DataError(message.rstrip(". ") + ". Save the picture again.") from err


def _check_size(size: tuple[int, int], name: str) -> None:
    """Refuse a picture that would not fit, from its header alone."""
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(_too_large(name, f"{size[0]} x {size[1]}"))


def _too_large(name: str, found: str) -> str:
    return f"{name}: expected at most {MAX_PIXELS // 10**6} million pixels, received {found}. Make the picture smaller."


def _in_colour(image: Image.Image) -> tuple[Pixels, tuple[str, ...]]:
    """Return the picture's channels, and notes where it had others."""
    notes = []
    if image.has_transparency_data:
        notes.append("The picture's transparency was left out.")
    if image.mode.startswith("I"):  # 16 bits a pixel
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    if image.mode in {"1", "L", "LA", "La"}:
        notes.append("The picture is greyscale: its three channels are equal.")
    return np.asarray(image.convert("RGB"), dtype=np.uint8), tuple(notes)
