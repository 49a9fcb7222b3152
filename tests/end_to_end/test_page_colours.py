"""The page's recolouring in headless Chromium: each pixel is the served gradient of its colour, whatever comes between.

The maps are known in closed form and exact in float32, so that each pixel is compared exactly. Needs Chromium.
"""

import base64
import io
import json
import re
import zlib

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from service.rest.files import FOLDER
from tests.end_to_end.page_tab import CHROMIUM, DESKTOP
from tests.service.quadratic_versions import AffineGradientEngine, make_service

if CHROMIUM is None:
    pytest.skip("no Chromium here", allow_module_level=True)

PHONE = (390, 844)
CHUNK = 16384
COLOURS = ("red", "green", "blue")
ROUTE = "/models/colours/score?outputs=gradient&version="
STUBBED = {"stub": "**/score?outputs=gradient*", "photograph_stub": "**/photographs/*"}
TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING = "\N{EN DASH}"
NOTHING_YET = "There is no picture yet."
# Eighths: with whole numbers up to 255 every product and sum is exact in float32, and many results end in one half.
MATRIX = {
    1: np.array([[0.75, 0.125, 0.0], [0.125, 0.5, 0.25], [0.0, 0.25, 1.25]]),
    2: np.diag([0.5, 1.0, 1.5]),
}
SHIFT = {1: np.array([-16.0, 8.0, 0.0]), 2: np.array([64.0, 0.0, -32.0])}


def mapped(rows, version=1):
    """Return what the colours [..., 3] become: the closed form in float64, rounded half to even, clipped."""
    exact = rows.astype(np.float64) @ MATRIX[version] + SHIFT[version]
    return np.clip(np.rint(exact), 0, 255).astype(np.uint8)


def photograph(name):
    """Return the pixels [rows, columns, 3] of a shipped photograph, read without a browser."""
    return np.asarray(Image.open(FOLDER / "photographs" / name))


def distinct(pixels):
    """Return the set of colours, each as one number."""
    return set((pixels.reshape(-1, 3).astype(np.int64) @ [65536, 256, 1]).tolist())


def noise(*shape, seed=0):
    """Return random bytes of a shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels, kind="PNG", **options):
    """Return pixels as the bytes of a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


SMALL = noise(200, 200, 3)  # more colours than two requests hold
SMALL_FILE = encoded(SMALL)
SMALL_COLOURS = len(distinct(SMALL))


@pytest.fixture
def colours(open_tab, quadratic):
    """Return a function that opens the page at a service of colour maps, in a tab that sees their panel.

    Unless the test wants the real photographs, each of them is SMALL: that saves time.
    """

    def start(size=DESKTOP, *, versions=(1,), excused=None, has_own_clock=False, is_small=True, **stubs):
        service = make_service(default_model="colours")
        for version in versions:
            engine = AffineGradientEngine(MATRIX[version], SHIFT[version])
            service.publish("colours", version, features=COLOURS, task="transport", engine=engine)
        service.publish("other", 1)
        tab = open_tab(f"127.0.0.1:{quadratic(service).port}", size)
        tab.excused = excused
        if is_small:
            data = encoded(SMALL)
            tab.page.route(
                STUBBED["photograph_stub"], lambda route: route.fulfill(body=data, content_type="image/jpeg")
            )
        for name, answer in stubs.items():
            tab.page.route(STUBBED[name], answer)
        if has_own_clock:
            tab.page.clock.install()
        tab.open()
        return tab

    return start


class Holding:
    """A stub that leaves some requests without an answer: those of these numbers, from 1."""

    def __init__(self, *numbers):
        self.numbers = numbers
        self.routes = []

    def __call__(self, route):
        """Hold a request, or let it go to the server."""
        self.routes.append(route)
        if len(self.routes) not in self.numbers:
            route.fallback()


def done(tab):
    """Wait until the picture is recoloured."""
    tab.page.locator("#recolour[data-phase=done]").wait_for(timeout=30_000)


def canvas(tab, name):
    """Return the pixels [rows, columns, 4] of a canvas: red, green, blue, alpha."""
    address = tab.page.evaluate("name => document.getElementById(name).toDataURL('image/png')", name)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA"))


def asked(tab, since=0):
    """Return the recorded requests of the recolouring, those that were answered, as (path, colours [n, 3])."""
    found = []
    for request in tab.requests[since:]:
        if "outputs=gradient" in request.url and request.failure is None and request.response().status == 200:
            assert ("POST", "application/octet-stream") == (request.method, request.headers["content-type"])
            rows = np.frombuffer(request.post_data_buffer, "<f4").reshape(-1, 3)
            found.append((request.url.partition(tab.address)[2], rows))
    return found


def assert_each_colour_was_asked_once(tab, pixels, since=0):
    """The answered requests, from that number on, hold every distinct colour of the picture, once, and nothing else."""
    requests = asked(tab, since)
    assert {f"{ROUTE}1"} == {path for path, _ in requests}
    rows = np.concatenate([rows for _, rows in requests])
    assert len(distinct(pixels)) == len(rows)
    assert distinct(pixels) == distinct(rows)


def choose_file(tab, name, data):
    """Choose an own picture."""
    tab.page.locator("#own").set_input_files({"name": name, "mimeType": "", "buffer": data})


def test_every_pixel_of_the_photograph_is_the_closed_form_of_its_colour(colours):
    """The recorded POSTs hold each colour once, 16384 in a request, and the shown pixels are what they answered."""
    tab = colours(is_small=False)
    done(tab)
    original, recoloured = canvas(tab, "original"), canvas(tab, "recoloured")
    assert np.abs(original[..., :3].astype(int) - photograph("china.jpg")).max() <= 2  # decoders may round apart
    expected = mapped(original[..., :3])
    exact = original[..., :3].astype(np.float64) @ MATRIX[1] + SHIFT[1]
    assert min((exact % 1 == 0.5).sum(), (exact < 0).sum(), (exact > 255).sum()) > 1000  # ties and both clips are met
    rng = np.random.default_rng(11)
    for row, column in zip(rng.integers(0, 427, 50), rng.integers(0, 640, 50), strict=True):
        assert expected[row, column].tolist() == recoloured[row, column, :3].tolist()
    assert np.array_equal(expected, recoloured[..., :3])
    assert {255} == set(recoloured[..., 3].flat)
    assert_each_colour_was_asked_once(tab, original[..., :3])
    sizes = [len(rows) for _, rows in asked(tab)]
    assert [CHUNK] * (len(sizes) - 1) == sizes[:-1]
    number = f"{len(distinct(original[..., :3])):,}"
    assert f"{number} different colours of 273,280 pixels asked of colours version 1, in 6 requests." == tab.text(
        "colours-said"
    )
    assert ("100 %", 1) == (tab.text("percent"), tab.page.locator("#share").evaluate("share => share.value"))
    with tab.page.expect_download() as download:
        tab.page.locator("#save").click()
    assert "china-recoloured.png" == download.value.suggested_filename
    assert np.array_equal(expected, np.asarray(Image.open(download.value.path()).convert("RGB")))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["1280", "390"])
def test_panel_fits_its_window_and_keeps_its_height_while_it_works(colours, size):
    """No horizontal scroll bar, every control labelled and reached by Tab, the same height before and after."""
    held = Holding(1)
    tab = colours(size, stub=held)
    expect(tab.page.locator("#colours-said")).to_contain_text("Asking for")
    panel = tab.page.locator("#recolour")
    before = panel.bounding_box()["height"]
    assert not tab.page.locator("#save").is_visible()
    held.routes[0].continue_()
    done(tab)
    assert before == panel.bounding_box()["height"]
    assert [size[0]] * 2 == tab.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    tab.page.locator("input[name=photograph]:checked").focus()
    stops = []
    for _ in range(4):
        tab.page.keyboard.press("Tab")
        stops.append(tab.page.evaluate("document.activeElement.id"))
    assert ["own", "original", "save", ""] == stops
    assert "Original: china.jpg. No pixel is chosen" == tab.page.locator("#original").get_attribute("aria-label")
    assert "Recoloured" == tab.page.locator("#share").evaluate("share => share.labels[0].textContent")
    assert {"status"} == {
        tab.page.locator(f"#{name}").get_attribute("role") for name in ("picture-said", "colours-said")
    }


OWN = {
    "one.png": noise(1, 1, 3),
    "grey.png": noise(16, 9),
    "upright.png": noise(300, 90, 3),
    "deep.bmp": noise(20, 30, 3),
}


def test_own_picture_is_recoloured_whatever_its_shape_and_kind(colours):
    """One pixel, greyscale, upright, another format: every pixel is the closed form of the file's own."""
    tab = colours()
    done(tab)
    for name, pixels in OWN.items():
        num_before = len(tab.requests)
        choose_file(tab, name, encoded(pixels, name[-3:].upper()))
        height, width = pixels.shape[:2]
        expect(tab.page.locator("#picture-said")).to_have_text(f"{name}: {width} {TIMES} {height} pixels.")
        done(tab)
        expected = np.asarray(Image.fromarray(pixels).convert("RGB"))
        assert np.array_equal(expected, canvas(tab, "original")[..., :3])
        assert np.array_equal(mapped(expected), canvas(tab, "recoloured")[..., :3])
        assert_each_colour_was_asked_once(tab, expected, since=num_before)
        assert tab.text("colours-said").startswith(f"{len(distinct(expected)):,} different colour")
    assert [] == tab.page.locator("input[name=photograph]:checked").all()


def test_alpha_stays_and_transparent_pixels_are_neither_asked_nor_touched(colours):
    """Each pixel keeps its alpha; where that is 0 there is no colour; where it is small the shown colour is rounded."""
    tab = colours()
    done(tab)
    pixels = np.dstack([noise(20, 20, 3) // 5 * 5, np.repeat(np.uint8([0, 51, 255, 255]), 100).reshape(20, 20)])
    num_before = len(tab.requests)
    choose_file(tab, "alpha.png", encoded(pixels))
    expect(tab.page.locator("#picture-said")).to_contain_text("alpha.png")
    done(tab)
    shown, seen = canvas(tab, "recoloured"), pixels[..., 3] > 0
    assert np.array_equal(pixels[..., 3], shown[..., 3])
    assert np.array_equal(mapped(pixels[10:, :, :3]), shown[10:, :, :3])
    faint = pixels[..., 3] == 51  # a canvas holds one in 51 steps of such a colour
    assert np.abs(mapped(pixels[faint][:, :3]).astype(int) - shown[faint][:, :3]).max() <= 5 / 2 + 1
    assert {(0, 0, 0, 0)} == set(map(tuple, shown[~seen].tolist()))
    assert_each_colour_was_asked_once(tab, pixels[seen][:, :3], since=num_before)


def test_picture_without_a_visible_pixel_is_told_in_one_sentence_and_nothing_is_asked(colours):
    """Where all is transparent there is no share to tell and no file to save; the next picture is asked as ever."""
    tab = colours()
    done(tab)
    num_before = len(tab.requests)
    choose_file(tab, "nothing.png", encoded(np.zeros((4, 4, 4), np.uint8)))
    expect(tab.page.locator("#colours-said")).to_have_text(
        "nothing.png has no visible pixel: all of it is fully transparent, so nothing was asked."
    )
    done(tab)
    assert (NOTHING, 0) == (tab.text("percent"), tab.page.locator("#share").evaluate("share => share.value"))
    assert not tab.page.locator("#save").is_visible()
    assert tab.page.locator("#go").is_disabled()
    assert [] == [request.url for request in tab.requests[num_before:] if request.method == "POST"]
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[2, 1] = [8, 16, 24, 255]  # the control: one visible pixel is asked
    choose_file(tab, "one.png", encoded(pixels))
    expect(tab.page.locator("#colours-said")).to_contain_text("1 different colour of 16 pixels asked")
    assert "100 %" == tab.text("percent")
    assert mapped(pixels[2, 1, :3]).tolist() == canvas(tab, "recoloured")[2, 1, :3].tolist()


def black(width, height):
    """Return a PNG file of black pixels of one bit each, which is small however many they are."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    lines = zlib.compress(bytes(height * (1 + width // 8)), 1)
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_large_picture_is_scaled_down_and_the_page_says_so(colours):
    """40 megapixels become one, in proportion, and a picture that a camera laid on its side stands up before."""
    tab = colours()
    done(tab)
    choose_file(tab, "large.png", black(8000, 5000))
    expect(tab.page.locator("#picture-said")).to_have_text(
        f"large.png: 8000 {TIMES} 5000 pixels, scaled down to 1264 {TIMES} 790: at most 1 megapixel is recoloured."
    )
    done(tab)
    shown = canvas(tab, "recoloured")
    assert (790, 1264, 4) == shown.shape
    assert {tuple(mapped(np.zeros(3)).tolist())} == set(map(tuple, shown.reshape(-1, 4)[:, :3].tolist()))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    lying = np.zeros((1000, 2000, 3), np.uint8)
    lying[:, :1000, 0] = 248
    choose_file(tab, "lying.jpg", encoded(lying, "JPEG", exif=exif))
    expect(tab.page.locator("#picture-said")).to_contain_text(
        f"1000 {TIMES} 2000 pixels, scaled down to 707 {TIMES} 1414"
    )
    done(tab)
    original = canvas(tab, "original")
    assert (1414, 707) == original.shape[:2]
    assert original[:600, :, 0].min() > 240
    assert original[-600:, :, 0].max() < 8


UNREADABLE = "Choose a whole PNG, JPEG, WebP, AVIF, GIF or BMP file. own.png stays."
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="http://127.0.0.1:1/x"/></svg>'


def test_file_that_is_no_picture_is_refused_in_one_sentence_and_the_former_result_stays(colours, tmp_path):
    """Empty, text, a drawing, cut off, too many pixels, too many bytes: each is told, and nothing else changes."""
    tab = colours()
    done(tab)
    choose_file(tab, "own.png", encoded(noise(8, 8, 3)))
    expect(tab.page.locator("#picture-said")).to_contain_text("own.png")
    done(tab)
    before, words = canvas(tab, "recoloured"), tab.text("colours-said")
    num_before = len(tab.requests)
    whole = encoded(noise(200, 200, 3))
    said = tab.page.locator("#picture-said")
    tab.page.evaluate("""() => {
      window.numDecoded = 0;
      window.Image = class extends Image { constructor() { super(); window.numDecoded += 1; } };
    }""")
    for name, data in {
        "empty.png": b"",
        "text.png": b"no picture",
        "drawing.svg": SVG,
        "drawing.png": SVG,
    }.items():
        choose_file(tab, name, data)
        expect(said).to_have_text(f"{name} is no picture that can be read. {UNREADABLE}")
    assert 0 == tab.page.evaluate("numDecoded")  # a drawing is a program: no decoder sees it
    for name, data in {
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": encoded(noise(200, 200, 3), "JPEG")[:300],
        "broken.png": whole[:100] + bytes(500) + whole[600:],
    }.items():
        choose_file(tab, name, data)
        expect(said).to_have_text(f"{name} is no picture that can be read. {UNREADABLE}")
    assert 3 == tab.page.evaluate("numDecoded")
    choose_file(tab, "bomb.png", black(20_000, 20_000))
    expect(said).to_have_text(
        "bomb.png has 400 megapixels, expected at most 100. Choose a smaller picture. own.png stays."
    )
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(101_000_000)
    tab.page.locator("#own").set_input_files(huge)
    expect(said).to_have_text("huge.png has 101 MB, expected at most 100. Choose a smaller file. own.png stays.")
    assert np.array_equal(before, canvas(tab, "recoloured"))
    assert (words, "done") == (tab.text("colours-said"), tab.page.locator("#recolour").get_attribute("data-phase"))
    assert [] == [request.url for request in tab.requests[num_before:] if request.method == "POST"]


def test_picture_is_taken_when_it_is_dropped_or_pasted(colours):
    """A file dropped on the panel and one in the clipboard are recoloured like a chosen one."""
    tab = colours()
    done(tab)
    script = """([kind, name, data]) => {
      const carried = new DataTransfer();
      carried.items.add(new File([Uint8Array.from(data)], name));
      const options = { bubbles: true, cancelable: true, dataTransfer: carried, clipboardData: carried };
      const event = kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options);
      document.querySelector("#recolour .views").dispatchEvent(event);
      return event.defaultPrevented;
    }"""
    for seed, kind in enumerate(("drop", "paste")):
        pixels = noise(5, 6, 3, seed=seed)
        name = f"{kind}.png"
        is_taken = tab.page.evaluate(script, [kind, name, list(encoded(pixels))])
        assert (kind == "drop") == is_taken  # else the browser would leave the page for the file
        expect(tab.page.locator("#picture-said")).to_have_text(f"{name}: 6 {TIMES} 5 pixels.")
        done(tab)
        assert np.array_equal(mapped(pixels), canvas(tab, "recoloured")[..., :3])


def test_chosen_pixel_becomes_the_point_by_pointer_and_by_keyboard(colours):
    """A click on either picture and the arrow keys put the pixel's colour into the point, and both colours are told."""
    tab = colours(is_small=False)
    done(tab)
    original = canvas(tab, "original")[..., :3]
    box = tab.page.locator("#recoloured").bounding_box()

    def assert_point_is(x, y):
        tab.settle()
        colour = original[y, x]
        assert f"Pixel {x} across, {y} down." == tab.text("pixel-place")
        row = json.loads(re.search(r"\[\[(.*)\]\]", tab.text("curl"))[0])
        assert [colour.tolist()] == row
        told = [" ".join(map(str, numbers)) for numbers in (colour.tolist(), mapped(colour).tolist())]
        assert told == [tab.text("pixel-from-words"), tab.text("pixel-to-words")]
        assert told == [tab.text("point-from-words"), tab.text("point-to-words")]
        shown = tab.page.locator("#point-to").evaluate("swatch => getComputedStyle(swatch).backgroundColor")
        assert mapped(colour).tolist() == [int(number) for number in re.findall(r"\d+", shown)]

    scale = min(box["width"] / 640, box["height"] / 427)
    place = {"x": 300.5 * scale, "y": 350.5 * scale + (box["height"] - 427 * scale) / 2}
    tab.page.locator("#recoloured").click(position=place)
    assert_point_is(300, 350)
    tab.page.locator("#original").focus()
    tab.page.keyboard.press("ArrowLeft")
    assert_point_is(294, 350)
    tab.page.keyboard.press("Shift+ArrowDown")
    assert_point_is(294, 393)
    tab.page.keyboard.press("Shift+ArrowDown")
    assert_point_is(294, 426)
    tab.page.keyboard.press("Home")
    assert_point_is(320, 213)
    original = noise(60, 20, 3)
    choose_file(tab, "upright.png", encoded(original))
    expect(tab.page.locator("#pixel-place")).to_have_text("No pixel is chosen.")
    done(tab)
    scale = box["height"] / 60
    place = {"x": 5.5 * scale + (box["width"] - 20 * scale) / 2, "y": 40.5 * scale}
    tab.page.locator("#recoloured").click(position=place)
    assert_point_is(5, 40)


def test_old_work_ends_when_another_picture_version_or_model_is_chosen(colours):
    """Requests that hang are given up, what comes after is the new picture by the new version alone."""
    held = Holding(1, 2)
    tab = colours(versions=(1, 2), is_small=False, stub=held)
    expect(tab.page.locator("#colours-said")).to_contain_text("Asking for")
    tab.page.locator("input[value='flower.jpg']").check()
    expect(tab.page.locator("#picture-said")).to_contain_text("flower.jpg")
    tab.page.locator("#version").select_option(value="1")
    done(tab)
    assert [True, True] == [route.request.failure is not None for route in held.routes[:2]]
    original = canvas(tab, "original")[..., :3]
    assert np.abs(original.astype(int) - photograph("flower.jpg")).max() <= 2
    assert np.array_equal(mapped(original, 1), canvas(tab, "recoloured")[..., :3])
    assert_each_colour_was_asked_once(tab, original)
    assert f"{ROUTE}2" == held.routes[0].request.url.partition(tab.address)[2]
    num_asked = len(held.routes)
    tab.page.locator("input[value=other]").check()
    tab.settle()
    assert not tab.page.locator("#recolour").is_visible()
    assert not tab.page.locator("#point-colours").is_visible()
    assert num_asked == len(held.routes)


def test_work_is_stopped_and_gone_on_with_when_a_request_hangs(colours):
    """What was answered before the stop is kept: only the colours of the request that hung are asked again."""
    tab = colours(stub=Holding(3))
    expect(tab.page.locator("#percent")).to_have_text("82 %")
    top = canvas(tab, "recoloured")[:20]
    tab.page.locator("#go").click()
    stopped = f"Stopped. 32,768 of {SMALL_COLOURS:,} different colours were asked."
    expect(tab.page.locator("#colours-said")).to_have_text(stopped)
    expect(tab.page.locator("#go")).to_have_text("Go on")
    assert np.array_equal(mapped(canvas(tab, "original")[:20, :, :3]), top[..., :3])  # it fills from the top
    tab.page.locator("#go").click()
    done(tab)
    original = canvas(tab, "original")[..., :3]
    assert np.array_equal(mapped(original), canvas(tab, "recoloured")[..., :3])
    assert_each_colour_was_asked_once(tab, original)


def refusal(status, code, message, **headers):
    """Return what a stub answers in the server's own form."""
    error = {"error": {"code": code, "message": message, "request_id": "r"}}
    return {
        "status": status,
        "json": error,
        "headers": {name.replace("_", "-"): value for name, value in headers.items()},
    }


def in_sequence(*answers):
    """Return a stub that gives these answers one after the other (None: the server's own), then always the server's."""
    left = list(answers)

    def answer(route):
        given = left.pop(0) if left else None
        if given is None:
            route.fallback()
        elif given == "away":
            route.abort()
        else:
            route.fulfill(**given)

    return answer


def assert_recovered(tab):
    """The picture is whole, each colour was asked once, and no problem is told any more."""
    done(tab)
    original = canvas(tab, "original")[..., :3]
    assert np.array_equal(mapped(original), canvas(tab, "recoloured")[..., :3])
    assert_each_colour_was_asked_once(tab, original)
    expect(tab.page.locator("#problem")).to_be_hidden()


@pytest.mark.parametrize("status", [429, 503])
def test_busy_server_is_asked_again_after_the_time_that_it_names(colours, status):
    """The page waits as long as `Retry-After` says, by its own clock, tells so, and loses no colour."""
    busy = refusal(status, "UNAVAILABLE", "draining", Retry_After="20")
    tab = colours(excused=f"status of {status}", stub=in_sequence(None, busy), has_own_clock=True)
    expect(tab.page.locator("#colours-said")).to_have_text("The server is busy: asked again in 20 s.")
    expect(tab.page.locator("#problem")).to_be_hidden()
    tab.page.clock.run_for(5_000)
    assert "The server is busy: asked again in 20 s." == tab.text("colours-said")
    tab.page.clock.run_for(20_000)
    assert_recovered(tab)


BUSY = refusal(503, "UNAVAILABLE", "draining", Retry_After="0")


@pytest.mark.parametrize(
    ("answers", "excused", "told"),
    [
        ([None, *[BUSY] * 5], "status of 503", "UNAVAILABLE: draining"),
        ([None, "away"], "ERR_FAILED", "The server does not answer. This page tries again every few seconds."),
    ],
    ids=["503", "away"],
)
def test_work_goes_on_by_itself_when_a_problem_passes(colours, answers, excused, told):
    """What the page gives up for the moment it tells as it tells all problems, and takes up at its next look."""
    tab = colours(excused=excused, stub=in_sequence(*answers), has_own_clock=True)
    expect(tab.page.locator("#problem")).to_have_text(told)
    interrupted = f"Interrupted. 16,384 of {SMALL_COLOURS:,} different colours were asked."
    expect(tab.page.locator("#colours-said")).to_have_text(interrupted)
    tab.page.clock.run_for(5_000)
    assert_recovered(tab)


def test_work_goes_on_by_a_button_when_a_problem_does_not_pass(colours):
    """An internal error is told in the server's words, and a button asks again for what is missing."""
    failure = refusal(500, "INTERNAL", "internal error, request_id=r")
    tab = colours(excused="status of 500", stub=in_sequence(None, None, failure))
    expect(tab.page.locator("#problem")).to_have_text("INTERNAL: internal error, request_id=r")
    expect(tab.page.locator("#go")).to_have_text("Go on")
    tab.page.locator("#go").press("Enter")
    assert_recovered(tab)


def test_fewer_colours_are_asked_at_a_time_when_the_server_takes_fewer(colours):
    """Half as many as often as 413 comes, and again each colour once."""
    small = refusal(413, "INVALID_ARGUMENT", "16384 rows, at most 5000 are taken")

    def refuse_large(route):
        if len(route.request.post_data_buffer) > 5000 * 12:
            route.fulfill(**small)
        else:
            route.fallback()

    tab = colours(excused="status of 413", stub=refuse_large)
    assert_recovered(tab)
    assert {4096} == {len(rows) for _, rows in asked(tab)[:-1]}


def test_photograph_is_asked_for_again_when_it_did_not_come(colours):
    """A page whose photograph fails says so, works above it, and fetches it at its next look."""
    tab = colours(excused="status of 503", photograph_stub=in_sequence(BUSY, None, BUSY), has_own_clock=True)
    problem = tab.page.locator("#problem")
    expect(problem).to_have_text("UNAVAILABLE: draining")
    assert NOTHING_YET == tab.text("colours-said")
    tab.page.clock.run_for(5_000)
    assert_recovered(tab)
    tab.page.locator("input[value='flower.jpg']").check()
    expect(problem).to_have_text("UNAVAILABLE: draining")
    assert (f"china.jpg: 200 {TIMES} 200 pixels.", "100 %") == (tab.text("picture-said"), tab.text("percent"))
    tab.page.clock.run_for(5_000)
    expect(tab.page.locator("#picture-said")).to_have_text(f"flower.jpg: 200 {TIMES} 200 pixels.")
    expect(problem).to_be_hidden()


def test_picture_that_comes_late_is_dropped_when_another_was_chosen_meanwhile(colours):
    """The last choice wins, in whatever order the pictures come."""
    held = Holding(2)
    tab = colours(photograph_stub=held)
    done(tab)
    tab.page.locator("input[value='flower.jpg']").check()
    choose_file(tab, "own.png", encoded(noise(8, 8, 3)))
    expect(tab.page.locator("#picture-said")).to_contain_text("own.png")
    with tab.page.expect_response("**/flower.jpg"):
        held.routes[1].fallback()
    # The same work once more, begun later: when it has ended, so has the page's own.
    script = """async () => {
      const { read } = await import("/page/pictures.js");
      return (await read(await (await fetch("/page/photographs/china.jpg")).blob(), "later")).note;
    }"""
    assert f"200 {TIMES} 200 pixels." == tab.page.evaluate(script)
    done(tab)
    assert f"own.png: 8 {TIMES} 8 pixels." == tab.text("picture-said")
    assert [] == tab.page.locator("input[name=photograph]:checked").all()
