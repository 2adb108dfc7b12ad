"""Pictures of a scene whose points have classes: from above and from one side, with the classes' colours beside."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pctransformer.visualization.clouds import camera
from pctransformer.visualization.style import DARK, heading, new_figure, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWN = 60_000  # more points cover one another
_UNKNOWN = (0.8, 0.8, 0.8)
_KNOWN = {
    "wall": "#a9c0d8", "floor": "#c8d8a0", "ceiling": "#dfe6ee", "cabinet": "#1f77b4", "bed": "#ff9896",
    "chair": "#c9b81e", "sofa": "#8c564b", "table": "#ff7f0e", "door": "#d62728", "window": "#9b5fd0",
    "bookshelf": "#7a3db8", "desk": "#e87fc0", "other": "#4e6b6b",
}  # fmt: skip
"""Colours near those in which ScanNet's classes are usually shown."""


def class_colors(class_names: Sequence[str]) -> np.ndarray:
    """(C, 3) red, green, blue in [0, 1] of classes: those of rooms as usual, others with hues far apart."""
    from matplotlib.colors import to_rgb

    colors = []
    for i, name in enumerate(class_names):
        # steps of the golden ratio keep hues apart, however many there are
        other = colorsys.hsv_to_rgb((0.11 + 0.618034 * i) % 1, (0.75, 0.5)[i % 2], (0.85, 0.7, 0.95)[i % 3])
        colors.append(to_rgb(_KNOWN[name]) if name in _KNOWN else other)
    return np.array(colors).reshape(-1, 3)


def scene_figure(
    xyz: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    title: str,
    *,
    true: np.ndarray | None = None,
    colors: np.ndarray | None = None,
) -> Figure:
    """A scene in the colours of its classes: from above without its ceiling, and from one side.

    Args:
        xyz: (n, 3), z up.
        labels: (n,) class of each point, -1 for none, which is grey.
        class_names: names that labels index.
        title: for instance the name of the file.
        true: (n,) true classes, shown in a further row.
        colors: (n, 3) colours of the scan in [0, 1], shown in a further row.

    Raises:
        ValueError: lengths differ.
    """
    rows = [("as predicted" if true is not None else "", labels)]
    rows += [] if true is None else [("true", true)]
    for values in (labels, true, colors):
        if values is not None and len(values) != len(xyz):
            raise ValueError(f"there are {len(xyz)} points, but {len(values)} labels or colours")
    palette = np.concatenate([class_colors(class_names), [_UNKNOWN]])  # -1 is the last one
    shown = [(name, palette[np.asarray(values)]) for name, values in rows]
    shown += [] if colors is None else [("as scanned", np.clip(colors, 0, 1))]

    side, width = 4.3, 11.6
    figure = new_figure(width, len(shown) * (side + 0.15) + 0.85)
    top = figure.get_figheight()
    found = sorted(set(np.unique(labels)) | (set() if true is None else set(np.unique(true))))
    heading(figure, 0.3, top - 0.15, title, f"{len(xyz):,} points")
    keep = np.random.default_rng(0).permutation(len(xyz))[:_DRAWN]
    points = np.asarray(xyz, np.float64)[keep]
    if len(points):
        points = points - points.mean(0)
    for row, (name, values) in enumerate(shown):
        bottom = top - 0.75 - (row + 1) * (side + 0.15)
        for column, elevation in enumerate((90.0, 38.0)):
            axes = place(figure, 0.3 + column * (side + 0.35), bottom, side, side)
            _view(axes, points, values[keep], elevation, cut=elevation == 90)
            if column == 0 and name:
                axes.text(0, 1, name, transform=axes.transAxes, fontsize=11, color=DARK, va="top")
    for line, label in enumerate(found):
        text = class_names[label] if label >= 0 else "no class"
        y = top - 1.1 - 0.26 * line
        axes = place(figure, 9.75, y, 0.16, 0.16)
        axes.set_axis_off()
        axes.add_patch(_square(palette[label]))
        share = 100 * float(np.mean(np.asarray(labels) == label))
        figure.text(10.0 / width, (y + 0.02) / top, f"{text}  {share:.1f} %", fontsize=9.5, color=DARK)
    return figure


def _square(color: np.ndarray) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), 1, 1, color=tuple(color))


def _view(axes: Any, points: np.ndarray, colors: np.ndarray, elevation: float, *, cut: bool) -> None:
    """Dots, near ones over far ones. `cut` leaves out the upper part, so that a ceiling does not hide the room."""
    axes.set_axis_off()
    axes.set_aspect("equal")
    if not len(points):
        return
    low, high = points[:, 2].min(), points[:, 2].max()
    limit = low + (0.72 if cut else 0.9) * (high - low)
    rows = np.flatnonzero(points[:, 2] <= limit)
    seen = points[rows] @ camera(elevation, -90 if cut else -55).T
    order = seen[:, 2].argsort(kind="stable")
    begin, end = seen[:, :2].min(0), seen[:, :2].max(0)
    half = max((end - begin).max() / 2, 1e-6) * 1.02
    middle = (begin + end) / 2
    dot = min(max(330 / np.sqrt(len(rows)), 0.8), 6)  # 1/72 inch
    axes.scatter(seen[order, 0], seen[order, 1], c=colors[rows][order], s=dot**2, linewidths=0, rasterized=True)
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
