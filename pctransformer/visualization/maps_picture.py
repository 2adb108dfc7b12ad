"""Maps of points as a picture: a panel for each, from one camera, with colour bars, rings and boxes."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.visualization.color_scale import ColorScale, Scaling, color_scale
from pctransformer.visualization.map_view import MapView
from pctransformer.visualization.offscreen import NoRendererError, render
from pctransformer.visualization.point_maps import PointMap, PointMaps
from pctransformer.visualization.style import DARK, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PANELS = 36
MAX_DOTS = 200_000
"""More points than this are thinned out: at a picture's size they would cover one another."""
_MAX_DOTS_PLAIN = 20_000  # where matplotlib draws, one by one
_DPI = 150
_RING = "#0a7d2c"


def write_picture(point_maps: PointMaps, path: str | Path, *, scaling: Scaling = "percentile") -> list[str]:
    """Write a PNG, see `maps_figure`; the same on every run with the same renderer.

    Returns:
        remarks for the user: what was left out, and what stood in for Open3D's renderer and why.
    """
    figure, remarks = maps_figure(point_maps, scaling=scaling)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    replace_file(path, content.getvalue())
    return remarks


def maps_figure(point_maps: PointMaps, *, scaling: Scaling = "percentile") -> tuple[Figure, list[str]]:
    """A panel for each map: the cloud from a fixed camera without perspective, in the colours of the map.

    Below each stand what the map is and a colour bar with its range. The point that is looked from has a green ring,
    boxes are wires, see `BoxView`; both are drawn over the points, also where they are behind.

    Open3D renders without a window. Where it is not installed or cannot render, matplotlib draws: the same picture but
    for the dots, which are fewer where there are many points.

    Args:
        point_maps: the cloud and its maps, of which the first `MAX_PANELS` are shown.
        scaling: see `ColorScale`; each map has its own range.

    Returns:
        the figure, and remarks as of `write_picture`.
    """
    from matplotlib.collections import LineCollection

    remarks = []
    maps = point_maps.maps[:MAX_PANELS]
    if len(maps) < len(point_maps.maps):
        remarks.append(f"the picture shows the first {len(maps)} of {len(point_maps.maps)} maps")
    view = MapView.of(point_maps)
    kept = np.random.default_rng(0).permutation(len(view.xyz))[:MAX_DOTS]
    if len(kept) < len(view.xyz):
        remarks.append(f"the picture shows {len(kept)} of {len(view.xyz)} points, drawn by chance")
    seen = (view.xyz - view.middle) @ view.axes.T
    ends = np.array([wire.points[wire.lines] for wire in view.wires]).reshape(-1, 2, 3)
    ends = (ends - view.middle) @ view.axes.T
    line_colors = np.repeat(np.array([wire.color for wire in view.wires]).reshape(-1, 3), 13, axis=0)
    scales = [color_scale(found.values, scaling) for found in maps]

    columns = min(len(maps), 2 if len(maps) <= 4 else 4 if len(maps) <= 16 else 6)
    side = {1: 6.4, 2: 4.6, 4: 3.2, 6: 2.4}.get(columns, 3.2)  # inches
    half = 1.08 * view.radius
    pictures = None
    try:
        colors = np.stack([scale.colors(found.values[kept]) for found, scale in zip(maps, scales)])
        pictures = render(
            seen[kept], colors, dot=view.dot, half=half, pixels=round(_DPI * side),
        )  # fmt: skip
    except NoRendererError as error:
        remarks.append(f"the picture is drawn by matplotlib: {error}")

    # flat scenes leave room above and below: panels are cut to what is there
    reach = np.quantile(np.abs(seen[:, 1]), 0.995) if len(seen) else half
    tall = float(np.clip(1.15 * max(reach, np.abs(ends[..., 1]).max(initial=0)) / half, 0.3, 1))

    rows, below, top = -(-len(maps) // columns), 0.95, 0.75 if view.legend else 0.55
    width = max(columns * (side + 0.25) + 0.25, 5.0)
    height = rows * (tall * side + below) + top
    figure = new_figure(width, height)
    heading(figure, 0.25, height - 0.15, "\n".join(textwrap.wrap(point_maps.title, int(9 * width))), size=13)
    _legend(figure, view, 0.25, height - 0.48)
    for i, (found, scale) in enumerate(zip(maps, scales)):
        row, column = divmod(i, columns)
        left, bottom = 0.25 + column * (side + 0.25), height - top - row * (tall * side + below) - tall * side
        axes = place(figure, left, bottom, side, tall * side)
        axes.set_axis_off()
        axes.set(xlim=(-half, half), ylim=(-tall * half, tall * half))
        if pictures is not None:
            cut = round((1 - tall) / 2 * pictures.shape[1])
            extent = (-half, half, -tall * half, tall * half)
            axes.imshow(pictures[i][cut : len(pictures[i]) - cut], extent=extent, interpolation="none", aspect="auto")
        else:
            plain = kept[:_MAX_DOTS_PLAIN]
            _plain_dots(axes, seen[plain], scale.colors(found.values[plain]), 72 * side * view.dot / (2 * half))
        axes.add_collection(LineCollection(list(ends[..., :2]), colors=line_colors, linewidths=0.7))
        if found.query is not None:
            _ring(axes, seen[found.query])
        if side > 4:
            _words(axes, view)
        _bar(figure, found, scale, left, bottom, side)
    if pictures is None and len(kept) > _MAX_DOTS_PLAIN:
        remarks.append(f"matplotlib draws {_MAX_DOTS_PLAIN} of {len(kept)} points")
    return figure, remarks


def _plain_dots(axes: Any, seen: np.ndarray, colors: np.ndarray, width: float) -> None:
    """Dots of a width in 1/72 inch, far ones first."""
    order = seen[:, 2].argsort(kind="stable")
    width = max(width, 0.8)
    rims = 0.85 * colors[order] if width > 2.4 else "none"
    axes.scatter(*seen[order, :2].T, c=colors[order], s=width**2, linewidths=0.07 * width, edgecolors=rims)


def _ring(axes: Any, at: np.ndarray) -> None:
    for color, width in (("white", 3.6), (_RING, 1.8)):
        axes.plot(*at[:2], "o", markersize=10, markerfacecolor="none", markeredgecolor=color, markeredgewidth=width)


def _words(axes: Any, view: MapView) -> None:
    """What stands at boxes."""
    from matplotlib.patheffects import withStroke

    for wire in view.wires:
        x, y, _ = (wire.points[wire.label_at] - view.middle) @ view.axes.T
        effects = [withStroke(linewidth=2, foreground="white")]
        axes.annotate(
            wire.words, (x, y), (2, 2), textcoords="offset points", fontsize=6, color=wire.color, path_effects=effects,
            annotation_clip=True,
        )  # fmt: skip


def _bar(figure: Figure, found: PointMap, scale: ColorScale, left: float, bottom: float, side: float) -> None:
    """The colour bar, the range at its ends, and what the map is."""
    width, height = figure.get_size_inches()
    size = 9 if side > 3 else 7
    bar = place(figure, left + 0.15 * side, bottom - 0.18, 0.7 * side, 0.1)
    bar.set_axis_off()
    bar.imshow(scale.colors(np.linspace(scale.low, scale.high, 256))[None], aspect="auto")
    for share, value in ((0.15, scale.low), (0.5, (scale.low + scale.high) / 2), (0.85, scale.high)):
        at = (left + share * side) / width, (bottom - 0.22) / height
        figure.text(*at, f"{value:.3g}", ha="center", va="top", fontsize=size - 1, color=DARK)
    words = "\n".join(textwrap.wrap(found.name, int(side * 120 / size))[:2])
    at = (left + side / 2) / width, (bottom - 0.4) / height
    figure.text(*at, words, ha="center", va="top", fontsize=size)


def _legend(figure: Figure, view: MapView, left: float, top: float) -> None:
    width, height = figure.get_size_inches()
    for words, color in view.legend:
        figure.text(left / width, top / height, words, fontsize=9, color=color, va="top")
        left += 0.085 * len(words) + 0.2
