"""The picture: what stands on it, and the colours that Open3D renders, or matplotlib where it cannot."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from matplotlib.image import imread

from pctransformer.visualization import maps_picture as module
from pctransformer.visualization import offscreen
from pctransformer.visualization.clouds import camera
from pctransformer.visualization.color_scale import color_table
from pctransformer.visualization.map_view import MapView
from pctransformer.visualization.maps_page import page_data
from pctransformer.visualization.maps_picture import maps_figure, write_picture
from pctransformer.visualization.offscreen import NoRendererError, render
from pctransformer.visualization.output import write
from pctransformer.visualization.point_maps import BoxView, PointMap, PointMaps
from tests.visualization.pages import check_page, texts


def cloud(count=400, maps=3):
    xyz = np.random.default_rng(0).uniform(-1, 1, size=(count, 3)).astype(np.float32)
    found = tuple(PointMap(xyz[:, 2] + 1, f"layers.{i}", i, 17, "attention") for i in range(maps))
    return PointMaps(xyz, found, "a cube")


def boxes():
    found = np.array([[0, 0, 0, 1, 1, 1, 0]], np.float32)
    return BoxView(found, np.array([1]), np.array([0.75], np.float32), found + 1, np.array([0]), ("Car", "Cyclist"))


def refuse(*args, **kwargs):
    raise NoRendererError("no renderer is here")


def rendered(*args, **kwargs):
    try:
        return render(*args, **kwargs)
    except NoRendererError as error:
        pytest.skip(str(error))


def pixels(figure):
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return np.rint(imread(io.BytesIO(content.getvalue()))[..., :3] * 255).astype(int)


def near(picture, color):
    return np.abs(picture - np.array(color)).max(-1) < 12


# ---- the page --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 3, 9, 17])
def test_a_panel_and_a_colour_bar_for_each_map(monkeypatch, count):
    monkeypatch.setattr(module, "render", refuse)
    figure, remarks = maps_figure(cloud(maps=count))
    check_page(figure)
    words = texts(figure)
    assert words[0] == "a cube"
    for i in range(count):
        assert any(f"head {i}," in text.replace("\n", " ") for text in words)
    assert len(figure.axes) == 2 * count
    assert remarks == ["the picture is drawn by matplotlib: no renderer is here"]


def test_the_range_is_stated(monkeypatch):
    monkeypatch.setattr(module, "render", refuse)
    maps = cloud(maps=1)
    figure, _ = maps_figure(maps, scaling="linear")
    low, high = maps.maps[0].values.min(), maps.maps[0].values.max()
    assert texts(figure)[-5:-2] == [f"{value:.3g}" for value in (low, (low + high) / 2, high)]
    assert texts(figure)[-1] == "each point's share of the attention"
    bar = figure.axes[1].images[0].get_array()
    np.testing.assert_allclose(bar[0, [0, -1]], color_table()[[0, -1]], atol=1e-6)


def painted(count=400):
    """A cube whose points are as red, green and blue as they lie along x, y, z; and what its height is."""
    maps = cloud(count, 1)
    found = PointMap(maps.xyz.copy(), None, None, None, "feature components")
    return dataclasses.replace(maps, maps=(found, *maps.maps))


def colors_of_corners(picture):
    """How many pixels are as the front corners of the cube: red and blue, red, blue, black, not quite."""
    return [
        (np.abs(picture - np.array(color)).max(-1) < 60).sum() for color in ((255, 0, 255), (255, 0, 0), (0, 0, 255))
    ]


def test_three_values_are_drawn_as_colours(monkeypatch):
    """One panel, with a key in place of the bar, beside one with a bar."""
    monkeypatch.setattr(module, "render", refuse)
    figure, _ = maps_figure(painted())
    check_page(figure)
    words = texts(figure)
    for word in ("first", "second", "third", "feature components"):
        assert words.count(word) == 1
    assert "three main directions of the features as red, green, blue" in words
    assert len(figure.axes) == 4
    drawn = figure.axes[0].collections[0]
    view = MapView.of(painted())
    order = ((view.xyz - view.middle) @ view.axes[2]).argsort(kind="stable")
    np.testing.assert_allclose(drawn.get_facecolors()[:, :3], painted().maps[0].colors()[0][order], atol=1e-6)
    assert figure.axes[1].images[0].get_array()[0, [0, 128, -1]].tolist() == np.eye(3).tolist()


def test_colours_from_a_box_show_all(monkeypatch):
    """Colours do not tell what is looked at most, so there is nothing to come near to."""
    maps = dataclasses.replace(painted(), boxes=boxes())
    from_box = dataclasses.replace(maps, maps=(dataclasses.replace(maps.maps[0], box=0),))
    assert MapView.of(from_box).radius == MapView.of(maps).radius


def test_ring_round_the_point_and_wires_of_boxes(monkeypatch):
    monkeypatch.setattr(module, "render", refuse)
    maps = dataclasses.replace(cloud(maps=1), boxes=boxes())
    figure, _ = maps_figure(maps)
    view = MapView.of(maps)
    panel = figure.axes[0]
    expected = (view.xyz[17] - view.middle) @ view.axes.T
    assert len(panel.patches) == 2  # white below green
    for ring in panel.patches:
        assert list(ring.center) == pytest.approx(expected[:2].tolist())
    (wires,) = [found for found in panel.collections if len(found.get_paths()) == 26]
    assert [tuple(np.round(255 * color[:3]).astype(int)) for color in wires.get_colors()[[0, -1]]] == [
        (0x2E, 0x8B, 0x57),
        (0x44, 0x77, 0xAA),
    ]
    assert "Cyclist 0.75" in [text.get_text() for text in panel.texts]
    assert {"labelled", "found Cyclist"} <= set(texts(figure))


def test_the_ring_is_over_the_wires(monkeypatch):
    monkeypatch.setattr(module, "render", refuse)
    panel = maps_figure(dataclasses.replace(cloud(maps=1), boxes=boxes()))[0].axes[0]
    assert min(ring.get_zorder() for ring in panel.patches) > max(lines.get_zorder() for lines in panel.collections)


def test_words_above_the_panels(monkeypatch):
    """Titles are broken between their parts, colours of boxes are named one after the other without great gaps."""
    monkeypatch.setattr(module, "render", refuse)
    names = ("Car", "Pedestrian", "WWWWWWWWWWWW", "iiiiiiiiiiii")
    found = np.tile(np.array([[0, 0, 0, 1, 1, 1, 0]], np.float32), (4, 1))
    seen = BoxView(found, np.arange(4), np.ones(4, np.float32), found[:0], np.zeros(0, np.int64), names)
    title = "000008.bin: 43 boxes in 16750 points, looking from box 0, Car 81.9%"
    figure, _ = maps_figure(dataclasses.replace(cloud(maps=1), boxes=seen, title=title))
    check_page(figure)
    assert texts(figure)[0] == "000008.bin: 43 boxes in 16750 points,\nlooking from box 0, Car 81.9%"
    legend = [text for text in figure.texts if text.get_text().startswith("found ")]
    spans = [text.get_window_extent() for text in legend]
    gaps = [(right.x0 - left.x1) / figure.dpi for left, right in itertools.pairwise(spans)]
    assert gaps == pytest.approx([0.2] * 3, abs=0.12)  # letters are drawn in whole pixels
    figure, _ = maps_figure(dataclasses.replace(cloud(maps=1), title=f"a, {'long ' * 20}name"))
    assert "a, long" in texts(figure)[0].splitlines()[0]  # a part that does not fit into a line
    check_page(figure)


def test_a_map_that_is_the_same_everywhere(monkeypatch):
    """As PCT's of a point that a layer passes over."""
    monkeypatch.setattr(module, "render", refuse)
    flat = PointMap(np.zeros(400, np.float32), "layers.0", 0, 17, "attention")
    words = texts(maps_figure(dataclasses.replace(cloud(), maps=(flat,)))[0])
    assert words[-3] == "0 everywhere"
    assert words.count("0") == 0


def test_values_beyond_the_colour_bar_are_said(monkeypatch):
    monkeypatch.setattr(module, "render", refuse)
    words = texts(maps_figure(cloud(maps=1))[0])
    assert [text[0] for text in words[-5:-2]].count("≤") == [text[0] for text in words[-5:-2]].count("≥") == 1


def test_ring_of_a_hidden_point_is_broken(monkeypatch):
    """Two points on a line to the camera, and four that frame them."""
    monkeypatch.setattr(module, "render", refuse)
    axes = camera(25.0, -55.0)
    line = np.stack([axes[2], -axes[2], axes[0], -axes[0], axes[1], -axes[1]]).astype(np.float32)
    styles = []
    for query in (0, 1):
        found = PointMap(np.arange(6, dtype=np.float32), None, None, query, "rollout")
        panel = maps_figure(PointMaps(line, (found,), "a line"))[0].axes[0]
        styles.append(panel.patches[-1].get_linestyle())
    assert styles[0] in ("-", "solid")
    assert styles[1] not in ("-", "solid")


def test_box_that_is_looked_from(monkeypatch):
    """It is black, has its words, and the picture shows what is near, however far other points are."""
    monkeypatch.setattr(module, "render", refuse)
    maps = cloud(maps=1)
    far = maps.xyz.copy()
    far[:, 0] = np.linspace(-200, 200, len(far))
    values = (np.abs(far[:, 0]) < 5).astype(np.float32)
    two = np.array([[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1.1, 1, 1, 0]], np.float32)
    seen = BoxView(two, np.array([0, 1]), np.array([0.9, 0.8], np.float32), two[:0], np.zeros(0, np.int64), ("A", "B"))
    found = dataclasses.replace(maps.maps[0], values=values, query=None, box=1)
    looked = PointMaps(far, (found,), "far", seen)
    panel = maps_figure(looked)[0].axes[0]
    assert [text.get_text() for text in panel.texts] == ["B 0.80"]  # that of A stands in the same place
    black = [lines for lines in panel.collections if np.allclose(lines.get_edgecolors()[:, :3], 0)]
    assert len(black) == 1
    assert len(black[0].get_paths()) == 13
    assert MapView.of(looked).radius == 8
    whole = dataclasses.replace(looked, maps=(dataclasses.replace(found, box=None),))
    assert MapView.of(whole).radius > 40
    # the same where all is asked for, with the box still marked
    assert MapView.of(looked, whole=True).radius == MapView.of(whole).radius
    panel = maps_figure(looked, whole=True)[0].axes[0]
    assert panel.get_xlim()[1] > 40
    assert "B 0.80" in [text.get_text() for text in panel.texts]
    assert page_data(looked, "linear")["radius"] == 8
    assert page_data(looked, "linear", whole=True)["radius"] > 40


def test_rooms_are_seen_from_above_without_their_ceiling(monkeypatch):
    """A box with floor and ceiling: of 400 points a quarter lies in the upper fourth, unless one looks from there."""
    monkeypatch.setattr(module, "render", refuse)
    maps = cloud(maps=1)
    room = dataclasses.replace(maps, is_room=True, maps=(dataclasses.replace(maps.maps[0], query=None),))
    view = MapView.of(room)
    z = maps.xyz[:, 2]
    assert view.elevation_deg > MapView.of(maps).elevation_deg + 20
    limit = z.min() + 0.75 * np.ptp(z)
    assert view.shown.tolist() == np.flatnonzero(z <= limit).tolist()
    figure, remarks = maps_figure(room)
    assert len(figure.axes[0].collections[0].get_offsets()) == len(view.shown) < 330
    assert remarks[0] == f"the picture leaves out {400 - len(view.shown)} points near the ceiling, which hide others"
    top = int(z.argmax())
    from_top = dataclasses.replace(room, maps=(dataclasses.replace(maps.maps[0], query=top),))
    assert len(MapView.of(from_top).shown) == 400
    assert len(MapView.of(maps).shown) == 400  # it is no room


def test_what_is_left_out_is_said(monkeypatch):
    monkeypatch.setattr(module, "render", refuse)
    monkeypatch.setattr(module, "MAX_PANELS", 2)
    monkeypatch.setattr(module, "MAX_DOTS", 300)
    monkeypatch.setattr(module, "_MAX_DOTS_PLAIN", 100)
    figure, remarks = maps_figure(cloud())
    assert remarks == [
        "the picture shows the first 2 of 3 maps",
        "the picture shows 300 of 400 points, drawn by chance",
        "the picture is drawn by matplotlib: no renderer is here",
        "matplotlib draws 100 of 300 points",
    ]
    assert len(figure.axes[0].collections[0].get_offsets()) == 100


def test_matplotlib_draws_the_colours_of_the_values(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "render", refuse)
    maps = dataclasses.replace(cloud(maps=1), up="y")  # so what is much is in front
    picture = pixels(maps_figure(maps)[0])
    assert min(near(picture, np.rint(255 * color_table()[row])).sum() for row in (0, -1)) > 200
    assert write(maps, tmp_path / "a.png") == ["the picture is drawn by matplotlib: no renderer is here"]
    write_picture(maps, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_points(monkeypatch, count):
    monkeypatch.setattr(module, "render", refuse)
    found = PointMap(np.ones(count, np.float32), None, None, None, "rollout")
    check_page(maps_figure(PointMaps(np.zeros((count, 3), np.float32), (found,), "hardly"))[0])


# ---- Open3D ----------------------------------------------------------------------------------------------------------
def test_open3d_renders_dots_where_and_as_they_are():
    """Three dots, two behind one another; two colourings; twice."""
    seen = np.array([[-0.5, 0.5, 0], [0.5, -0.25, 0.3], [0.5, -0.25, -0.3]])
    colors = np.array([[[1, 0, 0], [0, 0.5, 0], [0, 0, 1]], [[0.2, 0.4, 0.6], [1, 1, 0], [0, 0, 0]]])
    options = {"dot": 0.2, "half": 1.0, "pixels": 100}
    pictures = rendered(seen, colors, **options)
    assert pictures.shape == (2, 100, 100, 3)
    for picture, shades in zip(pictures.astype(int), np.rint(255 * colors)):
        for row, column, shade in ((25, 25, shades[0]), (62, 75, shades[1])):
            assert np.abs(picture[row, column] - shade).max() <= 1
        rows, columns = np.nonzero((picture != 255).any(2))
        assert 2 * 60 < len(rows) < 2 * 100  # two discs of ten pixels: 157
        assert (rows.min(), columns.min()) == (pytest.approx(20, abs=1), pytest.approx(20, abs=1))
        assert not near(picture, shades[2]).any()  # it is behind
    np.testing.assert_array_equal(rendered(seen, colors, **options), pictures)


def test_renderer_that_is_not_there(monkeypatch, tmp_path):
    """It ends its process by a signal; here that is an error that says why."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho reason: no Vulkan >&2\nkill -ABRT $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(offscreen.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(offscreen.sys, "executable", str(python))
    with pytest.raises(NoRendererError, match=r"Open3D cannot render here \(reason: no Vulkan\); it needs a GPU, or"):
        render(np.zeros((1, 3)), np.zeros((1, 1, 3)), dot=0.1, half=1.0, pixels=10)
    monkeypatch.setattr(offscreen.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoRendererError, match="Open3D is not installed: pip install open3d"):
        render(np.zeros((1, 3)), np.zeros((1, 1, 3)), dot=0.1, half=1.0, pixels=10)


def test_colours_by_open3d(monkeypatch):
    monkeypatch.setattr(module, "render", rendered)
    only = dataclasses.replace(painted(4000), maps=painted(4000).maps[:1])
    pictures = []
    for renderer in (rendered, refuse):
        monkeypatch.setattr(module, "render", renderer)
        pictures.append(colors_of_corners(pixels(maps_figure(only)[0])))
    assert min(pictures[0]) > 100
    assert pictures[0] == pytest.approx(pictures[1], rel=0.3)


def test_picture_by_open3d(monkeypatch):
    monkeypatch.setattr(module, "render", rendered)
    figure, remarks = maps_figure(dataclasses.replace(cloud(maps=1), up="y"))
    assert remarks == []
    picture = pixels(figure)
    assert min(near(picture, np.rint(255 * color_table()[row])).sum() for row in (0, -1)) > 200
