"""Maps of points in a window of Open3D, for machines with a display. It opens only when `show_window` is called."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from pctransformer.errors import UserError
from pctransformer.visualization.color_scale import ColorScale, Scaling, bar_colors
from pctransformer.visualization.map_choice import KEYS, MapChoice, point_under
from pctransformer.visualization.map_view import Color, MapView, Wire
from pctransformer.visualization.point_maps import PointMap, PointMaps

_HELP = """Drag: turn. Ctrl and drag: move. Wheel: nearer.
Keys: M values, L layer, H head, Q query point, B box."""
_CLICK = "Click: look from there."
_CLICK_IF = "Click: look from there, if there is a map of it."
_OPENING_DEG = 35.0
_RING = (0.04, 0.49, 0.17)


LookFrom = Callable[[int], PointMaps]
"""From the row of a point to maps that are from there, of the same points; a ValueError says why there are none."""


def show_window(
    point_maps: PointMaps,
    *,
    scaling: Scaling = "percentile",
    whole: bool = False,
    look_from: LookFrom | None = None,
) -> None:
    """Open a window and return when it is closed.

    The cloud is turned by the mouse. Keys go through values, layers, heads and query points; a click on a point looks
    from there, by a map that is there or that `look_from` makes. A green ball marks the point that is looked from.
    Boxes are wires with their classes and scores, black the one that is looked from.

    Args:
        point_maps: the cloud and its maps; the first is shown first.
        scaling: see `ColorScale`; each map has its own range.
        whole: what is seen in the beginning, see `MapView.of`.
        look_from: makes maps from points that are clicked and have none; None: such clicks do nothing.

    Raises:
        UserError: Open3D is not installed, or there is no display.
    """
    try:
        import open3d  # noqa: F401
    except ImportError:
        raise UserError("a window needs Open3D, which is not installed: pip install open3d; or write a .html") from None
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # Open3D would not raise an exception but end the process
        raise UserError("there is no display to open a window on; write a .html and open it in a browser instead")
    from open3d.visualization.gui import Application

    application = Application.instance
    application.initialize()
    _Window(point_maps, scaling, whole, look_from)
    application.run()


class _Window:
    """The window and what happens in it; what is chosen by keys and clicks is `MapChoice`'s."""

    def __init__(self, point_maps: PointMaps, scaling: Scaling, whole: bool, look_from: LookFrom | None) -> None:
        from open3d.visualization import gui, rendering

        self.view, self.scaling = MapView.of(point_maps, whole=whole), scaling
        self.choice, self.look_from = MapChoice(point_maps.maps), look_from
        self.pressed_at: tuple[int, int] | None = None
        self.window = gui.Application.instance.create_window(point_maps.title, 1100, 800)
        self.scene = gui.SceneWidget()
        self.scene.scene = rendering.Open3DScene(self.window.renderer)
        prepare_scene(self.scene.scene, self.view)
        for wire in self.view.found:
            label = self.scene.add_3d_label(wire.points[wire.label_at].astype(np.float32), wire.words)
            label.color = gui.Color(*wire.color)
        em = self.window.theme.font_size
        self.panel = gui.Vert(0.3 * em, gui.Margins(0.6 * em, 0.6 * em, 0.6 * em, 0.6 * em))
        self.name, self.bar, self.range = gui.Label(""), gui.ImageWidget(), gui.Label("")
        for widget in (
            gui.Label(point_maps.title),
            self.name,
            self.bar,
            self.range,
            gui.Label(f"{_HELP}\n{_CLICK if look_from else _CLICK_IF}"),
        ):
            self.panel.add_child(widget)
        self.window.add_child(self.scene)
        self.window.add_child(self.panel)
        self.window.set_on_layout(self._lay_out)
        self.window.set_on_key(self._on_key)
        self.scene.set_on_mouse(self._on_mouse)
        box = self.scene.scene.bounding_box
        self.scene.setup_camera(_OPENING_DEG, box, self.view.middle.astype(np.float32))
        distance = self.view.radius * (1.05 / np.tan(np.radians(_OPENING_DEG / 2)) + 0.6)
        self.scene.look_at(self.view.middle, self.view.middle + distance * self.view.axes[2], self.view.axes[1])
        self._show()

    def _lay_out(self, context: Any) -> None:
        """The panel over the upper left corner of the scene."""
        from open3d.visualization import gui

        whole = self.window.content_rect
        self.scene.frame = whole
        wanted = self.panel.calc_preferred_size(context, gui.Widget.Constraints())
        self.panel.frame = gui.Rect(whole.x, whole.y, wanted.width, wanted.height)

    def _show(self) -> None:
        """Draw the map that is chosen, and say which."""
        import open3d

        found = self.choice.map
        colors, scale = found.colors(self.scaling)
        show_map(self.scene.scene, self.view, colors, found, self.window.scaling)
        shades = np.rint(255 * bar_colors(scale)).astype(np.uint8)
        bar: Any = np.tile(shades[None], (14, 1, 1))  # (14, 256, 3)
        self.bar.update_image(open3d.geometry.Image(bar))
        self.name.text = found.name
        self.range.text = f"{_range(scale, self.scaling)}\n{found.meaning}"
        self.window.set_needs_layout()
        self.scene.force_redraw()

    def _on_key(self, event: Any) -> bool:
        """Whether the key meant something here."""
        from open3d.visualization import gui

        for letter, field in KEYS.items():
            if event.type == gui.KeyEvent.Type.DOWN and event.key == getattr(gui.KeyName, letter):
                self.choice = self.choice.step(field)
                self._show()
                return True
        return False

    def _on_mouse(self, event: Any) -> Any:
        """A click is a button that goes up where it went down; all else turns the cloud."""
        from open3d.visualization import gui

        frame = self.scene.frame
        at = event.x - frame.x, event.y - frame.y
        if event.type == gui.MouseEvent.Type.BUTTON_DOWN and event.is_button_down(gui.MouseButton.LEFT):
            self.pressed_at = at
        elif event.type == gui.MouseEvent.Type.BUTTON_UP and self.pressed_at is not None:
            is_click = np.hypot(at[0] - self.pressed_at[0], at[1] - self.pressed_at[1]) < 5
            self.pressed_at = None
            camera = self.scene.scene.camera
            projection = np.asarray(camera.get_projection_matrix()) @ np.asarray(camera.get_view_matrix())
            shown = self.view.shown
            row = point_under(self.view.xyz[shown], projection, (frame.width, frame.height), at) if is_click else None
            if row is not None:
                self._choose_point(int(shown[row]))
        return gui.SceneWidget.EventCallbackResult.IGNORED

    def _choose_point(self, row: int) -> None:
        """Show the map from a point, or say why there is none."""
        try:
            self.choice = choose_point(self.choice, row, self.look_from)
        except ValueError as error:
            self.range.text = "\n".join(textwrap.wrap(f"No map from point {row}: {error}", 60))
            self.window.set_needs_layout()
        else:
            self._show()


def choose_point(choice: MapChoice, row: int, look_from: LookFrom | None) -> MapChoice:
    """The map from a point: one that is there, or else one that is made.

    Raises:
        ValueError: `look_from` cannot make it.
    """
    if look_from is not None and row not in choice.values("query"):
        choice = choice.also(look_from(row).maps)
    return choice.choose("query", row)


def _range(scale: ColorScale | None, scaling: Scaling) -> str:
    """What stands below the bar."""
    if scale is None:
        return f"first, second and third value, each {scaling}; brighter is more"
    if scale.low == scale.high:
        return f"{scale.low:.4g} everywhere"
    return f"{scale.low:.4g} to {scale.high:.4g}, {scaling}; darker is more"


def prepare_scene(scene: Any, view: MapView) -> None:
    """Boxes as wires in an empty `Open3DScene`, on white, with colours as they are given."""
    from open3d.visualization.rendering import MaterialRecord

    scene.set_background([1.0, 1.0, 1.0, 1.0])
    scene.view.set_post_processing(False)  # else tone mapping changes colours
    material = MaterialRecord()
    material.shader, material.line_width = "unlitLine", 1.0
    for i, wire in enumerate(view.wires):
        scene.add_geometry(f"box {i}", _line_set(wire, wire.color), material)


def _line_set(wire: Wire, color: Color) -> Any:
    import open3d

    lines = open3d.geometry.LineSet(
        open3d.utility.Vector3dVector(wire.points), open3d.utility.Vector2iVector(wire.lines.astype(np.int32))
    )
    lines.paint_uniform_color(color)
    return lines


def show_map(scene: Any, view: MapView, colors: np.ndarray, found: PointMap, scaling: float = 1.0) -> None:
    """The cloud in these colours (N, 3), and a ball at the point, or black wires at the box, that is looked from.

    They take the place of those before.

    Args:
        scene: `Open3DScene` of `prepare_scene`.
        view: the cloud.
        colors: (N, 3) in [0, 1].
        found: the map, which says from where it looks.
        scaling: pixels of the screen for one of a usual screen.
    """
    import open3d
    from open3d.visualization.rendering import MaterialRecord

    for name in ("points", "query", "source"):
        scene.remove_geometry(name)
    material = MaterialRecord()
    material.shader = "defaultUnlit"
    material.point_size = scaling * float(np.clip(400 * view.dot / view.radius, 2.5, 12))
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(view.xyz[view.shown]))
    cloud.colors = open3d.utility.Vector3dVector(colors[view.shown].astype(np.float64))
    scene.add_geometry("points", cloud, material)
    if found.box is not None:
        wires = MaterialRecord()
        wires.shader, wires.line_width = "unlitLine", 3.0 * scaling
        scene.add_geometry("source", _line_set(view.found[found.box], (0.0, 0.0, 0.0)), wires)
    if found.query is not None:
        ball = open3d.geometry.TriangleMesh.create_sphere(
            float(np.clip(0.9 * view.dot, 0.012 * view.radius, 0.022 * view.radius))
        )
        ball.translate(view.xyz[found.query])
        ball.paint_uniform_color(_RING)
        scene.add_geometry("query", ball, material)
