"""Pictures as rows: channels, what is done to odd ones, what is refused and how, and the way back to a picture."""

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import pictures
from training.datasets import DataError, Samples, Table

PIXELS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [255, 255, 255], [0, 0, 0]]], dtype=np.uint8
)  # fmt: skip


def save(path: Path, image: Image.Image, **options: object) -> Path:
    """Write a picture and return its path."""
    image.save(path, **options)
    return path


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header promises this size and that holds no pixel."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_picture_becomes_rows_of_red_green_and_blue_line_by_line(tmp_path):
    """A PNG keeps every pixel; size, name and number of rows are told."""
    table = pictures.read_picture(save(tmp_path / "a.png", Image.fromarray(PIXELS)))
    np.testing.assert_array_equal(PIXELS.reshape(6, 3), table.x)
    assert (("red", "green", "blue"), (2, 3), "a.png", 6, ()) == (
        table.features, table.picture, table.file, table.rows_read, table.notes,
    )  # fmt: skip
    assert (np.float64, (6, 0), 6) == (table.x.dtype, table.y.shape, len(table))
    assert table.take(np.ones(6, np.bool_)).picture is None


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.JPG"])
def test_jpeg_is_read_nearly_as_it_was(name, tmp_path):
    """JPEG loses a little: a plain colour is within two steps of a channel."""
    plain = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    table = pictures.read_picture(save(tmp_path / name, Image.fromarray(plain), format="JPEG", quality=95))
    assert 2.0 >= np.abs(table.x - [200, 100, 50]).max()


def test_one_pixel_is_a_picture_of_one_row(tmp_path):
    """It is read; that it is too little to train on is said where rows are counted."""
    table = pictures.read_picture(save(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3))))
    assert ([[1.0, 2.0, 3.0]], (1, 1)) == (table.x.tolist(), table.picture)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16"])
def test_greyscale_becomes_three_equal_channels_and_is_told(mode, tmp_path):
    """The table has the columns of every picture, and a note."""
    grey = np.array([[0, 128, 255]], dtype=np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    table = pictures.read_picture(save(tmp_path / "a.png", image))
    assert (0.0, 255.0) == (table.x[0, 0], table.x[2, 0])
    assert ((table.x[:, :1] == table.x).all(), True) == (True, "greyscale" in table.notes[-1])
    if mode != "1":
        assert [128.0] * 3 == table.x[1].tolist()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_dropped_and_told(mode, tmp_path):
    """What shines through is no colour: the channels stay as they are stored."""
    image = Image.new("RGBA", (2, 1), (90, 90, 90, 7)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    table = pictures.read_picture(save(tmp_path / "a.png", image, **options))
    assert "The picture's transparency was left out." == table.notes[0]
    assert [[90.0] * 3] * 2 == table.x.tolist()


def test_orientation_of_the_camera_is_applied(tmp_path):
    """A photograph taken upright stands upright in the report."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    table = pictures.read_picture(save(tmp_path / "a.png", Image.fromarray(PIXELS), exif=exif))
    assert (3, 2) == table.picture
    np.testing.assert_array_equal(np.rot90(PIXELS, -1).reshape(6, 3), table.x)


def test_chosen_channels_come_in_the_order_asked(tmp_path):
    """`features` picks channels as it picks columns; another name is refused."""
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    table = pictures.read_picture(path, features=("blue", "red"))
    np.testing.assert_array_equal(PIXELS.reshape(6, 3)[:, [2, 0]], table.x)
    with pytest.raises(DataError, match=r"a\.png: a picture has the columns red, green, blue, received 'gray'"):
        pictures.read_picture(path, features=("gray",))


@pytest.mark.parametrize(("width", "height"), [(10_000, 4001), (20_000, 10_000), (2**31 - 1, 1), (60_000, 60_000)])
def test_picture_of_too_many_pixels_is_refused_by_its_header(width, height, tmp_path):
    """Nothing is decoded: the file holds no pixel at all, and yet the size is what is named."""
    (tmp_path / "a.png").write_bytes(png_of_size(width, height))
    with pytest.raises(DataError, match=r"^a\.png: expected at most 40 million pixels, received .*\. Make the picture"):
        pictures.read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", b"\xff\xd8\xff\xe0 and no more", png_of_size(10, 10), b"GIF89a\1\0\1\0\0\0\0;"],
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_bytes_that_are_no_whole_picture_are_refused(content, name, tmp_path):
    """Empty, foreign and cut files are a sentence with the file's name and no object in memory, whatever their end."""
    (tmp_path / name).write_bytes(content)
    said = rf"^{name}: (expected a whole picture, JPEG or PNG|the file is empty)"
    with pytest.raises(DataError, match=said) as caught:
        pictures.read_picture(tmp_path / name)
    assert " at 0x" not in str(caught.value)


def test_cut_picture_is_refused_wherever_it_ends(tmp_path):
    """The first half of a picture is not taken for one."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        data = save(tmp_path / name, Image.fromarray(noise)).read_bytes()
        for share in (0.1, 0.5, 0.9):
            (tmp_path / name).write_bytes(data[: int(len(data) * share)])
            with pytest.raises(DataError, match="expected a whole picture"):
                pictures.read_picture(tmp_path / name)


def test_missing_picture_and_other_endings_are_refused(tmp_path):
    """As for a table."""
    with pytest.raises(DataError, match="No such file"):
        pictures.read_picture(tmp_path / "none.png")
    with pytest.raises(DataError, match=r"expected a file that ends in \.jpg, \.jpeg, \.png"):
        pictures.read_picture(tmp_path / "a.gif")


@pytest.mark.parametrize("name", ["china", "flower"])
def test_named_source_is_the_picture_of_scikit_learn(name):
    """The rows are those that scikit-learn's own loader gives, under the name of the configuration."""
    from sklearn.datasets import load_sample_image

    table = pictures.read_picture(f"sklearn:{name}.jpg")
    np.testing.assert_array_equal(load_sample_image(f"{name}.jpg").reshape(-1, 3), table.x)
    assert (f"sklearn:{name}.jpg", (427, 640)) == (table.file, table.picture)


def test_source_is_a_picture_by_its_ending_or_its_name():
    """Tables are read elsewhere."""
    sources = [Path("a.png"), Path("b.JPEG"), "sklearn:china.jpg", Path("rows.csv"), Path("png")]
    assert [True, True, True, False, False] == [pictures.is_picture(source) for source in sources]


def test_pixels_are_rounded_and_cut_to_the_range_of_a_channel():
    """A map may leave 0 ... 255; a picture cannot."""
    rows = np.array([[-5.0, 0.4, 0.6], [254.6, 300.0, 1e30]])
    assert [[[0, 0, 1], [255, 255, 255]]] == pictures.pixels_of(rows, (1, 2)).tolist()


def test_rows_that_become_pixels_stay_as_they_are():
    """Rounding is done on a copy: the rows are a job's data."""
    rows = np.array([[-5.0, 0.4, 300.0]])
    pictures.pixels_of(rows, (1, 1))
    assert [[-5.0, 0.4, 300.0]] == rows.tolist()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 50), (100, 50)),
        ((480, 960), (480, 960)),
        ((960, 480), (480, 240)),
        ((600, 800), (480, 640)),
        ((500, 4000), (120, 960)),
        ((100_000, 2), (480, 1)),
        ((1, 100_000), (1, 960)),
    ],
)
def test_preview_is_the_picture_in_proportion_and_at_most_so_large(size, expected):
    """A large picture is made smaller, a small one stays, one pixel of the thinnest too; a plain colour survives."""
    found = pictures.preview(np.full((size[1], size[0], 3), (200, 100, 50), dtype=np.uint8))
    assert (expected[1], expected[0], 3) == found.shape
    assert [[200, 100, 50]] == np.unique(found.reshape(-1, 3), axis=0).tolist()


def test_small_picture_is_its_own_preview():
    """Every pixel stays as it was."""
    np.testing.assert_array_equal(PIXELS, pictures.preview(PIXELS))


def pixels_of_size(height: int, width: int, seed: int) -> np.ndarray:
    """Return a picture of noise, which no filter leaves as it is."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def table_of(pixels: np.ndarray, features: tuple[str, ...] = pictures.CHANNELS) -> Table:
    """Return the table of a picture's pixels."""
    x = pixels.reshape(-1, 3).astype(np.float64)
    return Table(features, x, np.empty((len(x), 0)), picture=pixels.shape[:2])


def test_recoloured_picture_is_the_map_at_the_pixels_of_the_scaled_one():
    """Pillow scales, then each pixel of the preview is mapped, rounded and cut; no other pixel is ever mapped."""
    source, target = pixels_of_size(50, 600, seed=0), pixels_of_size(40, 30, seed=1)
    asked = []

    def map_rows(x: np.ndarray) -> np.ndarray:
        asked.append(x.copy())
        return (1.5 * x - 60.25).astype(np.float32)

    found = pictures.recolour(Samples(table_of(source), table_of(target)), map_rows)
    scaled = np.asarray(Image.fromarray(source).resize((480, 40), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(scaled, found.source)
    np.testing.assert_array_equal(target, found.target)
    exact = 1.5 * scaled.astype(np.float64) - 60.25  # exact in float32 too
    assert (True, True) == ((exact < 0).any(), (exact > 255).any())
    np.testing.assert_array_equal(np.clip(np.rint(exact), 0, 255), found.mapped)
    assert [(480 * 40, 3)] == [rows.shape for rows in asked]


def test_only_a_picture_in_colour_is_recoloured():
    """A table has no pixels, and channels in another order are no picture to show; a target may be a table."""
    picture = table_of(PIXELS)
    rows = picture.take(np.ones(len(picture), np.bool_))
    turned = table_of(PIXELS, ("blue", "green", "red"))
    assert [None, None] == [pictures.recolour(Samples(source, picture), np.copy) for source in (rows, turned)]
    found = pictures.recolour(Samples(picture, rows), np.copy)
    assert found.target is None
    np.testing.assert_array_equal(PIXELS, found.mapped)


def test_address_holds_the_whole_picture_as_a_jpeg():
    """A plain colour survives, and so does the size."""
    plain = np.full((50, 100, 3), (200, 100, 50), dtype=np.uint8)
    head, _, data = pictures.to_address(plain).partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert ("data:image/jpeg;base64", "JPEG", (100, 50)) == (head, image.format, image.size)
    assert 3 >= np.abs(np.asarray(image).astype(int) - [200, 100, 50]).max()
