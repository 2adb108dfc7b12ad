"""Maps of points as a picture: a panel for each, from one camera, with colour bars, rings and boxes."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pctransformer.atomic import replace_file
from pctransformer.visualization.color_scale import ColorScale, Scaling, bar_colors
from pctransformer.visualization.map_view import MapView
from pctransformer.visualization.offscreen import NoRendererError, render
from pctransformer.visualization.point_maps import PointMap, PointMaps
from pctransformer.visualization.style import DARK, heading, new_figure, place, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PANELS = 36
MAX_DOTS = 200_000
"""More points than this are thinned out: at a picture's size they would cover one another."""
_MAX_DOTS_PLAIN = 20_000  # where matplotlib draws, one by one
_DPI = 150
_RING = "#0a7d2c"


def write_picture(
    point_maps: PointMaps, path: str | Path, *, scaling: Scaling = "percentile", whole: bool = False
) -> list[str]:
    """Write a PNG, see `maps_figure`; the same on every run with the same renderer.

    Returns:
        remarks for the user: what was left out, and what stood in for Open3D's renderer and why.
    """
    figure, remarks = maps_figure(point_maps, scaling=scaling, whole=whole)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    replace_file(path, content.getvalue())
    return remarks


def maps_figure(
    point_maps: PointMaps, *, scaling: Scaling = "percentile", whole: bool = False
) -> tuple[Figure, list[str]]:
    """A panel for each map: the cloud from a fixed camera without perspective, in the colours of the map.

    Below each stand what the map is, a colour bar with its range, and what its values measure; "≤" and "≥" at an end
    say that some values lie beyond. Where three values are a colour, there is a key in place of the bar. The point that
    is looked from has a green ring, broken where other points hide it. Boxes are wires, see `BoxView`, drawn over the
    points; the box that is looked from is thick and black. In large panels class and score stand beside each box, best
    scores first, as far as words do not cover others.

    Open3D renders without a window. Where it is not installed or cannot render, matplotlib draws: the same picture but
    for the dots, which are fewer where there are many points.

    Args:
        point_maps: the cloud and its maps, of which the first `MAX_PANELS` are shown.
        scaling: see `ColorScale`; each map has its own range.
        whole: see `MapView.of`.

    Returns:
        the figure, and remarks as of `write_picture`.
    """
    from matplotlib.collections import LineCollection

    remarks = []
    maps = point_maps.maps[:MAX_PANELS]
    if len(maps) < len(point_maps.maps):
        remarks.append(f"the picture shows the first {len(maps)} of {len(point_maps.maps)} maps")
    view = MapView.of(point_maps, whole=whole)
    visible = view.shown
    if len(visible) < len(view.xyz):
        remarks.append(
            f"the picture leaves out {len(view.xyz) - len(visible)} points near the ceiling, which hide others"
        )
    kept = np.random.default_rng(0).permutation(visible)[:MAX_DOTS]
    if len(kept) < len(visible):
        remarks.append(f"the picture shows {len(kept)} of {len(visible)} points, drawn by chance")
    seen = (view.xyz - view.middle) @ view.axes.T
    ends = np.array([wire.points[wire.lines] for wire in view.wires]).reshape(-1, 2, 3)
    ends = (ends - view.middle) @ view.axes.T
    line_colors = np.repeat(np.array([wire.color for wire in view.wires]).reshape(-1, 3), 13, axis=0)
    colors, scales = zip(*(found.colors(scaling) for found in maps))

    columns = min(len(maps), 3 if len(maps) in (3, 5, 6, 9) else 2 if len(maps) <= 4 else 4 if len(maps) <= 16 else 6)
    side = {1: 6.4, 2: 4.6, 3: 4.2, 4: 3.2, 6: 2.4}[columns]  # inches
    half = 1.08 * view.radius
    pictures = None
    try:
        shown = np.stack([of_map[kept] for of_map in colors])
        pictures = render(seen[kept], shown, dot=view.dot, half=half, pixels=round(_DPI * side))
    except NoRendererError as error:
        remarks.append(f"the picture is drawn by matplotlib: {error}")

    # flat scenes leave room above and below: panels are cut to what is there
    drawn = np.concatenate([seen[visible], ends.reshape(-1, 3)])[:, :2]
    inside = drawn[np.abs(drawn).max(1) < half, 1]
    low, high = (inside.min(), inside.max()) if len(inside) else (-half, half)
    tall = float(np.clip((high - low) / (2 * half) + 0.08, 0.3, 1))  # of the side
    middle = float(np.clip((low + high) / 2, (tall - 1) * half, (1 - tall) * half))
    low, high = middle - tall * half, middle + tall * half

    width = max(columns * (side + 0.25) + 0.25, 5.0)
    title = _wrapped(point_maps.title, int(8 * width))
    top = 0.35 + 0.23 * len(title)
    rows, below = -(-len(maps) // columns), 1.2
    height = rows * (tall * side + below) + top + (0.2 if view.legend else 0)
    figure = new_figure(width, height)
    heading(figure, 0.25, height - 0.15, "\n".join(title), size=13)
    _legend(figure, view, 0.25, height - top + 0.1)
    top += 0.2 if view.legend else 0
    for i, (found, scale) in enumerate(zip(maps, scales)):
        row, column = divmod(i, columns)
        left, bottom = 0.25 + column * (side + 0.25), height - top - row * (tall * side + below) - tall * side
        axes = place(figure, left, bottom, side, tall * side)
        axes.set_axis_off()
        axes.set(xlim=(-half, half), ylim=(low, high))
        if pictures is not None:
            top_row, bottom_row = (round((half - y) / (2 * half) * pictures.shape[1]) for y in (high, low))
            extent = (-half, half, low, high)
            axes.imshow(pictures[i][top_row:bottom_row], extent=extent, interpolation="none", aspect="auto")
        else:
            plain = kept[:_MAX_DOTS_PLAIN]
            _plain_dots(axes, seen[plain], colors[i][plain], 72 * side * view.dot / (2 * half))
        axes.add_collection(LineCollection(list(ends[..., :2]), colors=line_colors, linewidths=0.7))
        if found.box is not None:
            source = view.found[found.box]
            lines = ((source.points - view.middle) @ view.axes.T)[source.lines][..., :2]
            axes.add_collection(LineCollection(list(lines), colors="white", linewidths=3.6))
            axes.add_collection(LineCollection(list(lines), colors="black", linewidths=1.8))
        if found.query is not None:
            _ring(axes, seen[found.query], _is_hidden(seen[visible], seen[found.query], view.dot))
        if side > 4:
            _words(axes, view, found.box)
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


def _is_hidden(seen: np.ndarray, point: np.ndarray, dot: float) -> bool:
    """Whether the dot of another point lies over the middle of this one."""
    off = seen - point
    return bool(((np.hypot(off[:, 0], off[:, 1]) < dot / 2) & (off[:, 2] > dot)).any())


def _ring(axes: Any, at: np.ndarray, is_hidden: bool) -> None:
    """A ring, in dashes where the point is hidden."""
    from matplotlib.patches import Circle

    radius = 5 / 72 * np.ptp(axes.get_xlim()) / (axes.get_position().width * axes.figure.get_figwidth())
    for color, width in (("white", 3.6), (_RING, 1.8)):
        dashes = (0, (2, 1.2)) if is_hidden and color == _RING else "solid"
        axes.add_patch(
            Circle(
                (at[0], at[1]),
                radius,
                fill=False,
                edgecolor=color,
                linewidth=width,
                linestyle=dashes,
                clip_on=False,
                zorder=3,  # over the wires of boxes
            )
        )


def _words(axes: Any, view: MapView, source: int | None) -> None:
    """What stands at boxes: first at the one that is looked from, then at those with the best scores."""
    from matplotlib.patheffects import withStroke

    inches = axes.get_position().width * axes.figure.get_figwidth()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    size = (right - left) / (72 * inches)  # of 1/72 inch
    taken = np.zeros((0, 4))  # left, low, right, high
    order = sorted(range(len(view.found)), key=lambda row: row != source)
    for row in order:
        wire = view.found[row]
        x, y, _ = (wire.points[wire.label_at] - view.middle) @ view.axes.T
        font = 8 if row == source else 6.5
        own = np.array([x, y, x + (0.62 * font * len(wire.words) + 4) * size, y + (font + 3) * size])
        crosses = (own[:2] < taken[:, 2:]).all(1) & (taken[:, :2] < own[2:]).all(1)
        if crosses.any() or own[0] < left or own[2] > right or own[1] < low or own[3] > high:
            continue
        taken = np.concatenate([taken, own[None]])
        axes.annotate(
            wire.words, (x, y), (2, 2), textcoords="offset points", fontsize=font,
            color="black" if row == source else wire.color, fontweight="bold" if row == source else "normal",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _bar(figure: Figure, found: PointMap, scale: ColorScale | None, left: float, bottom: float, side: float) -> None:
    """The colour bar and the range at its ends, or a key to three colours, and what the map is."""
    width, height = figure.get_size_inches()
    size = 9 if side > 3 else 7
    bar = place(figure, left + 0.15 * side, bottom - 0.18, 0.7 * side, 0.1)
    bar.set_axis_off()
    bar.imshow(bar_colors(scale)[None], aspect="auto")
    if scale is None:
        marks = [(0.27, "first"), (0.5, "second"), (0.73, "third")]
    else:
        below = "≤ " if (found.values < scale.low).any() else ""
        above = "≥ " if (found.values > scale.high).any() else ""
        middle = (scale.low + scale.high) / 2
        marks = [(0.15, f"{below}{scale.low:.3g}"), (0.5, f"{middle:.3g}"), (0.85, f"{above}{scale.high:.3g}")]
        if scale.low == scale.high:
            marks = [(0.5, f"{below}{scale.low:.3g} everywhere")]
    for share, mark in marks:
        at = (left + share * side) / width, (bottom - 0.22) / height
        figure.text(*at, mark, ha="center", va="top", fontsize=size - 1, color=DARK)
    words = "\n".join(_wrapped(found.name, int(side * 120 / size))[:3])
    at = (left + side / 2) / width, (bottom - 0.4) / height
    figure.text(*at, words, ha="center", va="top", fontsize=size)
    at = (left + side / 2) / width, (bottom - 0.44 - 1.25 * size / 72 * (1 + words.count("\n"))) / height
    meaning = "\n".join(textwrap.wrap(found.meaning, int(side * 130 / size)))
    figure.text(*at, meaning, ha="center", va="top", fontsize=size - 1, color=DARK)


def _wrapped(text: str, characters: int) -> list[str]:
    """Lines, broken after commas alone where parts are short enough."""
    parts = text.replace(", ", ",\n").replace(" ", "\u00a0").replace("\n", " ")
    if max(map(len, parts.split())) > characters:
        return textwrap.wrap(text, characters)
    return [line.replace("\u00a0", " ") for line in textwrap.wrap(parts, characters)]


def _legend(figure: Figure, view: MapView, left: float, top: float) -> None:
    width, height = figure.get_size_inches()
    for words, color in view.legend:
        figure.text(left / width, top / height, words, fontsize=9, color=color, va="top")
        left += text_width(words, 9) + 0.2
