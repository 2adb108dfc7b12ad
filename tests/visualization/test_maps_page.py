"""The page: what it stores, and in a real browser that it draws, switches, turns, and asks the network for nothing."""

import base64
import json
import re
import shutil

import numpy as np
import pytest

from pctransformer.visualization import maps_page as module
from pctransformer.visualization.color_scale import color_table
from pctransformer.visualization.maps_page import page_data, write_page
from pctransformer.visualization.point_maps import BoxView, PointMap, PointMaps

GREEN_RING = (0x0A, 0x7D, 0x2C)


def cloud(count=1500, title="a ball"):
    """A ball whose upper half has weight in the first map; in others only what is near the query."""
    xyz = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    xyz /= np.linalg.norm(xyz, axis=1, keepdims=True)
    front = int((xyz @ [0.52, -0.74, 0.42]).argmax())  # the point nearest to the camera
    rest = int((xyz @ [0.52, -0.74, -0.42]).argmax())

    def near(row, width):
        return np.exp(-np.square(xyz - xyz[row]).sum(1) / width).astype(np.float32)

    maps = (
        PointMap((xyz[:, 2] > 0).astype(np.float32), None, None, None, "rollout"),
        PointMap(near(front, 0.1), "layers.0", 0, front, "attention"),
        PointMap(near(front, 0.5), "layers.1", 0, front, "attention"),
        PointMap(near(rest, 0.5), "layers.1", 0, rest, "attention"),
    )
    return PointMaps(xyz, maps, title), front, rest


def painted():
    """The ball, as red, green and blue as its points lie along x, y, z, after what its upper half is."""
    maps, _, _ = cloud()
    return PointMaps(maps.xyz, (maps.maps[0], PointMap(maps.xyz, None, None, None, "feature components")), "a ball")


def boxes():
    found = np.array([[0, 0, 0, 1, 1, 1, 0]], np.float32)
    return BoxView(
        found, np.array([1]), np.array([0.75], np.float32), found + 1, np.array([0]), ("Car", "<b>Cyclist</b>")
    )


def stored(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


# ---- what it stores --------------------------------------------------------------------------------------------------
def test_points_and_values_are_stored_to_a_step(tmp_path):
    maps, front, _ = cloud()
    write_page(maps, tmp_path / "a.html", scaling="linear")
    data = stored(tmp_path / "a.html")
    fixed = np.frombuffer(base64.b64decode(data["xyz"]), "<u2").reshape(-1, 3)
    np.testing.assert_allclose(data["low"] + fixed * np.array(data["step"]), maps.xyz, atol=2 / 65535)
    table = np.frombuffer(base64.b64decode(data["table"]), np.uint8).reshape(-1, 3)
    np.testing.assert_allclose(table / 255, color_table(), atol=1 / 255)
    assert [(m["method"], m["layer"], m["head"], m["query"]) for m in data["maps"]] == [
        (m.method, m.layer, m.head, m.query) for m in maps.maps
    ]
    for entry, found in zip(data["maps"], maps.maps):
        shades = np.frombuffer(base64.b64decode(entry["places"]), np.uint8)
        values = entry["low"] + shades / 215 * (entry["high"] - entry["low"])
        np.testing.assert_allclose(values, found.values, atol=1 / 215)
    assert data["maps"][1]["query"] == front


def test_colours_are_stored_as_they_are(tmp_path):
    maps = painted()
    write_page(maps, tmp_path / "a.html")
    first, second = stored(tmp_path / "a.html")["maps"][:2]
    colors = np.frombuffer(base64.b64decode(second["colors"]), np.uint8).reshape(-1, 3)
    np.testing.assert_allclose(colors / 255, maps.maps[1].colors()[0], atol=0.5 / 255 + 1e-6)
    assert "places" not in second
    assert "colors" not in first


def test_y_up_stands_upright():
    maps, _, _ = cloud()
    turned = PointMaps(maps.xyz[:, [0, 2, 1]] * np.float32([1, 1, -1]), maps.maps, "", up="y")
    assert page_data(turned, "percentile")["xyz"] == page_data(maps, "percentile")["xyz"]


def test_boxes_are_wires_with_words(tmp_path):
    maps, _, _ = cloud()
    write_page(PointMaps(maps.xyz, maps.maps, "</script><script>alert(1)", boxes()), tmp_path / "a.html")
    data = stored(tmp_path / "a.html")
    assert data["title"] == "</script><script>alert(1)"
    assert "<script>alert" not in (tmp_path / "a.html").read_text()
    assert [line["words"] for line in data["lines"]] == ["", "<b>Cyclist</b> 0.75"]
    assert [len(line["points"]) for line in data["lines"]] == [13 * 2 * 3] * 2
    found = np.array(data["lines"][1]["points"]).reshape(-1, 3)
    assert found.min(0).tolist() == [-0.5, -0.5, -0.5]
    assert [words for words, _ in data["legend"]] == ["labelled", "found <b>Cyclist</b>"]


def test_size_of_a_hundred_thousand_points(tmp_path):
    """6 bytes for a point and 1 for a value, a third more in text, and some for the script."""
    maps, _, _ = cloud(100_000)
    write_page(maps, tmp_path / "a.html")
    assert (tmp_path / "a.html").stat().st_size < 100_000 * (6 + 4) * 4 / 3 + 40_000


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_points(tmp_path, count):
    values = np.zeros(count, np.float32)
    write_page(
        PointMaps(np.zeros((count, 3), np.float32), (PointMap(values, None, None, None, "x"),), ""), tmp_path / "a"
    )
    assert stored(tmp_path / "a")["count"] == count


def test_too_many_points_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_POINTS", 10)
    with pytest.raises(ValueError, match="there are 1500 points, and a page takes at most 10"):
        write_page(cloud()[0], tmp_path / "a.html")


# ---- in a browser ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    # software WebGL, since a test machine has no GPU; root in a container cannot have Chromium's sandbox
    options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


class Visit:
    """A page in the browser, and all that it asked for and complained about."""

    def __init__(self, browser, path):
        self.page = browser.new_page(viewport={"width": 720, "height": 400})
        self.page.set_default_timeout(60_000)
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.goto(path.as_uri())
        self.drawn()

    def drawn(self):
        """Wait until the frame that was asked for is on the screen."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def picture(self):
        """(400, 420, 3), without the panel on the left."""
        import io

        from matplotlib.image import imread

        self.drawn()
        return np.rint(imread(io.BytesIO(self.page.screenshot()))[:, 300:, :3] * 255).astype(int)

    def map(self):
        return int(self.page.evaluate("document.body.dataset.map"))

    def screen(self, row):
        return self.page.evaluate(f"pointMaps.screen({row})")[:2]

    def words(self):
        return self.page.inner_text("#words")


@pytest.fixture
def visit(browser, tmp_path):
    pages = []

    def visit(maps):
        write_page(maps, tmp_path / "a.html")
        pages.append(Visit(browser, tmp_path / "a.html"))
        return pages[-1]

    yield visit
    for page in pages:
        page.page.close()
        assert page.errors == []
        assert [url.split(":")[0] for url in page.requests] == ["file"]


def near(picture, color):
    return np.abs(picture - np.array(color)).max(2) < 12


def test_browser_draws_the_colours_of_the_values(visit):
    maps, _, _ = cloud()
    seen = visit(maps)
    picture = seen.picture()
    pale, dark = (np.rint(color_table()[row] * 255) for row in (0, -1))
    upper, lower = picture[:100], picture[-90:]
    assert near(upper, dark).sum() > 2000
    assert near(lower, pale).sum() > 2000
    assert not near(upper, pale).any()
    assert not near(lower, dark).any()
    assert near(picture, (255, 255, 255)).mean() > 0.3  # round it
    assert not near(picture, GREEN_RING).any()  # looked from nowhere
    assert seen.page.title() == "a ball"
    assert [seen.page.inner_text(place) for place in ("#low", "#high")] == ["0", "1"]


def test_browser_draws_three_values_as_colours(visit):
    """In front, x is high and y low: red, with blue above. There is a key, and a click tells shares."""
    maps = painted()
    seen = visit(maps)
    assert seen.page.inner_text("#scaling").endswith("; darker is more.")
    seen.page.select_option("#method", '"feature components"')
    assert seen.map() == 1
    ends = [seen.page.inner_text(place) for place in ("#low", "#middle", "#high")]
    assert ends == ["first", "second", "third"]
    assert seen.page.inner_text("#meaning") == "Three main directions of the features as red, green, blue."
    assert seen.page.inner_text("#scaling").startswith("Each colour is linear")
    bar = seen.page.evaluate(
        "[0, 70, 100, 215].map((x) => [...$('bar').getContext('2d').getImageData(x, 0, 1, 1).data])"
    )
    assert bar == [[255, 0, 0, 255], [0, 0, 0, 0], [0, 255, 0, 255], [0, 0, 255, 255]]
    colors = maps.maps[1].colors()[0]
    facing = maps.xyz @ [0.52, -0.74, 0.42]
    picture = seen.picture()
    rows = np.flatnonzero(facing > 0.8)[:20]
    places = np.array([seen.screen(row) for row in rows])
    # another dot may lie over one, of nearly the same colour
    drawn = np.array([picture[int(y), int(x) - 300] for x, y in places]) / 255
    assert np.median(np.abs(drawn - colors[rows]).max(1)) < 0.03
    row = int(facing.argmax())
    seen.page.mouse.click(*seen.screen(row))
    shares = [
        f"{name} {round(round(255 * c) / 2.55)}%" for name, c in zip(("red", "green", "blue"), colors[row].tolist())
    ]
    assert seen.words() == f"There is no map from here. Point {row}: {', '.join(shares)}"
    seen.page.select_option("#method", '"rollout"')
    assert seen.page.inner_text("#high") == "1"
    assert seen.page.inner_text("#scaling") == "Linear from the 1st to the 99th of a hundred values; darker is more."


def test_browser_cuts_rooms_below_their_ceiling(visit):
    """The ball without its upper quarter, where neither dots are drawn nor clicks meet any; with it by the slider."""
    maps, _, _ = cloud()
    seen = visit(PointMaps(maps.xyz, maps.maps[:1], "", is_room=True))
    dark = np.rint(color_table()[-1] * 255)
    below = near(seen.picture(), dark).sum()
    row = int((maps.xyz @ [0.33, -0.47, 0.82]).argmax())  # nearest to the camera, above the cut
    assert maps.xyz[row, 2] > 0.6
    seen.page.mouse.click(*seen.screen(row))
    assert f"Point {row}:" not in seen.words()
    seen.page.evaluate("document.getElementById('height').value = 65535; document.getElementById('height').oninput()")
    assert near(seen.picture(), dark).sum() > 1.5 * below
    seen.page.mouse.click(*seen.screen(row))
    assert f"Point {row}:" in seen.words()
    ball = visit(maps)
    assert not ball.page.is_visible("#height")


def test_browser_switches_layers_and_queries(visit):
    maps, front, rest = cloud()
    seen = visit(maps)
    before = seen.picture()
    seen.page.select_option("#query", str(front))
    assert seen.map() == 1
    after = seen.picture()
    assert (before != after).any(2).mean() > 0.05
    y, x = np.argwhere(near(after, GREEN_RING)).mean(0)
    assert np.hypot(x + 300 - seen.screen(front)[0], y - seen.screen(front)[1]) < 3
    seen.page.select_option("#layer", '"layers.1"')
    assert seen.map() == 2
    seen.page.select_option("#query", str(rest))
    assert seen.map() == 3
    seen.page.select_option("#method", '"rollout"')
    assert seen.map() == 0
    assert seen.page.input_value("#layer") == "null"


def test_browser_on_a_narrow_screen(visit):
    """The panel is below the cloud, not over it, and ends of long names of layers can be read."""
    maps, front, _ = cloud()
    flat = PointMap(np.zeros(len(maps), np.float32), "encoder." * 9, None, None, "attention")
    seen = visit(PointMaps(maps.xyz, (*maps.maps, flat), "a ball"))
    seen.page.set_viewport_size({"width": 400, "height": 700})
    seen.drawn()
    panel, scene = (seen.page.locator(name).bounding_box() for name in ("#panel", "#scene"))
    assert panel["y"] == pytest.approx(scene["y"] + scene["height"], abs=1)
    assert panel["y"] + panel["height"] == pytest.approx(700, abs=1)
    seen.page.mouse.click(*seen.screen(front))
    assert seen.map() == 1
    seen.page.select_option("#layer", f'"{"encoder." * 9}"')
    assert seen.page.get_attribute("#layer", "title") == "encoder." * 9
    assert [seen.page.inner_text(place) for place in ("#low", "#middle", "#high")] == ["", "0 everywhere", ""]


def test_browser_looks_from_a_clicked_point(visit):
    maps, front, _ = cloud()
    seen = visit(maps)
    seen.page.mouse.click(*seen.screen(front))
    assert seen.map() == 1
    assert seen.words().startswith(f"Point {front}: ")
    assert seen.words().endswith(" or more")
    other = int(np.abs(maps.xyz @ [0.52, -0.74, 0.42] - 0.93).argmin())  # on the side that is seen
    seen.page.mouse.click(*seen.screen(other))
    assert seen.map() == 1
    assert seen.words().startswith(f"There is no map from here. Point {other}: ")
    seen.page.mouse.click(710, 390)
    assert seen.words() == ""


def test_browser_turns_moves_and_comes_nearer(visit):
    maps, front, _ = cloud()
    seen = visit(maps)
    x, y = seen.screen(front)
    mouse = seen.page.mouse

    def drag(button="left"):
        mouse.move(500, 200)
        mouse.down(button=button)
        mouse.move(460, 200, steps=3)
        mouse.up(button=button)
        return seen.screen(front)

    turned, y_turned = drag()
    assert turned < x - 10
    moved, y_moved = drag("right")
    assert moved - turned == pytest.approx(
        -40 * 3.93 / 2.93, rel=0.05
    )  # it follows the pointer, nearer than the middle
    assert y_moved == pytest.approx(y_turned, abs=1)
    before = near(seen.picture(), (255, 255, 255)).mean()
    mouse.wheel(0, -400)
    assert near(seen.picture(), (255, 255, 255)).mean() < before - 0.03
    mouse.dblclick(710, 390)
    assert seen.screen(front) == pytest.approx([x, y], abs=1e-3)


def test_browser_draws_boxes(visit):
    maps, _, _ = cloud()
    seen = visit(PointMaps(maps.xyz * np.float32(0.4), maps.maps, "", boxes()))
    assert near(seen.picture(), (0x2E, 0x8B, 0x57)).sum() > 100  # labelled
    assert "found <b>Cyclist</b>" in seen.page.inner_text("#boxes")
