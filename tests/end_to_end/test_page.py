"""The page in headless Chromium: what it shows is what the server answered, by pointer, by keyboard, at two widths.

The browser resolves no name and is driven from outside; every request of the page is recorded. Needs Chromium.
"""

import json
import re

import numpy as np
import pytest
from playwright.sync_api import expect

from service.program.curvature import Certificate, Step
from service.signature import Signature
from tests.end_to_end.page_tab import CHROMIUM, DESKTOP, Tab, digits, printed
from tests.end_to_end.server_process import ROOT
from tests.service.quadratic_versions import make_service

if CHROMIUM is None:
    pytest.skip("no Chromium here", allow_module_level=True)

PHONE = (390, 844)
GRID = 48
NOTHING = "\N{EN DASH}"


def assert_point_is_the_servers(tab):
    """Compare the shown score and gradient with what the server prints for the same row."""
    score, gradient = printed(tab.asked_again())
    assert float(score) == float(tab.text("score"))
    assert digits(score) == digits(tab.text("score"))
    names = tab.page.locator("#axis-0 option").all_inner_texts()
    largest = sorted(zip(names, gradient, strict=True), key=lambda entry: -abs(float(entry[1])))[:8]
    assert {name: float(value) for name, value in largest} == {name: float(text) for name, text in tab.bars().items()}


def metric_rows(tab):
    """Return {method: printed metrics} of the table of held-out metrics, in its order."""
    rows = tab.page.locator("#metrics tbody tr").all()
    return {row.locator("th[scope=row]").inner_text(): row.locator("td").all_inner_texts() for row in rows}


def test_page_shows_what_the_recorded_posts_answered_when_it_opens(open_tab, shipped):
    """Grid and point come from POSTs to the scoring route, and the tangent plane lies below all of the grid."""
    tab = open_tab(shipped)
    tab.open()
    posts = tab.posts()
    assert {"/models/tumours/score?version=1"} == {path for path, *_ in posts}
    (grid,) = [post for post in posts if len(post[1]) == GRID * GRID]
    point = [post for post in posts if len(post[1]) == 1][-1]
    manifest = json.loads((ROOT / "models" / "tumours" / "1" / "manifest.json").read_text())
    assert np.array_equal(np.float32([manifest["data"]["feature_means"]]), point[1])
    assert point[2][0] == np.float32(tab.text("score"))
    shown = {name: np.float32(text) for name, text in tab.bars().items()}
    by_name = dict(zip(manifest["input"]["features"], point[3][0], strict=True))
    assert {name: by_name[name] for name in shown} == shown
    rows, scores = grid[1].astype(np.float64), grid[2].astype(np.float64)
    rise = (rows - point[1][0].astype(np.float64)) @ point[3][0].astype(np.float64)
    gap = scores - (point[2][0].astype(np.float64) + rise)
    size = np.max([np.abs(scores), np.abs(rise), np.full_like(rise, max(1, abs(point[2][0])))], axis=0)
    above = int((gap >= -16 * 2.0**-23 * size).sum())
    assert GRID * GRID == above
    assert f"holds at all {above} points" in tab.text("hyperplane")
    assert "inside the convex acceptance region" in tab.text("verdict")
    assert_point_is_the_servers(tab)


def test_page_tells_dimension_version_state_and_certificate(open_tab, shipped):
    """The list of models and the certificate in words say what the manifest and the server say."""
    tab = open_tab(shipped)
    tab.open()
    facts = tab.page.locator(".model.chosen dd").all_inner_texts()
    assert ["30", "1", "AVAILABLE", "program", "proved"] == facts
    words = tab.text("certificate")
    assert "proved convex in 6 steps" in words
    assert "m = 2.99e-9" in words
    assert "0.0000133" in words


def test_metrics_stand_beside_those_of_the_baselines_as_the_version_route_told_them(open_tab, shipped):
    """One row a method, one column a metric: each cell is the recorded answer's number to four digits."""
    tab = open_tab(shipped, PHONE)
    with tab.page.expect_response("**/models/tumours/versions/1") as answer:
        tab.open()
    told = answer.value.json()["metrics"]
    own = {name: value for name, value in told["held_out"].items() if name != "rows"}
    assert {"gradient boosting", "logistic regression"} == told["baselines"].keys()
    assert f"This version and its baselines on {told['held_out']['rows']} held-out rows" == tab.text("metrics caption")
    heads = tab.page.locator("#metrics thead th[scope=col]").all_inner_texts()
    assert [name.replace("_", " ") for name in own] == heads
    shown = metric_rows(tab)
    assert ["this version", *told["baselines"]] == list(shown)
    for method, numbers in {"this version": own, **told["baselines"]}.items():
        assert [float(f"{numbers[name]:.4g}") for name in own] == [float(text) for text in shown[method]]
    frame = tab.page.locator("#metrics")
    assert frame.evaluate("frame => frame.scrollWidth > frame.clientWidth")  # it scrolls, the page does not
    assert PHONE[0] == tab.page.evaluate("document.documentElement.scrollWidth")
    frame.focus()  # by the keyboard too
    assert "metrics" == tab.page.evaluate("document.activeElement.id")
    left = frame.evaluate("""frame => {
      frame.scrollLeft = frame.scrollWidth;
      return frame.querySelector("tbody th").getBoundingClientRect().left - frame.getBoundingClientRect().left;
    }""")
    assert 0 == left  # the names stay in sight


OWN_METRICS = {"rows": 1234, "w2": 49.258687, "hits": 98765, "<b>odd</b>": 0.000123456}


@pytest.mark.parametrize(
    ("metrics", "caption", "expected"),
    [
        (
            {"held_out": OWN_METRICS, "baselines": {"identity": {"w2": 199.46903, "rows": 5, "hits": None}}},
            "This version and its baselines on 1,234 held-out rows",
            {"this version": ["49.26", "98765", "0.0001235"], "identity": ["199.5", NOTHING, NOTHING]},
        ),
        (
            {"held_out": {"rows": 1, "w2": 2.0}, "baselines": {}},
            "This version on 1 held-out row",
            {"this version": ["2"]},
        ),
        ({"held_out": {"w2": 0.5}}, "This version on the held-out rows", {"this version": ["0.5"]}),
        (
            {"held_out": {"w2": 0.5, "kind": "x"}, "baselines": {"a": 3, "b": None, "c": {"w2": "1"}}},
            "This version and its baselines on the held-out rows",
            {"this version": ["0.5"], "c": [NOTHING]},
        ),
    ],
    ids=["baseline", "alone", "uncounted", "odd"],
)
def test_metrics_hold_what_is_recorded_when_baselines_or_numbers_are_missing(
    open_tab, quadratic, metrics, caption, expected
):
    """Numbers have four digits, whole ones all; what is missing or no number is a dash, and names are only text."""
    service = make_service()
    service.publish("m", 1, metrics=metrics)
    tab = open_tab(f"127.0.0.1:{quadratic(service).port}")
    tab.open()
    assert caption == tab.text("metrics caption")
    assert expected == metric_rows(tab)
    names = [name for name, value in metrics["held_out"].items() if name != "rows" and not isinstance(value, str)]
    assert names == tab.page.locator("#metrics thead th").all_inner_texts()


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({}, "none recorded"),
        ({"held_out": None, "baselines": {"identity": {"w2": 1.0}}}, "none recorded"),
        ({"held_out": {"rows": 112}}, "112"),
    ],
    ids=["nothing", "baseline", "rows"],
)
def test_metrics_are_a_sentence_when_the_version_has_none(open_tab, quadratic, metrics, expected):
    """Without a metric of the version itself there is no table, whatever its baselines have."""
    service = make_service()
    service.publish("m", 1, metrics=metrics)
    tab = open_tab(f"127.0.0.1:{quadratic(service).port}")
    tab.open()
    assert ["held-out rows", expected] == tab.text("metrics").split("\n")
    assert 0 == tab.page.locator("#metrics table").count()


def test_dragged_point_shows_the_servers_numbers_to_the_last_digit(open_tab, shipped):
    """After a fast drag the numbers are those of the place where it ended, and no request was sent for nothing."""
    tab = open_tab(shipped)
    tab.open()
    before, num_before = tab.text("curl"), len(tab.posts())
    tab.page.locator("#plot").scroll_into_view_if_needed()
    box = tab.page.locator("#plot").bounding_box()
    mouse = tab.page.mouse
    mouse.move(box["x"] + 200, box["y"] + 300)
    mouse.down()
    mouse.move(box["x"] + 420, box["y"] + 60, steps=40)
    mouse.up()
    tab.settle()
    assert before != tab.text("curl")
    assert_point_is_the_servers(tab)
    assert "outside the convex acceptance region" in tab.text("verdict")
    sent = tab.posts()[num_before:]
    assert {1} == {len(rows) for _, rows, *_ in sent}  # the picture stays: only the point is asked
    assert 1 <= len(sent) <= 42
    assert "all 2304 points" in tab.text("hyperplane")


def test_keyboard_moves_the_point_when_the_plot_has_the_focus(open_tab, shipped):
    """Arrow keys move by a hundredth of the picture, Shift by a tenth, Home back; the focus arrives by Tab."""
    tab = open_tab(shipped)
    tab.open()
    tab.page.locator("#value-1").focus()
    tab.page.keyboard.press("Tab")
    assert "plot" == tab.page.evaluate("document.activeElement.id")
    start = [float(tab.value("value-0")), float(tab.value("value-1"))]
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Shift+ArrowUp")
    tab.settle()
    manifest = json.loads((ROOT / "models" / "tumours" / "1" / "manifest.json").read_text())
    deviation = dict(zip(manifest["input"]["features"], manifest["data"]["feature_deviations"], strict=True))
    names = [tab.page.locator(f"#axis-{k} option:checked").inner_text() for k in (0, 1)]
    expected = [start[0] + 0.06 * deviation[names[0]], start[1] + 0.6 * deviation[names[1]]]
    moved = [float(tab.value("value-0")), float(tab.value("value-1"))]
    assert pytest.approx(expected, rel=1e-5) == moved
    assert_point_is_the_servers(tab)
    tab.page.keyboard.press("Home")
    tab.settle()
    assert start == [float(tab.value("value-0")), float(tab.value("value-1"))]


def test_slider_asks_for_a_new_picture_when_another_feature_changes(open_tab, shipped):
    """A feature is found by its name and moved by the keyboard; grid and point are asked with its new value."""
    tab = open_tab(shipped)
    tab.open()
    tab.page.locator("#others-title").focus()
    tab.page.keyboard.press("Enter")
    tab.page.locator("#search").fill("WORST CONC")
    assert ["worst concavity", "worst concave points"] == tab.page.locator("#sliders label").all_inner_texts()
    tab.page.get_by_label("worst concavity", exact=True).focus()
    for _ in range(3):
        tab.page.keyboard.press("ArrowRight")
    tab.settle()
    *_, last_grid = [rows for _, rows, *_ in tab.posts() if len(rows) == GRID * GRID]
    column = tab.page.locator("#axis-0 option").all_inner_texts().index("worst concavity")
    shown = np.float32(tab.page.get_by_label("Value of worst concavity").input_value())
    assert {shown} == set(last_grid[:, column])
    assert_point_is_the_servers(tab)


def test_threshold_is_drawn_where_the_recorded_scores_cross_it(open_tab, shipped):
    """On the picture's middle row, the pixel where the grid's scores pass the threshold has the threshold's colour."""
    tab = open_tab(shipped)
    tab.open()
    (grid,) = [post for post in tab.posts() if len(post[1]) == GRID * GRID]
    scores = grid[2].reshape(GRID, GRID).astype(np.float64)
    row = 36
    (left,) = np.flatnonzero((scores[row, :-1] <= 0) & (scores[row, 1:] > 0))
    crossing = left + scores[row, left] / (scores[row, left] - scores[row, left + 1])
    script = """([i, j, last]) => {
      const canvas = document.getElementById("plot");
      const [width, height] = [canvas.clientWidth - 68, canvas.clientHeight - 56];
      const ratio = canvas.width / canvas.clientWidth;
      const x = (56 + i / last * width) * ratio, y = (12 + (1 - j / last) * height) * ratio;
      return Array.from(canvas.getContext("2d").getImageData(Math.floor(x), Math.floor(y), 1, 1).data).slice(0, 3);
    }"""
    tab.page.wait_for_timeout(200)  # two frames, at the least
    assert [0xC2, 0x41, 0x0C] == tab.page.evaluate(script, [crossing, row, GRID - 1])


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["1280", "390"])
def test_page_fits_its_window_when_everything_is_open(open_tab, shipped, size):
    """No horizontal scroll bar, every field labelled, every control at least 18 pixels high, in both colour schemes."""
    tab = open_tab(shipped, size)
    tab.open()
    grounds = []
    for scheme in ("light", "dark"):
        tab.page.emulate_media(color_scheme=scheme)
        grounds.append(tab.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert ["rgb(246, 247, 249)", "rgb(16, 21, 28)"] == grounds
    tab.page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    width = tab.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert [size[0], size[0]] == width
    fields = tab.page.locator("input, select, button")
    names = fields.evaluate_all(
        "fields => fields.map(f => f.getAttribute('aria-label') || f.labels?.[0]?.textContent || f.textContent)"
    )
    assert [] == [name for name in names if not name.strip()]
    assert min(box["height"] for field in fields.all()[:12] if (box := field.bounding_box())) >= 18


def test_axis_asks_for_a_new_picture_when_it_is_changed_and_changes_places_when_taken_twice(open_tab, shipped):
    """The grid runs over the features that are chosen; the same feature on both axes is never asked."""
    tab = open_tab(shipped)
    tab.open()
    names = tab.page.locator("#axis-0 option").all_inner_texts()
    before = [tab.page.locator(f"#axis-{k} option:checked").inner_text() for k in (0, 1)]
    tab.page.locator("#axis-1").select_option(label=before[0])
    tab.settle()
    assert before[::-1] == [tab.page.locator(f"#axis-{k} option:checked").inner_text() for k in (0, 1)]
    tab.page.locator("#axis-0").select_option(label="mean texture")
    tab.settle()
    *_, last_grid = [rows for _, rows, *_ in tab.posts() if len(rows) == GRID * GRID]
    moving = [name for name, column in zip(names, last_grid.T, strict=True) if len(set(column)) > 1]
    assert ["mean texture", before[0]] == sorted(moving, key=["mean texture", before[0]].index)
    assert_point_is_the_servers(tab)


def test_model_and_version_are_asked_as_chosen_when_there_are_several(open_tab, quadratic):
    """A refused newest version is named with its reason; another model and an older version are a choice away."""
    service = make_service(default_model="second")
    service.publish("first", 1, threshold=1.0)
    for version in (3, 4):
        service.publish("second", version)
    service.registry.begin("second", 5)
    service.registry.refuse("second", 5, "nonneg-matmul", "node has a weight of -0.03")
    tab = open_tab(f"127.0.0.1:{quadratic(service).port}")
    tab.open()
    assert "second" == tab.page.locator("input[name=model]:checked").input_value()
    notes = tab.page.locator(".model.chosen .note").all_inner_texts()
    assert ["Version 4 answers meanwhile.", "Version 5, END: nonneg-matmul: node has a weight of -0.03"] == notes
    tab.page.locator("#plot").press("Shift+ArrowUp")
    tab.page.locator("#version").select_option(value="3")
    tab.settle()
    assert "/models/second/score?version=3" == tab.posts()[-1][0]
    assert np.float32(tab.text("score")) == 1.5 * np.float32(0.6) ** 2
    tab.page.locator("input[name=model]:checked").focus()
    tab.page.keyboard.press("ArrowUp")
    tab.settle()
    assert "/models/first/score?version=1" == tab.posts()[-1][0]
    assert "inside" in tab.text("verdict")


def test_hyperplane_is_told_broken_when_the_function_is_concave(open_tab, quadratic):
    """The control: the same check finds the grid's points below the tangent plane of a function that is not convex."""
    service = make_service()
    service.publish("m", 1, proved=False).engine.factor = np.float32(-1)
    tab = open_tab(f"127.0.0.1:{quadratic(service).port}")
    tab.open()
    (above,) = re.search(r"holds at (\d+) of 2304 points", tab.text("hyperplane")).groups()
    assert int(above) <= 1
    assert "broken" in tab.page.locator("#hyperplane").get_attribute("class")


def test_modules_print_as_the_server_draw_true_contours_and_drop_stale_calls(open_tab, quadratic):
    """Numbers are the shortest that read back, contour points lie on their level, of waiting calls the last runs."""
    service = make_service()
    service.publish("m", 1)
    tab = open_tab(f"127.0.0.1:{quadratic(service).port}")
    tab.open()
    values = np.random.default_rng(5).standard_normal(300).astype(np.float32)
    values *= np.float32(10) ** np.arange(-30, 30).repeat(5).astype(np.float32)
    script = """async (values) => {
      const { exact } = await import("/page/numbers.js");
      return values.map((value) => exact(value));
    }"""
    texts = tab.page.evaluate(script, values.astype(float).tolist())
    assert values.tolist() == [float(np.float32(text)) for text in texts]
    assert [digits(str(value)) for value in values] == [digits(text) for text in texts]
    script = """async ([values, n, level]) => (await import("/page/contours.js")).segments(values, n, level)"""
    side = np.linspace(-1.0, 1.0, GRID)
    bowl = np.square(side)[:, None] + np.square(side)[None, :]
    ends = np.array(tab.page.evaluate(script, [bowl.ravel().tolist(), GRID, 0.5])).reshape(-1, 2)
    radius = np.hypot(*(ends.T * 2 / (GRID - 1) - 1))
    assert len(radius) > 100
    assert np.abs(radius - np.sqrt(0.5)).max() < (2 / (GRID - 1)) ** 2
    script = """async () => {
      const ran = [];
      const call = (await import("/page/server.js")).latestOnly(async (k) => { ran.push(k); await 0; await 0; });
      await Promise.all([1, 2, 3, 4, 5].map((k) => call(k)));
      return ran;
    }"""
    assert [1, 5] == tab.page.evaluate(script)


def test_refusal_is_shown_in_the_servers_words_when_a_number_is_too_large(browser, quadratic):
    """A score outside float32 is told as the server told it, and no old number stays beside it."""
    service = make_service()
    service.publish("m", 1)
    tab = Tab(browser, f"127.0.0.1:{quadratic(service).port}")
    tab.open()
    field = tab.page.locator("#value-0")
    field.fill("1e30")
    field.press("Enter")
    problem = tab.page.locator("#problem")
    expect(problem).to_have_text("OUT_OF_RANGE: instances[0]: score or gradient leaves float32 (3.4e38). "
                                 "Send smaller numbers to model m.")  # fmt: skip
    tab.settle()
    assert NOTHING == tab.text("score")
    field.fill("2")
    field.press("Enter")
    expect(problem).to_be_hidden()
    expect(tab.page.locator("#score")).to_have_text("2")
    tab.context.close()


def test_page_recovers_when_the_server_has_no_model_yet_goes_away_and_comes_back(browser, quadratic):
    """It says that no model is here, shows the first that comes, says that the server is away, and goes on after."""
    service = make_service()
    server = quadratic(service)
    tab = Tab(browser, f"127.0.0.1:{server.port}")
    tab.page.goto(f"http://{tab.address}/")
    expect(tab.page.locator("#no-models")).to_contain_text("No model is here yet")
    service.publish("m", 1, threshold=0.5)
    expect(tab.page.locator("#score")).to_have_text("0")
    server.stop(5.0)
    tab.page.locator("#plot").press("ArrowRight")
    expect(tab.page.locator("#problem")).to_have_text(re.compile("The server does not answer"))
    assert NOTHING == tab.text("score")
    service.publish("m", 2, threshold=0.5)
    quadratic(service, server.port)
    expect(tab.page.locator("#problem")).to_be_hidden(timeout=30_000)
    tab.settle()
    assert float(tab.text("score")) == np.float32(0.06) * np.float32(0.06)  # version 2, and the point where it was
    assert "newest (2)" == tab.page.locator("#version option:checked").inner_text()
    tab.context.close()


def test_one_feature_is_drawn_as_a_curve_and_an_unproved_version_is_named(open_tab, quadratic):
    """A model of one feature has one axis, and a version without a proof is promised nothing."""
    service = make_service()
    service.publish("line", 1, dim=1, features=(), proved=False)
    tab = open_tab(f"127.0.0.1:{quadratic(service).port}")
    tab.open()
    assert not tab.page.locator("#axis-1").is_visible()
    tab.page.locator("#plot").press("Shift+ArrowRight")
    tab.settle()
    assert float(tab.text("score")) == 0.5 * np.float32(0.6) ** 2
    assert "Not proved convex: node quadratic/Cos" in tab.text("certificate")
    assert "all 200 points" in tab.text("hyperplane")


def test_version_made_elsewhere_shows_a_collapsed_table_of_a_bounded_number_of_steps(open_tab, quadratic):
    """The list says that it was made elsewhere; the table is closed at first, has 60 steps and the count of all."""
    step = Step("node", "nonneg-matmul", "convex", "a sum of convex functions is convex", 0.25)
    service = make_service()
    signature = Signature("strange", 1, 2, made_elsewhere=True)
    service.publish("strange", 1, signature=signature, certificate=Certificate((step,) * 300, 0.0, "0" * 64, "1" * 64))
    tab = open_tab(f"127.0.0.1:{quadratic(service).port}")
    tab.open()
    assert "elsewhere" == tab.page.locator(".model.chosen dd").last.inner_text()
    assert "The model was made elsewhere" in tab.text("certificate")
    assert "proved convex in 300 steps" in tab.text("certificate")
    table = tab.page.locator("#certificate .steps table")
    assert not table.is_visible()
    tab.page.locator("#certificate summary").click()
    assert "The first 60 of 300 steps" == table.locator("caption").inner_text()
    assert 60 == table.locator("tbody tr").count()
    assert ["1", "node", "nonneg-matmul", "convex", "0.25"] == table.locator("tbody tr").first.locator(
        "td"
    ).all_inner_texts()
