"""What keys and clicks choose, which point is under the pointer, and that a window without a display is refused."""

import sys

import numpy as np
import pytest

from pctransformer.errors import UserError
from pctransformer.visualization.clouds import camera
from pctransformer.visualization.geometry import box_lines
from pctransformer.visualization.map_choice import FIELDS, KEYS, MapChoice, point_under
from pctransformer.visualization.map_view import MapView
from pctransformer.visualization.maps_window import choose_point, prepare_scene, show_map, show_window
from pctransformer.visualization.point_maps import BoxView, PointMap, PointMaps


def choice(*rows):
    """Of maps (method, layer, head, query)."""
    values = np.zeros(100, np.float32)
    maps = tuple(PointMap(values, method=m, layer=layer, head=h, query=q) for m, layer, h, q in rows)
    return MapChoice(maps)


MAPS = (
    ("rollout", None, None, None),
    ("attention", "b", 0, 7),
    ("attention", "b", 1, 7),
    ("attention", "a", 0, 7),
    ("attention", "a", 1, 7),
    ("attention", "a", 1, 3),
    ("rollout", None, None, 3),
)


def test_a_value_is_chosen_and_all_else_kept_where_it_can_be():
    chosen = choice(*MAPS)
    assert chosen.shown == 0
    chosen = chosen.choose("query", 3)
    assert chosen.shown == 6  # the rollout from there, not the attention
    chosen = chosen.choose("layer", "b")
    assert chosen.shown == 1  # neither is from point 3: the first one
    chosen = chosen.choose("head", 1)
    assert chosen.shown == 2
    chosen = chosen.choose("layer", "a")
    assert chosen.shown == 4
    assert chosen.choose("query", 3).shown == 5
    assert chosen.choose("query", 99) is chosen  # there is no such map


def test_steps_go_through_all_values_and_begin_again():
    chosen = choice(*MAPS)
    assert {field: chosen.values(field) for field in FIELDS} == {
        "method": ["rollout", "attention"],
        "layer": [None, "b", "a"],
        "head": [None, 0, 1],
        "query": [None, 3, 7],
        "box": [None],
    }
    for field in KEYS.values():
        seen, values = chosen, []
        for _ in chosen.values(field):
            values.append(getattr(seen.map, field))
            seen = seen.step(field)
        assert values == chosen.values(field)
        assert getattr(seen.map, field) == values[0]


def test_points_that_have_no_map_are_looked_from_when_clicked():
    """Each once; the method and all else stay as they are where they can be."""
    asked = []

    def look_from(row):
        if row == 5:
            raise ValueError("nobody looks from 5")
        asked.append(row)
        values = np.full(100, row, np.float32)
        maps = tuple(PointMap(values, layer, None, row, "attention") for layer in ("a", "b"))
        return PointMaps(np.zeros((100, 3), np.float32), maps, "")

    chosen = choose_point(choice(*MAPS).choose("layer", "b"), 9, look_from)
    assert (chosen.map.query, chosen.map.layer, chosen.map.values[0]) == (9, "b", 9)
    chosen = choose_point(choose_point(chosen, 3, look_from), 9, look_from)
    assert asked == [9]  # there was a map from 3, and from 9 there is one now
    assert len(chosen.maps) == len(MAPS) + 2
    with pytest.raises(ValueError, match="nobody looks from 5"):
        choose_point(chosen, 5, look_from)
    assert choose_point(chosen, 5, None) is chosen


def perspective(distance):
    """(4, 4) of a camera that looks along -z from z = distance, 90 degrees wide."""
    look = np.eye(4)
    look[2, 3] = -distance
    project = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1.1, -0.1], [0, 0, -1, 0]])
    return project @ look


def test_the_foremost_point_is_under_the_pointer():
    xyz = np.array([[0.0, 0, 0], [0, 0, 1], [0.5, 0.5, 1], [0, 0, 5]])  # the last one is behind the camera
    size = (200.0, 100.0)
    assert point_under(xyz, perspective(3), size, (100, 50)) == 1
    assert point_under(xyz[[0, 2, 3]], perspective(3), size, (100, 50)) == 0
    assert point_under(xyz, perspective(3), size, (125 + 7, 37.5)) == 2
    assert point_under(xyz, perspective(3), size, (125 + 9, 37.5)) is None
    assert point_under(np.zeros((0, 3)), perspective(3), size, (100, 50)) is None


def test_of_neighbours_on_a_surface_the_one_under_the_pointer():
    rng = np.random.default_rng(0)
    xyz = np.append(rng.uniform(-1, 1, size=(2000, 2)), np.zeros((2000, 1)), axis=1)
    turned = xyz @ camera(80, -55)  # nearly facing the camera
    at = perspective(3) @ np.append(turned[5], 1)
    place = ((at[0] / at[3] + 1) * 300, (1 - at[1] / at[3]) * 300)
    assert point_under(turned, perspective(3), (600, 600), place, pixels=2) == 5


def test_no_window_without_a_display(monkeypatch):
    found = PointMap(np.ones(1, np.float32), None, None, None, "rollout")
    maps = PointMaps(np.zeros((1, 3), np.float32), (found,), "")
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(UserError, match=r"needs Open3D, which is not installed: pip install open3d; or write a \.html"):
        show_window(maps)
    monkeypatch.setitem(sys.modules, "open3d", type(sys)("open3d"))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"there is no display to open a window on; write a \.html"):
        show_window(maps)


class Scene:
    """What stands in a scene, by name."""

    def __init__(self):
        self.view = self
        self.held = {}

    def set_background(self, color):
        pass

    def set_post_processing(self, on):
        pass

    def add_geometry(self, name, geometry, material):
        self.held[name] = geometry, material

    def remove_geometry(self, name):
        self.held.pop(name, None)


def test_rooms_are_cut_below_their_ceiling():
    open3d = pytest.importorskip("open3d")
    xyz = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 2], [1, 1, 2.5]], np.float32)
    found = PointMap(np.ones(4, np.float32), None, None, None, "rollout")
    view = MapView.of(PointMaps(xyz, (found,), "", is_room=True))
    scene = Scene()
    show_map(scene, view, np.eye(4)[:, :3], found)
    points = scene.held["points"][0]
    assert isinstance(points, open3d.geometry.PointCloud)
    assert np.asarray(points.points).tolist() == xyz[:2].tolist()
    assert np.asarray(points.colors).tolist() == np.eye(4)[:2, :3].tolist()


def test_boxes_and_the_one_that_is_looked_from():
    """Wires of all, black and broad over the one; nothing of it is left when a point is looked from."""
    pytest.importorskip("open3d")
    corner = np.array([[4, 0, 0, 4, 2, 1, 0], [9, 3, 0, 4, 2, 1, 1]], np.float32)
    none = np.zeros((0, 7), np.float32), np.zeros(0, np.int64)
    boxes = BoxView(corner, np.array([0, 0]), np.array([0.9, 0.5], np.float32), *none, ("Car",))
    values = np.ones(3, np.float32)
    from_box, from_point = (PointMap(values, None, None, q, "rollout", b) for q, b in ((None, 1), (2, None)))
    view = MapView.of(PointMaps(np.eye(3, dtype=np.float32), (from_box,), "", boxes))
    scene = Scene()
    prepare_scene(scene, view)
    assert set(scene.held) == {"box 0", "box 1"}
    show_map(scene, view, np.zeros((3, 3)), from_box)
    assert set(scene.held) == {"box 0", "box 1", "points", "source"}
    lines, material = scene.held["source"]
    np.testing.assert_allclose(np.asarray(lines.points), box_lines(corner[1:])[0], atol=1e-6)
    assert not np.asarray(lines.colors).any()
    assert material.line_width > scene.held["box 1"][1].line_width
    show_map(scene, view, np.zeros((3, 3)), from_point)
    assert set(scene.held) == {"box 0", "box 1", "points", "query"}
